"""What turned one state into another, as a list of changes that can be shown and applied.

Keys that differ are found first; within a key, jsonpatch finds the nested differences (RFC 6902), and difflib those
of a long list. They are sequential: each path holds in the state that the changes before it have left. Items added
at the end of a list are one `appended` change, as in the log. Equality is JSON's: 1, 1.0 and true are three values.
Opaque values are compared by their bytes and shown as `readable` gives them: so a diff is one of readable states.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from difflib import SequenceMatcher
from typing import Any

import msgspec
from msgspec import UNSET

from .codec import msgpack_encode, same
from .event import JsonRecord
from .fold import MISSING, copy_value
from .opaque import Opaque
from .readable import DECODED, readable, readable_hook

Path = list[str | int]
SHOWN = 72
LONG_LIST = 256
"""Items above which jsonpatch, which grows with the square of a list, is not asked any more."""
_spelling = msgspec.json.Encoder(order="deterministic").encode


class Change(JsonRecord, frozen=True):
    """One change. `kind`: added, removed, changed, or appended.

    `path`: the state key, then object keys and list indexes; `before`, `after`: the values, UNSET where there is
    none; of an append, `after` is the list of new items and `index` the position of the first.

    >>> str(Change(["order", "total"], "changed", 40, 30))
    'order.total: 40 -> 30'
    """

    path: Path
    kind: str
    before: Any = UNSET
    after: Any = UNSET
    index: int | None = None

    @property
    def pointer(self) -> str:
        """The path as a JSON Pointer (RFC 6901)."""
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in self.path)

    @property
    def label(self) -> str:
        """The path for people: `order.items[2].total`."""
        return path_label(self.path)

    def __str__(self) -> str:
        if self.kind == "appended":
            count = len(self.after)
            return f"{self.label}: {count} appended at [{self.index}]: {brief(self.after)}"
        if self.kind == "added":
            return f"{self.label}: + {brief(self.after)}"
        if self.kind == "removed":
            return f"{self.label}: - {brief(self.before)}"
        return f"{self.label}: {brief(self.before)} -> {brief(self.after)}"


class Side(JsonRecord, frozen=True):
    """One side of a diff: a place in a trace. `at`: when it was committed.

    >>> Side("t1", 12, 3).seq
    12
    """

    trace_id: str
    seq: int
    step: int | None = None
    at: datetime | None = None


class StateDiff(JsonRecord, frozen=True):
    """The changes that turn the `left` state into the `right` one. Made by `es.diff`.

    `parted`: where the two histories part, in the trace that both share, None where they share none or where
    one is the other's past.

    Opaque values stand in it as data that people can read, and so `apply` and `patch` go from the readable form of
    the left state to that of the right one. Of two that cannot be read, or that read alike, the whole value changed.

    >>> found = StateDiff(changes({"n": 1, "log": ["a"]}, {"log": ["a", "b"], "ok": True}))
    >>> [str(change) for change in found.changes]
    ['n: - 1', 'log: 1 appended at [1]: ["b"]', 'ok: + true']
    >>> found.apply({"n": 1, "log": ["a"]})
    {'log': ['a', 'b'], 'ok': True}
    """

    changes: list[Change]
    left: Side | None = None
    right: Side | None = None
    parted: Side | None = None

    @property
    def is_empty(self) -> bool:
        """Whether both states are equal."""
        return not self.changes

    @property
    def keys(self) -> list[str]:
        """The state keys that differ, in the order of their changes."""
        return list(dict.fromkeys(str(change.path[0]) for change in self.changes))

    @property
    def added(self) -> list[str]:
        """The keys that only the right state has."""
        return [str(change.path[0]) for change in self.changes if change.kind == "added" and len(change.path) == 1]

    @property
    def removed(self) -> list[str]:
        """The keys that only the left state has."""
        return [str(change.path[0]) for change in self.changes if change.kind == "removed" and len(change.path) == 1]

    def apply(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the left `state` with the changes made: the right state. Raises LookupError on another state."""
        result: dict[str, Any] = {"": {key: _shown(value) for key, value in state.items()}}
        for change in self.changes:
            try:
                _apply(result, ["", *change.path], change)
            except (LookupError, TypeError, AttributeError):
                raise LookupError(f"the change at {change.label} does not fit that state") from None
        return result[""]  # type: ignore[no-any-return]

    def patch(self) -> list[dict[str, Any]]:
        """The changes as a JSON Patch (RFC 6902), of the readable states where values are opaque."""
        operations: list[dict[str, Any]] = []
        for change in self.changes:
            if change.kind == "appended":
                operations += [{"op": "add", "path": f"{change.pointer}/-", "value": item} for item in change.after]
            elif change.kind == "removed":
                operations.append({"op": "remove", "path": change.pointer})
            else:
                op = "add" if change.kind == "added" else "replace"
                operations.append({"op": op, "path": change.pointer, "value": change.after})
        return operations

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) if self.changes else "no difference"


def changes(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Change]:
    """The changes from one state to another, keys that go first.

    >>> [change.kind for change in changes({"a": {"x": [1, 2]}}, {"a": {"x": [1, 3]}})]
    ['changed']
    """
    found = [Change([key], "removed", before=_shown(value)) for key, value in left.items() if key not in right]
    for key, value in right.items():
        if key not in left:
            found.append(Change([key], "added", after=_shown(value)))
        elif not is_same(left[key], value):
            is_opaque = isinstance(value, Opaque) or isinstance(left[key], Opaque)
            found += _opaque([key], left[key], value) if is_opaque else _within([key], left[key], value)
    return found


def _shown(value: Any) -> Any:
    """A value of a state as it stands in a change: a copy, and readable."""
    return readable(value) if isinstance(value, Opaque) else copy_value(value)


def _opaque(path: Path, old: Any, new: Any) -> Iterable[Change]:
    """The changes of a value that is opaque on one side or on both."""
    items = _appended(old, new)
    if items is not None:
        return [Change(path, "appended", after=items, index=old.count)]
    was, now = readable(old), readable(new)
    is_described = any(isinstance(value, Opaque) and value.codec not in DECODED for value in (old, new))
    return [Change(path, "changed", was, now)] if is_described or is_same(was, now) else _within(path, was, now)


def _appended(old: Any, new: Any) -> list[Any] | None:
    """The items by which an opaque list has grown at its end, where that is all; the others are not decoded."""
    if not (isinstance(old, Opaque) and isinstance(new, Opaque) and old.codec == new.codec):
        return None
    if old.count is None or new.count is None or old.count >= new.count:
        return None
    before, after = old.data, new.data
    if not after.startswith(before):
        return None
    found = readable(Opaque(new.codec, after[len(before) :], new.count - old.count))
    return found if isinstance(found, list) else None


def is_same(one: Any, other: Any) -> bool:
    """Equality as JSON sees it, at the speed of C in the common cases.

    >>> is_same([1, {"a": None}], [1, {"a": None}]), is_same(1, 1.0)
    (True, False)
    """
    if one is other:
        return True
    return bool(one == other) and (msgpack_encode(one) == msgpack_encode(other) or same(one, other))


def _within(path: Path, old: Any, new: Any) -> Iterable[Change]:
    """The changes within one value that differs."""
    if type(old) is not type(new) or type(old) not in (dict, list):
        return [Change(path, "changed", copy_value(old), copy_value(new))]
    if type(old) is list and len(old) < len(new) and is_same(old, new[: len(old)]):
        return [Change(path, "appended", after=copy_value(new[len(old) :]), index=len(old))]
    if type(old) is list and max(len(old), len(new)) > LONG_LIST:
        return _within_long(path, old, new)
    import jsonpatch  # only where nested values differ: it takes its time to import

    found: list[Change] = []
    working = [copy_value(old)]
    for operation in jsonpatch.make_patch(old, new):
        if operation["op"] == "move":
            moved = _step(found, path, working, "remove", operation["from"], None)
            _step(found, path, working, "add", operation["path"], moved)
        else:
            _step(found, path, working, operation["op"], operation["path"], copy_value(operation.get("value")))
    return found


def _within_long(path: Path, old: list[Any], new: list[Any]) -> Iterator[Change]:
    """The changes of a long list: its items are matched whole, and only items that were replaced are looked into."""
    old_texts, new_texts = ([_spelling(item) for item in items] for items in (old, new))
    matcher: SequenceMatcher[bytes] = SequenceMatcher(None, old_texts, new_texts, autojunk=False)
    for tag, old_from, old_to, at, new_to in matcher.get_opcodes():
        if tag == "equal":
            continue
        replaced = min(old_to - old_from, new_to - at)
        for offset in range(replaced):
            yield from _within([*path, at + offset], old[old_from + offset], new[at + offset])
        for item in old[old_from + replaced : old_to]:
            yield Change([*path, at + replaced], "removed", before=copy_value(item))
        added = new[at + replaced : new_to]
        if added and new_to == len(new) and old_to == len(old):
            yield Change(path, "appended", after=copy_value(added), index=at + replaced)
        else:
            for index, item in enumerate(added, at + replaced):
                yield Change([*path, index], "added", after=copy_value(item))


def _step(found: list[Change], within: Path, working: list[Any], op: str, pointer: str, value: Any) -> Any:
    """Make one operation on the working copy and note it as a change; gives the value that was there."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    parent: Any = working
    place: Any = 0
    path: Path = [*within]
    for part in parts:
        parent = parent[place]
        place = part if isinstance(parent, dict) else len(parent) if part == "-" else int(part)
        path.append(place)
    if op == "add":
        if isinstance(parent, dict):
            change = Change(path, "added", after=copy_value(value))
            parent[place] = value
        else:
            change = Change(path, "added", after=copy_value(value))
            if place == len(parent):
                change = _joined(found, path[:-1], place, copy_value(value))
            parent.insert(place, value)
        found.append(change)
        return MISSING
    before = parent[place]
    if op == "remove":
        found.append(Change(path, "removed", before=copy_value(before)))
        del parent[place]
    else:
        found.append(Change(path, "changed", copy_value(before), copy_value(value)))
        parent[place] = value
    return before


def _joined(found: list[Change], path: Path, index: int, item: Any) -> Change:
    """An item at the end of a list, joined to the append before it where that was of the same list."""
    if found and found[-1].kind == "appended" and found[-1].path == path:
        last = found.pop()
        return Change(path, "appended", after=[*last.after, item], index=last.index)
    return Change(path, "appended", after=[item], index=index)


def _apply(root: dict[str, Any], path: Path, change: Change) -> None:
    parent: Any = root
    for part in path[:-1]:
        parent = parent[part]
    place: Any = path[-1]
    if change.kind == "appended":
        parent[place].extend(copy_value(change.after))
    elif change.kind == "removed":
        del parent[place]
    elif change.kind == "added" and isinstance(parent, list):
        parent.insert(place, copy_value(change.after))
    else:
        parent[place] = copy_value(change.after)


def path_label(path: Iterable[str | int]) -> str:
    """A path for people.

    >>> path_label(["order", "items", 2, "total"])
    'order.items[2].total'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def brief(value: Any, width: int = SHOWN) -> str:
    """A value as one short line of JSON.

    >>> brief({"a": [1, 2]}), brief("long " * 40, 12)
    ('{"a":[1,2]}', '"long long …')
    """
    text = msgspec.json.encode(value, enc_hook=readable_hook).decode()
    return text if len(text) <= width else text[: width - 1] + "…"
