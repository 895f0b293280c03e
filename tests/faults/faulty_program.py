"""A user of one store on a disk that fails, who goes on as users do.

After an I/O error they ask for more (each call must raise `StoreHalted`) and close, which must write nothing. Where the
disk is full they read, wait for space and go on in the same store. What a deed came to that raised they learn by asking
for it again with its `append_id`, or by looking; from then on that is what was told. The case and the fault in it are
named by numbers alone, so that they can be tried again.
"""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apsw

import eventstore as es

from .deeds import Diary, Known, Worker
from .failing import CODES

NEVER_HALTS, TRUSTS, UNWARNED = "never halts", "trusts the WAL", "is not warned"
DEEDS = 14
MORE = 3


class Fault(NamedTuple):
    """The n-th call of a kind fails, `lasting` or once. `full`: for want of space, which only writes meet."""

    kind: str
    n: int
    lasting: bool

    def __call__(self, kind, _, n):
        of = "write" if self.kind == "full" else self.kind
        hits = kind == of and (n == self.n or (self.lasting and n > self.n))
        return CODES[self.kind] if hits else 0

    def __str__(self):
        return f"{self.kind} {self.n}{' and all after' if self.lasting else ''}"


class Case(NamedTuple):
    """A workload by its number, the fault in it, and whether the file is opened again before the power is cut.

    `company`: another store has the file open. `weakness`: what the engine of a control lacks.
    """

    seed: int
    workload: int
    durability: str
    fault: Fault
    reopens: bool
    company: bool = False
    weakness: str = ""

    def rng(self, what):
        """A generator for a part of it; those of the deeds are the same whatever the fault."""
        own = () if what in ("deeds", "company") else tuple(map(str, self))
        return random.Random(repr((self.seed, self.workload, self.durability, what, *own)))

    def __str__(self):
        after = "opened again, then cut" if self.reopens else "cut"
        company = ", in company" * self.company
        where = f"seed {self.seed}, workload {self.workload} ({self.durability}{company})"
        return f"{where}, {self.fault}, {after}{self.weakness}"


class Broken(Exception):
    """A law does not hold."""


class Program:
    """A user of one store on a disk that fails."""

    def __init__(self, case, disk, faults, folder):
        self.case, self.disk, self.faults = case, disk, faults
        self.path = str(Path(folder) / "a.db")
        self.diary = Diary(disk, [self.path])
        rng = case.rng("deeds")
        self.worker = Worker(
            self.diary, self.path, rng, case.durability, checkpoint_pages=rng.choice((4, 12, None)), busy_timeout_ms=200
        )
        self.company = None
        if case.company:
            self.company = Worker(self.diary, self.path, case.rng("company"), "normal", busy_timeout_ms=200)
        self.fault_at: int | None = None
        self.halted = self.full = False
        self.again = self.failed = self.unsettled = None

    def has_company(self):
        """Before anything fails, another store opens the file, where the case says so."""
        if self.company is not None:
            self.company.open()
            self.company.start()

    def works(self):
        """All deeds, up to the first that fails; whether one did."""
        try:
            self.worker.open()
            for _ in range(DEEDS):
                self.worker.act()
            self.worker.close()
        except es.EventStoreError as error:
            self.meets(error)
            return True
        return False

    def meets(self, error):
        """A call raised."""
        self.fault_at = len(self.disk.ops)
        self.halted = isinstance(error, es.StoreHalted)
        self.full = isinstance(error, es.StorageFull)
        self.again = self.worker.again
        failed = self.diary.deeds[-1:]
        self.failed = self.unsettled = failed[0] if failed and failed[0].failed else None
        if not isinstance(error, es.StorageError):
            raise Broken(f"{type(error).__name__} is no error of the storage: {error}")
        if self.case.fault.kind == "full" and self.halted:
            raise Broken(f"a full disk halted the store: {error}")

    def goes_on(self):
        """What a user does next: halted, nothing is to be had; otherwise the store goes on once the disk is well."""
        store = self.worker.store
        if self.halted and self.case.weakness != NEVER_HALTS:
            self.finds_it_halted(store)
            return
        if store is None:  # it could not be opened
            self.faults.fault = None
            return
        if self.full and self.failed is not None and self.failed.whole:
            self.reads_what_was_told(store)
        self.faults.fault = None
        self.settles(store)
        self.more()
        if self.case.weakness == NEVER_HALTS:
            promise(self.worker)
        self.worker.close()

    def company_goes_on(self):
        """The other store sees what became of the failed deed; what it is told then is on disk."""
        if self.company is not None:
            self.settles(self.company.store)
            promise(self.company)

    def finds_it_halted(self, store):
        if store is None:
            return
        before = len(self.disk.ops)
        live = [trace_id for trace_id, known in self.worker.known.items() if not known.erased]
        calls = [store.start, store.traces, store.verify, *(lambda t=t: store.append(t, [es.Note("x")]) for t in live)]
        for call in self.case.rng("halted").sample(calls, MORE):
            try:
                call()
            except es.StoreHalted:
                continue
            raise Broken("a halted store did something")
        store.close()
        if len(self.disk.ops) != before:
            raise Broken("a halted store wrote")

    def reads_what_was_told(self, store):
        """While the disk is full everything can be read, and nothing of the deed is there."""
        for trace_id, known in self.told().items():
            if known.erased:
                continue
            try:
                if store.state_at(trace_id) != known.state:
                    raise Broken(f"trace {trace_id} changed though the disk was full")
            except es.StorageFull as error:
                raise Broken(f"a full disk cannot be read: {error}") from error

    def told(self):
        """All that is known of the file."""
        return self.diary.until(self.path, len(self.disk.ops))[0]

    def settles(self, store):
        """Ask for the failed deed again, or look what came of it; both are told from now on."""
        failed, self.unsettled = self.unsettled, None
        if failed is None:
            return
        if self.again is not None:
            (trace_id,) = failed.known
            before = self.told()[trace_id]
            wanted = failed.known[trace_id]
            with self.diary.deed("again", self.path, **{trace_id: wanted}) as told:
                done = self.again(store)
                told[trace_id] = wanted._replace(version=done.version)
            if store.state_at(trace_id) != wanted.state or self.again(store).version != done.version:
                raise Broken(f"trace {trace_id}: asked for again, it is not there once (was at {before.version})")
            return
        looked = {}
        for trace_id, wanted in failed.known.items():
            before = self.told().get(trace_id)
            try:
                version = store.open_trace(trace_id).version
            except es.TraceNotFound:
                if before is not None:
                    raise Broken(f"trace {trace_id} is gone") from None
                continue
            except es.TraceErased:
                if not wanted.erased:
                    raise Broken(f"trace {trace_id} was erased") from None
                looked[trace_id] = wanted
                continue
            landed = before is None or (version > before.version and not wanted.erased)
            now = store.state_at(trace_id)
            if failed.whole and now != (wanted.state if landed else before.state):
                raise Broken(f"trace {trace_id} at {version} has a state that nobody asked for")
            barriers = (wanted if landed else before).barriers
            if failed.what == "ask" and landed:
                barriers = tuple(store.open_trace(trace_id).pending_barriers)
            looked[trace_id] = Known(version, now, barriers=barriers)
        with self.diary.deed("looked", self.path, **looked):
            pass  # what was read is not promised: the next deed that is told makes it last
        if failed.what == "run":
            for trace_id in failed.known:
                self.worker.known.pop(trace_id, None)

    def more(self):
        """Some deeds on a well disk; none may fail."""
        for _ in range(MORE):
            self.worker.act()

    def reopens(self):
        """In the same boot, on a well disk."""
        self.faults.fault = None
        self.worker.open()
        self.settles(self.worker.store)
        self.more()
        if not self.worker.store.verify().ok:
            raise Broken("verify after reopening")
        self.worker.close()

    def leaves(self):
        """Whatever is open is closed."""
        for worker in (self.worker, self.company):
            if worker is not None:
                with suppress(es.EventStoreError, apsw.Error):
                    worker.close()


def promise(worker):
    """A decision: it is on disk when it was told, under normal durability too."""
    worker.start()
    trace_id = list(worker.known)[-1]
    worker.ask(trace_id)
    worker.ask(trace_id)
