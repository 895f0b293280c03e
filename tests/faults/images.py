"""What a power cut leaves: a platter follows a list of operations, and tells what the disk may hold at any point of it.

What was synced is there. Of what was written since, by choice: nothing, everything, any of the writes, any sectors
of any write (so that a sector may show any of the contents that it was given since the last sync: reordering is
that), or all up to a last write that is torn. A name in the folder lasts with a sync of the folder; until then each
creation and deletion may have happened or not, name by name, in order. After a sync that failed, what it should
have written is by fate on the disk, gone for good (later syncs succeed and write nothing of it), or still to come.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .disk import Op

SECTOR = 512
WAYS = ("nothing", "everything", "some", "some", "torn", "torn", "last torn", "last torn", "until", "but one")
FATES = ("written", "gone", "gone", "either", "to come")


class Gone(random.Random):
    """The worst of fates: whatever a sync that failed should have written never reaches the disk."""

    def choice(self, _):
        return "gone"


class Choice(NamedTuple):
    """What is kept of what was not synced: nothing, everything, some, torn, last torn, until or but one."""

    kept: str
    rng: random.Random | None = None

    def pieces(self, writes):
        """Of the unsynced changes of one file, (offset, data or None) each, those that reached the disk."""
        if self.kept == "nothing" or not writes:
            return []
        if self.kept == "everything":
            return writes
        rng = self.rng
        if self.kept == "until":
            return writes[: rng.randrange(len(writes) + 1)]
        if self.kept == "but one":
            lost = rng.randrange(len(writes))
            return writes[:lost] + writes[lost + 1 :]
        if self.kept == "last torn":
            last = rng.randrange(len(writes))
            return writes[:last] + torn(writes[last], rng, 0.5)
        share = rng.choice((0.1, 0.5, 0.9))
        if self.kept == "some":
            return [write for write in writes if rng.random() < share]
        return [piece for write in writes for piece in torn(write, rng, share)]

    def change(self, changes):
        """How many of the changes of a name, which were not synced, reached the disk."""
        if self.kept in ("nothing", "everything"):
            return len(changes) if self.kept == "everything" else 0
        return self.rng.randrange(len(changes) + 1)


def torn(write, rng, share):
    """Some sectors of a write; a truncation is whole or not at all."""
    offset, data = write
    if data is None:
        return [write] if rng.random() < share else []
    pieces, begin = [], 0
    while begin < len(data):
        end = min(len(data), begin + SECTOR - (offset + begin) % SECTOR)
        if rng.random() < share:
            pieces.append((offset + begin, data[begin:end]))
        begin = end
    return pieces


class Platter:
    """The disk behind a list of operations, which may grow. `lies`: its syncs do nothing.

    `fates`: decides what a sync that failed had done; without it, nothing, and all is still to come.
    """

    def __init__(self, ops: list[Op], *, lies: bool = False, fates: random.Random | None = None):
        self._ops, self._lies, self._fates = ops, lies, fates
        self.position = 0
        self._contents: dict[int, bytearray] = {}
        self._unsynced: dict[int, list[tuple[int, tuple[int, bytes | None]]]] = {}
        self._names: dict[str, int] = {}
        self._changes: dict[str, list[int | None]] = {}

    def advance(self, until):
        """Follow the operations up to (without) that one."""
        for number in range(self.position, until):
            op = self._ops[number]
            if op.kind == "write":
                self._unsynced[op.file].append((number, (op.at, op.data)))
            elif op.kind == "truncate":
                self._unsynced[op.file].append((number, (op.at, None)))
            elif op.kind == "sync":
                if not self._lies:
                    self._reach(op, lambda _: True)
            elif op.kind == "failed sync":
                self._fail(op)
            elif op.kind == "folder sync":
                if not self._lies:
                    self._folder_lasts()
            elif op.kind == "delete":
                self._changes.setdefault(op.path, []).append(None)
            else:
                self._appears(op)
        self.position = max(until, self.position)

    def _appears(self, op):
        self._contents[op.file] = bytearray(op.data)
        self._unsynced[op.file] = []
        if op.kind == "found":
            self._names[op.path] = op.file
        else:
            self._changes.setdefault(op.path, []).append(op.file)

    def _reach(self, op, reached):
        """Of the writes before that sync began those reach the disk that `reached` says, the others never will."""
        content, unsynced = self._contents[op.file], self._unsynced[op.file]
        begun = sum(number < op.at for number, _ in unsynced)
        for _, write in unsynced[:begun]:
            if reached(write):
                apply(content, *write)
        del unsynced[:begun]

    def _fail(self, op):
        fate = "to come" if self._fates is None else self._fates.choice(FATES)
        if fate != "to come":
            share = {"written": 1.0, "gone": 0.0, "either": 0.5}[fate]
            self._reach(op, lambda _: self._fates.random() < share)

    def _folder_lasts(self):
        for path, changes in self._changes.items():
            self._rename(self._names, path, changes[-1])
        self._changes.clear()

    @staticmethod
    def _rename(names, path, file):
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file

    def image(self, choice, *, all_names=False):
        """The files after a cut here: what each path holds; a path whose name did not last is not there.

        `all_names`: the folder is as if it had been synced.
        """
        names = dict(self._names)
        for path, changes in self._changes.items():
            done = len(changes) if all_names else choice.change(changes)
            if done:
                self._rename(names, path, changes[done - 1])
        return {path: self._after_a_cut(file, choice) for path, file in names.items()}

    def _after_a_cut(self, file, choice):
        content = bytearray(self._contents[file])
        for write in choice.pieces([write for _, write in self._unsynced[file]]):
            apply(content, *write)
        return bytes(content)


def apply(content, offset, data):
    """A write, or (without data) a truncation."""
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data
