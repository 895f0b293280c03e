"""The toy that the machine is held against: a trace is a list of the states after each of its events.

It knows what every write means, in the plainest words there are, and nothing of logs, bases or files.
"""

from __future__ import annotations

import copy
import json
import math

import eventstore as es


def made(old, new):
    """The custom reducer: the newest value before the newest but one."""
    return [new, old[0] if isinstance(old, list) and old else None]


class DoesNotFit(Exception):
    """The toy refuses a write."""


def is_number(value):
    return type(value) in (int, float)


def written(state, how, key, value):
    """The toy's state after one write, which may not fit."""
    state = copy.deepcopy(state)
    if how == "put":
        how, value = {
            "log": ("extend", value if isinstance(value, list) else [value]),
            "total": ("sum", value),
            "high": ("max", value),
            "low": ("min", value),
            "doc": ("merge", value),
            "made": ("replace", made(state.get(key), value)),
        }.get(key, ("replace", value))
    if how == "append":
        how, value = "extend", [value]
    old = state.get(key)
    match how:
        case "replace":
            state[key] = value
        case "delete" if key in state:
            del state[key]
        case "extend" if key not in state or isinstance(old, list):
            state[key] = [*(old or []), *value]
        case "splice" if isinstance(old, list) and value[0] + value[1] <= len(old):
            state[key] = old[: value[0]] + value[2] + old[value[0] + value[1] :]
        case "merge" if isinstance(value, dict) and (key not in state or isinstance(old, dict)):
            state[key] = {**(old or {}), **value}
        case "sum" | "max" | "min" if is_number(value) and (key not in state or is_number(old)):
            if key not in state:
                state[key] = value
            elif how == "sum":
                state[key] = old + value
            elif value > old if how == "max" else value < old:
                state[key] = value
        case _:
            raise DoesNotFit
    return copy.deepcopy(state)


class Toy:
    """What the toy knows of one trace: `states[n - 1]`, `notes[n - 1]` and `counts[n - 1]` (of steps) of event n.

    `ends`: where rows end.
    """

    def __init__(self, parent=None, at=0):
        while parent is not None and at <= parent.fork_seq:
            parent = parent.parent  # whose row that is
        self.states = parent.states[:at] if parent else []
        self.notes = parent.notes[:at] if parent else []
        self.counts = parent.counts[:at] if parent else []
        self.ends = [end for end in parent.ends if end <= at] if parent else []
        self.barriers = {}  # by id: where it was raised, and where decided
        for barrier_id, (raised, decided) in (parent.barriers if parent else {}).items():
            if raised <= at:
                self.barriers[barrier_id] = (raised, decided if decided <= at else math.inf)
        self.ended = None
        self.retries = []
        self.parent, self.fork_seq, self.root = parent, at, 0

    @property
    def version(self):
        return len(self.states)

    @property
    def state(self):
        return self.states[-1]

    @property
    def pending(self):
        """The ids of the barriers that wait, as they were raised."""
        return [barrier_id for barrier_id, (_, decided) in self.barriers.items() if decided == math.inf]

    @property
    def status(self):
        return self.ended or ("waiting" if self.pending else "running")

    def is_trimmed(self, seq):
        """Whether a root hides `seq`: that of the trace itself, or of the ancestor whose row it is."""
        toy = self
        while toy.parent is not None and seq <= toy.fork_seq:
            toy = toy.parent
        return seq < toy.root

    def last_root(self):
        """The last root on the way from seq 1 to the head."""
        return max(self.root, self.parent.last_root() if self.parent is not None else 0)

    def commit(self, states, notes=False, steps=0):
        """One row: the states after each of its events."""
        before = self.counts[-1] if self.counts else 0
        self.counts += [before] * (len(states) - 1) + [before + steps]
        self.states += copy.deepcopy(states)
        self.notes += [notes] * len(states)
        self.ends.append(self.version)


def decided(states, node, decision):
    """The states after the deltas of a decision."""
    marks = {
        es.Approve: lambda: {"approved": True},
        es.Modify: lambda: {"approved": True},
        es.Reject: lambda: {"approved": False, "reject_reason": decision.reason},
        es.Reroute: lambda: {"rerouted_to": decision.target},
    }[type(decision)]()
    for mark in ("approved", "reject_reason", "rerouted_to"):
        if mark in marks:
            states.append(written(states[-1], "replace", f"{node}.{mark}", marks[mark]))
        elif f"{node}.{mark}" in states[-1]:
            states.append(written(states[-1], "delete", f"{node}.{mark}", None))
    if isinstance(decision, es.Modify):
        for key, value in decision.values.items():
            states.append(written(states[-1], "replace", key, value))
    return states


def exact(value):
    return json.dumps(value)


def canonical(value):
    """Exact, but for the order of keys."""
    return json.dumps(value, sort_keys=True)
