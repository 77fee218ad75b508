#!/usr/bin/env bash
# A Kafka client that is not ours, so that the tests can send what other people's programs send.
#
#   scripts/foreign_client.sh install            fetch the pinned client into the user's cache folder, unless it is there already
#   scripts/foreign_client.sh send HOST:PORT     send the records described on stdin: scripts/foreign_client.py says how
#   scripts/foreign_client.sh commit HOST:PORT ID GROUP TOPIC PARTITION OFFSET
#                                                commit an offset for a group: scripts/foreign_commit.py says how
#   scripts/foreign_client.sh peer WHAT [FILE]   be a system for experiments that does something wrong: scripts/foreign_peer.py says what
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's/^kafka-python==\([0-9.]*\) .*/\1/p' "$here/requirements-test.txt")
cache=${TIDEMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemill}
home=$cache/kafka-python-$version

die() {
    echo "foreign_client.sh: $*" >&2
    exit 1
}

install() {
    [[ ! -d $home ]] || return 0
    python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: install python3-pip"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/kafka-python.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "foreign_client.sh: fetching kafka-python $version" >&2
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --target "$work/home" -r "$here/requirements-test.txt" >&2 ||
        die "pip could not install kafka-python $version as it is pinned (is the package index reachable?)"
    # Moved in whole, so that another process sees all of it or nothing.
    [[ -d $home ]] || mv "$work/home" "$home"
}

# Runs a program of ours with the client.
with_client() {
    [[ -d $home ]] || die "kafka-python $version is not installed: run \`make test\`, or \`scripts/foreign_client.sh install\`"
    PYTHONPATH=$home PYTHONDONTWRITEBYTECODE=1 exec python3 "$@"
}

case ${1:-} in
install) install ;;
send)
    (($# == 2)) || die "send: the broker's address is missing"
    with_client "$here/foreign_client.py" "$2"
    ;;
commit)
    (($# == 7)) || die "commit: six arguments are needed"
    with_client "$here/foreign_commit.py" "${@:2}"
    ;;
peer)
    (($# >= 2)) || die "peer: what it is to do wrong is missing"
    with_client "$here/foreign_peer.py" "${@:2}"
    ;;
*)
    sed -n '2,/^set /s/^#\{1,\} \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
