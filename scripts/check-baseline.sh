#!/usr/bin/env bash
# Does a binary run on every processor of its architecture? Disassembles it and looks for instructions that the oldest
# lack. They may stand only in functions that are called after the program has asked the processor.
#
#   scripts/check-baseline.sh [--list] BINARY
#
#   BINARY   a program with its symbols: what cross-build.sh leaves as acclimate.symbols
#   --list   print every function that has such instructions, with their counts
#
# The oldest processors, and what is looked for:
#
#   aarch64  ARMv8.0-A without its optional parts. Dot products, half-precision arithmetic, LSE atomics, bfloat16, int8
#            matrices, SVE and SME, AES and SHA, CRC32, pointer authentication that is no hint
#   x86-64   what all have: SSE2. SSE3 and later, AVX, FMA, AVX-512, bit manipulation, AES and SHA
#   armv7    VFPv3 with 16 registers. NEON, VFPv4, division
#
# scripts/lib/baseline-ARCHITECTURE.txt lists the functions behind detection, with who asks. Exit code 1: a function
# that is not on the list has such an instruction. It is named, with the instruction.
set -euo pipefail

say() { echo "check-baseline: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || say "hint: $2"; exit "${3:-1}"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
list=()
binary=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --list) list=(--list) ;;
        -*) die "unknown argument '$1'" "see --help" 2 ;;
        *) binary=$1 ;;
    esac
    shift
done
[ -n "$binary" ] || die "no binary given" "see --help" 2
[ -f "$binary" ] || die "$binary is no file" "scripts/cross-build.sh makes it" 2
command -v readelf >/dev/null || die "readelf is missing" "sudo apt-get install binutils"
command -v python3 >/dev/null || die "python3 is missing" "sudo apt-get install python3"
case $(readelf --file-header "$binary" 2>/dev/null | sed -n 's/^ *Machine: *//p') in
    AArch64) architecture=aarch64 gnu=aarch64-linux-gnu ;;
    *X86-64) architecture=x86_64 gnu=x86-64-linux-gnu ;;
    ARM) architecture=armv7 gnu=arm-linux-gnueabihf ;;
    *) die "$binary is no program for one of these architectures" "see --help" 2 ;;
esac
objdump=
for each in "${gnu/x86-64/x86_64}-objdump" objdump; do
    command -v "$each" >/dev/null || continue
    "$each" --file-headers "$binary" 2>/dev/null | grep -qE '^architecture: *(aarch64|i386:x86-64|arm)' || continue
    objdump=$each
    break
done
[ -n "$objdump" ] || die "no objdump that reads $binary" "sudo apt-get install binutils-$gnu"

"$objdump" --disassemble --demangle --no-show-raw-insn "$binary" |
    python3 "$root/scripts/lib/baseline.py" "$architecture" "$root/scripts/lib/baseline-$architecture.txt" "${list[@]}"
