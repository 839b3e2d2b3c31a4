#!/usr/bin/env bash
# Fuzzes for as long as you like, with coverage, on the nightly toolchain.
#
#   scripts/fuzz.sh --minutes 2                  every target, one after the other
#   scripts/fuzz.sh --minutes 60 snapshot        one target
#   scripts/fuzz.sh --list                       their names; fuzz/src/lib.rs says what each does
#
# Inputs that reach something new are kept in FUZZ_CORPUS (target/fuzz/corpus) for the next run. An input
# that breaks a target is left in target/fuzz/found: move it to fuzz/regressions/TARGET/ and fix the bug.
# Installs nothing. Exit code 0: nothing found. 1: something was. 2: could not run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
missing() { echo "$1; to get it: $2" >&2; exit 2; }

minutes=1 targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=${2:-}; shift ;;
    --list) list=yes ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done
case $minutes in '' | *[!0-9]*) echo "--minutes takes a whole number" >&2; exit 2 ;; esac

out=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
corpus=${FUZZ_CORPUS:-$out/corpus}
mkdir -p "$corpus" "$out/found"
names=$(cargo run --quiet --locked --package stockd-fuzz --example seeds -- "$corpus")
[ -z "${list:-}" ] || { echo "$names"; exit 0; }
[ ${#targets[@]} -gt 0 ] || mapfile -t targets <<<"$names"
for target in "${targets[@]}"; do
  grep -qx "$target" <<<"$names" || { echo "no target is called $target; --list names them" >&2; exit 2; }
done

rustup run nightly rustc --version >/dev/null 2>&1 || missing "there is no nightly toolchain" "rustup toolchain install nightly"
cargo fuzz --version >/dev/null 2>&1 || missing "cargo-fuzz is not installed" "cargo install cargo-fuzz"

# cargo-fuzz builds with AddressSanitizer and coverage. A node's threads and tables stay: no leak check.
build=(cargo +nightly fuzz build --fuzz-dir fuzz/libfuzzer --target-dir "$out/build" target)
"${build[@]}"
binary=$(find "$out/build" -path '*/release/target' -type f | head -n 1)
[ -x "$binary" ] || { echo "cargo-fuzz built no program" >&2; exit 2; }

failed=0
for target in "${targets[@]}"; do
  echo "== $target"
  log=$out/$target.log
  STOCKD_FUZZ_TARGET=$target ASAN_OPTIONS=detect_leaks=0 "$binary" "$corpus/$target" \
    -max_total_time=$((minutes * 60)) -timeout=25 -rss_limit_mb=2048 -malloc_limit_mb=256 \
    -max_len=16384 -print_final_stats=1 -artifact_prefix="$out/found/$target-" >"$log" 2>&1 || failed=1
  awk -v target="$target" '
    /cov:/ { for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "corp:") corp = $(i + 1) } }
    /number_of_executed_units/ { execs = $2 }
    /peak_rss_mb/ { rss = $2 }
    /ERROR|panicked|SUMMARY|Test unit written/ { print "   " $0; found = "FOUND SOMETHING" }
    END { printf "%-14s %s executions, %s edges, %s inputs, %s MB  %s\n", target, execs, cov, corp, rss, found }
  ' "$log"
done
exit "$failed"
