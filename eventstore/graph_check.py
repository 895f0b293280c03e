"""What is wrong with a graph: every problem at once, each in words that name its place. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .event import Reroute
from .plan import Edge, Hooks, Node
from .retrying import check_retry

Nodes = Mapping[str, Node]
Edges = Mapping[str, Sequence[Edge]]


def node_problem(node: Node) -> list[str]:
    """What is wrong with a node by itself."""
    found = []
    if not node.name or set(node.name) & set("/#") or node.name != node.name.strip() or len(node.name) > 200:
        found.append("a name has 1 to 200 characters, none of them '/' or '#'")
    if node.in_doubt not in ("ask", "retry", "fail"):
        found.append(f"in_doubt is 'ask', 'retry' or 'fail', not {node.in_doubt!r}")
    if node.strategy not in ("fail_fast", "collect_all"):
        found.append(f"strategy is 'fail_fast' or 'collect_all', not {node.strategy!r}")
    for name, value in (("timeout_s", node.timeout_s), ("max_concurrency", node.max_concurrency)):
        if value is not None and not value > 0:
            found.append(f"{name} is more than 0, not {value!r}")
    if (problem := check_retry(node.retry)) is not None:
        found.append(problem)
    return [f"node {node.name!r}: {problem}" for problem in found]


def problems(
    nodes: Nodes, edges: Edges, fallbacks: Mapping[str, str], starts: Sequence[str], ends: Sequence[str], hooks: Hooks
) -> list[str]:
    """What is wrong with the whole; what cannot be reached is looked for where all names are known."""
    branches = {branch: node.name for node in nodes.values() for branch in node.branches}
    errors = []
    if len(starts) != 1:
        errors.append("no start" if not starts else f"several starts: {', '.join(starts)}")
    if not ends:
        errors.append("no end")
    for what, names in (("start", starts), ("end", ends)):
        errors += [f"{what}: no node {name!r}" for name in names if name not in nodes]
        errors += [f"{what}: {name!r} is a branch of {branches[name]!r}" for name in names if name in branches]
    for source, leading in edges.items():
        errors += _edge_problems(nodes, source, leading, branches)
    for source, target in fallbacks.items():
        where = f"fallback from {source!r}"
        errors += [f"{where}: no node {name!r}" for name in (source, target) if name not in nodes]
        errors += [
            f"{where}: {name!r} is a branch of {branches[name]!r}" for name in (source, target) if name in branches
        ]
        if source in nodes and nodes[source].kind == "barrier":
            errors.append(f"{where}: a barrier does not fail")
    for node in nodes.values():
        errors += _reference_problems(nodes, node, branches)
    for hook, only in hooks:
        errors += [f"hook {hook.__name__!r}: no node {name!r}" for name in only or () if name not in nodes]
    return errors or list(_unreachable(nodes, edges, fallbacks, starts, ends, branches))


def _edge_problems(nodes: Nodes, source: str, edges: Sequence[Edge], branches: Mapping[str, str]) -> Iterator[str]:
    for edge in edges:
        where = f"edge from {source!r} to {edge.target!r}"
        for name in (source, edge.target):
            if name not in nodes:
                yield f"{where}: no node {name!r}"
            elif name in branches:
                yield f"{where}: {name!r} is a branch of {branches[name]!r}"
    always = [index for index, edge in enumerate(edges) if edge.condition is None]
    if always and always[0] < len(edges) - 1:
        yield f"edge from {source!r} to {edges[always[0] + 1].target!r} comes after one that always applies"


def _reference_problems(nodes: Nodes, node: Node, branches: Mapping[str, str]) -> Iterator[str]:
    for name in node.goes_to:
        if name not in nodes or name in branches:
            yield f"node {node.name!r}: goes to {name!r}, no such node"
    if isinstance(node.on_timeout, Reroute) and (
        node.on_timeout.target not in nodes or node.on_timeout.target in branches
    ):
        yield f"barrier {node.name!r}: its default goes to {node.on_timeout.target!r}, no such node"
    for branch in node.branches:
        found = nodes.get(branch)
        if found is None:
            yield f"parallel {node.name!r}: no node {branch!r}"
        elif found.kind != "node":
            yield f"parallel {node.name!r}: branch {branch!r} is a {found.kind}, not a plain node"
        elif branches[branch] != node.name:
            yield f"parallel {node.name!r}: {branch!r} is a branch of {branches[branch]!r} already"
    if len(set(node.branches)) < len(node.branches):
        yield f"parallel {node.name!r}: a branch is named twice"
    if node.kind == "parallel" and not node.branches:
        yield f"parallel {node.name!r} has no branches"


def _unreachable(
    nodes: Nodes,
    edges: Edges,
    fallbacks: Mapping[str, str],
    starts: Sequence[str],
    ends: Sequence[str],
    branches: Mapping[str, str],
) -> Iterator[str]:
    ways = {name: {*node.goes_to, *node.branches} for name, node in nodes.items()}
    for source, leading in edges.items():
        ways[source] |= {edge.target for edge in leading}
    for source, target in fallbacks.items():
        ways[source].add(target)
    seen, todo = set(starts), list(starts)
    while todo:
        new = ways[todo.pop()] - seen
        seen |= new
        todo += new
    for name, node in nodes.items():
        if name not in seen:
            yield f"node {name!r} cannot be reached from the start"
        elif name not in branches and not (edges.get(name) or node.goes_to or name in ends):
            yield f"node {name!r} is a dead end: no edge leads on, and it is no end"
