# Sourced helpers, then the script named by the argument.
try() {
    echo "\$ $*" | sed -e "s|$DDIT|ddit|g"
    "$@" 2>&1
    echo "exit $?"
}
. "$1"
