"""Is a base what its stretch of the log comes to?

A whole state must equal the fold. A link must be the net effect of exactly its stretch: where it says so in other
words than a fold of these rows would, it must do the same to what stood below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .bases import STEPS_AT, UNFOLDABLE, Base, steps_checksum
from .codec import msgpack_encode
from .link import OPS, Link, State, decode_link, decode_whole

if TYPE_CHECKING:
    import apsw

Keys = tuple[frozenset[str], frozenset[str]]
"""The keys of control and of the state."""


def keys_of(control: State, state: State) -> Keys:
    """What both hold now."""
    return frozenset(control), frozenset(state)


def fault(
    connection: apsw.Connection,
    base: Base,
    now: tuple[State, State],
    link: Link | None,
    start: int | None,
    below: Keys | None,
) -> str | None:
    """What does not hold of a base; None where all does.

    `now`: control and state where it stands; `link`: the net effect of its stretch, where it is a link and begins in
    the trace itself; `start`: where its stretch begins, None where its parent is gone; `below`: the keys there.
    """
    control = now[0]
    steps, crc = connection.execute(STEPS_AT, (base.id,)).fetchone() or (None, None)
    try:
        if not base.is_sound():
            return "fails its checksum"
        if base.parent is None:
            if msgpack_encode(decode_whole(base.body)) != msgpack_encode(now):
                return "is not the fold of the log"
        elif start is None:
            return f"stands on base {base.parent}, which is gone"
        elif link is not None:
            found = decode_link(base.body)
            if not _equal(found, link) and (below is None or not _has_effect(found, link, now, below)):
                return "is not the net effect of its stretch"
        if crc is not None and crc != steps_checksum(base.trace, base.seq, steps or 0):
            return "fails the checksum of its steps"
        if steps is not None and steps != control.get("steps", 0):
            return f"counts {steps} steps, the log {control.get('steps', 0)}"
    except UNFOLDABLE as error:
        return str(error)
    return None


def _has_effect(found: Link, expected: Link, after: tuple[State, State], below: Keys) -> bool:
    """Whether a link, in other words, does to the state below it (which had those keys) what the stretch did."""
    pairs = (found.control, expected.control, after[0]), (found.state, expected.state, after[1])
    for (net, other, now), had in zip(pairs, below, strict=True):
        if not other.entries.keys() <= net.entries.keys() or not other.deleted.keys() & had <= net.keys():
            return False
        if not net.deleted.keys() <= other.deleted.keys() - now.keys():
            return False
        for key, entry in net.entries.items():
            is_put = len(entry) == 2 and OPS[entry[0]] == "put" and key in now
            same = (now[key], entry[1]) if is_put else (other.entries.get(key), entry)
            if msgpack_encode(same[0]) != msgpack_encode(same[1]):
                return False
    return True


def _equal(one: Link, other: Link) -> bool:
    """Alike in values, types and order."""
    return one.encode(2**62) == other.encode(2**62)
