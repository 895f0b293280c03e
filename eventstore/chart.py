"""What a picture of a timeline shows, wherever it is drawn: its rows, their axis, and their words.

A row is a span or a barrier's waiting, in the order of the log, a parallel node before its branches. A checkpoint
is marked on the last row that came before it. Of a long run the last rows are drawn, on an axis of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from .axis import Axis, in_words
from .event import EPOCH, Reject, Reroute

if TYPE_CHECKING:
    from .span import CheckpointMark, Span, Timeline, Wait

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")
_MICROSECOND = timedelta(microseconds=1)


class Row(NamedTuple):
    """One line. Either `span` or `wait`; `over_us`: None for a span without an end; `marks`: checkpoints behind it.

    `is_late`: the trace has ended, so that a wait without a decision gets none.
    """

    span: Span | None
    wait: Wait | None
    began_us: int
    over_us: int | None
    marks: tuple[CheckpointMark, ...] = ()
    is_late: bool = False

    @property
    def kind(self) -> str:
        """ok, failed, open (a result may come), doubt (none will), or wait."""
        if self.span is None:
            return "wait"
        if self.span.success is None:
            return "open" if self.span.is_open else "doubt"
        return "ok" if self.span.success else "failed"

    @property
    def is_branch(self) -> bool:
        """Whether it belongs to the parallel node above it."""
        return self.span is not None and self.span.branch is not None

    @property
    def name(self) -> str:
        """The node, the branch, or the barrier's id."""
        if self.span is None:
            return self.wait.barrier_id if self.wait else ""
        return self.span.branch or self.span.node

    @property
    def label(self) -> str:
        """The step's number; empty for what is no step."""
        return str(self.span.step) if self.span is not None and self.span.step else ""

    @property
    def length(self) -> str:
        """How long it took, in words."""
        if self.span is not None:
            return "" if self.over_us is None else in_words(self.span.duration_ms * 1000)
        return in_words(self.wait.waited_s * 1e6) if self.wait else ""

    @property
    def words(self) -> str:
        """What there is to say of it: the error, the decision, that it is in doubt."""
        if self.wait is not None:
            return _of_wait(self.wait, self.is_late)
        return _of_span(self.span) if self.span is not None else ""


def rows_of(timeline: Timeline, limit: int | None = None) -> tuple[list[Row], int]:
    """The last `limit` rows, and how many come before them.

    >>> from .event import utc
    >>> from .span import Span, Timeline
    >>> spans = [Span(step, "ask", utc(step), step, step, utc(step), True) for step in (1, 2, 3)]
    >>> rows, before = rows_of(Timeline("t1", "", "running", 3, utc(0), utc(3), utc(3), spans=spans), 2)
    >>> [row.label for row in rows], before
    (['2', '3'], 1)
    """
    placed = [
        ((span.within or span.opened_seq, span.within is not None, span.opened_seq), span.seq, _span_row(span))
        for span in timeline.spans
    ]
    is_late = timeline.ended_at is not None
    placed += [
        ((wait.raised_seq, False, wait.raised_seq), wait.raised_seq, _wait_row(wait, is_late))
        for wait in timeline.waits
    ]
    placed.sort(key=lambda item: item[0])
    marked: dict[int, list[CheckpointMark]] = {}
    by_seq = sorted((seq, index) for index, (_, seq, _) in enumerate(placed))
    passed = 0
    for mark in timeline.checkpoints:
        while passed < len(by_seq) and by_seq[passed][0] <= mark.seq:
            passed += 1
        marked.setdefault(by_seq[max(0, passed - 1)][1] if by_seq else 0, []).append(mark)
    before = max(0, len(placed) - limit) if limit is not None else 0
    shown = enumerate(placed[before:], before)
    return [row._replace(marks=tuple(marked.get(index, ()))) for index, (_, _, row) in shown], before


def axis_of(rows: Sequence[Row], *, share: float = 1 / 40) -> Axis:
    """The axis on which the rows stand; see `Axis`."""
    active = [
        (since_1970_us(row.span.went_on_at), row.over_us)
        for row in rows
        if row.span is not None and row.over_us is not None
    ]
    points = [at for row in rows for at in (row.began_us, row.over_us) if at is not None]
    return Axis(active, points, share=share)


def since_1970_us(at: datetime) -> int:
    """A time as microseconds since 1970, exactly."""
    return (at - EPOCH) // _MICROSECOND


def _span_row(span: Span) -> Row:
    return Row(
        span, None, since_1970_us(span.started_at), None if span.ended_at is None else since_1970_us(span.ended_at)
    )


def _wait_row(wait: Wait, is_late: bool) -> Row:
    return Row(None, wait, since_1970_us(wait.raised_at), since_1970_us(wait.until), is_late=is_late)


def _of_span(span: Span) -> str:
    parts = []
    if span.success is None:
        parts.append("has not ended" if span.is_open else "may or may not have run")
    if span.error is not None:
        parts.append(span.error)
    if span.retry_at is not None:
        parts.append("to be tried again")
    if span.falls_back:
        parts.append("fell back")
    return ", ".join(parts)


def _of_wait(wait: Wait, is_late: bool) -> str:
    waited = in_words(wait.waited_s * 1e6)
    asked = "" if wait.reason == "gate" else f" ({wait.reason})"
    if wait.withdrawn:
        return f"waited {waited}{asked}, then asked anew by the fork"
    if wait.decision is None:
        return f"waited {waited}{asked}, never decided" if is_late else f"waits since {waited}{asked}"
    action = str(wait.decision.__struct_config__.tag)
    if isinstance(wait.decision, Reject) and wait.decision.reason:
        action += f", {wait.decision.reason}"
    elif isinstance(wait.decision, Reroute):
        action += f" to {wait.decision.target}"
    by = "" if wait.by is None else f" by {wait.by}"
    return f"decided before it was raised{by}: {action}" if wait.submitted else f"waited {waited}{asked}{by}: {action}"


def clean(text: str, most: int) -> str:
    """`text` with control, direction and line characters written as escapes, cut to `most` characters.

    >>> clean("a\\x1b[31m\\n", 40), clean("a long name", 7)
    ('a\\\\x1b[31m\\\\x0a', 'a long…')
    """
    text = _UNSAFE.sub(lambda found: _escaped(ord(found[0])), text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
