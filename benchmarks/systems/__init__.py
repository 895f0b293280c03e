"""The systems that are measured, an adapter each; those whose package is absent are left out."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

from .system import System

# name: (module, class, what must be importable)
SYSTEMS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "floor": ("floor", "Floor", ()),
    "floor-normal": ("floor", "FloorNormal", ()),
    "engine": ("engine", "Engine", ()),
    "engine-normal": ("engine", "EngineNormal", ()),
    "engine-run": ("engine_run", "EngineRun", ()),
    "engine-langgraph": ("langgraph_graph", "ThroughEventStore", ("langgraph.graph",)),
    "langgraph": ("langgraph_direct", "Direct", ("langgraph.checkpoint.sqlite",)),
    "langgraph-graph": ("langgraph_graph", "Compiled", ("langgraph.graph", "langgraph.checkpoint.sqlite")),
    "langgraph-delta": ("langgraph_graph", "DeltaChannels", ("langgraph.graph", "langgraph.checkpoint.sqlite")),
    "dbos": ("dbos", "Dbos", ("dbos",)),
    "eventsourcing": ("eventsourcing", "EventSourcing", ("eventsourcing",)),
    "eventsourcing-snapshots": ("eventsourcing", "EventSourcingSnapshots", ("eventsourcing",)),
    "burr": ("burr", "Burr", ("burr",)),
    "salamander": ("salamander", "Salamander", ("salamander",)),
}

ONE_EACH = ("floor", "engine", "engine-normal", "langgraph", "dbos", "eventsourcing", "burr", "salamander")
"""A system of each package, for what its variants share."""
OURS = ("floor", "floor-normal", "engine", "engine-normal", "engine-run", "engine-langgraph")


def absent(name: str) -> str:
    """What a system needs and is not installed; empty where nothing is missing."""
    for needed in SYSTEMS[name][2]:
        parts = needed.split(".")
        for length in range(1, len(parts) + 1):  # from the outside in: a name in what is missing cannot be looked for
            if find_spec(".".join(parts[:length])) is None:
                return needed
    return ""


def system(name: str) -> type[System]:
    """The adapter's class. Its module, and what it needs, is imported now."""
    module, attribute, _ = SYSTEMS[name]
    found: type[System] = getattr(import_module(f".{module}", __package__), attribute)
    return found
