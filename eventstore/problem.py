"""What a check of the file finds: a problem, in words that say where."""

from __future__ import annotations

from .event import JsonRecord


class Problem(JsonRecord, frozen=True):
    """Something that does not hold: in which trace, from which seq on, and what.

    `in_log`: the truth is damaged; otherwise something derived, which can be rebuilt. A `trace_id` that is none (`-`,
    `row 7`) stands for the file, or for rows of which nobody can tell the trace.

    >>> str(Problem("t1", 7, "digest", "the row is not what was written", True))
    'trace t1, seq 7: digest: the row is not what was written'
    """

    trace_id: str
    seq: int
    check: str
    reason: str
    in_log: bool

    def __str__(self) -> str:
        return f"trace {self.trace_id}, seq {self.seq}: {self.check}: {self.reason}"
