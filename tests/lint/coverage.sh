#!/bin/sh
# Line coverage of src from the counters of an instrumented build: one line per room, then the parsers and the whole. A file
# that is compiled more than once (kernels, once per instruction set) counts with its best run.
# Usage: coverage.sh BUILD-FOLDER
set -eu
build=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
find "$build/src" -name '*.gcno' | while read -r notes; do
    gcov -n -o "$(dirname "$notes")" "$notes" 2>/dev/null
done | awk '
    /^File / { file = $2; gsub("\047", "", file) }
    /^Lines executed:/ {
        split($0, part, /[:% ]+/)      # Lines executed PERCENT of COUNT
        percent = part[3]; count = part[5]
        if (file ~ /\/src\/.*\.c$/) {
            sub(".*/src/", "", file)
            hit = percent * count / 100
            if (!(file in total) || hit > hits[file]) { hits[file] = hit; total[file] = count }
        }
        file = ""
    }
    /^No executable lines/ { file = "" }
    END {
        for (f in total) {
            room = f; sub("/[^/]*$", "", room)
            roomHits[room] += hits[f]; roomTotal[room] += total[f]; all += total[f]; allHits += hits[f]
            if (room == "format" || room == "tokenizer") { parser += total[f]; parserHits += hits[f] }
        }
        for (room in roomTotal) printf "  %-24s %5.1f %% of %5d lines\n", room, 100 * roomHits[room] / roomTotal[room], roomTotal[room] | "sort"
        close("sort")
        if (parser) printf "coverage of parsers: %.1f %%\n", 100 * parserHits / parser
        printf "coverage of src: %.1f %% of %d lines\n", 100 * allHits / all, all
    }'
