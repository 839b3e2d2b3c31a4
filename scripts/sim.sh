#!/usr/bin/env bash
# Simulates whole clusters, faults included, from seeds. Builds what it needs into target/sim.
#
#   scripts/sim.sh sweep --from 1 --seeds 100    many seeds, one process each
#   scripts/sim.sh seed 17                       one seed; STOCKD_SIM_NOTICES=1 shows what happens
#   scripts/sim.sh twice 1 2 3                   each seed twice: the traces must be equal
set -euo pipefail
cd "$(dirname "$0")/.."

# A network in memory behind the sockets, and a seed for tokio's select!.
export RUSTFLAGS="--cfg stockd_sim --cfg tokio_unstable"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/simulation"
cargo build --package stockd-sim --profile sim --locked --quiet
exec "$CARGO_TARGET_DIR/sim/stockd-sim" "$@"
