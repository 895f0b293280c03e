"""What a graph is, as data: its canonical JSON, its hash, and what changed between two of them. Pure.

The hash covers what decides where a run goes: nodes with their kind, side-effect and in-doubt rules;
branches in order; edges in registration order (the first match wins) with the names of their conditions;
fallbacks, start, ends, reducers, and the version a user gives. Source code, prompts and timeouts are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

Definition = dict[str, Any]


def canonical(definition: Definition) -> str:
    """The JSON that is hashed and stored: keys sorted, no spaces.

    >>> canonical({"b": 1, "a": [2]})
    '{"a":[2],"b":1}'
    """
    return json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def graph_hash(definition: Definition) -> str:
    """blake2b-128 of the canonical JSON, in hex.

    >>> graph_hash({"nodes": {}})
    'd74141cf05b10f4223ea180eb0a2e3df'
    """
    return blake2b(canonical(definition).encode(), digest_size=16).hexdigest()


def changes(old: Definition, new: Definition) -> list[str]:
    """What is different in `new`, in words.

    >>> changes({"nodes": {"a": {"kind": "node"}}, "ends": ["a"]}, {"nodes": {}, "ends": []})
    ["node 'a' is gone", "ends were ['a'], are []"]
    """
    return [*_named("node", old.get("nodes", {}), new.get("nodes", {})), *_edges(old, new), *_rest(old, new)]


def _named(what: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for name in old:
        if name not in new:
            yield f"{what} {name!r} is gone"
        elif old[name] != new[name]:
            fields = [key for key in {**old[name], **new[name]} if old[name].get(key) != new[name].get(key)]
            told = ", ".join(f"{key} was {old[name].get(key)!r}, is {new[name].get(key)!r}" for key in fields)
            yield f"{what} {name!r}: {told}"
    for name in new:
        if name not in old:
            yield f"{what} {name!r} is new"


def _edges(old: Definition, new: Definition) -> Iterator[str]:
    before, after = old.get("edges", {}), new.get("edges", {})
    for source in {**before, **after}:
        if before.get(source) != after.get(source):
            yield f"edges from {source!r} were {_told(before.get(source))}, are {_told(after.get(source))}"


def _told(edges: list[list[str | None]] | None) -> str:
    shown = [target if condition is None else f"{target} if {condition}" for target, condition in edges or []]
    return ", ".join(map(str, shown)) or "none"


def _rest(old: Definition, new: Definition) -> Iterator[str]:
    for key in {**old, **new}:
        if key not in ("nodes", "edges") and old.get(key) != new.get(key):
            was, is_ = ("were", "are") if key.endswith("s") else ("was", "is")
            yield f"{key} {was} {old.get(key)!r}, {is_} {new.get(key)!r}"


def mermaid(definition: Definition) -> str:
    """The graph as a Mermaid flowchart: barriers as diamonds, parallel nodes with their branches inside.

    >>> print(mermaid({"nodes": {"a": {"kind": "node"}}, "edges": {}, "start": "a", "ends": ["a"]}))
    flowchart TD
      begin((" ")) --> n0
      n0["a"]
      n0 --> done(((" ")))
    """
    nodes = definition["nodes"]
    ids = {name: f"n{index}" for index, name in enumerate(nodes)}
    inside = {branch for node in nodes.values() for branch in node.get("branches", ())}
    lines = ["flowchart TD", f'  begin((" ")) --> {ids[definition["start"]]}']
    for name, node in nodes.items():
        if name not in inside:
            lines += _shape(ids, name, node)
    for source, edges in definition["edges"].items():
        lines += [f"  {ids[source]} -->{_label(condition)} {ids[target]}" for target, condition in edges]
    lines += [
        f"  {ids[source]} -. fails .-> {ids[target]}" for source, target in definition.get("fallbacks", {}).items()
    ]
    for source, node in nodes.items():
        lines += [f"  {ids[source]} -.-> {ids[target]}" for target in node.get("goes_to", ())]
    lines += [f'  {ids[name]} --> done(((" ")))' for name in definition["ends"]]
    return "\n".join(lines)


def _shape(ids: dict[str, str], name: str, node: dict[str, Any]) -> list[str]:
    label = _quoted(name)
    if node["kind"] == "barrier":
        return [f'  {ids[name]}{{{{"{label}?"}}}}']
    if node["kind"] == "parallel":
        branches = [f'    {ids[branch]}["{_quoted(branch)}"]' for branch in node["branches"]]
        return [f'  subgraph {ids[name]}["{label}"]', *branches, "  end"]
    if node["kind"] == "map":
        return [f'  {ids[name]}[["{label}, for each of {_quoted(node["over"])}"]]']
    return [f'  {ids[name]}[/"{label}"/]' if node.get("side_effects") else f'  {ids[name]}["{label}"]']


def _label(condition: str | None) -> str:
    return "" if condition is None else f'|"{_quoted(condition).replace("<lambda>", "if")}"|'


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;")
