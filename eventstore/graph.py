"""A graph: ordinary functions wired into a workflow.

A run has one cursor. A node runs and the first edge whose condition holds says where the cursor goes; a
barrier waits for a human; a parallel node (or a map) runs its branches side by side and joins what they
wrote. The graph knows nothing of stores and runs: `build` checks it whole and gives a `Plan`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

import msgspec

from .definition import Definition, canonical, graph_hash, mermaid
from .errors import GraphInvalid
from .event import Decision, Reject, Reroute
from .graph_check import node_problem, problems
from .plan import Condition, Edge, Hooks, Included, InDoubt, Node, Plan, Scope, Strategy
from .reduce import CustomReducer, Reducer, ReducerRegistry
from .retrying import Retry

Function = TypeVar("Function", bound=Callable[..., Any])


class Graph:
    """Functions wired into a workflow, to be run by `es.run`.

    `reducers`: by key, as for `store.start`; `max_steps`: how many nodes a run may execute; `version`: goes
    into the hash, for changes that the structure does not show.

    >>> graph = Graph("greet")
    >>> @graph.node
    ... def hello(ctx):
    ...     return {"said": f"hello, {ctx.state['name']}"}
    >>> graph.start("hello").end("hello").build()
    Graph('greet', 1 node, hash 098c95e7)
    """

    def __init__(
        self,
        name: str,
        *,
        reducers: Mapping[str, Reducer | str | CustomReducer] | None = None,
        max_steps: int = 10_000,
        version: str = "",
    ) -> None:
        if not name:
            raise GraphInvalid(name, ["a graph needs a name"])
        self.name = name
        self.max_steps = max_steps
        self.version = version
        self._reducers = dict(reducers or {})
        ReducerRegistry(self._reducers)
        self._nodes: dict[str, Node] = {}
        self._edges: dict[str, list[Edge]] = {}
        self._fallbacks: dict[str, str] = {}
        self._starts: list[str] = []
        self._ends: list[str] = []
        self._before: Hooks = []
        self._after: Hooks = []
        self._errors: list[str] = []
        self._plan: Plan | None = None

    def __repr__(self) -> str:
        count = len(self._nodes)
        known = "" if self._plan is None else f", hash {self._plan.hash[:8]}"
        return f"Graph({self.name!r}, {count} node{'s' * (count != 1)}{known})"

    # Nodes

    @overload
    def node(self, function: Function, /) -> Function: ...

    @overload
    def node(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        side_effects: bool = False,
        in_doubt: InDoubt = "ask",
        retry: Retry | None = None,
        timeout_s: float | None = None,
        goes_to: Sequence[str] = (),
    ) -> Callable[[Function], Function]: ...

    def node(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        side_effects: bool = False,
        in_doubt: InDoubt = "ask",
        retry: Retry | None = None,
        timeout_s: float | None = None,
        goes_to: Sequence[str] = (),
    ) -> Any:
        """Declare a function, sync or async, as a node; it takes an `es.Context`, and a mapping it returns is put.

        `side_effects`: it touches the world outside, so an intent is logged (and synced) before it runs;
        `in_doubt`: what to do where a crash left that intent without a result: `"ask"` a human, `"retry"` with
        the same idempotency key, or `"fail"`. `retry`: how many more attempts, or a `tenacity` object; `timeout_s`:
        of one attempt. `goes_to`: nodes that it may `ctx.goto` and no edge leads to.
        """

        def declare(function: Function) -> Function:
            self._add(
                Node(
                    name=name or name_of(function),
                    function=function,
                    side_effects=side_effects,
                    in_doubt=in_doubt,
                    retry=retry,
                    timeout_s=timeout_s,
                    goes_to=tuple(goes_to),
                )
            )
            return function

        return declare if function is None else declare(function)

    def barrier(
        self,
        name: str,
        *,
        prompt: str | Callable[[Mapping[str, Any]], str] = "",
        keys: Sequence[str] = (),
        timeout_s: float | None = None,
        on_timeout: Decision | None = None,
        goes_to: Sequence[str] = (),
    ) -> Graph:
        """Declare a pause for a human. The decision shows in the state as `NAME.approved` and its like.

        `prompt`: what is asked, or a function of the state; `keys`: what the decision may change, for whoever
        decides; `timeout_s`: the deadline after it was raised, `on_timeout` the decision then (by default a
        rejection). `goes_to`: nodes for a reroute that no edge leads to.
        """
        if timeout_s is None and on_timeout is not None:
            self._errors.append(f"barrier {name!r}: on_timeout needs timeout_s")
        if timeout_s is not None and on_timeout is None:
            on_timeout = Reject(f"no decision within {timeout_s:g} s")
        self._add(
            Node(
                name=name,
                kind="barrier",
                prompt=prompt,
                keys=tuple(keys),
                timeout_s=timeout_s,
                on_timeout=on_timeout,
                goes_to=tuple(goes_to),
            )
        )
        return self

    def parallel(
        self,
        name: str,
        *branches: str | Callable[..., Any],
        strategy: Strategy = "fail_fast",
        max_concurrency: int | None = None,
    ) -> Graph:
        """Declare nodes as branches that run side by side, all on the same state; their writes are joined in order.

        `strategy`: `"fail_fast"` starts no further branch after a failure, and the node fails;
        `"collect_all"` runs every branch, joins those that succeeded and names the others in `NAME.errors`
        (with none that succeeded, the node fails). `max_concurrency`: branches at a time, by default all.
        """
        names = tuple(branch if isinstance(branch, str) else name_of(branch) for branch in branches)
        self._add(Node(name=name, kind="parallel", branches=names, strategy=strategy, max_concurrency=max_concurrency))
        return self

    @overload
    def map(
        self,
        node: str,
        /,
        *,
        over: str,
        max_concurrency: int | None = None,
        strategy: Strategy = "fail_fast",
        name: str | None = None,
        side_effects: bool = False,
        in_doubt: InDoubt = "ask",
        retry: Retry | None = None,
        timeout_s: float | None = None,
    ) -> Graph: ...

    @overload
    def map(
        self,
        node: Function,
        /,
        *,
        over: str,
        max_concurrency: int | None = None,
        strategy: Strategy = "fail_fast",
        name: str | None = None,
        side_effects: bool = False,
        in_doubt: InDoubt = "ask",
        retry: Retry | None = None,
        timeout_s: float | None = None,
    ) -> Function: ...

    @overload
    def map(
        self,
        node: None = None,
        /,
        *,
        over: str,
        max_concurrency: int | None = None,
        strategy: Strategy = "fail_fast",
        name: str | None = None,
        side_effects: bool = False,
        in_doubt: InDoubt = "ask",
        retry: Retry | None = None,
        timeout_s: float | None = None,
    ) -> Callable[[Function], Function]: ...

    def map(
        self,
        node: str | Callable[..., Any] | None = None,
        /,
        *,
        over: str,
        max_concurrency: int | None = None,
        strategy: Strategy = "fail_fast",
        name: str | None = None,
        side_effects: bool = False,
        in_doubt: InDoubt = "ask",
        retry: Retry | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Run a node once for each item of the list at key `over`: `function(ctx, item)`, each a branch `NAME/INDEX`.

        `node`: the name of a node declared before, a function, or nothing to decorate one. The rest as for
        `parallel` and `node`.
        """
        if isinstance(node, str):
            declared = self._nodes.get(node)
            if declared is None or declared.kind != "node":
                self._errors.append(f"map over {over!r}: no node {node!r}")
                return self
            mapped = msgspec.structs.replace(
                declared,
                kind="map",
                over=over,
                strategy=strategy,
                max_concurrency=max_concurrency,
                side_effects=side_effects or declared.side_effects,
                in_doubt=in_doubt if in_doubt != "ask" else declared.in_doubt,
                retry=declared.retry if retry is None else retry,
                timeout_s=declared.timeout_s if timeout_s is None else timeout_s,
            )
            self._errors += node_problem(mapped)
            self._nodes[node] = mapped
            self._plan = None
            return self

        def declare(function: Function) -> Function:
            self._add(
                Node(
                    name=name or name_of(function),
                    kind="map",
                    function=function,
                    over=over,
                    max_concurrency=max_concurrency,
                    strategy=strategy,
                    side_effects=side_effects,
                    in_doubt=in_doubt,
                    retry=retry,
                    timeout_s=timeout_s,
                )
            )
            return function

        return declare if node is None else declare(node)

    def include(self, prefix: str, other: Graph) -> Included:
        """Take in all of another graph, its nodes under `prefix.NAME`; wire its start and ends yourself.

        Its nodes and conditions go on calling their barriers and nodes by their own names.
        """
        names = frozenset(other._nodes)
        scope = Scope(f"{prefix}.", names)
        for node in other._nodes.values():
            on_timeout = node.on_timeout
            if isinstance(on_timeout, Reroute):
                on_timeout = Reroute(f"{prefix}.{on_timeout.target}", on_timeout.by)
            self._add(
                msgspec.structs.replace(
                    node,
                    name=f"{prefix}.{node.name}",
                    on_timeout=on_timeout,
                    goes_to=tuple(f"{prefix}.{target}" for target in node.goes_to),
                    branches=tuple(f"{prefix}.{branch}" for branch in node.branches),
                    scope=_within(scope, node.scope),
                )
            )
        for source, edges in other._edges.items():
            for edge in edges:
                self._edges.setdefault(f"{prefix}.{source}", []).append(
                    Edge(f"{prefix}.{edge.target}", edge.condition, edge.name, _within(scope, edge.scope))
                )
        self._fallbacks |= {f"{prefix}.{source}": f"{prefix}.{target}" for source, target in other._fallbacks.items()}
        for hooks, theirs in ((self._before, other._before), (self._after, other._after)):
            for hook, only in theirs:
                hooks.append((hook, frozenset(f"{prefix}.{name}" for name in (names if only is None else only))))
        for key, reducer in other._reducers.items():
            if self._reducers.setdefault(key, reducer) != reducer:
                self._errors.append(f"include {prefix!r}: another reducer of {key!r}")
        self._errors += [f"include {prefix!r}: {error}" for error in other._errors]
        if len(other._starts) != 1:
            self._errors.append(f"include {prefix!r}: graph {other.name!r} has no start")
        self._plan = None
        start = other._starts[0] if other._starts else ""
        return Included(f"{prefix}.{start}", tuple(f"{prefix}.{end}" for end in other._ends))

    # Ways

    def edge(self, source: str, target: str) -> Graph:
        """From `source` go to `target`, where no edge declared before it applies."""
        self._edges.setdefault(source, []).append(Edge(target))
        self._plan = None
        return self

    def edge_if(self, source: str, target: str, condition: Condition, *, name: str | None = None) -> Graph:
        """From `source` go to `target` if `condition(state)` holds; the first edge that matches wins.

        `name`: what the graph's hash and pictures call the condition, by default its function's name.
        """
        named = name or name_of(condition)
        self._edges.setdefault(source, []).append(Edge(target, condition, named))
        self._plan = None
        return self

    def edge_fallback(self, source: str, target: str) -> Graph:
        """Where `source` fails for good, go to `target`; the state then tells why under `SOURCE.error`."""
        if source in self._fallbacks:
            self._errors.append(f"fallback from {source!r} is declared twice")
        self._fallbacks[source] = target
        self._plan = None
        return self

    def start(self, node: str) -> Graph:
        """Where a run begins."""
        self._starts.append(node)
        self._plan = None
        return self

    def end(self, *nodes: str) -> Graph:
        """Nodes after which a run is complete, where no edge of theirs applies."""
        self._ends += [node for node in nodes if node not in self._ends]
        self._plan = None
        return self

    # Hooks

    def before(self, function: Callable[..., Any] | None = None, /, *, nodes: Iterable[str] | None = None) -> Any:
        """Call `function(ctx)` before a node, in its step; its writes carry the source hook. `nodes`: only these."""
        return self._hook(self._before, function, nodes)

    def after(self, function: Callable[..., Any] | None = None, /, *, nodes: Iterable[str] | None = None) -> Any:
        """Call `function(ctx)` after a node that succeeded, in its step. See `before`."""
        return self._hook(self._after, function, nodes)

    def _hook(self, hooks: list[Any], function: Callable[..., Any] | None, nodes: Iterable[str] | None) -> Any:
        def declare(function: Function) -> Function:
            if inspect.iscoroutinefunction(function):
                self._errors.append(f"hook {name_of(function)!r}: hooks are plain functions, not async")
            hooks.append((function, None if nodes is None else frozenset(nodes)))
            self._plan = None
            return function

        return declare if function is None else declare(function)

    # The whole

    def build(self) -> Graph:
        """Check the graph whole. Raises GraphInvalid with all of its errors."""
        self.plan()
        return self

    def plan(self) -> Plan:
        """The checked graph, as runs use it. Raises GraphInvalid."""
        if self._plan is None:
            hooks = [*self._before, *self._after]
            found = problems(self._nodes, self._edges, self._fallbacks, self._starts, self._ends, hooks)
            errors = [*self._errors, *found]
            if errors:
                raise GraphInvalid(self.name, errors)
            definition = self.definition()
            text = canonical(definition)
            self._plan = Plan(
                self.name,
                dict(self._nodes),
                {source: list(edges) for source, edges in self._edges.items()},
                dict(self._fallbacks),
                self._starts[0],
                frozenset(self._ends),
                list(self._before),
                list(self._after),
                dict(self._reducers),
                self.max_steps,
                definition,
                text,
                graph_hash(definition),
                any(node.is_async for node in self._nodes.values()),
            )
        return self._plan

    def definition(self) -> Definition:
        """The structure as data: what is hashed."""
        found: Definition = {
            "nodes": {name: node.definition() for name, node in self._nodes.items()},
            "edges": {
                source: [[edge.target, edge.name] for edge in edges] for source, edges in self._edges.items() if edges
            },
            "fallbacks": self._fallbacks,
            "start": self._starts[0] if self._starts else None,
            "ends": sorted(self._ends),
            "reducers": ReducerRegistry(self._reducers).names(),
        }
        return found | ({"version": self.version} if self.version else {})

    def hash(self) -> str:
        """The hash of the structure, the same in every process. Raises GraphInvalid."""
        return self.plan().hash

    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart. Raises GraphInvalid."""
        return mermaid(self.plan().definition)

    def _add(self, node: Node) -> None:
        if node.name in self._nodes:
            self._errors.append(f"node {node.name!r} is declared twice")
        self._errors += node_problem(node)
        self._nodes[node.name] = node
        self._plan = None


def _within(outer: Scope, inner: Scope | None) -> Scope:
    """The scope of what an included graph may have included itself."""
    return outer if inner is None else Scope(outer.prefix + inner.prefix, inner.names)


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called; an object that can be called, like its class."""
    return str(getattr(function, "__name__", type(function).__name__))
