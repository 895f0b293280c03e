"""Power cuts: a workload of the engine on a disk that notes everything, and what a cut at any moment would leave.

One workload, on two files, gives a list of some thousand operations. A cut is a place in this list and a choice of
what of the unsynced reached the disk; the image that it leaves is opened by the engine. Two judges see it. One is
SQLite, which read the uncut file after every commit (each write of a WAL frame that ends one): what is found must be
one of these contents, no older than what was told (full) or promised (normal), so that no order is broken, no step is
half, and nothing decided, forked, trimmed or erased comes back. The other is the diary: each trace that was told of is
there, with the state that the caller computed.

Under normal durability, every third cut comes right after something promised was told, before the next sync, and
keeps nothing that was not synced.

Controls: normal durability judged as if it were full, a disk whose syncs do nothing, and an engine that does not sync
its decisions.
"""

from __future__ import annotations

import bisect
import multiprocessing
import os
import random
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from eventstore.trace import Trace

from .campaign import Campaign, Control, Result
from .deeds import Diary, Worker
from .disk import recording
from .images import WAYS, Choice, Platter
from .recovery import EMPTY, Bench, hash_of, missing

FRAME_HEADER = 24
DEEDS_EACH = 45
CUTS_EACH, FEWEST_WORKLOADS = 250, 4
INLINE = 1000
LIES = 10  # one in so many cuts is tried with syncs that lie, too
CONTROL_CUTS = 40
MOST_CONTROL_CUTS = 20 * CONTROL_CUTS


class Trial(NamedTuple):
    """One workload, to be cut so many times. `forgets`: by an engine that does not sync its decisions."""

    seed: int
    number: int
    durability: str
    cuts: int
    folder: str
    forgets: bool = False

    def rng(self, what):
        """A generator for a part of it."""
        return random.Random(repr((self.seed, self.number, self.durability, what)))


class Tally(NamedTuple):
    """What came of a trial. `as_full`: what would have been a loss under full; `lies`, `lied`: with lying syncs."""

    cuts: int = 0
    distinct: int = 0
    failures: tuple[str, ...] = ()
    as_full: int = 0
    lies: int = 0
    lied: int = 0
    commits: int = 0
    ops: int = 0


def worked(disk, folder, rng, durability, deeds=DEEDS_EACH):
    """A workload on two files, one of them open twice; its diary."""
    paths = [str(Path(folder) / name) for name in ("a.db", "b.db")]
    diary = Diary(disk, paths)
    workers = []
    for path in rng.choice(((0, 1), (0, 0, 1))):
        pages = rng.choice((3, 8, 25, None))
        workers.append(Worker(diary, paths[path], rng, durability, checkpoint_pages=pages))
        workers[-1].open()
    for _ in range(deeds):
        rng.choice(workers).act()
    for worker in workers:
        worker.close()
    return diary


@contextmanager
def forgetful():
    """For the control: an engine that does not sync its decisions."""
    usual = Trace._prepare

    def prepare(self, wire, draft, control, *more, **options):
        pending = usual(self, wire, draft, control, *more, **options)
        pending.sync = pending.sync and not any(event.kind == "barrier_decided" for event in control)
        return pending

    Trace._prepare = prepare
    try:
        yield
    finally:
        Trace._prepare = usual


class Truth:
    """The contents that a file had, commit after commit, as SQLite alone reads them where no power was cut."""

    def __init__(self, ops, path, bench):
        platter = Platter(ops)
        self.at: list[int] = []
        self.contents = [EMPTY]
        ends_commit = False
        for number, op in enumerate(ops):
            if op.path != f"{path}-wal" or op.kind != "write":
                continue
            if ends_commit:
                platter.advance(number + 1)
                self.at.append(number + 1)
                self.contents.append(bench.committed(platter.image(Choice("everything")), path))
            ends_commit = len(op.data) == FRAME_HEADER and op.at > 0 and op.data[4:8] != bytes(4)

    def commits(self, at):
        """How many were written when the disk had seen so many operations."""
        return bisect.bisect_right(self.at, at)

    def between(self, first_at, last_at):
        """What the file may hold: no older than the one place, no newer than the other."""
        return self.contents[self.commits(first_at) : self.commits(last_at) + 1]


def tried(trial):
    """Do the workload, cut it, look at what is left."""
    folder = Path(trial.folder)
    folder.mkdir(parents=True)
    try:
        with recording() as disk, forgetful() if trial.forgets else nullcontext():
            diary = worked(disk, folder, trial.rng("deeds"), trial.durability)
        return Cutter(trial, disk.ops, diary, Bench(folder / "bench")).all()
    finally:
        shutil.rmtree(folder)


class Cutter:
    """The cuts of one workload."""

    def __init__(self, trial, ops, diary, bench):
        self.trial, self.ops, self.diary, self.bench = trial, ops, diary, bench
        self.rng = trial.rng("cuts")
        self.syncs = [number for number, op in enumerate(ops) if op.kind == "sync"]
        self.truths = {path: Truth(ops, path, bench) for path in diary.known}
        self.failures: list[str] = []
        self.as_full = 0
        self.found: dict[object, object] = {}
        self.hashes: set[bytes] = set()

    def places(self, count):
        """Where to cut, in order: half of them where something had just been told or is being synced."""
        told = [deed.at for deed in self.diary.deeds]
        anywhere = range(len(self.ops) + 1)
        return sorted(self.rng.choice(self.rng.choice((anywhere, anywhere, told, self.syncs))) for _ in range(count))

    def ways(self, count):
        """Where to cut and what to keep, in order; a third of it to see whether what is promised is synced."""
        promised = [deed.at for deed in self.diary.deeds if deed.promised and self.trial.durability == "normal"]
        strict = []
        for _ in range(count // 3 if promised else 0):
            told = self.rng.choice(promised)
            next_sync = bisect.bisect_left(self.syncs, told)
            until = self.syncs[next_sync] if next_sync < len(self.syncs) else len(self.ops)
            strict.append((self.rng.randint(told, until), "nothing"))
        return sorted([*strict, *((at, self.rng.choice(WAYS)) for at in self.places(count - len(strict)))])

    def all(self):
        """Every cut, and the lying ones."""
        platter = Platter(self.ops)
        for at, way in self.ways(self.trial.cuts):
            platter.advance(at)
            image = platter.image(Choice(way, self.rng))
            shm = self.rng.randbytes(32768) if self.rng.random() < 0.05 else b""
            self.hashes.add(hash_of(image))
            judged = {path: self.judged(image, path, at, shm) for path in self.truths}
            self.as_full += any(is_less for _, is_less in judged.values())
            name = self.name(at, way)
            self.failures += [
                f"{name}: {Path(path).name}: {problem}" for path, (problem, _) in judged.items() if problem
            ]
        lied = self.lied()
        commits = sum(len(truth.at) for truth in self.truths.values())
        return Tally(
            self.trial.cuts,
            len(self.hashes),
            tuple(self.failures),
            self.as_full,
            *lied,
            commits=commits,
            ops=len(self.ops),
        )

    def name(self, at, way):
        """How to find the cut again."""
        trial = self.trial
        return f"seed {trial.seed}, workload {trial.number} ({trial.durability}), cut at {at}/{len(self.ops)}, {way}"

    def judged(self, image, path, at, shm=b""):
        """What is wrong with that file of an image, in words; and whether it is less than was told."""
        normal = self.trial.durability == "normal"
        told, under_way = self.diary.until(path, at)
        promised, not_yet = self.diary.until(path, at, only_promised=normal)
        found = self.look(image, path, told, promised, shm)
        is_less = bool(missing(found, told, under_way))
        if problem := missing(found, promised, not_yet):
            return problem, is_less
        last = max((deed.at for deed in self.diary.deeds if self.was_promised(deed, path, at)), default=0)
        if found.content not in self.truths[path].between(last, at):
            return "its content is none that was committed since", is_less
        return "", is_less

    def was_promised(self, deed, path, at):
        return deed.path == path and deed.at <= at and (deed.promised or self.trial.durability == "full")

    def look(self, image, path, told, promised, shm=b""):
        """What the engine finds; known already where this image was left before, with as much told."""
        versions: dict[str, set[int]] = {}
        for known in (told, promised):
            for trace_id, then in known.items():
                versions.setdefault(trace_id, set()).add(then.version)
        key = (hash_of({name: data for name, data in image.items() if name.startswith(path)}, shm), repr(versions))
        if key not in self.found:
            self.found[key] = self.bench.recovered(image, path, versions, shm=shm, durability=self.trial.durability)
        return self.found[key]

    def lied(self):
        """How many cuts were tried with syncs that do nothing, and how many corrupted the file or broke the order.

        Names last all the same: otherwise there would be no file to be corrupt.
        """
        platter = Platter(self.ops, lies=True)
        tried_cuts = lost = 0
        for at in self.places(max(2, self.trial.cuts // LIES)):
            platter.advance(at)
            image = platter.image(Choice("some", self.rng), all_names=True)
            tried_cuts += 1
            lost += any(self.is_disorder(image, path, at) for path in self.truths)
        return tried_cuts, lost

    def is_disorder(self, image, path, at):
        found = self.bench.recovered(image, path, {})
        return bool(found.broken) or found.content not in self.truths[path].between(0, at)


def campaign(run):
    """Half of the cuts under full durability, as many again under normal: a workload for every few hundred of them."""
    workloads = max(FEWEST_WORKLOADS, -(-run.size // CUTS_EACH))
    trials = [
        Trial(run.seed, number, durability, -(-run.size // workloads), str(run.folder / f"{durability}-{number}"))
        for number in range(workloads)
        for durability in ("full", "normal")
    ]
    tallies = {"full": [], "normal": []}
    for trial, tally in each(tried, trials, in_line=run.size < INLINE):
        tallies[trial.durability].append(tally)
        run.tick(tally.cuts)
    return lines(tallies, forgotten(run))


def forgotten(run):
    """The control of what is promised: cuts until something is lost."""
    lost = cuts = 0
    while not lost and cuts < MOST_CONTROL_CUTS:
        folder = run.folder / f"forgets-{cuts}"
        tally = tried(Trial(run.seed, cuts, "normal", CONTROL_CUTS, str(folder), forgets=True))
        lost, cuts = lost + len(tally.failures), cuts + tally.cuts
    return Control("an engine that does not sync decisions", lost, cuts)


def each(work, trials, *, in_line):
    """What each trial came to, as they end: in processes of their own where they are many."""
    if in_line:
        for trial in trials:
            yield trial, work(trial)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=context) as pool:
        futures = {pool.submit(work, trial): trial for trial in trials}
        for future in as_completed(futures):
            yield futures[future], future.result()


def lines(tallies, forgotten):
    """The two lines of the table."""
    full, normal = (summed(tallies[durability]) for durability in ("full", "normal"))
    as_full = Control("normal durability, judged as full", normal.as_full, normal.cuts)
    lies = Control("a disk whose syncs do nothing", full.lied + normal.lied, full.lies + normal.lies)
    return [
        Result(
            f"power cuts, {durability.upper()}",
            tally.cuts,
            tally.distinct,
            lost,
            list(tally.failures),
            controls,
            f"{tally.commits} commits, {tally.ops} disk operations",
        )
        for durability, tally, lost, controls in (
            ("full", full, "images without what was acknowledged", [as_full]),
            ("normal", normal, "corrupt, out of order or without what was promised", [lies, forgotten]),
        )
    ]


def summed(tallies):
    """One tally of many."""
    return Tally(*(sum(column, type(column[0])()) for column in zip(*tallies, strict=True)))


CAMPAIGNS = [Campaign("cuts", "power cuts at any moment, under full and normal durability", 10_000, 400, campaign)]
