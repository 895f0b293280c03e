"""The threads of other frameworks in a dump: which traces each reads, and which of their commits it has.

A thread's lines, one for each namespace, come before the first of its traces; after each commit that holds a
checkpoint or writes of it comes a line that says so, so a load takes both or neither, and goes on where another one
was cut short. The rest of a row (parent, metadata) is what the commit itself says. A copy may read commits that are
here already: a thread that the store does not know, and some trace of which is news to it, is made whole. One that
is here and shares no trace with the dump's is another one of the same name: nothing of the dump's is put into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from eventstore import log, scope_places, scopes
from eventstore.codec import check_text, json_encode
from eventstore.errors import TraceErased, TraceNotFound
from eventstore.scopes import Scope, ScopeCheckpoint, ScopeKey

from .lines import StandsLine, ThreadLine, WritesLine, checked

if TYPE_CHECKING:
    import apsw

    from eventstore.log import TraceRow


class Outgoing:
    """The threads of a dump that is being written. `wanted`: the traces that it holds, None for all of them.

    Only a thread all of whose traces are there is told of.
    """

    def __init__(self, wanted: set[int] | None) -> None:
        self.wanted = wanted
        self.count = 0
        self._told: set[tuple[str, str]] = set()
        self._numbers: dict[int, int] = {}

    def before(self, connection: apsw.Connection, trace: TraceRow) -> list[bytes]:
        """The lines of the threads that this trace is the first of: all namespaces of each."""
        lines = []
        for thread in scope_places.readers(connection, trace.id):
            if thread not in self._told:
                self._told.add(thread)
                for scope in scopes.of_thread(connection, *thread):
                    lines += self._introduced(connection, thread[0], scope)
        return lines

    def _introduced(self, connection: apsw.Connection, adapter: str, scope: Scope) -> list[bytes]:
        held = scope_places.held(connection, scope.id)
        if self.wanted is not None and not held.keys() <= self.wanted:
            return []
        number = self._numbers[scope.id] = self.count
        self.count += 1
        traces = [trace_id for trace_id in held.values() if trace_id is not None]
        journal = None if scope.journal is None else held.get(scope.journal)
        line = ThreadLine(number, adapter, scope.thread_id, scope.namespace, traces, journal)
        return [checked("thread", json_encode(line))]

    def places(self, connection: apsw.Connection, trace: TraceRow) -> list[tuple[int, bytes]]:
        """The checkpoints and the writes that stand on the trace, as (seq, line), in its order."""
        found: list[tuple[int, bytes]] = []
        for row in scope_places.standing(connection, trace.id):
            number = self._numbers.get(row.scope)
            if number is not None and row.seq is not None:
                stands = StandsLine(number, row.seq, row.name, row.status, row.run_id)
                found.append((row.seq, checked("stands", json_encode(stands), trace.trace_id)))
        for seq, scope in scope_places.written(connection, trace.id):
            number = self._numbers.get(scope)
            if number is not None:
                found.append((seq, checked("writes", json_encode(WritesLine(number, seq)), trace.trace_id)))
        return sorted(found)


class Thread:
    """A thread of a dump, one namespace of it, on its way into a store. `is_made`: the store has it of this load."""

    def __init__(self, line: ThreadLine) -> None:
        self.line = line
        self.key = ScopeKey(line.adapter, line.thread_id, line.namespace)
        self.is_made = False
        self._known: int | None = None

    def __str__(self) -> str:
        namespace = f", namespace {self.line.namespace!r}" if self.line.namespace else ""
        return f"thread {self.line.thread_id!r} of {self.line.adapter}{namespace}"

    def is_other(self, connection: apsw.Connection) -> bool:
        """Whether the store's thread of that name is another one."""
        found = scopes.find(connection, self.key)
        if found is None or found.id == self._known:
            return False
        held = scope_places.held(connection, found.id).values()
        if set(self.line.traces).isdisjoint(held):
            return True
        self._known = found.id
        return False

    def reads(self, connection: apsw.Connection, trace: TraceRow) -> int:
        """Let the store's thread, made where there is none, read the trace; its row id."""
        scope = scopes.enter(connection, self.key)
        self._known = scope.id
        scopes.reads(connection, scope.id, trace.id)
        return scope.id

    def begin_journal(self, connection: apsw.Connection, trace: TraceRow) -> None:
        """A trace that is new here: where it is the thread's journal, and the store's has none, it is that there."""
        if self.line.journal != trace.trace_id or self.is_other(connection):
            return
        found = scopes.find(connection, self.key)
        if found is None or found.journal is None:
            scopes.set_journal(connection, self.reads(connection, trace), trace.id)

    def stands(self, connection: apsw.Connection, trace: TraceRow, line: StandsLine) -> str | None:
        """Let the checkpoint at the commit that ends at `line.seq` be the thread's; a reason why not, or None.

        Raises ValueError where the commit does not say so.
        """
        said = scope_places.recorded(connection, trace, line.seq)
        if said is None or said.name != line.name:
            raise ValueError(f"the commit holds {'no checkpoint' if said is None else f'checkpoint {said.name}'}")
        if line.status not in ("live", "ghost"):
            raise ValueError(f"no checkpoint that stands anywhere is {line.status!r}")
        run_id = said.run_id if line.status == "live" else None
        if line.run_id != run_id and (said.metadata is not None or line.status == "ghost"):
            raise ValueError(f"it is of run {line.run_id}, and the commit says {run_id}")
        metadata = None if said.metadata is None else json_encode(said.metadata).decode()
        scope = self.reads(connection, trace)
        row = ScopeCheckpoint(
            scope, said.name, said.parent, trace.id, line.seq, line.status, line.run_id, metadata, "[]"
        )
        if scope_places.place(connection, row):
            return None
        return f"{self} has checkpoint {said.name} elsewhere"

    def has_writes(self, connection: apsw.Connection, trace: TraceRow, seq: int) -> None:
        """Let the writes in that event be the thread's. Raises ValueError where it holds none."""
        name = scope_places.written_at(connection, trace.id, seq)
        if name is None:
            raise ValueError("no writes stand there")
        scope_places.add_writes(connection, self.reads(connection, trace), name, trace.id, seq)


class Threads:
    """The threads that a load has come to, by their numbers in the dump and by their traces."""

    def __init__(self) -> None:
        self._numbered: dict[int, Thread] = {}
        self._of_trace: dict[str, list[Thread]] = {}
        self._new: list[Thread] = []

    def add(self, line: ThreadLine) -> None:
        """A thread's line. Raises ValueError."""
        if line.number in self._numbered:
            raise ValueError(f"thread {line.number} is told of twice")
        if not line.adapter:
            raise ValueError("a thread is of some adapter")
        for text in (line.adapter, line.thread_id, line.namespace):
            check_text("thread", text)
        thread = self._numbered[line.number] = Thread(line)
        self._new.append(thread)
        for trace_id in line.traces:
            self._of_trace.setdefault(trace_id, []).append(thread)

    def judge(self, connection: apsw.Connection) -> None:
        """A trace begins: which of the threads told of since the last one are made whole here.

        One that was deleted here is not: its traces were erased, or are all here, held by a copy.
        """
        by_name: dict[tuple[str, str], list[Thread]] = {}
        for thread in self._new:
            by_name.setdefault((thread.line.adapter, thread.line.thread_id), []).append(thread)
        for (adapter, thread_id), namespaces in by_name.items():
            is_made = not scopes.of_thread(connection, adapter, thread_id) and _is_news(
                connection, {trace_id for thread in namespaces for trace_id in thread.line.traces}
            )
            for thread in namespaces:
                thread.is_made = is_made
        self._new.clear()

    def numbered(self, number: int) -> Thread:
        """The thread of that number. Raises ValueError where none was told of."""
        try:
            return self._numbered[number]
        except KeyError:
            raise ValueError(f"no line tells of thread {number}") from None

    def of(self, trace_id: str) -> Iterable[Thread]:
        """The threads that read a trace."""
        return self._of_trace.get(trace_id, ())

    def clear(self) -> None:
        """Another dump begins."""
        self._numbered.clear()
        self._of_trace.clear()
        self._new.clear()


def _is_news(connection: apsw.Connection, trace_ids: Iterable[str]) -> bool:
    """Whether some of the traces are not here, and none was erased here."""
    is_news = False
    for trace_id in trace_ids:
        try:
            log.find_trace(connection, trace_id)
        except TraceNotFound:
            is_news = True
        except TraceErased:
            return False
    return is_news
