"""Appends of a run's owner: prepared without I/O, committed while its epoch is the run's.

A batch is one commit: deltas, and events before and after them. Mail (decisions submitted early, requests
to cancel, notes) may come between what the owner knows and its append; the append then takes the following
seqs, for mail changes no state. Anything else that comes between is another writer, and refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .checkpoint import CheckpointTrigger
from .codec import Envelope, check_cost, decode_rows, envelope
from .event import NodeExecuted, TraceEnded
from .ownership import END, FREE
from .pending import Mark, Pending
from .record import ExecutionMetadata
from .recorded import MAIL, ControlEvent
from .redaction import redact_event
from .run_event import BranchExecuted
from .step import Draft
from .writer import TRACE_ROW

if TYPE_CHECKING:
    from .trace import Trace


class Batch:
    """What an owner appends in one commit.

    `before`, `draft`, `after`: events, deltas, events. `sync`: synced whatever the durability.
    `lease`: `keep` it, make it `free`, or `end` it. `explicit`: mark a checkpoint here;
    `completes`: the run ends well. `follows_mail` False: mail that comes first refuses it.
    """

    __slots__ = ("after", "before", "completes", "draft", "explicit", "follows_mail", "lease", "marks",
                 "sync")  # fmt: skip

    def __init__(
        self,
        before: Sequence[ControlEvent] = (),
        draft: Draft | None = None,
        after: Sequence[ControlEvent] = (),
        *,
        sync: bool = False,
        lease: str = "keep",
        explicit: bool = False,
        follows_mail: bool = True,
    ) -> None:
        self.before = list(before)
        self.draft = draft
        self.after = list(after)
        self.sync = sync
        self.lease = lease
        self.explicit = explicit
        self.follows_mail = follows_mail
        self.completes = False
        self.marks: list[tuple[int, str | None, CheckpointTrigger]] = []


def prepare(trace: Trace, batch: Batch, epoch: int) -> Pending:
    """The batch as an append over the version that the handle knows. Raises ValueRefused."""
    control = after = [_enveloped(trace, event) for event in batch.after]
    deltas: list[Any] = [] if batch.draft is None else batch.draft.body()
    wire = [*deltas, *after]
    if batch.before:
        before = [_enveloped(trace, event) for event in batch.before]
        wire, control = [*before, *wire], [*before, *after]
    expected = trace._version
    end = expected + len(wire)
    marks: list[Mark] = []
    if batch.marks or batch.explicit:
        leads_on = [event.next for event in batch.after if isinstance(event, NodeExecuted)]
        for place, node, trigger in batch.marks:
            marks.append((end if place else expected, leads_on[0] if place and leads_on else node, trigger))
        if batch.explicit:
            marks.append((end, leads_on[0] if leads_on else None, CheckpointTrigger.EXPLICIT))
    if batch.completes and trace._store.checkpoint_policy.should_checkpoint_on_completion():
        marks.append((end, None, CheckpointTrigger.EXECUTION_COMPLETED))
    passed = _adaptive_mark(trace, batch, end, marks)
    pending = trace._prepare(
        wire, batch.draft, control, expected, None, marks=marks, score_passed=passed, sync=batch.sync
    )
    pending.epoch = epoch
    if batch.lease == "free":
        pending.extras.append((FREE, (None, TRACE_ROW, epoch)))
    elif batch.lease == "end":
        pending.extras.append((END, (TRACE_ROW,)))
    return pending


def mail_only(trace: Trace) -> bool:
    """Take in what others appended since the handle's version, if all of it is mail; whether it was."""
    for row in trace._store._reader.news(trace._row, trace._version):
        if any(event.kind not in MAIL for event in decode_rows(row.body)):
            return False
    trace.refresh()
    return True


def _enveloped(trace: Trace, event: ControlEvent) -> Envelope:
    redact = trace._store.redact
    if redact is not None:
        event = redact_event(redact, event)  # type: ignore[assignment]
        if isinstance(event, NodeExecuted | BranchExecuted) and event.error is not None:
            name = event.node if isinstance(event, NodeExecuted) else event.path
            event = msgspec.structs.replace(event, error=str(redact(f"{name}.error", event.error)))
        elif isinstance(event, TraceEnded) and event.error is not None:
            event = msgspec.structs.replace(event, error=str(redact("error", event.error)))
    if type(event) is NodeExecuted:
        check_cost(event.duration_ms, event.token_cost)
        return Envelope("node_executed", event)
    return envelope(event)


def _adaptive_mark(trace: Trace, batch: Batch, end: int, marks: list[Mark]) -> bool:
    """Whether a node's score passes; marks the place where the policy wants that."""
    policy = trace._store.checkpoint_policy
    for event in batch.after:
        if isinstance(event, NodeExecuted) and event.success:
            figures = (event.duration_ms, event.token_cost, event.has_side_effects)
            if policy.score.of(*figures) >= policy.score.threshold:
                if trace._store.marks_adaptively:
                    metadata = ExecutionMetadata(*figures)
                    marks.append((end, event.next, CheckpointTrigger.adaptive(metadata)))
                return True
    return False
