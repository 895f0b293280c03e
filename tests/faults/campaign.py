"""A campaign: faults of one kind, tried many times, with controls that must lose.

A zero proves nothing by itself: the harness may be blind. So beside each count of losses stands that of a control, the
same faults against something that is known to be weak, which must not be zero. A seed gives the same faults again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Control(NamedTuple):
    """The same faults against something weak. `what`: it, in a few words; `lost` of `tried` must not be zero."""

    what: str
    lost: int
    tried: int


class Result(NamedTuple):
    """A line of the table. `lost`: what was lost, of what; `failures`: each loss in words, with how to try it again.

    `distinct`: how many of the `tried` cases differ, 0 where each is the machine's own doing and nothing is compared;
    `notes`: further figures (a longest wait).
    """

    what: str
    tried: int
    distinct: int
    lost: str
    failures: list[str]
    controls: list[Control]
    notes: str = ""

    @property
    def holds(self) -> bool:
        """Nothing was lost, and every control lost something."""
        return not self.failures and bool(self.controls) and all(control.lost for control in self.controls)


class Run(NamedTuple):
    """How a campaign is to go: about `size` cases, from `seed`, in `folder`; `tick(n)` after every n of them."""

    size: int
    seed: int
    folder: Path
    tick: Callable[[int], None]

    def rng(self, *salt: object) -> random.Random:
        """A generator of its own for each part, so that a part can be tried again alone."""
        return random.Random(repr((self.seed, *salt)))


class Campaign(NamedTuple):
    """`full`, `quick`: its sizes in the whole campaign and in the one that every change has to pass (0: not in it)."""

    name: str
    about: str
    full: int
    quick: int
    run: Callable[[Run], list[Result]]
