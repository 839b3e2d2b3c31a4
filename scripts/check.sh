#!/usr/bin/env bash
# The gate for every commit: format, lints, tests, documents. Run it from anywhere in the tree.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --locked --quiet
step cargo test --workspace --locked --quiet

# The simulation is only there under a cfg of its own.
export RUSTFLAGS="--cfg stockd_sim --cfg tokio_unstable"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/simulation"
step cargo clippy --package stockd-sim --package stockd-simnet --locked --profile sim -- -D warnings
