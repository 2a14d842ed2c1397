#!/bin/sh
# Fuzzes every parser of foreign bytes: clang, libFuzzer, address and undefined-behaviour sanitizers. Two targets at a time.
# Usage: fuzz.sh [SECONDS, default 600] [TARGET...]      Adds a dated line per target to tests/fuzz/RESULTS.md.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-600}
[ $# -gt 0 ] && shift
CC=clang cmake -S . -B build/fuzz -G Ninja -DDDIT_FUZZ=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
cmake --build build/fuzz >/dev/null
targets=${*:-$(cd tests/fuzz && ls fuzz_*.c | sed 's/^fuzz_//; s/\.c$//')}

fuzz_one() {
    target=$1
    mkdir -p "build/fuzz/corpus/$target" "build/fuzz/findings"
    log=build/fuzz/$target.log
    if "build/fuzz/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="build/fuzz/findings/$target-" "build/fuzz/corpus/$target" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
        result="no finding"
    else
        result="FINDING, see $log"
    fi
    runs=$(grep -o '^Done [0-9]* runs' "$log" | grep -o '[0-9]*' || echo "?")
    echo "| $(date +%Y-%m-%d) | $target | $seconds s | $runs | $result |" >>tests/fuzz/RESULTS.md
    echo "$target: $runs runs in $seconds s, $result"
}

[ -f tests/fuzz/RESULTS.md ] || printf '# Fuzzing\n\n`make fuzz`; the corpora in corpus/ are replayed by every test run.\n\n| date | target | time | runs | result |\n|---|---|---|---|---|\n' >tests/fuzz/RESULTS.md
set -- $targets
while [ $# -gt 0 ]; do
    fuzz_one "$1" &
    if [ $# -gt 1 ]; then fuzz_one "$2" & shift; fi
    shift
    wait
done
! grep -q "^| $(date +%Y-%m-%d) .*FINDING" tests/fuzz/RESULTS.md
