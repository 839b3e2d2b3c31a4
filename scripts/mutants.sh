#!/usr/bin/env bash
# Tests the tests: plants each bug of mutants/*.patch in a copy of the tree, and runs the layers that its
# header names, in that order, until one fails. Prints which layer caught it, by what, and how long it took.
#
#   scripts/mutants.sh                              all of them
#   scripts/mutants.sh expiry-loses-the-tie         some of them, by name
#   scripts/mutants.sh --layers "lib model"         no other layers than these
#   scripts/mutants.sh --all-layers                 go on after the first that fails: what each is worth
#   scripts/mutants.sh --list                       what each plants
#
# The copy is a git worktree of HEAD in MUTANTS_TARGET (target/mutants), beside a target directory of its own
# that is kept for the next run. The layer `chaos` attacks release binaries with the kinds of faults that the
# header names after `Chaos:`, or with all; where these are not possible (it takes root), it catches nothing.
# Exit code 0: all caught. 1: one survived.
# 2: could not run, for example because a patch does not apply or does not build, or no layer can be run.
set -euo pipefail
cd "$(dirname "$0")/.."

only= all_layers= names=()
while [ $# -gt 0 ]; do
  case $1 in
    --layers) only=${2:-}; shift ;;
    --all-layers) all_layers=1 ;;
    --list) for patch in mutants/*.patch; do printf '%-34s %s\n' "$(basename "$patch" .patch)" "$(head -n 1 "$patch")"; done; exit 0 ;;
    -*) sed -n '2,15s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
    *) names+=("$1") ;;
  esac
  shift
done
root=$PWD
[ ${#names[@]} -gt 0 ] || for patch in mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done

target=${MUTANTS_TARGET:-${CARGO_TARGET_DIR:-$root/target}/mutants}
mkdir -p "$target"
target=$(realpath "$target")
copy=$target/tree log=$target/log
cleanup() { git -C "$root" worktree remove --force "$copy" 2>/dev/null || true; }
trap cleanup EXIT
cleanup
git worktree add --quiet --detach "$copy" HEAD
cd "$copy"
export CARGO_TARGET_DIR=$target RUST_BACKTRACE=0

# header PATCH FIELD: what a patch says about itself.
header() {
  sed -n "s/^$2: //p" "$root/mutants/$1.patch" | head -n 1
}

# chaos build|run [KINDS]: real processes. What a run that failed leaves is of no use: the seed does not repeat it.
chaos() {
  if [ "$1" = build ]; then
    cargo build --quiet --locked --release -p stockd -p stockd-chaos -p stockd-check
    return
  fi
  local code=0
  env -u STOCKD DATA_PARENT="$target/chaos-data" timeout 900 \
    scripts/chaos.sh --minutes "${MUTANTS_CHAOS_MINUTES:-1}" --seed 1 ${2:+--only "$2"} || code=$?
  rm -rf "$target/chaos-data"
  return "$code"
}

# layer NAME build|run [KINDS]: the tests of one layer. A build that fails says nothing about a bug.
layer() {
  local words=()
  case $1 in
    lib) words=(-p stockd --lib) ;;
    model) words=(-p stockd --test engine_model) ;;
    snapshot) words=(-p stockd --test engine_snapshot) ;;
    faults) words=(-p stockd --test log_faults) ;;
    steps) words=(-p stockd --test engine_steps) ;;
    archive) words=(-p stockd --test archive) ;;
    audit) words=(-p stockd --test audit) ;;
    backup) words=(-p stockd --test backup) ;;
    events) words=(-p stockd --test event_log) ;;
    power) words=(-p stockd --test log_power) ;;
    replica) words=(-p stockd --test replica) ;;
    sessions) words=(-p stockd --test server_sessions) ;;
    cluster) words=(-p stockd --test cluster) ;;
    fuzz) words=(-p stockd-fuzz --test smoke) ;;
    races) words=(-p stockd-races) ;;
    chaos) chaos "$2" "${3:-}"; return ;;
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

# try NAME [KINDS]: sets `verdict` to what became of a layer that is built: passed, failed, or unable.
try() {
  local code=0
  layer "$1" run "${2:-}" >"$log" 2>&1 </dev/null || code=$?
  case $1:$code in
    *:0) verdict=passed ;;
    chaos:2) verdict=unable ;;
    *) verdict=failed ;;
  esac
}

# evidence FILE: what the layer said, in one line.
evidence() {
  { grep -m 1 -oE '^WRONG: .*' "$1" || grep -m 1 -oE 'seed [0-9]+[^,]*' "$1" ||
    grep -m 1 -oE '^test [^ ]+ \.\.\. FAILED|^    [a-z_:0-9]+$|^---- [^ ]+' "$1" ||
    grep -m 1 'panicked' "$1" || tail -n 1 "$1"; } | cut -c1-60 | tr -d '|'
}

# wanted NAME: the layers to run for a bug, in order.
wanted() {
  local one layers
  read -ra layers <<<"$(header "$1" Layers)"
  for one in "${layers[@]}"; do
    [ -z "$only" ] || [[ " $only " == *" $one "* ]] || continue
    echo "$one"
  done
}

for name in "${names[@]}"; do
  [ -r "$root/mutants/$name.patch" ] || { echo "no patch is called $name" >&2; exit 2; }
done

# A layer that fails without a bug would catch them all. `chaos` is tried with each list of kinds.
mapfile -t sound < <(for name in "${names[@]}"; do
  for one in $(wanted "$name"); do
    if [ "$one" = chaos ]; then echo "chaos $(header "$name" Chaos)"; else echo "$one"; fi
  done
done | sort -u)
declare -A absent=()
for line in ${sound[@]+"${sound[@]}"}; do
  read -r one kinds <<<"$line"
  echo "without a bug: $line" >&2
  if ! layer "$one" build >"$log" 2>&1; then
    cat "$log" >&2; echo "the layer $one does not build without a bug" >&2; exit 2
  fi
  try "$one" "$kinds"
  case $verdict in
    failed) cat "$log" >&2; echo "the layer $one fails without a bug" >&2; exit 2 ;;
    unable) absent[$one $kinds]=1; echo "the layer $one cannot be run here: $(tail -n 1 "$log")" >&2 ;;
  esac
done

survived=0 broken=0
declare -A tried=() caught=()
echo "| bug | caught by | evidence | seconds |"
echo "|---|---|---|---|"
for name in "${names[@]}"; do
  git checkout --quiet -- .
  git apply "$root/mutants/$name.patch" || { echo "$name does not apply" >&2; broken=1; continue; }
  failed=() passed=() unable=() proof= begun=$SECONDS
  for one in $(wanted "$name"); do
    kinds=
    [ "$one" != chaos ] || kinds=$(header "$name" Chaos)
    if [ -n "${absent[$one $kinds]:-}" ]; then unable+=("$one"); continue; fi
    if ! layer "$one" build >"$log" 2>&1; then
      cat "$log" >&2; echo "$name does not build for $one" >&2; broken=1; continue 2
    fi
    try "$one" "$kinds"
    case $verdict in
      passed) passed+=("$one") ;;
      failed) failed+=("$one"); proof=${proof:-$(evidence "$log")} ;;
      unable) unable+=("$one"); continue ;;
    esac
    tried[$one]=$((${tried[$one]:-0} + 1))
    if [ "$verdict" = failed ]; then
      caught[$one]=$((${caught[$one]:-0} + 1))
      [ -n "$all_layers" ] || break
    fi
  done
  aside=
  [ -z "$all_layers" ] || [ ${#passed[@]} -eq 0 ] || aside=", not ${passed[*]}"
  [ ${#unable[@]} -eq 0 ] || aside="$aside, unable ${unable[*]}"
  if [ ${#failed[@]} -gt 0 ]; then
    echo "| $name | ${failed[*]}$aside | $proof | $((SECONDS - begun)) |"
  elif [ ${#passed[@]} -gt 0 ]; then
    echo "| $name | **survived** ${passed[*]}${unable:+, unable ${unable[*]}} | | $((SECONDS - begun)) |"
    survived=$((survived + 1))
  else
    echo "| $name | not tried${unable:+, unable ${unable[*]}} | | $((SECONDS - begun)) |"
    broken=1
  fi
done
if [ -n "$all_layers" ]; then
  printf '\n| layer | caught | of those it should |\n|---|---|---|\n'
  for one in "${!tried[@]}"; do echo "| $one | ${caught[$one]:-0} | ${tried[$one]} |"; done | sort
fi
[ "$broken" -eq 0 ] || exit 2
[ "$survived" -eq 0 ] || { echo "$survived survived" >&2; exit 1; }
