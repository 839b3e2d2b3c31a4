#!/usr/bin/env bash
# Tests for hours: simulated clusters, real ones under attack, fuzzing, and load with its books checked,
# one after the other, each time from other seeds, until the time is up or something is wrong.
#
#   scripts/soak.sh --hours 8                 seeds from the clock
#   scripts/soak.sh --hours 0.5 --seed 7      seeds from 7
#   scripts/soak.sh --hours 1 --only sim,load
#
# Prints a line for each step with what it did, and at the first failure what repeats it.
# The last line is `PASSED`, or `PASSED, without: ` and what cannot be tested here.
# Exit code 0: the time is up and nothing was wrong. 1: something is. 2: nothing could be run.
# SIM_SEEDS, CHAOS_MINUTES and FUZZ_MINUTES (per target) set how long a step is; LOGS names where its output goes.
set -u
cd "$(dirname "$0")/.."
hours=1 seed=$(date +%s) only=sim,chaos,fuzz,load
usage() { sed -n '2,13s/^# \{0,1\}//p' "$0"; }
while [ $# -gt 0 ]; do
  case $1 in
    --hours) hours=${2:-}; shift ;;
    --seed) seed=${2:-}; shift ;;
    --only) only=${2:-}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
end=$(awk -v hours="$hours" 'BEGIN { if (hours + 0 <= 0) exit 1; printf "%d", hours * 3600 }') ||
  { echo "--hours is a positive number" >&2; exit 2; }
case $seed in '' | *[!0-9]*) echo "--seed is a number" >&2; exit 2 ;; esac

: "${SIM_SEEDS:=200}" "${CHAOS_MINUTES:=10}" "${FUZZ_MINUTES:=1}"
: "${LOGS:=${CARGO_TARGET_DIR:-target}/soak}"
mkdir -p "$LOGS"
round=0 done_steps=0 unable= without=

# What a step runs, into the array `words`; the seeds differ from round to round.
words_of() {
  local here=$((seed + round))
  case $1 in
    sim) words=(scripts/sim.sh sweep --from $((here * SIM_SEEDS)) --seeds "$SIM_SEEDS") ;;
    chaos) words=(scripts/chaos.sh --minutes "$CHAOS_MINUTES" --seed "$here") ;;
    fuzz) words=(scripts/fuzz.sh --minutes "$FUZZ_MINUTES") ;;
    load) words=(scripts/flash-sale.sh --seconds 300) ;;
    *) echo "there is no step $1; there are sim, chaos, fuzz and load" >&2; exit 2 ;;
  esac
}

# lack WHAT: it was not tested. A list without repetition.
lack() {
  case "; $without; " in
    *"; $1; "*) ;;
    *) without=${without:+$without; }$1 ;;
  esac
}

total() {
  echo "$done_steps steps in $round rounds, $((SECONDS / 60)) minutes${unable:+; could not be run:$unable}"
}
trap 'echo; echo "interrupted"; total; exit 130' INT TERM

# step NAME: runs it; ends the script when something is wrong.
step() {
  local name=$1 log begun=$SECONDS code words what
  words_of "$name"
  case $unable in *" $name"*) return ;; esac
  log=$LOGS/$round-$name.log
  printf '%s  round %d  %-6s %s\n' "$(date +%H:%M:%S)" "$round" "$name" "${words[*]}"
  "${words[@]}" >"$log" 2>&1
  code=$?
  case $code in
    0)
      done_steps=$((done_steps + 1))
      # Such as `not tested here: no wrong clocks: no libfaketime.so.1`.
      while read -r what; do lack "$name ($what)"; done < <(sed -n 's/^not tested here: \([^:]*\).*/\1/p' "$log")
      printf '          %d s: %s\n' $((SECONDS - begun)) "$(tail -n 2 "$log" | paste -sd' ')"
      ;;
    2 | 126 | 127)
      unable="$unable $name"
      lack "$name"
      printf '          cannot be run here: %s\n' "$(tail -n 1 "$log")"
      ;;
    *)
      tail -n 40 "$log"
      echo "FAILED with exit code $code after $((SECONDS - begun)) s; all it said is in $log"
      echo "again: ${words[*]}"
      total
      exit 1
      ;;
  esac
}

IFS=, read -ra steps <<<"$only"
while [ "$SECONDS" -lt "$end" ]; do
  round=$((round + 1))
  before=$done_steps
  for name in "${steps[@]}"; do
    [ "$SECONDS" -lt "$end" ] && step "$name"
  done
  [ "$done_steps" -gt "$before" ] || { total; echo "nothing can be run here" >&2; exit 2; }
done
total
echo "PASSED${without:+, without: $without}"
