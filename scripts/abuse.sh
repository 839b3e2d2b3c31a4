#!/usr/bin/env bash
# What attacks cost everybody else, on this machine: for each attack a victim's p50 and p99 without and
# with it, in turns, the medians of the turns, and their ratio; then 10,000 connections at once; then the
# server's memory.
#
#   scripts/abuse.sh                        every attack, five turns of 5 seconds each way
#   scripts/abuse.sh --seconds 2 Giant      one of them, shorter
#
# Exit code 1: an attack more than doubles the victims' p99. The attackers have the lowest priority, so that they
# compete for the server and not for the victims' processor.
#
# PORT (7480) and the two after it must be free. A benchmark, not a test: `cargo test --test abuse` asserts
# what must hold.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=5 port=${PORT:-7480}
if [ "${1:-}" = --help ]; then sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0; fi
if [ "${1:-}" = --seconds ]; then seconds=$2; shift 2; fi

wanted=25000
if ! ulimit -n "$wanted" 2>/dev/null; then
  ulimit -n "$(ulimit -Hn)"
  echo "the hard limit of open files is $(ulimit -n), below $wanted: fewer connections than 10,000" \
    "may fit, see the last column of Crowd"
fi

target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --quiet --bin stockd --example abuse
work=$(mktemp -d)
"$target/release/stockd" serve --node-id 1 --data "$work/data" --listen "127.0.0.1:$port" \
  --admin "127.0.0.1:$((port + 1))" --peer "127.0.0.1:$((port + 2))" >"$work/out" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
  kill -0 "$server" 2>/dev/null || { cat "$work/out" >&2; exit 2; }
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  sleep 0.1
done

code=0
"$target/release/examples/abuse" "127.0.0.1:$port" "$seconds" "$@" || code=$?
grep -E 'VmHWM|VmRSS' "/proc/$server/status"
exit "$code"
