"""Which checkpoints a thread has and who their parents are, in an old file and in the store.

What an import that was cut short has left can be told by that: it has the parents of all that it has, and nothing
that the file does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from eventstore.errors import EventStoreError
from eventstore.scopes import NO_WRITES, ScopeCheckpoint, ScopeKey

Rows = Mapping[str, ScopeCheckpoint]
"""What a store has of a namespace, by the checkpoints' ids."""
NOTHING: Rows = {}


class ImportRefused(EventStoreError):
    """A file, or a thread of it, that cannot be brought over whole.

    >>> str(ImportRefused("checkpoint 1f: it is pickle, and pickle cannot be taken apart"))
    'checkpoint 1f: it is pickle, and pickle cannot be taken apart'
    """


class Namespace(NamedTuple):
    """A namespace of a thread as the file has it.

    `order`: its checkpoints, parents before children; `written`: those with writes, which may be there or not.
    """

    key: ScopeKey
    parents: Mapping[str, str | None]
    order: list[str]
    written: Mapping[str, None]


def parents_first(parents: Mapping[str, str | None]) -> list[str]:
    """Names by their parents, children after them and each line of descent to its end before the next one.

    >>> parents_first({"1": None, "2": "1", "3": "1", "4": "2", "5": "gone", "6": "7", "7": "6"})
    ['1', '2', '4', '3', '5', '6', '7']
    """
    children: dict[str | None, list[str]] = {}
    for name, parent in parents.items():
        children.setdefault(parent if parent in parents and parent != name else None, []).append(name)
    order: dict[str, None] = {}
    for first in [*children.get(None, ()), *parents]:  # in a circle nobody is first: the smallest begins it
        stack = [first]
        while stack:
            name = stack.pop()
            if name not in order:
                order[name] = None
                stack += reversed(children.get(name, ()))
    return list(order)


def has_all(space: Namespace, there: Rows) -> bool:
    """Whether the store has all of it."""
    return all(name in there and there[name].trace is not None for name in space.order) and all(
        name in there and there[name].writes != NO_WRITES for name in space.written
    )


def refuse_another(there: Rows, space: Namespace | None) -> None:
    """Raise ImportRefused for what no import that was cut short has left."""
    for name, row in there.items():
        if space is None or (name not in space.parents and name not in space.written):
            raise ImportRefused(f"the store has a thread of that name already, with checkpoint {name}")
        parent = space.parents.get(name)
        if parent is None or parent not in space.parents or row.trace is None:
            continue
        if parent not in there or there[parent].trace is None:
            raise ImportRefused(f"the store has a thread of that name already, without checkpoint {parent}")
