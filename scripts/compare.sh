#!/usr/bin/env bash
# Compares this tree with an older commit on this machine: each row of scripts/bench.sh alternately on both,
# each side with the harness of its own, and the medians with their ratio.
#
#   scripts/compare.sh BASE                          rows batch1, pipe1 and single1, five turns of 5 s
#   scripts/compare.sh BASE --rows zipf1,cart1 --turns 3 --seconds 10
#   scripts/compare.sh BASE --engine                 the engine alone: examples/engine_apply
#
# BASE is any commit. Its tree and its build are kept in target/compare/ for the next time. Options of the
# servers go through SERVE_OPTIONS, as with scripts/bench.sh. Exit code 2 if something could not be run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit "$1"
}

base='' rows=batch1,pipe1,single1 turns=5 seconds=5 engine=0
while [ $# -gt 0 ]; do
  case $1 in
    --rows) rows=${2:?} && shift ;;
    --turns) turns=${2:?} && shift ;;
    --seconds) seconds=${2:?} && shift ;;
    --engine) engine=1 ;;
    --help) usage 0 ;;
    -*) usage 2 ;;
    *) base=$1 ;;
  esac
  shift
done
[ -n "$base" ] || usage 2
commit=$(git rev-parse --verify --quiet "$base^{commit}") || {
  echo "$base is no commit of this repository" >&2
  exit 2
}

kept=$PWD/target/compare
tree=$kept/$commit
if [ ! -e "$tree/Cargo.toml" ]; then
  mkdir -p "$tree"
  git archive "$commit" | tar -x -C "$tree"
fi
if [ "$engine" = 1 ]; then what=(--example engine_apply); else what=(--workspace --bins); fi
echo "building ${commit:0:7} and this tree" >&2
# Both are measured by the same clock.
[ "$engine" = 0 ] || cp examples/engine_apply.rs "$tree/examples/"
(cd "$tree" && CARGO_TARGET_DIR=$kept/build cargo build --release --locked --quiet "${what[@]}")
cargo build --release --locked --quiet "${what[@]}"

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# side NAME TREE: one turn of one side; a file NAME.ROW of numbers grows by one line.
if [ "$engine" = 1 ]; then
  rows=reserve,confirm-release,sweep
  side() {
    local binary=$PWD/target/release/examples/engine_apply
    [ "$1" = base ] && binary=$kept/build/release/examples/engine_apply
    "$binary" 1_000_000 1_000_000 5 >"$results/out"
    awk -F'[ ,]+' -v to="$results/$1." '/^steady:/ {
      print $3 >> (to "reserve"); print $8 >> (to "confirm-release"); print $11 >> (to "sweep") }' "$results/out"
  }
else
  side() {
    local built=$PWD/target/release
    [ "$1" = base ] && built=$kept/build/release
    STOCKD=$built/stockd BENCH=$built/stockd-bench "$2/scripts/bench.sh" \
      --rows "$rows" --seconds "$seconds" --times 1 >"$results/out"
    awk -F'[| ]+' -v to="$results/$1." '
      $2 ~ /1$|3$/ { print $3 >> (to $2)
        if (match($0, /servers [0-9]+ ns/)) print substr($0, RSTART + 8, RLENGTH - 11) >> (to $2 "-cpu") }' \
      "$results/out"
  }
fi

for turn in $(seq "$turns"); do
  echo "turn $turn of $turns" >&2
  side base "$tree"
  side this "$PWD"
done

median() {
  sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

echo "| row | ${commit:0:7} | this tree | this / base |"
echo "|---|---|---|---|"
for file in "$results"/base.*; do
  row=${file##*/base.}
  case $row in
    *-cpu) unit='servers, ns/op' ;;
    *1 | *3) unit='/s' ;;
    *) unit=ns ;;
  esac
  before=$(median "$file") after=$(median "$results/this.$row")
  echo "| ${row%-cpu} | $before $unit | $after $unit | $(awk -v a="$after" -v b="$before" 'BEGIN { printf "%.2f", a / b }') |"
done
