#!/usr/bin/env bash
# A flash sale on three nodes of this machine: far more buyers than units, the leader killed with
# kill -9 when half the units are sold, restarted, and at the end the books are checked.
#
#   scripts/flash-sale.sh                 three nodes
#   scripts/flash-sale.sh --nodes 1       the embedded node; it is killed and restarted as well
#   scripts/flash-sale.sh --no-kill       nobody is killed
#
# Exit code 0: exactly the stock was sold and nothing acknowledged was lost. 1: not so. 2: could not run.
# STOCKD and BENCH name the binaries to use, DATA_PARENT where data goes, KEEP_FAILED=1 keeps it.
set -u
source "$(dirname "$0")/../bench/nodes.sh"

nodes=3 kill=yes stock=100000 factor=100 seconds=120 connections=16 depth=16
usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  echo
  echo "options: --nodes 1|3  --no-kill  --stock UNITS ($stock)  --demand-factor F ($factor)"
  echo "         --seconds S ($seconds)  --connections C ($connections)  --depth D ($depth)"
}
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) nodes=${2:-}; shift ;;
    --no-kill) kill=no ;;
    --stock) stock=${2:-}; shift ;;
    --demand-factor) factor=${2:-}; shift ;;
    --seconds) seconds=${2:-}; shift ;;
    --connections) connections=${2:-}; shift ;;
    --depth) depth=${2:-}; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
case $nodes in 1 | 3) ;; *) echo "--nodes is 1 or 3" >&2; exit 2 ;; esac

nodes_init
echo "starting $nodes node(s); data in $WORK"
nodes_start "$nodes"
echo "node $LEADER leads; $stock units, $((stock * factor)) buyers"

half=$WORK/half-sold
timeout $((seconds + 120)) "$BENCH" drop --addr "$(addresses)" --stock "$stock" \
  --demand-factor "$factor" --connections "$connections" --depth "$depth" --seconds "$seconds" \
  --half-sold-file "$half" >"$WORK/table" &
bench=$!
SCRIPT_PIDS=$bench

sold_half() { [ -e "$half" ] || ! kill -0 "$bench" 2>/dev/null; }
if [ "$kill" = yes ]; then
  until_true $((seconds + 60)) "half the stock to be sold" sold_half
  [ -e "$half" ] || { wait "$bench"; cat "$WORK/table"; fail "the sale ended before half was sold"; }
  leader || fail "nobody leads"
  killed=$LEADER
  echo "half is sold: kill -9 of node $killed, the leader"
  node_kill "$killed"
  # With one node the sale waits for it; with three it goes on while the node is away.
  [ "$nodes" -gt 1 ] && until_true 20 "a new leader" leader && echo "node $LEADER leads now"
  echo "node $killed starts again"
  node_start "$killed"
  until_true 60 "an answer from node $killed" node_answers "$killed"
fi

wait "$bench"
code=$?
SCRIPT_PIDS=
if [ "$kill" = yes ]; then
  until_true 30 "node $killed to catch up" caught_up "$killed"
  echo "node $killed has caught up: applied index $(node_applied "$killed")"
fi
echo
cat "$WORK/table"
exit "$code"
