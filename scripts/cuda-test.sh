#!/usr/bin/env bash
# Tests the feature `cuda` on this machine, and times the processor against its GPU.
#
#   scripts/cuda-test.sh [--models DIR] [--out DIR] [--no-bench]
#
#   --models DIR   folder that scripts/fetch-models.sh filled: MiniLM and SmolLM2 are timed, too (default:
#                  ACCLIMATE_MODELS)
#   --out DIR      where logs and measurements go (default: a temporary folder, which is kept)
#   --no-bench     only the tests
#
# Needs Rust and a C compiler; for the GPU its driver, and of CUDA 12.6 or a later 12 the run-time libraries (cudart,
# nvrtc, cublas), cuDNN 9, and the headers of cudart and CCCL (docs/how-to/gpu.md). Without them the tests of a GPU are
# skipped with the reason, and the program says what is missing.
# Built with 16 cores this takes under 10 minutes where nothing was compiled before. A table goes to stdout, messages to
# stderr. Exit code 1: a test failed, or a GPU that is there was not used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "cuda-test: $*" >&2; }
value() { [ -n "${2:-}" ] || { say "$1 needs a value; see --help"; exit 2; }; }

models=${ACCLIMATE_MODELS:-}
out=
bench=1
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --models) value "$@"; models=$2; shift ;;
        --out) value "$@"; out=$2; shift ;;
        --no-bench) bench= ;;
        *) say "unknown argument '$1'; see --help"; exit 2 ;;
    esac
    shift
done
[ -n "$out" ] || out=$(mktemp -d)
mkdir -p "$out"
say "logs are in $out"

build=(--release --locked --features "bundles,cuda")
program=${CARGO_TARGET_DIR:-target}/release/acclimate
started=$SECONDS
cargo build "${build[@]}" --bin acclimate 2>"$out/build.log" || { tail -n 30 "$out/build.log" >&2; exit 1; }
say "built in $((SECONDS - started)) s"

# cuDNN multiplies with ten bits (TF32) otherwise, which is no error, and hides errors that are.
status=0
started=$SECONDS
NVIDIA_TF32_OVERRIDE=0 cargo test "${build[@]}" --lib -- --nocapture cuda:: device:: gpu:: agreement:: \
    >"$out/tests.log" 2>&1 || status=1
grep -E '^(skipped|test .*(ok|FAILED|ignored)$|test result|.* apart$)' "$out/tests.log" >&2 || true
[ "$status" = 0 ] || { say "tests failed; the end of $out/tests.log:"; tail -n 40 "$out/tests.log" >&2; }
say "tested in $((SECONDS - started)) s"

# What doctor says of the GPU.
gpu=$("$program" doctor 2>/dev/null | sed -nE 's/^(ok|warn) +gpu +//p' | tr -s ' ') || true
say "gpu: $gpu"
[ -n "$bench" ] || exit "$status"
case $gpu in '' | 'not used'*) say "no GPU works here: nothing is timed"; exit "$status" ;; esac

# NAME FILE BATCH LENGTH REPEATS
measure() {
    local name="$1, batch $3" file=$2 device log
    [ -f "$file" ] || { say "$1 is not there: $file"; return 0; }
    for device in cpu cuda; do
        log=$out/$1.$3.$device.txt
        say "timing $name on $device"
        "$program" bench "$file" --batch "$3" --seq "$4" --repeats "$5" --threads 1 --device "$device" \
            >"$log" 2>"$log.err" || { say "$name on $device failed: $(tail -n 3 "$log.err")"; status=1; return 0; }
    done
    # Medians are the first number of a line; the plans stand at the end.
    awk -v name="$name" '
        { label = $0; sub(/ +[0-9.]+ (ms|µs).*/, "", label) }
        { split(substr($0, length(label) + 1), n, " ") }
        label == $0 { next }
        FNR == NR { cpu[label] = n[1]; next }
        label in cpu && n[1] > 0 {
            printf "| %s | %s | %.3f | %.3f | %.2f |\n", name, label, cpu[label], n[1], cpu[label] / n[1]
        }
    ' "$out/$1.$3.cpu.txt" "$out/$1.$3.cuda.txt" >>"$out/times.md"
    sed -nE "s/^([a-z ]+): (.*(on the GPU|on the processor).*)/| $name | \1 | \2 |/p" "$out/$1.$3.cuda.txt" >>"$out/plans.md"
}
: >"$out/times.md"
: >"$out/plans.md"
measure activities models/har_cnn.onnx 1 1 20
measure activities models/har_cnn.onnx 64 1 20
measure digits models/digits_cnn.onnx 64 1 20
measure intents models/intents_encoder.onnx 8 32 20
if [ -n "$models" ]; then
    measure minilm "$models/minilm.onnx" 1 64 8
    measure minilm "$models/minilm.onnx" 8 64 6
    measure smollm2 "$models/smollm2.onnx" 1 128 3
fi

printf 'GPU: %s\n\n| model | measure | processor, 1 thread | GPU | times |\n|---|---|---|---|---|\n' "$gpu"
cat "$out/times.md"
printf '\n| model | plan | where its operators run |\n|---|---|---|\n'
cat "$out/plans.md"
if grep -q 'all on the processor' "$out/plans.md"; then
    say "plans were refused: see the table"
    status=1
fi
exit "$status"
