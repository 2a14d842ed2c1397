# Installs what the build needs where it is missing; sourced by draw and check. Debian 12 names.
# Usage: need_packages PACKAGE...

need_packages() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" = 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null 2>&1; then
        as_root="sudo"
    else
        echo "These packages are missing, and only root can install them:$missing" >&2
        echo "Run as root: apt-get install$missing" >&2
        return 1
    fi
    echo "Installing:$missing" >&2
    $as_root apt-get update -qq >&2 || true
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null || {
        echo "apt-get could not install:$missing" >&2
        return 1
    }
}

build_packages="gcc libc6-dev cmake ninja-build pkg-config libdnnl-dev libpng-dev libjpeg62-turbo-dev libwebp-dev libjansson-dev libutf8proc-dev"
