#!/usr/bin/env bash
# Brings ONNX Runtime's shared library, out of its pinned and checked PyPI wheel, into the user's cache folder.
#
#   scripts/onnxruntime.sh install    fetch it unless it is there already
#   scripts/onnxruntime.sh env        print `export ORT_DYLIB_PATH=...`, to be evaluated; installs first
#
# When ORT_DYLIB_PATH is set already (a Jetson's own build, say), that library is used as it is and nothing is fetched.
set -euo pipefail

version=1.31.1
cache=${TIDEMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemill}

die() {
    echo "onnxruntime.sh: $*" >&2
    exit 1
}

# The pinned bytes for this machine: of the wheel, of the library, and of the small library that providers are loaded by.
pin() {
    [[ $(uname -s) == Linux ]] || die "no pinned library for $(uname -s): install ONNX Runtime $version and set ORT_DYLIB_PATH"
    machine=$(uname -m)
    case $machine in
    x86_64)
        wheel_sum=1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536
        library_sum=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3
        providers_sum=086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d
        ;;
    aarch64 | arm64)
        machine=aarch64
        wheel_sum=0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc
        library_sum=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467
        providers_sum=3b6be288fbfb7dff8770d08a23defdde18e8f7e0f5a2b344a0e5e238c999ea88
        ;;
    *) die "no pinned library for $machine: build or install ONNX Runtime $version and set ORT_DYLIB_PATH" ;;
    esac
    home=$cache/onnxruntime-$version-$machine
    library=$home/libonnxruntime.so.$version
}

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# matches SUM FILE
matches() {
    [[ -f $2 && $(sha256 "$2" | cut -d' ' -f1) == "$1" ]]
}

installed() {
    matches "$library_sum" "$library" && matches "$providers_sum" "$home/libonnxruntime_providers_shared.so"
}

fetch() {
    command -v python3 >/dev/null || die "python3 is missing: install Python 3 with pip, or set ORT_DYLIB_PATH"
    python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: install python3-pip, or set ORT_DYLIB_PATH"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/onnxruntime.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "onnxruntime.sh: fetching onnxruntime $version for $machine" >&2
    # The library does not depend on the Python that the wheel is for, so one wheel is pinned for every Python.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp --abi cp312 --platform "manylinux_2_28_$machine" --dest "$work" "onnxruntime==$version" >&2 ||
        die "pip could not fetch onnxruntime $version (is the package index reachable?)"
    local wheel=("$work"/*.whl)
    matches "$wheel_sum" "${wheel[0]}" || die "${wheel[0]##*/} is not the pinned file: its sha256 differs"
    python3 - "${wheel[0]}" "$work/home" <<'PYTHON'
import pathlib, sys, zipfile

wheel, home = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
home.mkdir()
for name in wheel.namelist():
    short = name.rpartition("/")[2]
    wanted = name.startswith("onnxruntime/capi/libonnxruntime")
    if wanted or name in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
        (home / short).write_bytes(wheel.read(name))
PYTHON
    # Moved in whole, so that another process sees all of it or nothing.
    if ! installed; then
        rm -rf "$home"
        mv "$work/home" "$home"
    fi
    installed || die "the library in the wheel is not the pinned one: its sha256 differs"
}

# Sets `library` to a library that exists.
provide() {
    if [[ -n ${ORT_DYLIB_PATH:-} ]]; then
        [[ -f $ORT_DYLIB_PATH ]] || die "ORT_DYLIB_PATH names no file: $ORT_DYLIB_PATH"
        # Absolute: a relative path is tried from the folder of the executable first.
        library=$(cd "$(dirname "$ORT_DYLIB_PATH")" && pwd)/${ORT_DYLIB_PATH##*/}
        return
    fi
    pin
    installed || fetch
}

case ${1:-} in
install)
    provide
    echo "onnxruntime.sh: $library" >&2
    ;;
env)
    provide
    printf 'export ORT_DYLIB_PATH=%q\n' "$library"
    ;;
*)
    sed -n '2,/^set /s/^#\{1,\} \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
