#!/usr/bin/env bash
# Does an ARM binary run on every 64-bit ARM processor? Disassembles it and looks for instructions that ARMv8.0-A
# without its optional parts lacks: dot products, half-precision arithmetic, LSE atomics, bfloat16, int8 matrices, SVE
# and SME, AES and SHA, CRC32, pointer authentication that is no hint. They may stand only in functions that are called
# after the program has asked the processor: scripts/lib/baseline.txt lists those, with who asks.
#
#   scripts/check-baseline.sh [--list] BINARY
#
#   BINARY   an aarch64 program with its symbols: what cross-build.sh leaves as acclimate.symbols
#   --list   print every function that has such instructions, with their counts
#
# Exit code 1: a function that is not on the list has such an instruction. It is named, with the instruction.
set -euo pipefail

say() { echo "check-baseline: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
list=
binary=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --list) list=1 ;;
        -*) die "unknown argument '$1'" "see --help" 2 ;;
        *) binary=$1 ;;
    esac
    shift
done
[ -n "$binary" ] || die "no binary given" "see --help" 2
[ -f "$binary" ] || die "$binary is no file" "scripts/cross-build.sh makes it" 2
objdump=$(command -v aarch64-linux-gnu-objdump || command -v objdump || true)
{ [ -n "$objdump" ] && "$objdump" --file-headers "$binary" 2>/dev/null | grep -q aarch64; } ||
    die "no objdump that reads $binary" "sudo apt-get install binutils-aarch64-linux-gnu" 2

"$objdump" --disassemble --demangle --no-show-raw-insn "$binary" |
    LIST=$list python3 -c '
import os, re, sys
from collections import Counter

# Mnemonics that are newer, or optional, whatever their operands are.
NEWER = re.compile(r"""^(
    [su]dot | usdot | sudot | [su]mmla | usmmla | bf(mmla|dot|mlal[bt]|cvt|cvtn2?)
  | sqrdml[as]h | fml[as]l2? | fcmla | fcadd | fjcvtzs | frint(32|64)[xz]
  | cas(p?)(a|l|al)?[bh]? | swp(a|l|al)?[bh]? | (ld|st)(add|clr|eor|set|[su]max|[su]min)(a|l|al)?[bh]?
  | ldapu?r(s?[bhw])* | stlur[bh]?
  | aes(e|d|mc|imc) | sha(1|256|512)\w+ | sm[34]\w+ | eor3 | bcax | rax1 | xar | crc32c?[bhwx]
  | (br|blr)a[ab]z? | (ret|eret)a[ab] | ldra[ab] | pacga | (pac|aut)[id]z?[ab] | xpac[id]
  | cfinv | rmif | setf(8|16) | axflag | xaflag | smstart | smstop | cpy[fpme]+\w* | set(g?)[pme]n?
)$""", re.X)
# Arithmetic on halves; loads, and the conversions that ARMv8.0-A has, are not.
HALF = re.compile(r"(^|[ ,{])h\d+\b|\.[48]h\b|\bv\d+\.h\[")
CONVERSIONS = {"fcvt", "fcvtl", "fcvtl2", "fcvtn", "fcvtn2"}
# Scalable registers and the predicates that govern them; polynomial products of 64 bits.
SCALABLE = re.compile(r"(^|[ ,{\[])(z\d+\.[bhsdq]|z\d+\b|p\d+(\.[bhsd]|/[zm])|za\d*)")
POLY = re.compile(r"\.1q\b")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")


def newer(mnemonic, operands):
    if NEWER.match(mnemonic):
        return True
    if mnemonic[0] == "f" or mnemonic in ("scvtf", "ucvtf"):
        if mnemonic not in CONVERSIONS and HALF.search(operands):
            return True
    return bool(SCALABLE.search(operands)) or (mnemonic.startswith("pmull") and bool(POLY.search(operands)))


allowed = []
for line in open(sys.argv[1], encoding="utf-8"):
    line = line.split("#")[0].strip()
    if line:
        allowed.append(re.compile(line))
found, name, functions, instructions = {}, "?", 0, 0
for line in sys.stdin:
    function = FUNCTION.match(line)
    if function:
        # Labels within a kernel begin with a dot.
        if not function[1].startswith("."):
            name, functions = function[1], functions + 1
        continue
    parts = line.rstrip("\n").split("\t")
    if len(parts) < 2 or not parts[0].endswith(":"):
        continue
    instructions += 1
    mnemonic = parts[1].strip()
    if mnemonic and newer(mnemonic, parts[2].split("//")[0] if len(parts) > 2 else ""):
        found.setdefault(name, Counter())[mnemonic] += 1
if functions < 1000:
    sys.exit(f"check-baseline: only {functions} functions have names: give the binary with its symbols")
bad = {n: c for n, c in found.items() if not any(a.search(n) for a in allowed)}
for name, counts in sorted((found if os.environ["LIST"] else bad).items()):
    words = ", ".join(f"{m} x{n}" for m, n in counts.most_common(6))
    print(f"{name}: {words}", file=sys.stdout if name not in bad else sys.stderr)
print(
    f"check-baseline: {instructions} instructions in {functions} functions; {len(found) - len(bad)} functions "
    f"behind detection have newer ones, {len(bad)} others have"
)
sys.exit(1 if bad else 0)
' "$root/scripts/lib/baseline.txt"
