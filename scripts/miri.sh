#!/usr/bin/env bash
# Runs the parts with unsafe code, and the lock-free ones on top of them, under miri: it finds undefined
# behaviour and data races that a run on this processor happens to survive.
#
#   scripts/miri.sh                     unit tests of those parts, and readers on threads while the engine applies
#   scripts/miri.sh engine::scripts     some unit tests, by name; these take hours
#
# Needs a nightly toolchain: rustup toolchain install nightly --component miri,rust-src
# The mapping of files (src/log/mmap.rs) is a system call with a file behind it, which miri does not have.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo +nightly miri --version >/dev/null 2>&1; then
  echo "no miri: rustup toolchain install nightly --component miri,rust-src" >&2
  exit 2
fi
export MIRIFLAGS="${MIRIFLAGS:--Zmiri-disable-isolation}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/miri"
parts=(engine::chunked engine::index engine::names engine::shared_index engine::stock)
[ $# -eq 0 ] || parts=("$@")
cargo +nightly miri test --package stockd --locked --lib -- "${parts[@]}"
[ $# -gt 0 ] || cargo +nightly miri test --package stockd --locked --test engine_readers
