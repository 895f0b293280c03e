"""A mutant: the engine with one small mistake, and the probe that catches it."""

from __future__ import annotations

import re
from typing import NamedTuple

from .mutation import Change, SchemaChange


class Mutant(NamedTuple):
    """`changes`: what is done to the engine; `probe`: what catches it, in words that match `caught`."""

    name: str
    about: str
    changes: tuple[Change | SchemaChange, ...]
    probe: str
    caught: str

    def misjudged(self, verdict, text):
        """What is wrong with what became of it; None where its probe caught it in its own words."""
        if verdict == "caught" and re.search(self.caught, text):
            return None
        told = {"survived": f"survives {self.probe}", "caught": f"is caught in other words: {text}"}
        return f"mutant {self.name!r} ({self.about}) " + told.get(verdict, f"{verdict}: {text.strip()}")


def mutant(name, about, probe, caught, *changes):
    """One of a list; each change is (module, old, new), for the schema (old, new)."""
    made = tuple(Change(*change) if len(change) == 3 else SchemaChange(*change) for change in changes)
    return Mutant(name, about, made, probe, caught)
