"""A graph's parts as data: nodes, edges, and the plan that a run follows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from .definition import Definition
from .event import Decision
from .reduce import CustomReducer, Reducer
from .retrying import Retry

Condition = Callable[[Mapping[str, Any]], Any]
InDoubt = Literal["ask", "retry", "fail"]
Strategy = Literal["fail_fast", "collect_all"]
Hooks = list[tuple[Callable[..., Any], "frozenset[str] | None"]]


class Scope(NamedTuple):
    """What a node of an included graph calls its own: names that stand in the outer graph under `prefix`."""

    prefix: str
    names: frozenset[str]


class Edge(NamedTuple):
    """Where the cursor may go; `condition` None: always. `scope`: of the graph that declared it."""

    target: str
    condition: Condition | None = None
    name: str | None = None
    scope: Scope | None = None


class Node(msgspec.Struct, kw_only=True):
    """One node as it was declared. `kind`: node, barrier, parallel or map."""

    name: str
    kind: str = "node"
    function: Callable[..., Any] | None = None
    side_effects: bool = False
    in_doubt: InDoubt = "ask"
    retry: Retry | None = None
    timeout_s: float | None = None
    goes_to: tuple[str, ...] = ()
    prompt: str | Callable[[Mapping[str, Any]], str] = ""
    keys: tuple[str, ...] = ()
    on_timeout: Decision | None = None
    branches: tuple[str, ...] = ()
    strategy: Strategy = "fail_fast"
    over: str = ""
    max_concurrency: int | None = None
    scope: Scope | None = None
    is_async: bool = False

    def __post_init__(self) -> None:
        function = self.function
        called = getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)

    def label_of(self, branch: str) -> str:
        """What a branch is called within this node: its name, without the prefix that both share."""
        return branch if self.scope is None else branch.removeprefix(self.scope.prefix)

    def definition(self) -> dict[str, Any]:
        """What of it goes into the graph's hash."""
        found: dict[str, Any] = {"kind": self.kind}
        if self.side_effects:
            found |= {"side_effects": True, "in_doubt": self.in_doubt}
        if self.kind == "parallel":
            found |= {"branches": list(self.branches), "strategy": self.strategy}
        if self.kind == "map":
            found |= {"over": self.over, "strategy": self.strategy}
        if self.goes_to:
            found["goes_to"] = list(self.goes_to)
        return found


class Included(NamedTuple):
    """What `include` gives: the names, in the outer graph, of the inner one's start and ends.

    >>> Included("billing.charge", ("billing.receipt",)).start
    'billing.charge'
    """

    start: str
    ends: tuple[str, ...]


class Plan(NamedTuple):
    """A graph that holds together."""

    name: str
    nodes: dict[str, Node]
    edges: dict[str, list[Edge]]
    fallbacks: dict[str, str]
    start: str
    ends: frozenset[str]
    before: Hooks
    after: Hooks
    reducers: dict[str, Reducer | str | CustomReducer]
    max_steps: int
    definition: Definition
    canonical: str
    hash: str
    is_async: bool
