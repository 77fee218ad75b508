#!/usr/bin/env bash
# Says in one line what this machine lacks to build, test and run Tidemill, and exits 1; says nothing when all is there.
#
#   scripts/doctor.sh [--no-broker]    without what only a real Kafka broker needs
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TIDEMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemill}
rust=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' "$here/../Cargo.toml")
missing=()

has() {
    command -v "$1" >/dev/null
}

# at_least WANTED FOUND, both as MAJOR.MINOR[.PATCH]
at_least() {
    local wanted_major wanted_minor major minor
    IFS=. read -r wanted_major wanted_minor _ <<<"$1"
    IFS=. read -r major minor _ <<<"$2"
    ((major > wanted_major || (major == wanted_major && minor >= wanted_minor)))
}

has_openssl_headers() {
    has pkg-config && pkg-config --exists openssl && return
    [[ -n ${OPENSSL_DIR:-}${OPENSSL_INCLUDE_DIR:-} ]] && return
    echo '#include <openssl/ssl.h>' | "$compiler" -E - >/dev/null 2>&1
}

found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || found=""
if [[ -z $found ]]; then
    missing+=("Rust $rust or newer (https://rustup.rs)")
elif ! at_least "$rust" "$found"; then
    missing+=("Rust $rust or newer, this is $found (rustup update)")
fi

compiler=${CC:-cc}
has "${compiler%% *}" || missing+=("a C compiler (Debian: build-essential)")
{ has c++ || has "${CXX:-g++}"; } || missing+=("a C++ compiler (Debian: build-essential)")
has make || missing+=("make")
if [[ " ${FEATURES:-} " != *ssl-vendored* ]] && ! has_openssl_headers; then
    missing+=("OpenSSL's headers (Debian: libssl-dev pkg-config; or build with --features ssl-vendored: make FEATURES=ssl-vendored)")
fi

if ! has python3; then
    missing+=("Python 3 with pip (Debian: python3 python3-pip)")
elif [[ -z ${ORT_DYLIB_PATH:-} ]] && ! compgen -G "$cache/onnxruntime-*/libonnxruntime.so.*" >/dev/null &&
    ! python3 -m pip --version >/dev/null 2>&1; then
    missing+=("pip for Python 3 (Debian: python3-pip; or set ORT_DYLIB_PATH)")
fi

if [[ ${1:-} != --no-broker ]] && ! broker=$("$here/kafka.sh" mode 2>&1); then
    missing+=("${broker#kafka.sh: no broker: }")
fi

if ((${#missing[@]} > 0)); then
    line=$(printf '%s; ' "${missing[@]}")
    echo "missing: ${line%; }" >&2
    exit 1
fi
