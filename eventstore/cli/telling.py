"""A run as it goes on, a line an event: for a person, a pipe, or as JSON lines.

A terminal gets each line cut to its width; a pipe gets it whole. A reader of ours that goes away stops the run
at its next step instead of failing the node that was told of.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.text import Text

from eventstore.readable import readable_hook
from eventstore.run_stream import (
    BarrierResolved,
    BarrierWaiting,
    CheckpointSaved,
    DeltaWritten,
    Emitted,
    GraphError,
    GraphStarted,
    NodeEnded,
    NodeStarted,
    StreamEvent,
)

from .describing import change, decided, moment
from .output import Output, to_json, visible

WIDTHS = (6, 10, 16)
"""Of seq, what happened, and to what."""
GAP = "  "
STYLES = {
    "ended": "green",
    "failed": "bold red",
    "waiting": "yellow",
    "decided": "yellow",
    "checkpoint": "dim",
    "emitted": "dim",
    "started": "bold",
    "completed": "bold green",
    "cancelled": "magenta",
}
"""How a terminal marks a line; the rest is cyan."""


def in_words(event: StreamEvent) -> tuple[str, str, str]:
    """What happened, to what, and the rest.

    >>> in_words(NodeStarted("t1", "pay", attempt=2))
    ('node', 'pay', 'attempt 2')
    """
    if isinstance(event, NodeStarted):
        return "node", event.path, f"attempt {event.attempt}" if event.attempt > 1 else ""
    if isinstance(event, NodeEnded):
        return "ended" if event.success else "failed", event.path, _ended(event)
    if isinstance(event, DeltaWritten):
        return str(event.delta.op), event.delta.key, change(event.delta)
    if isinstance(event, Emitted):
        return "emitted", event.path, to_json(event.value)
    if isinstance(event, BarrierWaiting):
        until = f" (until {moment(event.deadline_at)})" if event.deadline_at else ""
        return "waiting", event.barrier_id, f"{event.prompt}{until}".strip()
    if isinstance(event, BarrierResolved):
        return "decided", event.barrier_id, decided(event.decision)
    if isinstance(event, CheckpointSaved):
        return "checkpoint", "", ", ".join(event.triggers)
    if isinstance(event, GraphStarted):
        return "started", event.name, event.trace_id
    if isinstance(event, GraphError):
        return "failed", "", event.error
    return event.status, "", ""


def _ended(event: NodeEnded) -> str:
    parts = [f"{event.duration_ms:g} ms"]
    if event.error is not None:
        parts.append(event.error)
    if event.next is not None:
        parts.append(f"next {event.next}")
    if event.retry_at is not None:
        parts.append(f"again at {moment(event.retry_at)}")
    return ", ".join(parts)


def print_event(output: Output, event: StreamEvent, *, cursor: int | None = None) -> None:
    """One line. `cursor`: of the feed of all traces, whose lines name their trace."""
    if output.as_json:
        fields: dict[str, Any] = msgspec.to_builtins(event, enc_hook=readable_hook)
        return output.object(fields if cursor is None else {"cursor": cursor, **fields})
    what, about, rest = (visible(text) for text in in_words(event))
    seq = "" if isinstance(event, NodeStarted | Emitted) else str(event.seq)
    before = ("" if cursor is None else visible(event.trace_id) + GAP) + seq.rjust(WIDTHS[0]) + GAP
    after = GAP + _padded(about, WIDTHS[2]) + GAP + rest
    if not output.terminal:
        return output.line((before + _padded(what, WIDTHS[1]) + after).rstrip())
    # A value can be megabytes long; what is far beyond the edge is not measured.
    line = Text(overflow="ellipsis", no_wrap=True)
    line.append(before, "dim")
    line.append(_padded(what, WIDTHS[1]), STYLES.get(what, "cyan"))
    line.append(after[: 4 * output.console.width].rstrip())
    return output.console.print(line)


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - cell_len(text))


class Listener:
    """Prints the events of a run in this process; `stop` is set when nobody reads them any more."""

    def __init__(self, output: Output, stop: threading.Event) -> None:
        self._output = output
        self._stop = stop
        self._broken: OSError | None = None
        self._lock = threading.Lock()

    def __call__(self, event: StreamEvent) -> None:
        """Print one event, from whichever thread."""
        with self._lock:
            if self._broken is None:
                try:
                    print_event(self._output, event)
                except OSError as error:
                    self._broken = error
                    self._stop.set()

    def check(self) -> None:
        """Raise the OSError of an event that could not be printed."""
        if self._broken is not None:
            raise self._broken
