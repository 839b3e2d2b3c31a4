#!/usr/bin/env bash
# Runs the table of bench/README.md on this machine and prints it as markdown: each row three times on
# fresh nodes with their data on the disk, medians, and the commands.
#
#   scripts/bench.sh                            every row
#   scripts/bench.sh --rows batch1,pipe1        some of them
#   scripts/bench.sh --seconds 5 --times 1      shorter
#
# Exit code 1 if a verification failed, 2 if a row could not be run.
set -u
source "$(dirname "$0")/../bench/nodes.sh"

ALL=batch1,pipe1,single1,batch3,pipe3,hotbatch1,hotpipe1,soldout1,zipf1,cart1,storm1,bulk1,kill3,restart1,memory1
rows=$ALL seconds=10 times=3
while [ $# -gt 0 ]; do
  case $1 in
    --rows) rows=${2:-}; shift ;;
    --seconds) seconds=${2:-}; shift ;;
    --times) times=${2:-}; shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; echo "rows: $ALL"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
  shift
done

# A row may make more reservations than a server remembers by default; more would be BUSY.
: "${SERVE_OPTIONS:=--max-reservations 60000000}"
nodes_init
failed=0

# arguments ROW: what stockd-bench is asked for.
arguments() {
  local s="--seconds $seconds"
  case $1 in
    batch?) echo "uniform --connections 16 --depth 2 --ops-per-frame 1000 $s" ;;
    pipe?) echo "uniform --connections 16 --depth 100 --ops-per-frame 1 $s" ;;
    single?) echo "uniform --connections 64 --depth 1 --ops-per-frame 1 $s" ;;
    hotbatch?) echo "hot --connections 16 --depth 2 --ops-per-frame 1000 $s" ;;
    hotpipe?) echo "hot --connections 16 --depth 100 --ops-per-frame 1 $s" ;;
    soldout?) echo "soldout --connections 16 --depth 100 --ops-per-frame 1 $s" ;;
    zipf?) echo "zipf --connections 16 --depth 2 --ops-per-frame 1000 $s" ;;
    cart?) echo "cart --connections 16 --depth 2 --ops-per-frame 100 $s" ;;
    storm?) echo "expiry-storm --advance 1000000 --rate 100000 --connections 16 --depth 100 $s" ;;
    restart? | memory?) echo "uniform --connections 16 --depth 2 --ops-per-frame 1000 --warmup 0 --seconds 120" ;;
    bulk?) echo "zipf --connections 16 --depth 16 --ops-per-frame 1 --seconds 10" ;;
    kill?) echo "" ;;
    *) fail "no row is called $1; there are $ALL" ;;
  esac
}

# bench JSON_FILE ARGUMENTS…: one run against the nodes that are up.
bench() {
  local file=$1 n pids=()
  shift
  for n in $(seq "$NODES"); do pids+=(--server-pid "${NODE_PID[n]}"); done
  timeout 900 "$BENCH" "$@" --addr "$(addresses)" "${pids[@]}" --json "$file" --no-progress \
    >"$WORK/table" 2>&1
  local code=$?
  if [ "$code" -ne 0 ]; then
    cat "$WORK/table" >&2
    [ "$code" -eq 1 ] || fail "stockd-bench $* could not run"
    failed=1
  fi
}

# number NAME FILE [NTH]: a number out of the JSON.
number() {
  grep -o "\"$1\":[0-9.]*" "$2" | sed -n "${3:-1}p" | cut -d: -f2
}

# servers_ns FILE: CPU per operation, summed over the nodes; the harness comes last and is left out.
servers_ns() {
  grep -o '"cpu_ns_per_op":[0-9.]*' "$1" | sed '$d' | cut -d: -f2 | awk '{ s += $1 } END { print s }'
}

median() {
  sort -n | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'
}

milliseconds() { awk -v us="$1" 'BEGIN { printf "%.2f", us / 1000 }'; }
whole() { awk -v n="$1" 'BEGIN { printf "%d", n }'; }
elapsed_ms() { echo $((($(date +%s%N) - $1) / 1000000)); }
anonymous_kib() { awk '/^RssAnon:/ { print $2 }' "/proc/${NODE_PID[1]}/status"; }

# load_row ROW: throughput and latency.
load_row() {
  local row=$1 n=${1: -1} i file
  local -a words
  read -ra words <<<"$(arguments "$row")"
  for i in $(seq "$times"); do
    nodes_start "$n"
    file=$WORK/$row.$i.json
    bench "$file" "${words[@]}"
    number ops_per_second "$file" >>"$WORK/$row.ops"
    number p50 "$file" >>"$WORK/$row.p50"
    number p99 "$file" >>"$WORK/$row.p99"
    servers_ns "$file" >>"$WORK/$row.cpu"
    [ "${row%?}" = storm ] && grep -o '"storm_p99_ratio":\[[0-9.]*,[0-9.]*' "$file" |
      sed 's/.*\[//; s/,/ /' >>"$WORK/$row.ratio"
    nodes_stop
  done
  local note="p50 $(milliseconds "$(median <"$WORK/$row.p50")") ms, p99 $(milliseconds "$(median <"$WORK/$row.p99")") ms"
  note="$note, servers $(whole "$(median <"$WORK/$row.cpu")") ns/op"
  if [ -e "$WORK/$row.ratio" ]; then
    note="$note, p99 storm/calm $(cut -d' ' -f1 "$WORK/$row.ratio" | median), first 2 s $(cut -d' ' -f2 "$WORK/$row.ratio" | median)"
  fi
  print_row "$row" "$(whole "$(median <"$WORK/$row.ops")") /s" "$note" "stockd-bench ${words[*]}"
}

# kill_row: the flash sale with the leader killed.
kill_row() {
  local i out=$WORK/kill.out
  for i in $(seq "$times"); do
    if ! SERVE_OPTIONS=$SERVE_OPTIONS STOCKD=$STOCKD BENCH=$BENCH DATA_PARENT=$DATA_PARENT "$ROOT/scripts/flash-sale.sh" >"$out" 2>&1; then
      cat "$out" >&2
      failed=1
    fi
    awk '/^longest pause/ { print $3 }' "$out" >>"$WORK/kill.pause"
    tail -n 1 "$out" >>"$WORK/kill.verdict"
  done
  print_row "$1" "$(median <"$WORK/kill.pause") ms pause" \
    "$(sort "$WORK/kill.verdict" | uniq -c | sed 's/^ *//; s/ /× /' | paste -sd';')" scripts/flash-sale.sh
}

# bulk_row: 1 M rows of a file are loaded beside sales; their p99 with that to that without. Each on a node of
# its own: on one that has seen the sales of a run before, sales are a little slower without any load.
bulk_row() {
  local i begun bench with without
  local -a words
  read -ra words <<<"$(arguments "$1")"
  seq 0 999999 | awk 'BEGIN { print "warehouse,sku,quantity" }
    { printf "L%d,row-%07d,%d\n", $1 % 8, $1, 1 + $1 % 50 }' >"$WORK/rows.csv"
  for i in $(seq "$times"); do
    nodes_start 1
    rm -f "$WORK/calm.json" "$WORK/beside.json"
    bench "$WORK/calm.json" "${words[@]}"
    nodes_stop
    nodes_start 1
    timeout 900 "$BENCH" "${words[@]}" --addr "$(addresses)" --json "$WORK/beside.json" >"$WORK/table" 2>&1 &
    bench=$!
    SCRIPT_PIDS=$bench
    until_true 60 "the sales to begin" grep -q ' load ' "$WORK/table"
    rm -f "$WORK/rows.csv.load"
    begun=$(date +%s%N)
    "$STOCKD" load "$WORK/rows.csv" --node "$(addresses)" >"$WORK/load" 2>&1 ||
      { cat "$WORK/load" >&2; fail "the rows were not loaded"; }
    elapsed_ms "$begun" >>"$WORK/bulk.ms"
    wait "$bench" || { cat "$WORK/table" >&2; failed=1; }
    SCRIPT_PIDS=
    with=$(number p99 "$WORK/beside.json") without=$(number p99 "$WORK/calm.json")
    awk -v a="$with" -v b="$without" 'BEGIN { printf "%.2f\n", a / b }' >>"$WORK/bulk.ratio"
    number ops_per_second "$WORK/beside.json" >>"$WORK/bulk.with"
    number ops_per_second "$WORK/calm.json" >>"$WORK/bulk.without"
    nodes_stop
  done
  print_row "$1" "$(median <"$WORK/bulk.ms") ms for 1 M rows" \
    "p99 of the sales with that / without $(median <"$WORK/bulk.ratio") ($(sort -n "$WORK/bulk.ratio" | paste -sd' ')); $(whole "$(median <"$WORK/bulk.with")") sales/s with it, $(whole "$(median <"$WORK/bulk.without")") without" \
    "stockd load rows.csv beside stockd-bench ${words[*]}"
}

# restart_row: 1 M cells and 1 M live reservations, kill -9, time to the first answered reservation.
restart_row() {
  local i begun
  local -a words
  read -ra words <<<"$(arguments "$1") --reservations 1000000"
  for i in $(seq "$times"); do
    nodes_start 1
    bench "$WORK/restart.json" "${words[@]}"
    node_kill 1
    begun=$(date +%s%N)
    node_start 1
    bench "$WORK/first.json" uniform --cells 1 --reservations 1 --connections 1 --depth 1 --warmup 0
    elapsed_ms "$begun" >>"$WORK/restart.ms"
    nodes_stop
  done
  print_row "$1" "$(median <"$WORK/restart.ms") ms" "from exec to the first reservation granted and read back" \
    "stockd-bench ${words[*]}; kill -9; restart"
}

# memory_row: anonymous memory per cell and per reservation.
memory_row() {
  local i empty cells live
  local -a words
  read -ra words <<<"$(arguments "$1") --reservations 4000000 --cells 1"
  for i in $(seq "$times"); do
    nodes_start 1
    empty=$(anonymous_kib)
    bench "$WORK/cells.json" uniform --cells 4000000 --reservations 1 --connections 1 --depth 1 --warmup 0
    cells=$(anonymous_kib)
    bench "$WORK/live.json" "${words[@]}" --stock 100000000
    live=$(anonymous_kib)
    echo $(((cells - empty) * 1024 / 4000000)) >>"$WORK/memory.cell"
    echo $(((live - cells) * 1024 / 4000000)) >>"$WORK/memory.live"
    nodes_stop
  done
  print_row "$1" "$(median <"$WORK/memory.cell") B/cell, $(median <"$WORK/memory.live") B/reservation" \
    "growth of RssAnon, names, op ids and buffers of the log included" "stockd-bench ${words[*]}"
}

print_row() { echo "| $1 | $2 | $3 | \`$4\` |"; }

IFS=, read -ra list <<<"$rows"
for row in "${list[@]}"; do arguments "$row" >/dev/null; done
echo "| row | median of $times | also | command |"
echo "|---|---|---|---|"
for row in "${list[@]}"; do
  case $row in
    bulk?) bulk_row "$row" ;;
    kill?) kill_row "$row" ;;
    restart?) restart_row "$row" ;;
    memory?) memory_row "$row" ;;
    *) load_row "$row" ;;
  esac
done
exit "$failed"
