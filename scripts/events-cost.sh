#!/usr/bin/env bash
# What the event log and those who follow it cost, on this machine and in one run: each row of scripts/bench.sh
# in turn without events, with them, with ten subscribers of everything, and with one that reads nothing.
# Prints medians and their ratio to the row without events; of subscribers, also to the one with.
#
#   scripts/events-cost.sh                              rows batch1, pipe1 and single1, five turns of 5 s
#   scripts/events-cost.sh --rows pipe1 --turns 3 --seconds 10 --modes off,on
#
# Exit code 2 if something could not be run.
set -u
source "$(dirname "$0")/../bench/nodes.sh"

rows=batch1,pipe1,single1 turns=5 seconds=5 modes=off,on,ten,stalled
while [ $# -gt 0 ]; do
  case $1 in
    --rows) rows=${2:-}; shift ;;
    --turns) turns=${2:-}; shift ;;
    --seconds) seconds=${2:-}; shift ;;
    --modes) modes=${2:-}; shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
  shift
done
: "${SERVE_OPTIONS:=--max-reservations 60000000}"
OPTIONS=$SERVE_OPTIONS
nodes_init
FOLLOW=${FOLLOW:-$(dirname "$BENCH")/stockd-follow}

arguments() {
  case $1 in
    batch1) echo "uniform --connections 16 --depth 2 --ops-per-frame 1000" ;;
    pipe1) echo "uniform --connections 16 --depth 100 --ops-per-frame 1" ;;
    single1) echo "uniform --connections 64 --depth 1 --ops-per-frame 1" ;;
    hotbatch1) echo "hot --connections 16 --depth 2 --ops-per-frame 1000" ;;
    zipf1) echo "zipf --connections 16 --depth 2 --ops-per-frame 1000" ;;
    cart1) echo "cart --connections 16 --depth 2 --ops-per-frame 100" ;;
    *) fail "no row is called $1" ;;
  esac
}

# turn ROW MODE: one run; a file ROW.MODE of numbers grows by one line.
turn() {
  local row=$1 mode=$2 follower= file=$WORK/$1.$2.json
  local -a words
  read -ra words <<<"$(arguments "$row")"
  SERVE_OPTIONS=$OPTIONS
  [ "$mode" = off ] && SERVE_OPTIONS="$OPTIONS --events 0s"
  nodes_start 1
  case $mode in
    ten | stalled)
      local -a who=(--subscribers 10)
      [ "$mode" = stalled ] && who=(--subscribers 0 --stalled 1)
      rm -f "$WORK/stop" "$WORK/follow"
      mkfifo "$WORK/stop"
      "$FOLLOW" --addr "$(addresses)" "${who[@]}" <"$WORK/stop" >"$WORK/follow" 2>&1 &
      follower=$!
      SCRIPT_PIDS=$follower
      exec 9>"$WORK/stop"
      until_true 30 "the subscribers" grep -q following "$WORK/follow"
      ;;
  esac
  timeout 300 "$BENCH" "${words[@]}" --seconds "$seconds" --addr "$(addresses)" --json "$file" \
    --verify-sample 1000 --no-progress >"$WORK/table" 2>&1 || { cat "$WORK/table" >&2; fail "stockd-bench ${words[*]} could not run"; }
  grep -o '"ops_per_second":[0-9.]*' "$file" | head -n 1 | cut -d: -f2 >>"$WORK/$row.$mode"
  if [ -n "$follower" ]; then
    exec 9>&-
    wait "$follower"
    SCRIPT_PIDS=
    tail -n 1 "$WORK/follow" >>"$WORK/$row.$mode.seen"
  fi
  nodes_stop
}

median() { sort -n "$1" | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'; }

IFS=, read -ra row_list <<<"$rows"
IFS=, read -ra mode_list <<<"$modes"
for row in "${row_list[@]}"; do arguments "$row" >/dev/null; done
echo "| row | events | ops/s, median of $turns | of off | of on | subscribers |"
echo "|---|---|---|---|---|---|"
for row in "${row_list[@]}"; do
  for _ in $(seq "$turns"); do
    for mode in "${mode_list[@]}"; do turn "$row" "$mode"; done
  done
  for mode in "${mode_list[@]}"; do
    seen=-
    [ -e "$WORK/$row.$mode.seen" ] && seen=$(tail -n 1 "$WORK/$row.$mode.seen")
    off=-1 on=-1
    [ -e "$WORK/$row.off" ] && off=$(median "$WORK/$row.off")
    [ -e "$WORK/$row.on" ] && on=$(median "$WORK/$row.on")
    awk -v row="$row" -v mode="$mode" -v n="$(median "$WORK/$row.$mode")" -v off="$off" -v on="$on" -v seen="$seen" '
      function ratio(a, b) { return b > 0 ? sprintf("%.2f", a / b) : "-" }
      BEGIN { printf "| %s | %s | %d | %s | %s | %s |\n", row, mode, n, ratio(n, off), ratio(n, on), seen }'
  done
done
