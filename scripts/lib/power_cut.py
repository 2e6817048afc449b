"""Boots a machine again and again, cuts its power, and compares what it finds afterwards with what it was told before.

For power-cut.sh, which makes what this needs: a kernel, an initramfs, a disk. The machine runs power-cut-inside.sh. A
cut is a kill of qemu by SIGKILL, which takes the machine's memory along. Every write and every flush of the machine's
disk is in a log (qemu's `blklogwrites`), so that the disk can be what a disk with a cache of its own leaves: all that
was flushed, and of each later write nothing, a part or all.
"""

import argparse
import datetime
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time

SECTOR = 512
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
PHASES = ["init", "use", "train", "adapt", "upgrade", "install"]
FAULTS = ["EXT4-fs error", "EXT4-fs warning", "I/O error", "Aborting journal", "Kernel panic", "BUG:"]
# Cuts with a lost cache, of which at least one has to lose a write.
LOSING = 8
# Answers without feedback that a cut may take, when they are not each made durable.
MOST_LOST = 32


class Wrong(Exception):
    """Something is not as it was promised."""


class Unusable(Exception):
    """The machine does not work, or this test does not see what it is for."""


def log_entries(path):
    """(flags, offset in the disk, offset in the log, bytes) of each write and flush, and whether none is missing."""
    with open(path, "rb") as log:
        magic, _, count, size = struct.unpack("<QQQI", log.read(28))
        if magic != MAGIC:
            return [], False
        at, entries = size, []
        while True:
            log.seek(at)
            head = log.read(32)
            if len(head) < 32:
                break
            sector, sectors, flags, _ = struct.unpack("<QQQQ", head)
            # Behind the last entry the log is empty; no entry is without sectors and flags.
            if sectors == 0 and flags == 0:
                break
            length = 0 if flags & DISCARD else sectors * size
            entries.append((flags, sector * size, at + size, sectors * size))
            at += size + length
        return entries, len(entries) >= count


def lose_cache(disk, log_path, rng):
    """Writes to `disk` what a disk with a cache keeps of the log; how many writes were whole, and not."""
    entries, whole = log_entries(log_path)
    if not whole:
        return None
    flushed = max((i for i, (flags, *_) in enumerate(entries) if flags & FLUSH), default=-1)
    kept = lost = 0
    with open(disk, "r+b") as to, open(log_path, "rb") as log:
        for i, (flags, at, source, length) in enumerate(entries):
            if length == 0:
                continue
            begin, end = 0, length
            if i > flushed and not flags & FUA:
                # Nothing, the beginning, the end, or all.
                cut = rng.randrange(0, length // SECTOR + 1) * SECTOR
                begin, end = rng.choice([(0, 0), (0, cut), (cut, length), (0, length)])
                lost += (begin, end) != (0, length)
            kept += (begin, end) == (0, length)
            if flags & DISCARD:
                # What was discarded may be anything; zeros are the harshest.
                data = bytes(end - begin)
            else:
                log.seek(source + begin)
                data = log.read(end - begin)
            to.seek(at + begin)
            to.write(data)
    return kept, lost


class Home:
    """What is known of a home."""

    def __init__(self):
        self.durable = {}  # id -> label, or None
        self.loose = []  # ids that need not survive, in their order
        self.gone = set()
        self.generation = 0
        self.doubt = None  # what was under way

    def sync(self):
        for id in self.loose:
            self.durable.setdefault(id, None)
        self.loose = []


class Told:
    """Follows the machine's words, and checks what it finds after a cut against them."""

    def __init__(self):
        self.homes = {}
        self.next = 0
        self.acknowledged = {}
        self.lost_loose = 0
        self.rolled_back = 0
        self.half_installed = 0

    def begin(self):
        """A machine starts."""
        self.found = set()
        self.last = "start"
        self.ready = False
        self.wrong = []

    def hear(self, line):
        kind, _, rest = line.partition(" ")
        words = rest.split(" ")
        if kind == "bad":
            self.wrong.append(rest)
        elif kind == "found":
            self.find(words[0], words[1] if len(words) > 1 else "", rest)
        elif kind == "do":
            self.doing(*words)
        elif kind == "ok":
            self.done(*words)
        elif line == "removing all":
            for home in self.homes.values():
                home.doubt = "removal"
        elif line == "removed all":
            self.homes = {}
        elif line == "ready":
            doubtful = ("init", "removal")
            missing = [n for n, home in self.homes.items() if n not in self.found and home.doubt not in doubtful]
            if missing:
                self.wrong.append(f"homes that were acknowledged are not there: {missing}")
            self.homes = {name: home for name, home in self.homes.items() if name in self.found}
            for home in self.homes.values():
                home.doubt = None
            self.ready = True

    def doing(self, what, name="", *words):
        self.last = what
        if what == "init":
            self.next = max(self.next, int(name[1:]) + 1)
            self.homes[name] = Home()
        if name in self.homes:
            self.homes[name].doubt = " ".join([what, *words[:1]])

    def done(self, what, name="", *words):
        self.acknowledged[what] = self.acknowledged.get(what, 0) + 1
        home = self.homes.get(name)
        if home is None:
            return
        home.doubt = None
        if what == "predict":
            id, sync = words
            home.loose.append(id)
            if sync == "always":
                home.sync()
        elif what == "feedback":
            home.sync()
            home.durable[words[0]] = words[1]
        elif what == "forget":
            home.sync()
            home.durable.pop(words[0], None)
            home.gone.add(words[0])
            home.generation = int(words[1])
        elif what in ("train", "rollback"):
            home.generation = int(words[0])

    def find(self, name, what, text):
        if name == "package":
            self.half_installed += 1
        if name[0] not in "ht":
            return
        home = self.homes.setdefault(name, Home())
        self.found.add(name)
        if what in ("nothing", "completed"):
            if home.doubt != "init":
                self.wrong.append(f"{name} was a home, and is none")
            return
        value = json.loads(text.split(" ", 2)[2])
        if what == "verify" and not value["ok"]:
            self.wrong.append(f"{name}: verify: {value}")
        if what == "status":
            self.check_generation(name, home, value)
        if what == "interactions":
            self.check_interactions(name, home, value)
        if what == "history":
            active = [g["generation"] for g in value["generations"] if g["active"]]
            if active != [home.generation] and home.generation != 0:
                self.wrong.append(f"{name}: generation {home.generation} is active, and history says {active}")
            # The look asks for an answer, too.
            home.doubt = "predict"

    def check_generation(self, name, home, status):
        found, doubt = status["generation"], home.doubt or ""
        changes = doubt in ("train", "rollback") or doubt.startswith("forget")
        # A generation on probation that is cut off in an answer is taken back, as one that ends its process is.
        tried = doubt == "predict" and status["rolled_back"]
        if found != home.generation and tried:
            self.rolled_back += 1
        elif found != home.generation and not changes:
            self.wrong.append(f"{name}: generation {home.generation} was acknowledged, {found} serves: {status}")
        home.generation = found

    def check_interactions(self, name, home, listed):
        there = {i["id"]: i["feedback"] for i in listed}
        doubt = (home.doubt or "").split(" ")
        for id, label in home.durable.items():
            if doubt == ["forget", id]:
                continue
            if id not in there:
                self.wrong.append(f"{name}: interaction {id} was acknowledged and is lost")
            elif label is not None and (there[id] or {}).get("label") != label:
                self.wrong.append(f"{name}: feedback {label} on {id} was acknowledged; there is {there[id]}")
        for id in home.gone & there.keys():
            self.wrong.append(f"{name}: {id} was forgotten and is there")
        expected = [id for id in home.loose if doubt != ["forget", id]]
        lost = [id for id in expected if id not in there]
        if len(lost) > MOST_LOST:
            self.wrong.append(f"{name}: {len(lost)} answers are lost, at most {MOST_LOST} may be")
        if lost != expected[len(expected) - len(lost) :]:
            self.wrong.append(f"{name}: of the answers {expected} not the last are lost, but {lost}")
        self.lost_loose += len(lost)
        home.durable = {id: (feedback or {}).get("label") for id, feedback in there.items()}
        home.loose = []


class Machine:
    """One boot."""

    def __init__(self, args, told, phase, date):
        # A copy of the disk, so that what was before a fault can be looked at.
        self.disk, log, words = (f"{args.work}/{name}" for name in ("run.img", "writes.log", "words"))
        subprocess.run(["cp", "--sparse=always", args.disk, self.disk], check=True)
        self.told, self.log, self.words, self.read = told, log, words, 0
        for path in (log, words, args.work + "/kernel.log"):
            open(path, "wb").close()
        os.truncate(log, 8 << 30)
        drive = {
            "driver": "blklogwrites",
            "node-name": "disk",
            "file": {"driver": "raw", "file": {"driver": "file", "filename": self.disk}},
            "log": {"driver": "raw", "file": {"driver": "file", "filename": log}},
        }
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            # With the clock of KVM the machine would read the host's date.
            "-accel", args.accel, "-cpu", "max,-kvmclock",
            "-smp", "2", "-m", "768",
            "-kernel", args.kernel, "-initrd", args.initramfs,
            "-append", f"console=ttyS0 loglevel=4 panic=-1 pc.phase={phase} pc.first={told.next}",
            "-rtc", f"base={date}",
            "-serial", f"file:{args.work}/kernel.log", "-serial", f"file:{words}",
            "-blockdev", json.dumps(drive), "-device", "virtio-blk-pci,drive=disk",
        ]  # fmt: skip
        told.begin()
        self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=open(args.work + "/qemu.log", "wb"))

    def listen(self):
        """Takes in whole lines that came since."""
        with open(self.words, "rb") as file:
            file.seek(self.read)
            lines = file.read().split(b"\n")[:-1]
        for line in lines:
            self.read += len(line) + 1
            self.told.hear(line.decode(errors="replace"))

    def run(self, seconds, until=lambda: False):
        """Lets it run, until something holds or it has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until() and self.qemu.poll() is None:
            time.sleep(0.005)
            self.listen()
        return until()

    def wait_for_write(self, seconds, rng):
        """Until a moment after the next write or flush of the disk has begun."""
        before, end = os.stat(self.log).st_blocks, time.monotonic() + seconds
        while time.monotonic() < end and os.stat(self.log).st_blocks == before:
            time.sleep(0.0005)
        time.sleep(rng.choice([0, 0, rng.uniform(0, 0.02)]))

    def cut(self):
        self.qemu.kill()
        self.qemu.wait()
        self.listen()


def check_kernel(args):
    with open(args.work + "/kernel.log", errors="replace") as log:
        faults = [line.strip() for line in log if any(word in line for word in FAULTS)]
    if faults:
        raise Wrong(f"the kernel says: {faults[:3]}")


def date_of(rng):
    """Of the clock of this boot: now, or years off."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None, microsecond=0)
    day = datetime.datetime
    choices = [now, day(1980, 1, 1), day(2000, 1, 1), day(2037, 12, 31, 23, 59)]
    choices += [now + datetime.timedelta(days=rng.randrange(-3000, 3000)) for _ in range(2)]
    return rng.choice(choices).isoformat()


def one_cut(args, told, rng, number, tally):
    phase = args.phase or PHASES[number % len(PHASES)]
    date, in_recovery, in_write, cached = date_of(rng), rng.random() < 0.2, rng.random() < 0.8, rng.random() < 0.7
    machine = Machine(args, told, phase, date)
    try:
        if in_recovery:
            machine.run(rng.uniform(0.2, 1.0) * args.boot_seconds, lambda: told.wrong)
        else:
            started = time.monotonic()
            if not machine.run(args.patience, lambda: told.ready or told.wrong):
                raise Unusable("the machine did not come to its work")
            if told.wrong:
                raise Wrong("; ".join(told.wrong))
            args.boot_seconds = time.monotonic() - started
            machine.run(rng.uniform(0.05, args.seconds), lambda: told.wrong)
            if in_write:
                machine.wait_for_write(args.seconds, rng)
    finally:
        machine.cut()
    if told.wrong:
        raise Wrong("; ".join(told.wrong))
    check_kernel(args)
    if machine.qemu.returncode != -9:
        raise Unusable(f"the machine ended by itself: {open(args.work + '/qemu.log').read()}")
    kept = lose_cache(args.disk, machine.log, rng) if cached else None
    if kept is None:
        # All that was written has arrived.
        os.replace(machine.disk, args.disk)
    else:
        tally["lost_writes"] += kept[1]
    tally["cuts"] += 1
    tally["cached"] += cached
    tally["recovery"] += in_recovery
    place = "while it recovers" if in_recovery else f"after the beginning of: {told.last}"
    cache = "as written" if kept is None else f"{kept[1]} unflushed writes lost or torn"
    return f"{phase:8} {place}; {cache}; clock {date[:10]}"


def main():
    parser = argparse.ArgumentParser()
    for name in ("kernel", "initramfs", "disk", "work", "accel"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--cuts", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--phase", choices=PHASES)
    args = parser.parse_args()
    # So that no machine is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    args.patience, args.boot_seconds = 600.0, 3.0
    rng, told = random.Random(args.seed), Told()
    tally = {"cuts": 0, "cached": 0, "recovery": 0, "lost_writes": 0}
    number = 0
    try:
        for number in range(args.cuts):
            print(f"{number + 1:4}  {one_cut(args, told, rng, number, tally)}", flush=True)
        # Whatever the last cut left is looked at, and the machine ends in order.
        machine = Machine(args, told, "end", date_of(rng))
        try:
            machine.run(args.patience, lambda: told.wrong)
        finally:
            machine.cut()
        if told.wrong:
            raise Wrong("; ".join(told.wrong))
        if not told.ready:
            raise Unusable("the machine did not come to its end")
        check_kernel(args)
        os.replace(machine.disk, args.disk)
        if tally["cached"] >= LOSING and tally["lost_writes"] == 0:
            raise Unusable(f"in {tally['cached']} cuts with a lost cache no write was lost: is qemu's log read?")
    except Wrong as e:
        print(f"WRONG at cut {number + 1}: {e}", flush=True)
        # Before the first cut no promise to keep one can be broken.
        return 3 if tally["cuts"] else 1
    except Unusable as e:
        print(f"UNUSABLE at cut {number + 1}: {e}", flush=True)
        return 1
    sums = ", ".join(f"{count} {what}" for what, count in sorted(told.acknowledged.items()))
    print(f"{tally['cuts']} power cuts, {tally['recovery']} of them in a recovery; acknowledged: {sums}")
    print(
        f"unflushed writes lost or torn: {tally['lost_writes']}; answers without feedback lost: {told.lost_loose}; "
        f"generations taken back in their first answer: {told.rolled_back}; packages half installed and completed: "
        f"{told.half_installed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
