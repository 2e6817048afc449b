"""Looks through a disassembly for instructions that not every processor of the architecture has.

For check-baseline.sh: `objdump --disassemble --demangle --no-show-raw-insn | baseline.py ARCHITECTURE ALLOWED
[--list]`. ALLOWED has a pattern of a function's name a line: functions that are called after the processor was asked.
"""

import re
import sys
from collections import Counter

# Mnemonics that are newer than ARMv8.0-A, or optional, whatever their operands are.
AARCH64 = re.compile(
    r"""^(
    [su]dot | usdot | sudot | [su]mmla | usmmla | bf(mmla|dot|mlal[bt]|cvt|cvtn2?)
  | sqrdml[as]h | fml[as]l2? | fcmla | fcadd | fjcvtzs | frint(32|64)[xz]
  | cas(p?)(a|l|al)?[bh]? | swp(a|l|al)?[bh]? | (ld|st)(add|clr|eor|set|[su]max|[su]min)(a|l|al)?[bh]?
  | ldapu?r(s?[bhw])* | stlur[bh]?
  | aes(e|d|mc|imc) | sha(1|256|512)\w+ | sm[34]\w+ | eor3 | bcax | rax1 | xar | crc32c?[bhwx]
  | (br|blr)a[ab]z? | (ret|eret)a[ab] | ldra[ab] | pacga | (pac|aut)[id]z?[ab] | xpac[id]
  | cfinv | rmif | setf(8|16) | axflag | xaflag | smstart | smstop | cpy[fpme]+\w* | set(g?)[pme]n?
)$""",
    re.X,
)
# Arithmetic on halves; loads, and the conversions that ARMv8.0-A has, are not.
HALF = re.compile(r"(^|[ ,{])h\d+\b|\.[48]h\b|\bv\d+\.h\[")
CONVERSIONS = {"fcvt", "fcvtl", "fcvtl2", "fcvtn", "fcvtn2"}
# Scalable registers and the predicates that govern them; polynomial products of 64 bits.
SCALABLE = re.compile(r"(^|[ ,{\[])(z\d+\.[bhsdq]|z\d+\b|p\d+(\.[bhsd]|/[zm])|za\d*)")
POLY = re.compile(r"\.1q\b")

# What x86-64 has beyond SSE2. All mnemonics with v in front are AVX, FMA, F16C or AVX-512 but for the names below.
# `tzcnt` is not here: older processors run it as `bsf`, which is how compilers use it. Nor are `xgetbv` and `endbr64`:
# the first is how the processor is asked, the second does nothing there.
X86_64 = re.compile(
    r"""^(
    v(?!erw?$|erwl$|mcall$|mfunc$|mxoff$|mxon$)[a-z0-9]+ | k(mov|or|and|andn|xor|xnor|not|add|shift|test|unpck)\w+
  | addsubp[sd] | hadd?p[sd] | hsubp[sd] | lddqu | movddup | movs[hl]dup | fisttp\w* | monitor | mwait
  | pabs[bwd] | palignr | phadd(w|d|sw) | phsub(w|d|sw) | pmaddubsw | pmulhrsw | pshufb | psign[bwd]
  | blendv?p[sd] | pblend(vb|w) | dpp[sd] | extractps | insertps | movntdqa | mpsadbw | packusdw | pcmpeqq
  | pextr[bdq] | pinsr[bdq] | phminposuw | pm(ax|in)(sb|sd|ud|uw) | pmov[sz]x\w+ | pmul(dq|ld) | ptest
  | round[sp][sd] | crc32[bwlq]? | pcmp[ei]str[im] | pcmpgtq | popcnt[wlq]? | lzcnt[wlq]? | cmpxchg16b
  | andn | bextr | bls(i|r|msk) | bzhi | mulx | pdep | pext | rorx | sarx | shlx | shrx | adcx | adox | movbe
  | aes\w+ | pclmul\w+ | sha(1|256)\w+ | rdrand | rdseed | rdpid | xbegin | xend | xabort | xtest | xsave\w*
  | xrstor\w* | clwb | clflushopt | movdir\w+ | gf2p8\w+ | tile\w+ | td\w+
)$""",
    re.X,
)
PREFIXES = {"lock", "rep", "repz", "repnz", "notrack", "bnd", "data16", "addr32", "cs", "ds", "es", "fs", "gs", "ss"}

# What ARMv7-A has beyond VFPv3 with 16 registers: NEON, VFPv4, division, halves, ARMv8's own.
NEON = re.compile(
    r"^v(ld[1-4]|st[1-4]|dup|ext|tbl|tbx|zip|uzp|trn|rev\d+|c(eq|ge|gt|le|lt)|tst|bsl|bi[tf]|shl|shr|q?r?shrn|mull"
    r"|mla?l|addl|subl|movl|movn|q\w+|pmin|pmax|padd|min|max|abd|aba|and|orr|eor|bic|orn|mvn)(\.\w+)*$"
)
NEON_REGISTERS = re.compile(r"\bq\d+\b|\bd(1[6-9]|2\d|3[01])\b")
ARMV7 = re.compile(
    r"^([su]div|vfn?m[as]|vcvt[bt]|vcvt[anpm]|vrint\w|vsel\w\w|v(max|min)nm|crc32\w+|aes\w+|sha\w+|ld(a|aex)[bhd]?"
    r"|stl(ex)?[bhd]?)(\.\w+)*$"
)
CONDITION = re.compile(r"^([su]div)(eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)$")


def newer_aarch64(mnemonic, operands):
    if AARCH64.match(mnemonic):
        return True
    if mnemonic[0] == "f" or mnemonic in ("scvtf", "ucvtf"):
        if mnemonic not in CONVERSIONS and HALF.search(operands):
            return True
    return bool(SCALABLE.search(operands)) or (mnemonic.startswith("pmull") and bool(POLY.search(operands)))


def newer_x86_64(mnemonic, _operands):
    return bool(X86_64.match(mnemonic))


def newer_armv7(mnemonic, operands):
    if mnemonic[0] == "v" and (NEON_REGISTERS.search(operands) or NEON.match(mnemonic)):
        return True
    return bool(ARMV7.match(mnemonic) or CONDITION.match(mnemonic))


NEWER = {"aarch64": newer_aarch64, "x86_64": newer_x86_64, "armv7": newer_armv7}
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")


def instruction(line):
    """Mnemonic and operands of a line of objdump's, or None."""
    parts = line.rstrip("\n").split("\t", 1)
    if len(parts) < 2 or not parts[0].endswith(":"):
        return None
    words = parts[1].split("//")[0].split(None, 1)
    while len(words) == 2 and words[0] in PREFIXES:
        words = words[1].split(None, 1)
    if not words or words[0].startswith((".", "(", "<")):
        return None
    return words[0], words[1] if len(words) > 1 else ""


def self_test():
    """The patterns know what they are for."""
    newer = {
        "aarch64": [
            "sdot v0.4s, v1.16b, v2.16b", "fadd v0.8h, v1.8h, v2.8h", "ldadd x0, x1, [x2]", "whilelo p0.s, x0, x1"
        ],
        "x86_64": [
            "vaddps %ymm0,%ymm1,%ymm2", "pshufb %xmm0,%xmm1", "popcnt %rax,%rax", "lock cmpxchg16b (%rdi)",
            "shlx %rax,%rbx,%rcx",
        ],
        "armv7": [
            "vadd.f32 q0, q1, q2", "vld1.32 {d0-d1}, [r0]!", "vldr d17, [r0]", "sdiv r0, r1, r2", "udivne r0, r1, r2",
            "vfma.f32 s0, s1, s2",
        ],
    }
    older = {
        "aarch64": ["fcvt s0, h0", "add v0.8h, v1.8h, v2.8h", "ldr h0, [x0]", "fmla v0.4s, v1.4s, v2.4s"],
        "x86_64": ["rep stos %al,%es:(%rdi)", "tzcnt %eax,%eax", "pshufd $0,%xmm0,%xmm1", "verw %ax", "xgetbv"],
        "armv7": ["vadd.f32 s0, s1, s2", "vcvt.f64.f32 d0, s0", "vldr d7, [r0]", "vpush {d8-d15}", "vmov.f64 d0, d1"],
    }
    for lines, expected in ((newer, True), (older, False)):
        for architecture, each in lines.items():
            for line in each:
                if NEWER[architecture](*instruction(f"0:\t{line}")) != expected:
                    sys.exit(f"check-baseline: {architecture}: '{line}' is not {'newer' if expected else 'baseline'}")


def main(architecture, path, listing):
    self_test()
    newer = NEWER[architecture]
    with open(path, encoding="utf-8") as lines:
        names = (line.split("#")[0].strip() for line in lines)
        allowed = [re.compile(name) for name in names if name]
    found, name, functions, instructions = {}, "?", 0, 0
    for line in sys.stdin:
        function = FUNCTION.match(line)
        if function:
            # Labels within a kernel begin with a dot.
            if not function[1].startswith("."):
                name, functions = function[1], functions + 1
            continue
        parts = instruction(line)
        if not parts:
            continue
        instructions += 1
        if newer(*parts):
            found.setdefault(name, Counter())[parts[0]] += 1
    if functions < 1000:
        sys.exit(f"check-baseline: only {functions} functions have names: give the binary with its symbols")
    bad = {n: c for n, c in found.items() if not any(a.search(n) for a in allowed)}
    for name, counts in sorted((found if listing else bad).items()):
        words = ", ".join(f"{m} x{n}" for m, n in counts.most_common(6))
        print(f"{name}: {words}", file=sys.stdout if name not in bad else sys.stderr)
    print(
        f"check-baseline: {instructions} instructions in {functions} functions; {len(found) - len(bad)} functions "
        f"behind detection have newer ones, {len(bad)} others have"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], "--list" in sys.argv[3:]))
