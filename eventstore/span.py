"""What a timeline is made of: spans of time, waits for people, marks. Plain data, to JSON and back."""

from __future__ import annotations

from datetime import datetime, timedelta

from .event import Decision, JsonRecord


class Span(JsonRecord, frozen=True):
    """One execution of a node, or of a branch of a parallel node.

    `step`: as in `ExecutionEntry`, the number of the committed visit, 0 for an attempt that failed or has not ended;
    `seq`: of the event that ended it, or that opened it where none did; `is_parallel`: branches belong to it, whose
    `within` is its `opened_seq`, the seq of the first event that told of one (of other spans, the same as `seq`);
    `ended_at`, `success`: None without a result, that is for a node that runs, or may have run; `abandoned`: such a
    one that will get none any more; `retry_at`: when it was to be tried again; `falls_back`: it failed, and the run
    went on; `inherited_from`: the trace that ran it, where that is one that this trace was forked from.

    `started_at`: no later than its first branch's; of a call in doubt that was settled, that of its intent. So it may
    lie before `went_on_at`, from which `duration_ms` was measured.

    >>> from .event import utc
    >>> span = Span(1, "ask", utc(0), 3, 3, utc(900_000), True, duration_ms=900.0)
    >>> span.label, span.is_open, Span.from_json(span.to_json()) == span
    ('1', False, True)
    """

    step: int
    node: str
    started_at: datetime
    seq: int
    opened_seq: int
    ended_at: datetime | None = None
    success: bool | None = None
    error: str | None = None
    duration_ms: float = 0.0
    token_cost: float = 0.0
    has_side_effects: bool = False
    attempt: int = 1
    branch: str | None = None
    within: int | None = None
    is_parallel: bool = False
    retry_at: datetime | None = None
    falls_back: bool = False
    abandoned: bool = False
    inherited_from: str | None = None

    @property
    def label(self) -> str:
        """The step's number, with its branch: `12` or `12/search`."""
        return str(self.step) if self.branch is None else f"{self.step}/{self.branch}"

    @property
    def path(self) -> str:
        """The node, with its branch: `gather` or `gather/search`."""
        return self.node if self.branch is None else f"{self.node}/{self.branch}"

    @property
    def went_on_at(self) -> datetime:
        """When what `duration_ms` measures began: later than `started_at` where the run had stopped meanwhile."""
        if self.ended_at is None:
            return self.started_at
        whole_ms = (self.ended_at - self.started_at) / timedelta(milliseconds=1)
        return self.ended_at - timedelta(milliseconds=min(self.duration_ms, whole_ms))

    @property
    def is_open(self) -> bool:
        """Whether a result may still come: it runs, or is in doubt."""
        return self.success is None and not self.abandoned


class Wait(JsonRecord, frozen=True):
    """The time in which a barrier waited for its decision.

    `waited_s`: until it was decided, withdrawn (by a fork, which raises it anew) or the trace ended, otherwise until
    the timeline was read; `submitted`: the decision was in the log before the barrier.

    >>> from .event import utc
    >>> wait = Wait("approve#1", "approve", "gate", "Refund 40?", utc(0), 3, 7200.0)
    >>> wait.is_pending, wait.until.hour
    (True, 2)
    """

    barrier_id: str
    node: str
    reason: str
    prompt: str
    raised_at: datetime
    raised_seq: int
    waited_s: float
    decided_at: datetime | None = None
    decided_seq: int | None = None
    decision: Decision | None = None
    by: str | None = None
    deadline_at: datetime | None = None
    submitted: bool = False
    withdrawn: bool = False
    inherited_from: str | None = None

    @property
    def until(self) -> datetime:
        """When the waiting was over, or was looked at."""
        return self.raised_at + timedelta(seconds=self.waited_s)

    @property
    def is_pending(self) -> bool:
        """Whether there is no decision, and the barrier was not withdrawn."""
        return self.decision is None and not self.withdrawn


class CheckpointMark(JsonRecord, frozen=True):
    """A place that was marked. `at`: when; `node`: the node to enter next; `triggers`: the names of what marked it.

    >>> from .event import utc
    >>> CheckpointMark(3, utc(0), "answer", ["explicit"], "c1").triggers
    ['explicit']
    """

    seq: int
    at: datetime
    node: str | None
    triggers: list[str]
    checkpoint_id: str
    inherited_from: str | None = None


class RetryWait(JsonRecord, frozen=True):
    """An attempt that waits for its time. `path`: a node, or `node/branch`; `attempt`: the one to come.

    >>> from .event import utc
    >>> RetryWait("pay", 2, utc(0), 5).attempt
    2
    """

    path: str
    attempt: int
    due_at: datetime
    failed_seq: int


class CancelMark(JsonRecord, frozen=True):
    """A request to cancel. `by`: who asked.

    >>> from .event import utc
    >>> CancelMark(7, utc(0), "ana").by
    'ana'
    """

    seq: int
    at: datetime
    by: str | None = None
    reason: str = ""


class ForkMark(JsonRecord, frozen=True):
    """A fork: of the origin of one, `trace_id` is the parent; of one that was taken, the new trace.

    `seq`: the last event that both share; `at`: when the fork was made.

    >>> from .event import utc
    >>> ForkMark("t2", 9, utc(0)).seq
    9
    """

    trace_id: str
    seq: int
    at: datetime


class Totals(JsonRecord, frozen=True):
    """Sums over a timeline. `active_ms`, `waited_s`: time in which at least one node ran, or one barrier waited.

    `token_cost`: of all executions, failed ones included; `failed`: executions that failed.

    >>> Totals(active_ms=1500.0, failed=1).failed
    1
    """

    active_ms: float = 0.0
    waited_s: float = 0.0
    token_cost: float = 0.0
    failed: int = 0


class Timeline(JsonRecord, frozen=True):
    """A run as spans of time, in the order of its log; a parallel node before its branches.

    `started_at`: of the history, shared part included; `ended_at`: None while it goes on; `updated_at`: of the last
    event; `seen_at`: until when what is pending was counted; `trimmed_seq`: the history begins after it, 0 for a
    whole one; `origin`: of a fork, where it was taken; `forks`: those taken from this trace.

    >>> from .event import utc
    >>> timeline = Timeline("t1", "chat", "running", 3, utc(0), utc(5), utc(9), spans=[Span(1, "ask", utc(0), 3, 3)])
    >>> Timeline.from_json(timeline.to_json()) == timeline
    True
    """

    trace_id: str
    name: str
    status: str
    version: int
    started_at: datetime
    updated_at: datetime
    seen_at: datetime
    ended_at: datetime | None = None
    error: str | None = None
    graph_hash: str = ""
    trimmed_seq: int = 0
    origin: ForkMark | None = None
    spans: list[Span] = []
    waits: list[Wait] = []
    checkpoints: list[CheckpointMark] = []
    retries: list[RetryWait] = []
    cancels: list[CancelMark] = []
    forks: list[ForkMark] = []
    totals: Totals = Totals()
