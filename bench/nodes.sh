# Starts, kills and asks the nodes of a cluster on this machine. Sourced by scripts/flash-sale.sh and
# scripts/bench.sh, which call `nodes_init` first and get everything cleaned up when they exit.
#
# What depends on the daemon's command line and its JSON is in the first functions.

# node_start N: starts node N of $NODES on its ports, with its own data directory; SERVE_OPTIONS are
# added.
node_start() {
  local n=$1 join=() options=()
  [ "$n" -gt 1 ] && join=(--join "$(node_peer 1)")
  read -ra options <<<"${SERVE_OPTIONS:-}"
  mkdir -p "$WORK/node$n"
  "$STOCKD" serve --node-id "$n" --data "$WORK/node$n" \
    --listen "$(node_address "$n")" --peer "$(node_peer "$n")" \
    --admin "$(node_admin "$n")" "${join[@]}" "${options[@]}" >>"$WORK/node$n.log" 2>&1 &
  NODE_PID[n]=$!
}

# node_status N: one line of JSON from node N; fails if it does not answer.
node_status() {
  timeout 3 "$STOCKD" admin --admin "$(node_admin "$1")" json status 2>/dev/null
}

# node_role N: leader, follower, learner or candidate. The first role is the node's own.
node_role() {
  node_status "$1" | tr -d ' \n' | grep -o '"role":"[a-z]*"' | head -n 1 | cut -d'"' -f4
}

node_leads() { [ "$(node_role "$1")" = leader ]; }

# node_votes N: it counts for majorities.
node_votes() { case $(node_role "$1") in leader | follower) ;; *) return 1 ;; esac; }

# node_applied N: the index of the last log entry it has applied.
node_applied() {
  node_status "$1" | tr -d ' \n' | grep -o '"applied_index":[0-9]*' | head -n 1 | cut -d: -f2
}

node_address() { echo "127.0.0.1:$((PORT + $1 * 10))"; }
node_peer() { echo "127.0.0.1:$((PORT + $1 * 10 + 1))"; }
node_admin() { echo "127.0.0.1:$((PORT + $1 * 10 + 2))"; }

# node_kill N: as a power cut would, but for the disk.
node_kill() {
  kill -9 "${NODE_PID[$1]}" 2>/dev/null || true
  wait "${NODE_PID[$1]}" 2>/dev/null || true
  NODE_PID[$1]=
}

fail() {
  echo "$0: $*" >&2
  exit 2
}

# until_true SECONDS WHAT COMMAND…: waits for a condition, or gives up and shows the nodes' last words.
until_true() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if [ "$SECONDS" -ge "$end" ]; then
      tail -n 5 "$WORK"/node*.log >&2 || true
      fail "gave up waiting for: $what"
    fi
    sleep 0.05
  done
}

# nodes_init: finds the binaries, a free range of ports and a directory on a disk.
nodes_init() {
  ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  local target=${CARGO_TARGET_DIR:-$ROOT/target}
  if [ -z "${STOCKD:-}" ] || [ -z "${BENCH:-}" ]; then
    (cd "$ROOT" && cargo build --release -q -p stockd -p stockd-bench) || fail "the build failed"
  fi
  STOCKD=${STOCKD:-$target/release/stockd}
  BENCH=${BENCH:-$target/release/stockd-bench}
  mkdir -p "${DATA_PARENT:=$target/bench-data}"
  if [ "$(stat -f -c %T "$DATA_PARENT" 2>/dev/null)" = tmpfs ]; then
    fail "$DATA_PARENT is in memory; set DATA_PARENT to a directory on a disk"
  fi
  WORK=$(mktemp -d "$DATA_PARENT/run.XXXXXX")
  NODE_PID=()
  trap nodes_clean EXIT
  trap 'exit 130' INT TERM
  local tries=0
  while :; do
    PORT=$((20000 + RANDOM % 10000))
    ports_free && break
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || fail "no free ports between 20000 and 30100"
  done
}

ports_free() {
  local n offset
  for n in 1 2 3; do
    for offset in 0 1 2; do
      if (exec 3<>"/dev/tcp/127.0.0.1/$((PORT + n * 10 + offset))") 2>/dev/null; then return 1; fi
    done
  done
}

# nodes_start COUNT: a fresh cluster of so many voters, which has a leader when this returns.
nodes_start() {
  NODES=$1
  local n
  rm -rf "$WORK"/node*
  for n in $(seq "$NODES"); do
    node_start "$n"
    until_true 20 "node $n to be a voter" node_votes "$n"
  done
  until_true 20 "a leader" leader
}

node_answers() { node_status "$1" >/dev/null; }

# leader: sets LEADER to the number of the node that leads; fails if there is none.
leader() {
  local n
  for n in $(seq "$NODES"); do
    if [ -n "${NODE_PID[n]:-}" ] && node_leads "$n"; then
      LEADER=$n
      return 0
    fi
  done
  return 1
}

# addresses: of all nodes, for --addr.
addresses() {
  local n list=
  for n in $(seq "$NODES"); do list="$list,$(node_address "$n")"; done
  echo "${list#,}"
}

# caught_up N: node N has applied what the leader has.
caught_up() {
  local theirs mine
  leader || return 1
  theirs=$(node_applied "$LEADER")
  mine=$(node_applied "$1")
  [ -n "$theirs" ] && [ -n "$mine" ] && [ "$mine" -ge "$theirs" ]
}

nodes_stop() {
  local n
  for n in "${!NODE_PID[@]}"; do
    [ -n "${NODE_PID[n]}" ] && node_kill "$n"
  done
}

nodes_clean() {
  local code=$? pid
  trap - EXIT
  for pid in ${SCRIPT_PIDS:-}; do kill "$pid" 2>/dev/null; done
  nodes_stop
  if [ "$code" -ne 0 ] && [ -n "${KEEP_FAILED:-}" ]; then
    echo "kept for a look: $WORK" >&2
  else
    rm -rf "$WORK"
  fi
  exit "$code"
}
