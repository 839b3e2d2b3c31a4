#!/usr/bin/env bash
# Attacks three real nodes (and a fourth that comes and goes) under load: kill -9, power cuts that lose
# unsynced data, partitions, delay, loss, pauses, wrong clocks, full and failing disks, changes of
# members. Then every answer is checked against the log, and every unit is counted.
#
#   scripts/chaos.sh                            three minutes, seed 1
#   scripts/chaos.sh --minutes 30 --seed 7
#   scripts/chaos.sh --only power-cut-one,power-cut-all
#   scripts/chaos.sh --serve=--lease-reads      the nodes answer reads on leases, which a slow clock breaks
#   scripts/chaos.sh --help                     all options
#
# As root everything is tested (it takes iproute2, util-linux, e2fsprogs and libfaketime); as a user who
# may make namespaces all but disks; else only what can be done to processes. It says what is not.
# Nothing is left behind but the work directory of a run that failed.
#
# Exit code 0: nothing is wrong. 1: something is, and what repeats the check is printed. 2: could not run.
# STOCKD names another binary to attack, DATA_PARENT where the nodes' disks go.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
packages=(-p stockd-chaos -p stockd-check)
[ -n "${STOCKD:-}" ] || packages+=(-p stockd)
cargo build --release --locked --quiet "${packages[@]}" || exit 2
exec "$target/release/stockd-chaos" --stockd "${STOCKD:-$target/release/stockd}" \
  --work "${DATA_PARENT:-$target/chaos-data}" "$@"
