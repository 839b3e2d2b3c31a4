#!/usr/bin/env bash
# Tests the tests: plants each bug of mutants/*.patch in a copy of the tree, and runs the layers that its
# header names, in that order, until one fails. Prints which layer caught it, by what, and how long it took.
#
#   scripts/mutants.sh                              all of them
#   scripts/mutants.sh expiry-loses-the-tie         some of them, by name
#   scripts/mutants.sh --layers "lib model"         no other layers than these
#   scripts/mutants.sh --list                       what each plants
#
# The copy is a git worktree of HEAD in MUTANTS_TARGET (target/mutants), beside a target directory of its own
# that is kept for the next run. Exit code 0: all caught. 1: one survived.
# 2: could not run, for example because a patch does not apply or does not build.
set -euo pipefail
cd "$(dirname "$0")/.."

only= names=()
while [ $# -gt 0 ]; do
  case $1 in
    --layers) only=${2:-}; shift ;;
    --list) for patch in mutants/*.patch; do printf '%-34s %s\n' "$(basename "$patch" .patch)" "$(head -n 1 "$patch")"; done; exit 0 ;;
    -*) sed -n '2,12s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
    *) names+=("$1") ;;
  esac
  shift
done
root=$PWD
[ ${#names[@]} -gt 0 ] || for patch in mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done

target=${MUTANTS_TARGET:-${CARGO_TARGET_DIR:-$root/target}/mutants}
mkdir -p "$target"
copy=$(realpath "$target")/tree log=$(realpath "$target")/log
cleanup() { git -C "$root" worktree remove --force "$copy" 2>/dev/null || true; }
trap cleanup EXIT
cleanup
git worktree add --quiet --detach "$copy" HEAD
cd "$copy"
export CARGO_TARGET_DIR=$target RUST_BACKTRACE=0

# layer NAME build|run: the tests of one layer. A build that fails says nothing about a bug.
layer() {
  local words=()
  case $1 in
    lib) words=(-p stockd --lib) ;;
    model) words=(-p stockd --test engine_model) ;;
    snapshot) words=(-p stockd --test engine_snapshot) ;;
    faults) words=(-p stockd --test log_faults) ;;
    power) words=(-p stockd --test log_power) ;;
    replica) words=(-p stockd --test replica) ;;
    sessions) words=(-p stockd --test server_sessions) ;;
    cluster) words=(-p stockd --test cluster) ;;
    fuzz) words=(-p stockd-fuzz --test smoke) ;;
    races) words=(-p stockd-races) ;;
    sim)
      if [ "$2" = build ]; then scripts/sim.sh seed 1 || true
      else timeout 900 scripts/sim.sh sweep --from 1 --seeds "${MUTANTS_SIM_SEEDS:-500}"; fi
      return ;;
    *) echo "no layer is called $1" >&2; return 2 ;;
  esac
  case $2 in
    build) cargo test --quiet --locked "${words[@]}" --no-run ;;
    run) timeout 600 cargo test --quiet --locked "${words[@]}" ;;
  esac
}

# evidence FILE: what the layer said, in one line.
evidence() {
  { grep -m 1 -oE 'seed [0-9]+[^,]*' "$1" || grep -m 1 -oE '^test [^ ]+ \.\.\. FAILED|^    [a-z_:0-9]+$|^---- [^ ]+' "$1" ||
    grep -m 1 'panicked' "$1" || tail -n 1 "$1"; } | cut -c1-60 | tr -d '|'
}

# A layer that fails without a bug would catch them all.
wanted=$(for name in "${names[@]}"; do sed -n 's/^Layers: //p' "$root/mutants/$name.patch"; done | tr ' ' '\n' | sort -u)
for one in $wanted; do
  [ -z "$only" ] || [[ " $only " == *" $one "* ]] || continue
  echo "without a bug: $one" >&2
  if ! layer "$one" build >"$log" 2>&1 || ! layer "$one" run >>"$log" 2>&1; then
    cat "$log" >&2; echo "the layer $one fails without a bug" >&2; exit 2
  fi
done

survived=0 broken=0
echo "| bug | caught by | evidence | seconds |"
echo "|---|---|---|---|"
for name in "${names[@]}"; do
  patch=$root/mutants/$name.patch
  [ -r "$patch" ] || { echo "no patch is called $name" >&2; exit 2; }
  git checkout --quiet -- .
  git apply "$patch" || { echo "$name does not apply" >&2; broken=1; continue; }
  read -ra layers <<<"$(sed -n 's/^Layers: //p' "$patch")"
  caught= tried=() begun=$SECONDS
  for one in "${layers[@]}"; do
    [ -z "$only" ] || [[ " $only " == *" $one "* ]] || continue
    tried+=("$one")
    if ! layer "$one" build >"$log" 2>&1; then
      cat "$log" >&2; echo "$name does not build for $one" >&2; broken=1; continue 2
    fi
    if ! layer "$one" run >"$log" 2>&1; then caught=$one; break; fi
  done
  if [ -n "$caught" ]; then
    echo "| $name | $caught | $(evidence "$log") | $((SECONDS - begun)) |"
  else
    echo "| $name | **survived** ${tried[*]} | | $((SECONDS - begun)) |"
    survived=$((survived + 1))
  fi
done
[ "$broken" -eq 0 ] || exit 2
[ "$survived" -eq 0 ] || { echo "$survived survived" >&2; exit 1; }
