"""What a replay checks at each event of the log: that the graph of today writes the same and goes the same way.

A node that succeeded runs again on the state before it; a branch likewise, against what was held for the join; a
join is computed again from what the log holds. Of a node with side effects, and of a barrier, what the log holds
is taken, and only the way on is checked. The first thing that differs raises `Diverged`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET

from . import branching
from .branching import Branch
from .codec import Row
from .control import with_prefix
from .divergence import (
    MAYBE_REDACTED,
    NO_FALLBACK,
    NOT_RECORDED,
    ONE_MORE,
    Divergence,
    DivergenceKind,
    Write,
    difference,
    same_writes,
)
from .errors import EventStoreError, StateError, ValueRefused
from .event import NodeExecuted, StateDelta
from .fold import MISSING, copy_value
from .plan import Node
from .replay_calls import Recaller, Recorded, Watched
from .replay_context import ReplayContext
from .run_event import BranchExecuted, NodeRouted
from .step import Draft, described

if TYPE_CHECKING:
    from .store import Store

OWN = frozenset({"node", "hook", "reducer_merge"})
"""The sources of what a node writes."""
MOST_GUESSES = 32


class Place(NamedTuple):
    """Where a check is: the event's seq, its step, the node or the path of a branch."""

    seq: int
    step: int
    path: str


class Diverged(Exception):
    """The first divergence was found."""

    def __init__(
        self,
        place: Place,
        kind: DivergenceKind,
        key: str | None = None,
        recorded: Any = UNSET,
        produced: Any = UNSET,
        reason: str = "",
    ) -> None:
        super().__init__()
        self.divergence = Divergence(*place, kind, key, recorded, produced, reason)

    def doubt(self, why: str) -> None:
        """Say why that may be no difference of the functions."""
        reason = f"{self.divergence.reason}; {why}" if self.divergence.reason else why
        self.divergence = msgspec.structs.replace(self.divergence, reason=reason)


class Checks:
    """The checks of one replay, and how many there were."""

    def __init__(self, store: Store, recaller: Recaller) -> None:
        self.checked = self.reused = self.failed_attempts = 0
        self._store = store
        self._recaller = recaller
        self._rules = recaller.rules
        self._plan = recaller.plan
        self._position = recaller.position
        self._open: tuple[tuple[str, int, int], dict[str, Branch]] | None = None
        self._unrouted: tuple[Place, str | None] | None = None

    def visited(self, place: Place, event: NodeExecuted, deltas: list[Row], recorded: Recorded) -> None:
        """A node was executed, and wrote `deltas`, which are not in the state yet. Raises Diverged."""
        if not event.success:
            self.failed_attempts += 1
            if event.falls_back and self._position.control.get(f"resolved/{event.node}") != "reroute":
                self._compare_fallback(place, event)
            return
        node = self._declared(place, event.node)
        if node.kind == "node" and not self._is_reused(node, place.path, event):

            def compare(context: ReplayContext, draft: Draft) -> None:
                self._compare(place, _writes(deltas), _written(draft))
                self._compare_way(place, node, event, draft, context._goto)

            self._run(place, node, Branch(node.name, node), event.attempt, recorded, compare)
        elif node.kind in ("parallel", "map"):
            draft = self._joined(place, node)
            self.checked += 1
            self._compare(place, _writes(deltas), _written(draft))
            self._compare_way(place, node, event, draft)
        else:
            self.reused += node.kind == "node"
            self._position.fold(deltas, place.seq)
            self._compare_way(place, node, event, self._position.draft(), self._chosen(node, event))

    def branched(self, place: Place, event: BranchExecuted, recorded: Recorded) -> None:
        """A branch was executed, and its deltas are held for the join. Raises Diverged."""
        if not event.success:
            self.failed_attempts += 1
            return
        node = self._declared(place, event.path.partition("/")[0])
        branch = self._branches(place, node).get(event.path)
        if branch is None:
            raise Diverged(place, "graph", reason=f"the log has a branch {event.path!r}, the graph has none")
        if self._is_reused(branch.node, event.path, event):
            self.reused += 1
            return

        def compare(context: ReplayContext, draft: Draft) -> None:
            if draft.opaque:
                raise _raised(place, ValueRefused(event.path, "a branch cannot write opaque values"))
            self._compare_held(place, event.deltas, branching._held(draft))

        self._run(place, node, branch, event.attempt, recorded, compare)

    def routed(self, place: Place, event: NodeRouted) -> None:
        """A node that ran before it could be routed was routed. Raises Diverged."""
        node = self._declared(place, event.node)
        goto = MISSING if self._unrouted is None else self._unrouted[1]
        self._unrouted = None
        self._compare_way(place, node, NodeExecuted(event.node, next=event.next), self._position.draft(), goto)

    def ended(self) -> None:
        """The whole log ends here. Raises Diverged where it could not route a node, and the graph can."""
        if self._unrouted is not None and self._position.control.get("unrouted") == self._unrouted[0].path:
            raise Diverged(self._unrouted[0], "route", produced=self._unrouted[1])

    # Running again

    def _is_reused(self, node: Node, path: str, event: NodeExecuted | BranchExecuted) -> bool:
        """Whether it has side effects, now or then; or a human told what it wrote."""
        is_told = self._position.control.get(f"resolved/{path}") == "modify"
        return node.side_effects or event.has_side_effects or is_told

    def _run(
        self,
        place: Place,
        visited: Node,
        what: Branch,
        attempt: int,
        recorded: Recorded,
        compare: Callable[[ReplayContext, Draft], None],
    ) -> None:
        """Run a node or a branch again and compare; where it matters, for each place at which it may have resumed.

        The log does not tell which of the values that a visit committed at once were there when its last attempt
        began. Where calls of one name were recorded both ways, that decides which call was given which.
        """
        self.checked += 1
        first: Diverged | None = None
        for earlier in _resumes(self._recaller.held(place.path), recorded.get(place.path, ())):
            try:
                return self._try(place, visited, what, attempt, recorded, earlier, compare)
            except Diverged as diverged:
                first = first or diverged
        assert first is not None
        raise first

    def _try(
        self,
        place: Place,
        visited: Node,
        what: Branch,
        attempt: int,
        recorded: Recorded,
        earlier: int,
        compare: Callable[[ReplayContext, Draft], None],
    ) -> None:
        occurrence = self._rules.occurrence(visited)
        item = copy_value(what.item)  # a branch may change its item in place
        context, draft, error = self._recaller.call(
            what.node, what.path, occurrence, attempt, recorded, earlier, item, what.place
        )
        if context.unrecorded is not None:
            is_call = context.unrecorded.startswith("call:")
            raise Diverged(place, "call", context.unrecorded, reason=context.why or NOT_RECORDED * is_call) from error
        try:
            if error is not None:
                raise _raised(place, error) from error
            compare(context, draft)
            self._compare_calls(place, context, self._recaller.own_calls(what.path, recorded))
        except Diverged as diverged:
            if context.asked and self._store.redact is not None:
                diverged.doubt(MAYBE_REDACTED)
            raise

    def _branches(self, place: Place, node: Node) -> dict[str, Branch]:
        """The branches of the visit that is open, by path."""
        if node.kind not in ("parallel", "map"):
            raise Diverged(
                place, "graph", None, UNSET, node.kind, f"{node.name!r} is a {node.kind}, it has no branches"
            )
        visit = (node.name, place.step, self._position.folded)
        if self._open is None or self._open[0] != visit:
            try:
                found = {branch.path: branch for branch in branching.branches_of(self._rules, node)}
            except EventStoreError as error:
                raise _raised(place, error) from error
            self._open = (visit, found)
        return self._open[1]

    def _joined(self, place: Place, node: Node) -> Draft:
        """The join of what the log holds for it."""
        branches = self._branches(place, node)
        held = with_prefix(self._position.control, f"held/{node.name}/")
        failed = with_prefix(self._position.control, f"failed/{node.name}/")
        known = {f"{node.name}/{label}": None for label in {**held, **failed}}
        for path in {**branches, **known}:
            if path not in known:
                raise Diverged(place, "graph", reason=f"the graph has a branch {path!r}, the log has none")
            if path not in branches:
                raise Diverged(place, "graph", reason=f"the log has a branch {path!r}, the graph has none")
        if failed and (node.strategy == "fail_fast" or not held):
            label, reason = next(iter(failed.items()))
            raise Diverged(place, "error", reason=f"branch {label!r} failed, and so the node would: {reason}")
        draft = self._position.draft()
        try:
            group = branching._Group(self._rules, node, list(branches.values()))
            group._merge(draft)
            group._tell_failures(draft, {path: failed[label] for path in branches if (label := _label(path)) in failed})
        except Exception as error:  # a conflict, or a reducer of the user's that fails
            raise _raised(place, error) from error
        return draft

    # Comparing

    def _compare(self, place: Place, recorded: list[Write], produced: list[Write]) -> None:
        try:
            found = difference(self._position.state, recorded, produced)
        except StateError as error:  # what is produced was checked by its draft
            raise self._position.corrupted(place.seq, error) from error
        if found is not None:
            raise Diverged(place, "value", *found)

    def _compare_held(self, place: Place, recorded: list[StateDelta], produced: list[StateDelta]) -> None:
        """Compare the deltas of a branch; what it put to a CUSTOM key, by what its function makes of that."""
        if same_writes(_written_by(recorded), _written_by(produced)):
            return
        try:
            was, now = (self._rules.merged([(place.path, deltas)]) for deltas in (recorded, produced))
        except Exception as error:
            raise _raised(place, error) from error
        self._compare(place, _written_by(was), _written_by(now))

    def _compare_way(self, place: Place, node: Node, event: NodeExecuted, draft: Draft, goto: Any = MISSING) -> None:
        try:
            target = self._rules.route(node, draft) if goto is MISSING else goto
        except Exception as error:
            if event.unrouted:
                return
            raise Diverged(place, "route", None, event.next, reason=described(error)) from error
        if event.unrouted:
            self._unrouted = (place, target)
        elif target != event.next:
            raise Diverged(place, "route", None, event.next, target)

    def _compare_fallback(self, place: Place, event: NodeExecuted) -> None:
        fallback = self._plan.fallbacks.get(self._declared(place, event.node).name, UNSET)
        if fallback != event.next:
            raise Diverged(place, "route", None, event.next, fallback, NO_FALLBACK)

    def _compare_calls(self, place: Place, context: Watched, own: Counter[str]) -> None:
        """A call that was dropped is seen in what the log holds and nobody asked for."""
        for name, count in own.items():
            asked = context.asked[name]
            if asked < count:
                more = ONE_MORE if count - asked == 1 else f"the log has {count - asked} calls more"
                raise Diverged(place, "call", name, count, asked, more)

    def _chosen(self, node: Node, event: NodeExecuted) -> Any:
        """Where a barrier, or a node that is not called, may have gone whatever its edges say; else MISSING."""
        if node.kind == "barrier":
            is_rerouted = self._position.control.get(f"resolved/{node.name}") == "reroute"
            return self._position.control.get("next") if is_rerouted else MISSING
        return event.next if event.chosen else MISSING

    def _declared(self, place: Place, name: str) -> Node:
        """The graph's node of that name, which is to be of the kind that the log knows."""
        kinds = self._store._graph_nodes(self._position.control.get("graph_hash", ""))
        kind: Any = UNSET if kinds is None else kinds.get(name, UNSET)
        node = self._plan.nodes.get(name)
        if node is None:
            raise Diverged(place, "graph", None, kind, reason=f"the graph has no node {name!r}")
        if kind is not UNSET and kind != node.kind:
            raise Diverged(place, "graph", None, kind, node.kind, f"{name!r} was a {kind}, now it is a {node.kind}")
        return node


def _resumes(held: list[list[Any]], recorded: Iterable[list[Any]]) -> list[int]:
    """How many values may have been there when the attempt began, the likeliest first."""
    both_ways = {name for name, _ in held} & {name for name, _ in recorded}
    return [0, *(index for index, (name, _) in enumerate(held, 1) if name in both_ways)][: MOST_GUESSES + 1]


def _label(path: str) -> str:
    return path.partition("/")[2]


def _raised(place: Place, error: BaseException) -> Diverged:
    return Diverged(place, "error", reason=described(error))


def _writes(deltas: list[Row]) -> list[Write]:
    return [(row.key, row.op, row.value) for row in deltas if row.source in OWN]


def _written(draft: Draft) -> list[Write]:
    return [delta for row, delta in zip(draft.wire, draft.live, strict=True) if row.source in OWN]


def _written_by(deltas: list[StateDelta]) -> list[Write]:
    return [(delta.key, str(delta.op), delta.value) for delta in deltas]
