"""I/O errors and a full disk, at every n-th call of every kind, and the power cuts that follow.

A case: the n-th call of a kind fails, once or from then on, while one program works on one store. It goes on as a
user would: after an I/O error it asks three times for more (each must raise `StoreHalted`) and closes (which must
write nothing); where the disk is full it waits for space and goes on in the same store. Then the power is cut, at
moments from the fault on; what the disk holds of what a failed sync should have written is up to fate (`images`).
Each image must hold all that was told, no deed may be there twice, and asking again for the deed that failed, with
its `append_id`, must settle it.

The other half of the cases has no cut at that time: the disk is well again, the file is opened again in the same
boot, the failed deed asked for again, more is done, and the power is cut after that. In one workload of five another
store has the file open all the time; what it decides after the fault must be there, and so must be all before it.

Controls: an engine that never halts, so that the program tries again in the same store; one that trusts what it reads
in the write-ahead log when it opens a file again, though no sync ever told that it is on the disk; and one that is not
warned when the disk fails another store. For them fate is always at its worst.
"""

from __future__ import annotations

import shutil
import traceback
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import eventstore as es
from eventstore.database import Database
from eventstore.turnstile import Turnstile

from .campaign import Campaign, Control, Result
from .cuts import INLINE, each
from .disk import recording
from .failing import CODES, failing
from .faulty_program import NEVER_HALTS, TRUSTS, UNWARNED, Broken, Case, Fault, Program
from .images import WAYS, Choice, Gone, Platter
from .recovery import Bench, hash_of, missing

WALKS, CUTS_A_WALK = 3, 2
CONTROL_WALKS = 4
CASES_A_TRIAL = 60
CONTROLS = 14, 150  # at least and, unless nothing was lost by then, at most so many cases of each control
MOST_CONTROLS = 1000
CONTROLS_A_WORKLOAD = 7
WORKLOADS = (("full", False), ("full", False), ("full", False), ("normal", False), ("normal", True))  # and so on
NEVER_STRUCK = 5  # a fault that does not come to pass tries nothing: at most one in so many may


class Outcome(NamedTuple):
    """What came of some cases. `struck`: in how many the fault came to pass; `images`: hashes of what cuts left."""

    cases: int = 0
    struck: int = 0
    halted: int = 0
    full: int = 0
    cuts: int = 0
    images: frozenset[bytes] = frozenset()
    landed: int = 0
    failures: tuple[str, ...] = ()


def tried(trial):
    """Some cases of one workload; what came of each."""
    cases, folder = trial
    outcomes = []
    bench = Bench(Path(folder) / "bench")
    for number, case in enumerate(cases):
        place = Path(folder) / f"case-{number}"
        place.mkdir(parents=True)
        outcomes.append(tried_once(case, place, bench))
        shutil.rmtree(place)
    shutil.rmtree(folder)
    return summed(outcomes)


def tried_once(case, folder, bench):
    """One case."""
    failures, cuts, images, landed, struck = [], 0, set(), 0, []

    def fault(*called):
        if code := case.fault(*called):
            struck.append(called)
        return code

    with recording() as disk, failing(disk) as faults, weakened(case):
        program = Program(case, disk, faults, folder)
        try:
            program.has_company()
            faults.fault = fault
            met = program.works()
            if met:
                program.goes_on()
            faults.fault = None
            program.company_goes_on()
            if case.reopens:
                program.reopens()
        except Broken as broken:
            failures.append(f"{case}: {broken}")
        except es.EventStoreError as error:
            failures.append(f"{case}: on a well disk: {type(error).__name__}: {error}")
        except Exception as error:  # whatever else comes out is a failure, and the case is named
            failures.append(f"{case}: {type(error).__name__} came out: {error} ({where(error)})")
        finally:
            faults.fault = None
            program.leaves()
    if not failures:
        for at, found_problem, hashed, has_landed in cut(case, program, disk.ops, bench):
            cuts += 1
            images.add(hashed)
            landed += has_landed
            if found_problem:
                failures.append(f"{case}: cut at {at}/{len(disk.ops)}: {found_problem}")
    return Outcome(
        1,
        int(bool(struck)),
        int(program.halted),
        int(program.full),
        cuts,
        frozenset(images),
        landed,
        tuple(failures[:1]),
    )


def where(error):
    """The last places that an error came through, the innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[:-6:-1]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


def cut(case, program, ops, bench):
    """Cuts after the fault: where, what is wrong, the image's hash, and whether the failed deed was there."""
    rng = case.rng("cuts")
    first = len(ops) if program.fault_at is None else program.fault_at
    if program.fault_at is None:
        failed = [number for number, op in enumerate(ops) if op.kind == "failed sync"]
        first = failed[0] if failed else 0
    normal = case.durability == "normal"
    anywhere = range(first, len(ops) + 1)
    told_at = [deed.at for deed in program.diary.deeds if deed.at in anywhere and not deed.failed] or anywhere
    for _ in range(CONTROL_WALKS if case.weakness else WALKS):
        platter = Platter(ops, fates=Gone() if case.weakness else rng)
        for at in sorted(rng.choice(rng.choice((told_at, anywhere))) for _ in range(CUTS_A_WALK)):
            platter.advance(at)
            image = platter.image(Choice(rng.choice(WAYS), rng))
            told, under_way = program.diary.until(program.path, at, only_promised=normal)
            versions = {trace_id: {known.version} for trace_id, known in told.items()}
            for deed in under_way:
                for trace_id in deed.known:
                    versions.setdefault(trace_id, set())
            failed = program.failed if program.again is not None and program.failed in under_way else None
            then = settled(program, failed, told) if failed is not None and not normal else None
            found = bench.recovered(image, program.path, versions, durability=case.durability, then=then)
            exact = not normal and all(deed.whole for deed in under_way)
            yield at, missing(found, told, under_way, exact=exact), contents_of(image), has_landed(found, failed, told)


def contents_of(image):
    """What tells an image from another, whatever folder it was in."""
    return hash_of({Path(name).name: data for name, data in image.items()})


def has_landed(found, failed, told):
    """Whether the deed that failed is there all the same."""
    if failed is None or found.broken:
        return False
    return any(
        trace_id in found.traces and found.traces[trace_id].version > told[trace_id].version
        for trace_id in failed.known
        if trace_id in told
    )


def settled(program, failed, told):
    """Asking for the failed append again, in whatever a cut left of its trace, makes it be there once."""
    (trace_id,) = failed.known

    def then(store):
        if trace_id in told and store.open_trace(trace_id).version >= told[trace_id].version:
            program.again(store)
            program.again(store)
            assert store.state_at(trace_id) == failed.known[trace_id].state, "asked for again, it is not there once"

    return then


@contextmanager
def weakened(case):
    """For the controls: an engine that lacks something."""
    usual_translate, usual_settle, usual_warned = Database.translate, Database.settle, Turnstile.is_warned

    def translate(self, error):
        failure = usual_translate(self, error)
        self.halted, self.is_open = None, self._closed is None
        return failure

    if case.weakness == NEVER_HALTS:
        Database.translate = translate
    if case.weakness in (NEVER_HALTS, TRUSTS):
        Database.settle = lambda *_: None
    if case.weakness == UNWARNED:
        Turnstile.is_warned = lambda _: False
    try:
        yield
    finally:
        Database.translate, Database.settle, Turnstile.is_warned = usual_translate, usual_settle, usual_warned


def counted(run, workload, durability, company):
    """The numbers of the calls of each kind that a workload makes when nothing fails; and its syncs of the WAL."""
    folder = run.folder / "count"
    folder.mkdir(parents=True)
    case = Case(run.seed, workload, durability, Fault("none", 0, lasting=False), reopens=False, company=company)
    with recording() as disk, failing(disk) as faults:
        program = Program(case, disk, faults, folder)
        program.has_company()
        before = faults.counts.copy()
        program.works()
        counts, syncs = faults.counts.copy(), [n for n in faults.wal_syncs if n > before["sync"]]
        program.leaves()
    shutil.rmtree(folder)
    called = {kind: "write" if kind == "full" else kind for kind in CODES}
    return {kind: range(before[of] + 1, counts[of] + 1) for kind, of in called.items()}, syncs


def cases_of(run, size):
    """Every n-th call of each kind that a workload makes, workload after workload; of the last one an even sample.

    Of the first ones together, where they make more calls than that.
    """
    found: list[Case] = []
    rng, workloads = run.rng("cases"), range(len(WORKLOADS))
    while len(found) < size:
        turns = []
        for workload in workloads:
            for kind, numbers in counted(run, workload, *WORKLOADS[workload % len(WORKLOADS)])[0].items():
                turns += [(turn, kind, workload, n) for turn, n in enumerate(rng.sample(numbers, len(numbers)))]
        for _, kind, workload, n in sorted(turns)[: size - len(found)]:
            durability, company = WORKLOADS[workload % len(WORKLOADS)]
            fault = Fault(kind, n, lasting=rng.random() < 0.5)
            found.append(Case(run.seed, workload, durability, fault, rng.random() < 0.5, company))
        workloads = range(workloads.stop, workloads.stop + 1)
    return found


def control_cases(run, weakness):
    """Syncs of the write-ahead log that fail once, a few of each workload, without end."""
    rng, company = run.rng(weakness), weakness == UNWARNED
    durability, reopens = ("full", True) if weakness == TRUSTS else ("normal", False)
    for workload in count():
        syncs = counted(run, workload, durability, company)[1]
        for n in rng.sample(syncs, min(len(syncs), CONTROLS_A_WORKLOAD)):
            fault = Fault("sync", n, lasting=False)
            yield Case(run.seed, workload, durability, fault, reopens, company, weakness)


def trials_of(cases, folder):
    """Cases in handy parcels, each with a folder of its own."""
    parcels = [cases[begin : begin + CASES_A_TRIAL] for begin in range(0, len(cases), CASES_A_TRIAL)]
    return [(tuple(parcel), str(folder / str(number))) for number, parcel in enumerate(parcels)]


def campaign(run):
    """The cases, and the controls'."""
    done = carried_out(run, cases_of(run, run.size), "cases")
    failures, idle = list(done.failures), done.cases - done.struck
    if idle * NEVER_STRUCK > done.cases:
        failures.append(f"seed {run.seed}: {idle} of {done.cases} faults never struck")
    return [
        Result(
            "I/O errors and full disks",
            done.cases,
            done.struck,
            "cases with a loss, a double or a wrong error",
            failures,
            [control(run, weakness) for weakness in (NEVER_HALTS, TRUSTS, UNWARNED)],
            f"distinct: faults that struck, {idle:,} never did; {done.cuts:,} cuts after them left {len(done.images):,}"
            f" distinct images; {done.halted:,} halted, {done.full:,} met a full disk,"
            f" in {done.landed:,} images a deed had landed that had raised",
        )
    ]


def control(run, weakness):
    """The same with an engine that lacks something, until something is lost."""
    least, most = CONTROLS
    cases, weak = control_cases(run, weakness), Outcome()
    wanted = min(most, max(least, run.size // 10))
    while not weak.failures and weak.cases < MOST_CONTROLS:
        weak = summed([weak, carried_out(run, list(islice(cases, wanted)), weakness)])
    return Control(f"an engine that {weakness}, failed syncs", len(weak.failures), weak.cases)


def carried_out(run, cases, name):
    """What came of them."""
    outcomes = []
    for trial, outcome in each(tried, trials_of(cases, run.folder / name), in_line=run.size < INLINE):
        outcomes.append(outcome)
        if name == "cases":
            run.tick(len(trial[0]))
    return summed(outcomes)


def summed(outcomes):
    """One outcome of many."""
    images = frozenset().union(*(outcome.images for outcome in outcomes))
    rest = [outcome._replace(images=0) for outcome in outcomes]
    return Outcome(*(sum(column, type(column[0])()) for column in zip(*rest, strict=True)))._replace(images=images)


CAMPAIGNS = [
    Campaign("io-errors", "I/O errors and full disks at every n-th call, then power cuts", 2_400, 80, campaign)
]
