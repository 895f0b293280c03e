"""When the log is worth folding into a base: a cost decision with provable bounds.

A restore reads the chain of bases (`chain_bytes`) and the tail after it (`tail_bytes`). The adaptive
policy keeps, at every commit, `chain + tail <= 2 x state + 8 KiB`: when that is about to fail, the
chain holds more dead bytes than live ones and is collapsed into one whole state. Otherwise it closes
the tail into a link, once the tail is worth it.

Why all bases together stay below 2 x the log: links cover disjoint stretches and a net effect is never
longer than its deltas, so links cost at most the log once. A collapse writes `s` bytes when at least
`s` bytes of the chain (and tail) are dead; a byte dies once, so with W_k the k-th whole state and L_k
the links between, 2 W_(k+1) <= W_k + L_k, hence the sum of all W is at most the sum of all L.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import msgspec

RESTORE_SLACK_BYTES = 8192
"""Constant of the restore bound: `bytes read <= 2 x state + RESTORE_SLACK_BYTES` (and the row asked for)."""


class FoldDecision(NamedTuple):
    """What to write, and why; the reason is stored with the base.

    >>> FoldDecision("link", "tail of 4200 bytes").kind
    'link'
    """

    kind: Literal["link", "whole"]
    reason: str


class FoldInput(msgspec.Struct, frozen=True, gc=False):
    """What a policy knows at a commit.

    `tail_*`: deltas, rows and bytes since the last base, this commit included; `chain_bytes`: what a
    restore reads below the tail; `state_bytes`: the JSON size of the live state and control; `score_passed`:
    the step just run (or a checkpoint at it) is worth a resume point; `reread_bytes`: tail bytes that
    reads have folded again since the last base; `restore_us_per_kib`: observed cost of a restore;
    `log_bytes`, `base_bytes`: written so far.

    >>> FoldInput(tail_deltas=4, tail_rows=1, tail_bytes=700, chain_bytes=0, state_bytes=600).score_passed
    False
    """

    tail_deltas: int
    tail_rows: int
    tail_bytes: int
    chain_bytes: int
    state_bytes: int
    score_passed: bool = False
    reread_bytes: int = 0
    restore_us_per_kib: float = 5.0
    log_bytes: int = 0
    base_bytes: int = 0


class FoldPolicy(Protocol):
    """Decides after each commit. A pure function of its input.

    A policy may also have `may_fold(tail_deltas, tail_rows, tail_bytes, chain_bytes, state_bytes) -> bool`, a
    cheap first look at every plain commit (no score passed, no tail was read again) that is False when `decide`
    could only say no.
    """

    def decide(self, now: FoldInput) -> FoldDecision | None:
        """A base to write with this commit, or None."""
        ...


class AdaptiveFold(msgspec.Struct, frozen=True):
    """The default policy; see the module's text for the two bounds that no setting loosens.

    `min_tail_deltas`: no base sooner (unless the restore bound asks for one). A tail becomes a link at
    `max(min_link_bytes, min(max_link_bytes, state / state_divisor))` bytes in `min_tail_rows` rows; sooner
    when the step's score passed, when reads have folded the tail as often as writing it would have cost
    (the ski-rental rule: Karlin, Manasse, Rudolph and Sleator, 1988), or when a restore is estimated above
    `max_restore_ms`. `max_overhead_ratio`: no base while all bases exceed this times the log, whatever a
    restore then costs.

    >>> policy = AdaptiveFold()
    >>> policy.decide(FoldInput(tail_deltas=96, tail_rows=64, tail_bytes=9000, chain_bytes=0, state_bytes=32_000))
    FoldDecision(kind='link', reason='tail of 9000 bytes reached 8000')
    """

    min_tail_deltas: int = 20
    min_tail_rows: int = 64
    min_link_bytes: int = 4096
    max_link_bytes: int = 524_288
    state_divisor: int = 4
    small_state_bytes: int = 2048
    max_restore_ms: float | None = None
    max_overhead_ratio: float | None = None

    def may_fold(self, tail_deltas: int, tail_rows: int, tail_bytes: int, chain_bytes: int, state_bytes: int) -> bool:
        """False unless the restore bound is near, or the tail has its deltas and its rows."""
        if chain_bytes + tail_bytes > 2 * state_bytes + RESTORE_SLACK_BYTES // 2:
            return True
        if tail_deltas < self.min_tail_deltas:
            return False
        return (
            tail_rows >= self.min_tail_rows
            or (state_bytes < self.small_state_bytes and tail_bytes >= 512 + 2 * state_bytes)
            or self.max_restore_ms is not None
        )

    def decide(self, now: FoldInput) -> FoldDecision | None:
        """See the class."""
        decision = self._decide(now)
        if decision is None or self.max_overhead_ratio is None:
            return decision
        size = min(now.state_bytes, now.tail_bytes)
        if now.base_bytes + size > self.max_overhead_ratio * now.log_bytes:
            return None
        return FoldDecision("whole", decision.reason) if size == now.state_bytes else decision

    def _decide(self, now: FoldInput) -> FoldDecision | None:
        tail, state = now.tail_bytes, now.state_bytes
        read = now.chain_bytes + tail
        if read > 2 * state + RESTORE_SLACK_BYTES // 2 and tail + now.chain_bytes > state + 512:
            return FoldDecision("whole", f"a restore would read {read} bytes for a state of {state}")
        if now.tail_deltas < self.min_tail_deltas:
            return None
        if state < self.small_state_bytes:
            if tail >= 512 + 2 * state:
                return FoldDecision("whole", f"small state of {state} bytes under a tail of {tail}")
            return None
        limit = max(self.min_link_bytes, min(self.max_link_bytes, state // self.state_divisor))
        if tail >= limit and now.tail_rows >= self.min_tail_rows:
            return FoldDecision("link", f"tail of {tail} bytes reached {limit}")
        if tail < 512:
            return None
        if now.score_passed and tail >= limit // 4:
            return FoldDecision("link", f"resume point worth keeping after {tail} bytes")
        if now.reread_bytes >= max(2 * tail, self.min_link_bytes):
            return FoldDecision("link", f"reads folded {now.reread_bytes} bytes of this tail again")
        if self.max_restore_ms is not None:
            restore_ms = read / 1024 * now.restore_us_per_kib / 1000 + now.tail_rows * 0.003
            if restore_ms > self.max_restore_ms:
                return FoldDecision("link", f"a restore would take {restore_ms:.1f} ms")
        return None


class NeverFold(msgspec.Struct, frozen=True):
    """No bases: every restore folds the log.

    >>> NeverFold().decide(FoldInput(10**6, 10**6, 10**9, 0, 10)) is None
    True
    """

    def may_fold(self, tail_deltas: int, tail_rows: int, tail_bytes: int, chain_bytes: int, state_bytes: int) -> bool:
        """Always False."""
        return False

    def decide(self, now: FoldInput) -> FoldDecision | None:
        """Always None."""
        return None


class FoldEvery(msgspec.Struct, frozen=True):
    """A whole state every `steps` steps, the fixed cadence of other stores.

    >>> FoldEvery(100).decide(FoldInput(400, 100, 9000, 0, 10)).kind
    'whole'
    """

    steps: int

    def may_fold(self, tail_deltas: int, tail_rows: int, tail_bytes: int, chain_bytes: int, state_bytes: int) -> bool:
        """Always True."""
        return True

    def decide(self, now: FoldInput) -> FoldDecision | None:
        """A whole state at the cadence."""
        return FoldDecision("whole", f"every {self.steps} steps") if now.tail_rows >= self.steps else None


class GeometricFold(msgspec.Struct, frozen=True):
    """A whole state when the tail outgrows `factor` times the state.

    >>> GeometricFold().decide(FoldInput(40, 10, 9000, 0, 8000)).kind
    'whole'
    """

    factor: float = 1.0

    def may_fold(self, tail_deltas: int, tail_rows: int, tail_bytes: int, chain_bytes: int, state_bytes: int) -> bool:
        """When the tail outgrows the state."""
        return tail_bytes > self.factor * max(state_bytes, 512)

    def decide(self, now: FoldInput) -> FoldDecision | None:
        """A whole state at the ratio."""
        if now.tail_bytes > self.factor * max(now.state_bytes, 512):
            return FoldDecision("whole", f"tail of {now.tail_bytes} bytes over a state of {now.state_bytes}")
        return None
