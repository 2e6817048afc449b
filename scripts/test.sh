#!/usr/bin/env bash
# Everything that must pass before a change lands; CI runs this and nothing else.
#
#   scripts/test.sh [--keep-going] [STEP...]
#
#   STEP           any of: fmt scripts clippy clippy-predict cuda face test swap fuzz doctest doc book deny package demo
#                  (default: all, in this order)
#   --keep-going   run the later steps after one has failed
#
# Tests that want a model too big for the repository run when ACCLIMATE_MODELS names the folder that scripts/fetch-models.sh
# filled, and are skipped otherwise. ACCLIMATE_DEMO_SECONDS is the time the demo may take (default 60), ACCLIMATE_FUZZ_SECONDS the
# time for made-up files of each of five kinds (default 10; all at once).
# Exit code 1: a step failed, and the lines before the last say which.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all=(fmt scripts clippy clippy-predict cuda face test swap fuzz doctest doc book deny package demo)
steps=()
keep_going=
for arg in "$@"; do
    case $arg in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --keep-going) keep_going=1 ;;
        *)
            [[ " ${all[*]} " == *" $arg "* ]] || { echo "test.sh: unknown step '$arg'; one of: ${all[*]}" >&2; exit 2; }
            steps+=("$arg")
            ;;
    esac
done
[ ${#steps[@]} -gt 0 ] || steps=("${all[@]}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
source scripts/lib/cargo-tool.sh

# Tests run optimised, since they run real models, and in the profile that the demo and the user build: dependencies are then
# compiled once. Checks that a release build leaves out are switched back on for this crate alone.
checks=(--config 'profile.release.package.acclimate.debug-assertions=true' --config 'profile.release.package.acclimate.overflow-checks=true')

# Every feature but cuda. A default build, which is what a newcomer makes, is linted.
full=(--features bundles)

run_fmt() { cargo fmt --check; }
# Shell scripts, those of packages too, and the systemd units; what checks them is used where it is installed.
run_scripts() {
    local script
    for script in scripts/*.sh scripts/lib/*.sh packaging/tarball/*.sh packaging/*-homes packaging/debian/p*; do
        bash -n "$script" || return 1
    done
    if command -v shellcheck >/dev/null; then
        shellcheck --shell=bash --severity=warning --exclude=SC2034,SC2154 scripts/*.sh scripts/lib/*.sh &&
            shellcheck --severity=warning packaging/tarball/*.sh packaging/*-homes packaging/debian/p* || return 1
    else
        echo "test.sh: shellcheck is missing: scripts are only parsed"
    fi
    bash scripts/units.sh --check
}
run_clippy() {
    cargo clippy --release --locked "${full[@]}" --all-targets -- -D warnings &&
        cargo clippy --release --locked --all-targets -- -D warnings
}
# A build without training: predicts with adapters, and nothing else.
run_clippy-predict() { cargo clippy --release --locked --all-targets --no-default-features --features cli -- -D warnings; }
# A build for a GPU: it needs nothing of CUDA. Its tests are scripts/cuda-test.sh.
run_cuda() { cargo check --release --locked "${full[@]}" --features cuda --lib --bins; }
# What an application sees: the library and its example without the feature `internals`, and their documentation.
run_face() {
    cargo clippy --release --locked --lib --no-default-features -- -D warnings &&
        cargo clippy --release --locked --lib --example personalise --no-default-features --features train -- -D warnings &&
        RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --release --locked --no-deps --no-default-features --features train,bundles,fast-gemm
}
run_test() {
    local without=()
    if [ -z "${ACCLIMATE_MODELS:-}" ]; then
        echo "test.sh: ACCLIMATE_MODELS is not set: the tests of MiniLM are skipped (scripts/fetch-models.sh minilm --dir DIR)"
        without=(-E 'not binary(minilm)')
    fi
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --release --locked "${full[@]}" --no-fail-fast "${checks[@]}" "${without[@]}"
    else
        cargo test --release --locked "${full[@]}" --no-fail-fast --lib --bins --tests --examples "${checks[@]}"
    fi
}
# The hot swap in every order of its threads: a package of its own, see loom/Cargo.toml.
run_swap() { cargo test --release --locked --manifest-path loom/Cargo.toml; }
# What others hand over, or a bad card garbles. The same inputs every time, as far as the time reaches: scripts/fuzz.sh goes on from there.
run_fuzz() {
    local seconds=${ACCLIMATE_FUZZ_SECONDS:-10}
    bash scripts/fuzz.sh 0 adapter || return 1
    printf '%s\n' onnx journal adapter archive tokenizer | xargs -P 5 -I{} bash scripts/fuzz.sh "$seconds" {}
}
run_doctest() { cargo test --release --locked "${full[@]}" --doc "${checks[@]}"; }
run_doc() { RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --release --locked "${full[@]}" --no-deps; }
# The book, without warnings. Its links and commands are tested by tests/book.rs.
run_book() {
    tool mdbook 0.5.4 --no-default-features --features search || return 1
    mdbook build 2>&1 | tee "$work/mdbook.log" || return 1
    ! grep -E 'WARN|ERROR' "$work/mdbook.log"
}
# Licences and sources of all dependencies; advisories only where their list can be fetched.
run_deny() {
    tool cargo-deny 0.20.2 || return 1
    cargo deny --locked check --hide-inclusion-graph licenses bans sources
}
# What would be published: its files and its size.
run_package() {
    local size
    cargo package --locked --allow-dirty --no-verify --quiet || return 1
    size=$(stat -c %s "${CARGO_TARGET_DIR:-target}"/package/acclimate-*.crate | sort -n | tail -n 1)
    echo "package: $size bytes"
    [ "$size" -lt 4000000 ] || { echo "package: more than 4 MB; is an exclude missing in Cargo.toml?"; return 1; }
}
run_demo() {
    # Built first, so that the time is the demo's own; it is the program of the tests.
    cargo build --release --locked "${full[@]}" "${checks[@]}" --bin acclimate || return 1
    cargo run --release --locked --quiet "${full[@]}" "${checks[@]}" --bin acclimate -- demo --json >"$work/demo.json" || return 1
    python3 - "$work/demo.json" "${ACCLIMATE_DEMO_SECONDS:-60}" <<'PY'
import json, sys

path, limit = sys.argv[1], float(sys.argv[2])
text = open(path, encoding="utf-8").read()
try:
    demo = json.loads(text)
    people = demo["people"]
    rows = [(p["name"], p["base_accuracy"], p["adapted_accuracy"]) for p in people]
    base, adapted, seconds = (float(demo[k]) for k in ("mean_base", "mean_adapted", "seconds"))
except (ValueError, KeyError, TypeError) as error:
    sys.exit(f"demo: not the JSON it promises ({type(error).__name__}: {error}): {text[:400]!r}")
for row in rows:
    print("demo: {}: base {:.3f}, adapted {:.3f}".format(*row))
print(f"demo: mean base {base:.3f}, mean adapted {adapted:.3f}, {seconds:.1f} s")
wrong = []
if not rows:
    wrong.append("it met nobody")
if not all(0.0 <= value <= 1.0 for _, *pair in rows for value in pair):
    wrong.append("an accuracy is outside 0..1")
if not adapted > base:
    wrong.append(f"mean_adapted {adapted:.3f} is not above mean_base {base:.3f}")
if not seconds < limit:
    wrong.append(f"{seconds:.1f} s is not under {limit:g} s")
sys.exit("demo: " + "; ".join(wrong) if wrong else 0)
PY
}

# Sums up what the test runners said: nextest's `Summary` line, cargo test's `test result` lines.
count() { # LOG WORD
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk -v word="$2" '
        /^ *Summary \[/ || /^test result:/ { if (match($0, "[0-9]+ " word)) { split(substr($0, RSTART, RLENGTH), part, " "); sum += part[1] } }
        END { print sum + 0 }'
}

passed=0
failed=0
skipped=0
broken=()
for step in "${steps[@]}"; do
    echo "== $step"
    started=$SECONDS
    status=0
    # The pipe's status is the step's, by pipefail; `set -e` is not in force inside, so every step ends in its own verdict.
    "run_$step" 2>&1 | tee "$work/$step.log" || status=$?
    echo "== $step: $([ "$status" = 0 ] && echo ok || echo "FAILED (exit $status)"), $((SECONDS - started)) s"
    case $step in
        test | swap | doctest)
            passed=$((passed + $(count "$work/$step.log" passed)))
            failed=$((failed + $(count "$work/$step.log" failed)))
            skipped=$((skipped + $(count "$work/$step.log" "(skipped|ignored)")))
            ;;
    esac
    if [ "$status" != 0 ]; then
        broken+=("$step")
        [ -n "$keep_going" ] || break
    fi
done

[ ${#broken[@]} = 0 ] || echo "test.sh: failed: ${broken[*]} (again: scripts/test.sh ${broken[*]})"
echo "$passed passed, $failed failed, $skipped skipped"
[ ${#broken[@]} = 0 ]
