"""Checkpoints: places in the log where a run can resume, and the policy that marks them.

A checkpoint is a name for `(trace, seq)` and the node to enter next. Its state is not stored: it is
the fold of the log at `seq`, read on first use as *base + delta tail*. Both restores are that one fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, ClassVar, Self
from uuid import uuid4

import msgspec

from .codec import json_encode, normalise_state
from .errors import CheckpointCorrupted
from .event import JsonMixin, JsonRecord, StateDelta
from .fold import apply_deltas, copy_value
from .opaque import json_hook
from .record import ExecutionMetadata
from .reduce import ReducerRegistry


class CheckpointTrigger(JsonRecord, frozen=True, eq=False):
    """What made a checkpoint. Two adaptive triggers are equal whatever their metadata.

    >>> CheckpointTrigger.adaptive(ExecutionMetadata.heavy()) == CheckpointTrigger.ADAPTIVE
    True
    >>> CheckpointTrigger.EXPLICIT.name
    'explicit'
    """

    BARRIER_RESOLVED: ClassVar[CheckpointTrigger]
    EXECUTION_COMPLETED: ClassVar[CheckpointTrigger]
    HUMAN_DECISION: ClassVar[CheckpointTrigger]
    EXPLICIT: ClassVar[CheckpointTrigger]
    ADAPTIVE: ClassVar[CheckpointTrigger]

    name: str
    metadata: ExecutionMetadata | None = None

    @classmethod
    def adaptive(cls, metadata: ExecutionMetadata | None = None) -> CheckpointTrigger:
        """After a node whose score passes; `metadata`: what that node's run cost."""
        return cls("adaptive", metadata)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckpointTrigger) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


CheckpointTrigger.BARRIER_RESOLVED = CheckpointTrigger("barrier_resolved")
CheckpointTrigger.EXECUTION_COMPLETED = CheckpointTrigger("execution_completed")
CheckpointTrigger.HUMAN_DECISION = CheckpointTrigger("human_decision")
CheckpointTrigger.EXPLICIT = CheckpointTrigger("explicit")
CheckpointTrigger.ADAPTIVE = CheckpointTrigger("adaptive")


class CheckpointScore(JsonRecord, frozen=True):
    """How much a node's run is worth keeping: weights 1 per ms, 1,000 per cost unit, 10,000 for side effects.

    >>> CheckpointScore().calculate(ExecutionMetadata(duration_ms=50, token_cost=0.01))
    60.0
    >>> CheckpointScore().should_checkpoint(ExecutionMetadata.with_side_effects())
    True
    """

    duration_weight: float = 1.0
    token_weight: float = 1000.0
    side_effect_weight: float = 10_000.0
    threshold: float = 100.0

    def calculate(self, metadata: ExecutionMetadata) -> float:
        """The weighted sum."""
        return self.of(metadata.duration_ms or 0, metadata.token_cost or 0, metadata.has_side_effects or False)

    def of(self, duration_ms: float, token_cost: float, has_side_effects: bool) -> float:
        """The weighted sum of plain figures."""
        score = self.duration_weight * duration_ms + self.token_weight * token_cost
        return score + (self.side_effect_weight if has_side_effects else 0.0)

    def should_checkpoint(self, metadata: ExecutionMetadata) -> bool:
        """Whether the score reaches the threshold."""
        return self.calculate(metadata) >= self.threshold


class CheckpointPolicy(JsonRecord, frozen=True):
    """Which triggers make a checkpoint. An explicit `trace.checkpoint()` always makes one.

    >>> CheckpointPolicy.minimal().should_checkpoint_on_human_decision()
    False
    >>> CheckpointPolicy() == CheckpointPolicy.conservative()
    True
    """

    triggers: tuple[CheckpointTrigger, ...] = (
        CheckpointTrigger.BARRIER_RESOLVED,
        CheckpointTrigger.EXECUTION_COMPLETED,
        CheckpointTrigger.HUMAN_DECISION,
    )
    score: CheckpointScore = CheckpointScore()

    @classmethod
    def conservative(cls) -> CheckpointPolicy:
        """After a barrier, at the end, and before a human decides."""
        return cls()

    @classmethod
    def minimal(cls) -> CheckpointPolicy:
        """After a barrier and at the end."""
        return cls((CheckpointTrigger.BARRIER_RESOLVED, CheckpointTrigger.EXECUTION_COMPLETED))

    @classmethod
    def manual(cls) -> CheckpointPolicy:
        """On request only."""
        return cls((CheckpointTrigger.EXPLICIT,))

    @classmethod
    def adaptive(cls, score: CheckpointScore | None = None) -> CheckpointPolicy:
        """As conservative, and after every node whose score passes."""
        return cls((*cls().triggers, CheckpointTrigger.ADAPTIVE), score or CheckpointScore())

    def should_checkpoint_on_barrier(self) -> bool:
        """Is a barrier's resolution a trigger?"""
        return CheckpointTrigger.BARRIER_RESOLVED in self.triggers

    def should_checkpoint_on_completion(self) -> bool:
        """Is the end of the execution a trigger?"""
        return CheckpointTrigger.EXECUTION_COMPLETED in self.triggers

    def should_checkpoint_on_human_decision(self) -> bool:
        """Is a human decision a trigger?"""
        return CheckpointTrigger.HUMAN_DECISION in self.triggers

    def should_checkpoint_on_explicit(self) -> bool:
        """Is an explicit request named as a trigger?"""
        return CheckpointTrigger.EXPLICIT in self.triggers

    def has_adaptive_trigger(self) -> bool:
        """Does a node's score trigger?"""
        return CheckpointTrigger.ADAPTIVE in self.triggers


class GraphHashMode(Enum):
    """What a changed graph does to a resume: STRICT refuses, FORCE goes on and records it.

    >>> GraphHashMode("strict") is GraphHashMode.STRICT
    True
    """

    STRICT = "strict"
    FORCE = "force"


class StateSnapshot(JsonMixin, msgspec.Struct):
    """A base state and the deltas after it. `restore` is the fold of both.

    >>> snapshot = StateSnapshot({"l": [1]}, [StateDelta.append("l", [2])])
    >>> snapshot.restore() == snapshot.restore_simple() == {"l": [1, 2]}
    True
    >>> snapshot.compact(0); snapshot.recent_deltas
    []
    """

    base_snapshot: dict[str, Any]
    recent_deltas: list[StateDelta] = []

    def restore(self, registry: ReducerRegistry | None = None) -> dict[str, Any]:
        """The state; deltas are literal, so `registry` changes nothing. Raises DeltaApply."""
        return apply_deltas(self.base_snapshot, self.recent_deltas)

    def restore_simple(self) -> dict[str, Any]:
        """The same as `restore`."""
        return self.restore()

    def base_size_bytes(self) -> int:
        """JSON size of the base."""
        return len(json_encode(self.base_snapshot))

    def deltas_size_bytes(self) -> int:
        """JSON size of the deltas; 0 without any."""
        return len(json_encode(self.recent_deltas)) if self.recent_deltas else 0

    def total_size_bytes(self) -> int:
        """Base and deltas together."""
        return self.base_size_bytes() + self.deltas_size_bytes()

    def compact(self, threshold: int = 20) -> None:
        """Fold the deltas into the base when there are more than `threshold`."""
        if len(self.recent_deltas) > threshold:
            self.base_snapshot = self.restore()
            self.recent_deltas = []


class IncrementalSnapshotState(JsonMixin, msgspec.Struct):
    """A live tail: the state at some point and the deltas since, folded above `compact_threshold`.

    `base_state` is always the state *before* `pending_deltas`, and a snapshot takes nothing away, so a
    save that fails loses nothing: call `clear_pending(state)` when it was acknowledged.

    >>> live = IncrementalSnapshotState({"n": 0})
    >>> live.record_delta(StateDelta.put("n", 1))
    >>> live.snapshot({"n": 1}).restore()
    {'n': 1}
    """

    base_state: dict[str, Any] | None = None
    pending_deltas: list[StateDelta] = []
    compact_threshold: int = 20

    def record_delta(self, delta: StateDelta) -> None:
        """Take one delta."""
        self.pending_deltas.append(delta)

    def record_deltas(self, deltas: Iterable[StateDelta]) -> None:
        """Take several, in order."""
        self.pending_deltas.extend(deltas)

    def snapshot(self, current_state: Mapping[str, Any]) -> StateSnapshot:
        """Base and pending deltas, or `current_state` alone without a base or above the threshold."""
        if self.base_state is None or len(self.pending_deltas) > self.compact_threshold:
            self.clear_pending(current_state)
        return StateSnapshot(copy_value(self.base_state), list(self.pending_deltas))

    def clear_pending(self, current_state: Mapping[str, Any]) -> None:
        """Begin again at `current_state`."""
        self.base_state = copy_value(dict(current_state))
        self.pending_deltas = []

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """The tail as the checkpoint has it."""
        snapshot = checkpoint.snapshot
        if snapshot is None:
            return cls(copy_value(checkpoint.state), [])
        return cls(copy_value(snapshot.base_snapshot), list(snapshot.recent_deltas))


class _CheckpointJson(msgspec.Struct):
    checkpoint_id: str
    parent_trace_id: str
    graph_hash: str
    current_node: str | None
    state: dict[str, Any]
    created_at: datetime
    snapshot: StateSnapshot | None = None
    seq: int | None = None
    triggers: tuple[CheckpointTrigger, ...] = ()


class Checkpoint:
    """A place in the log where a run can resume.

    `checkpoint_id`: UUID text; `parent_trace_id`: its trace; `graph_hash`; `current_node`: the node to
    enter next (None where the run has ended or none was named); `created_at`: aware datetime; `seq`: its
    place, None before it is saved; `triggers`: what made it. `state` and `snapshot` are read on first use.

    >>> saved = Checkpoint.new("t1", "", "answer", {"n": 1})
    >>> Checkpoint.from_json(saved.to_json()) == saved
    True
    >>> saved.restore_state() == saved.restore_state_simple() == {"n": 1}
    True
    """

    __slots__ = (
        "_load_snapshot",
        "_load_state",
        "_snapshot",
        "_state",
        "checkpoint_id",
        "created_at",
        "current_node",
        "graph_hash",
        "parent_trace_id",
        "seq",
        "triggers",
    )

    def __init__(
        self,
        checkpoint_id: str,
        parent_trace_id: str,
        graph_hash: str,
        current_node: str | None,
        created_at: datetime,
        *,
        seq: int | None = None,
        triggers: Sequence[CheckpointTrigger] = (),
        state: dict[str, Any] | Callable[[], dict[str, Any]],
        snapshot: StateSnapshot | Callable[[], StateSnapshot] | None = None,
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.parent_trace_id = parent_trace_id
        self.graph_hash = graph_hash
        self.current_node = current_node
        self.created_at = created_at
        self.seq = seq
        self.triggers = tuple(triggers)
        self._load_state = state if callable(state) else None
        self._state = None if callable(state) else state
        self._load_snapshot = snapshot if callable(snapshot) else None
        self._snapshot = None if callable(snapshot) else snapshot

    @classmethod
    def new(
        cls, parent_trace_id: str, graph_hash: str, current_node: str | None, state: Mapping[str, Any]
    ) -> Checkpoint:
        """A checkpoint of the whole `state`, to `save`. Raises ValueRefused."""
        now = datetime.now(UTC)
        return cls(str(uuid4()), parent_trace_id, graph_hash, current_node, now, state=normalise_state(state))

    @classmethod
    def with_snapshot(
        cls,
        parent_trace_id: str,
        graph_hash: str,
        current_node: str | None,
        current_state: Mapping[str, Any],
        base_snapshot: Mapping[str, Any],
        recent_deltas: Iterable[StateDelta],
    ) -> Checkpoint:
        """A checkpoint held as base and deltas. Raises CheckpointCorrupted unless they give `current_state`."""
        checkpoint = cls.new(parent_trace_id, graph_hash, current_node, current_state)
        snapshot = StateSnapshot(normalise_state(base_snapshot), list(recent_deltas))
        if snapshot.restore() != checkpoint.state:
            raise CheckpointCorrupted(checkpoint.checkpoint_id, "base and deltas do not give its state")
        checkpoint._snapshot = snapshot
        return checkpoint

    @property
    def state(self) -> dict[str, Any]:
        """The state at this place; read once, then kept."""
        if self._state is None:
            assert self._load_state is not None
            self._state = self._load_state()
        return self._state

    @property
    def snapshot(self) -> StateSnapshot | None:
        """Base and deltas whose fold is the state; None for a checkpoint of a whole state."""
        if self._snapshot is None and self._load_snapshot is not None:
            self._snapshot = self._load_snapshot()
        return self._snapshot

    def restore_state(self, registry: ReducerRegistry | None = None) -> dict[str, Any]:
        """A copy of the state: the fold of the snapshot's base and deltas, which are literal.

        So `registry` changes nothing. Raises DeltaApply.
        """
        snapshot = self.snapshot
        return snapshot.restore(registry) if snapshot is not None else copy_value(self.state)

    def restore_state_simple(self) -> dict[str, Any]:
        """A copy of the state, equal to `restore_state` by law."""
        return copy_value(self.state)  # type: ignore[no-any-return]

    def to_json(self) -> bytes:
        """This checkpoint with its state (and snapshot) as JSON; an opaque value is described."""
        return msgspec.json.encode(self._record(), enc_hook=json_hook)

    @classmethod
    def from_json(cls, data: bytes | str) -> Checkpoint:
        """The checkpoint written by `to_json`. Raises `msgspec.ValidationError`."""
        record = msgspec.json.decode(data, type=_CheckpointJson)
        return cls(
            record.checkpoint_id,
            record.parent_trace_id,
            record.graph_hash,
            record.current_node,
            record.created_at,
            seq=record.seq,
            triggers=record.triggers,
            state=record.state,
            snapshot=record.snapshot,
        )

    def _record(self) -> _CheckpointJson:
        return _CheckpointJson(
            self.checkpoint_id,
            self.parent_trace_id,
            self.graph_hash,
            self.current_node,
            self.state,
            self.created_at,
            self.snapshot,
            self.seq,
            self.triggers,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and self._record() == other._record()

    def __hash__(self) -> int:
        return hash(self.checkpoint_id)

    def __repr__(self) -> str:
        return (
            f"Checkpoint({self.checkpoint_id!r}, trace={self.parent_trace_id!r}, seq={self.seq}, "
            f"current_node={self.current_node!r})"
        )
