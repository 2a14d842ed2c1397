#!/bin/sh
# Does the suite notice mistakes? Each NN-name.patch here puts one plausible mistake into the library; this script applies
# them one at a time to a copy of the last commit, builds the release tests and runs them all. A mutant is caught if a test
# fails that passes without it.
# Usage: mutants.sh [NN-name...]      Default: all. Writes their rows of RESULTS.md; fails if one survived.
set -eu
export LC_ALL=C
cases=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$cases/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/ddit-mutants-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

commit=$(git -C "$root" rev-parse --short HEAD)
mkdir "$work/tree"
git -C "$root" archive "$commit" | tar -x -C "$work/tree"
cd "$work/tree"
export GIT_CEILING_DIRECTORIES="$work" # a repository around the temporary folder is none of ours
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null

# Builds; ends the script if that fails, for a mutant that does not compile says nothing about the tests.
build() {
    cmake --build build >"$work/log" 2>&1 && return
    echo "$1 does not compile:" >&2
    grep -m 5 -E 'error|FAILED' "$work/log" >&2
    exit 1
}

# Runs all tests; prints the names of those that failed, one a line, sorted.
failures() {
    failed=build/Testing/Temporary/LastTestsFailed.log
    rm -f "$failed"
    if (cd build && ctest -j "$(nproc)" --timeout 300 >"$work/log" 2>&1); then return; fi
    if [ ! -s "$failed" ]; then
        echo "ctest failed without naming a test:" >&2
        tail "$work/log" >&2
        exit 1
    fi
    sed 's/^[0-9]*://' "$failed" | sort
}

# Puts the row of one mutant into RESULTS.md, in place of its old one.
record() {
    row="| $1 | $(head -n 1 "$cases/$1.patch") | $2 | $(date +%Y-%m-%d), $commit |"
    results=$cases/RESULTS.md
    {
        { grep '^| [0-9]' "$results" 2>/dev/null | grep -v -F "| $1 |" || true; }
        echo "$row"
    } | sort >"$work/rows"
    {
        echo '# Seeded mutants'
        echo
        echo '`tests/mutants/mutants.sh`: each patch of this folder applied alone to a commit, and the tests that fail then.'
        echo
        echo "Caught: $(grep -c -v SURVIVED "$work/rows") of $(wc -l <"$work/rows")."
        echo
        echo '| mutant | mistake | caught by | when, commit |'
        echo '|---|---|---|---|'
        cat "$work/rows"
    } >"$work/results"
    cp "$work/results" "$results"
}

[ $# -gt 0 ] || set -- $(cd "$cases" && ls [0-9]*.patch | sed 's/\.patch$//')
for name; do
    git apply --check "$cases/$name.patch" # all of them before the first run: the code under one may have moved on
done
build "the last commit"
failures >"$work/before"
[ ! -s "$work/before" ] || echo "without a mutant these fail already and do not count:" $(cat "$work/before") >&2

survived=0
for name; do
    git apply "$cases/$name.patch"
    build "$name"
    failures >"$work/now"
    by=$(comm -13 "$work/before" "$work/now" | paste -sd, - | sed 's/,/, /g')
    git apply -R "$cases/$name.patch"
    [ -n "$by" ] || { by=SURVIVED; survived=$((survived + 1)); }
    echo "$name: $by"
    record "$name" "$by"
done
echo "$survived of $# survived"
[ $survived -eq 0 ]
