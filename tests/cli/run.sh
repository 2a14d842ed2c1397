#!/bin/sh
# One test of the command line: runs tests/cli/NAME.sh in an empty folder and compares what it prints and its exit status with
# NAME.stdout, NAME.stderr and NAME.exit beside it (a missing file stands for nothing printed and status 0).
#
#     run.sh PROGRAM PROJECT NAME [--update]
#
# In the script, $DDIT is the program, $ROOT the project, $TINY a small model. `try COMMAND...` runs a command, prints its name, all
# it says and its exit status. Paths of this machine are shown as ROOT and HERE.
program=$1 root=$2 name=$3 update=$4
cases=$root/tests/cli
folder=$(mktemp -d "${TMPDIR:-/tmp}/ddit-cli-XXXXXX") || exit 1
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/here" && cd "$folder/here" || exit 1
unset DDIT_MODEL
export DDIT="$program" ROOT="$root" TINY="$root/tests/golden/flux_head64" LC_ALL=C
export OMP_WAIT_POLICY=passive

sh "$cases/prelude.sh" "$cases/$name.sh" >"$folder/out" 2>"$folder/err"
echo $? >"$folder/exit"

for part in stdout:out stderr:err; do
    sed -e "s|$root|ROOT|g" -e "s|$folder/here|HERE|g" "$folder/${part#*:}" >"$folder/${part%:*}"
done
bad=0
for part in stdout stderr exit; do
    expected=$cases/$name.$part
    [ -f "$expected" ] || { expected=$folder/nothing; [ $part = exit ] && echo 0 >"$expected" || : >"$expected"; }
    diff -u "$expected" "$folder/$part" && continue
    bad=1
    if [ "$update" = --update ]; then cp "$folder/$part" "$cases/$name.$part"; fi
done
exit $bad
