"""What the scheduler of a run asks of whoever drives it, and how a run is to be gone about."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal, NamedTuple

from .context import Context
from .owned import Batch
from .plan import Node
from .step import Draft

EffectRule = Literal["ask", "run", "reuse"]


class Call(NamedTuple):
    """One attempt of a node or a branch, to be run by a driver."""

    node: Node
    context: Context
    draft: Draft
    began_us: int


class Outcome(NamedTuple):
    """What came of a call. `error` None: it succeeded."""

    error: BaseException | None
    duration_ms: float


class Commit(NamedTuple):
    """Append the batch; sent back: whether it went in (False only for one that is not to follow mail)."""

    batch: Batch


class Release(NamedTuple):
    """Give the run back without an append, to be looked at no sooner than `due_us`."""

    due_us: int | None = None


class Execute(NamedTuple):
    """Run one call; sent back: its Outcome."""

    call: Call


class Launch(NamedTuple):
    """Begin a call beside others."""

    call: Call


class Settle(NamedTuple):
    """Wait for launched calls; sent back: all that have settled, [(Call, Outcome)]; none at `until_us` or with mail."""

    until_us: int | None


class Abort(NamedTuple):
    """Stop launched async calls that have no side effects; each still settles."""


class Idle(NamedTuple):
    """Wait until then, or until the run is to stop."""

    until_us: int


Command = Commit | Release | Execute | Launch | Settle | Abort | Idle
Steps = Generator[Command, Any, str | None]


class Options(NamedTuple):
    """How to run. `waits`: sit out the time before a retry; `effects`: of a fork, see `es.resume`."""

    waits: bool = True
    effects: EffectRule = "ask"
    max_steps: int | None = None
