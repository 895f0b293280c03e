"""What probes share. A probe is a short, deterministic scenario, the check of one law: it fails in the law's own words.

`PROBES` holds them by name; they stand in `probes_of_…`. Each works in an empty folder of its own.
"""

from __future__ import annotations

import apsw
import msgspec

import eventstore as es

from .laws import expect

PUT = es.StateDelta.put
NOW = {"retry_window_s": 0}
TINY = es.AdaptiveFold(min_tail_deltas=2, min_tail_rows=1, min_link_bytes=64, max_link_bytes=256, small_state_bytes=0)


def probe(function):
    """Under its name."""
    PROBES[function.__name__] = function
    return function


PROBES = {}


def refuses(error, act, law):
    """The law: that act is refused with that error, and with no other."""
    try:
        act()
    except error as refused:
        return refused
    except es.EventStoreError as other:
        expect(False, law, "but:", f"{type(other).__name__}: {other}")
    return expect(False, law)


def equal(found, expected, law):
    """The law: both are the same JSON, 1 and 1.0 told apart."""
    one, other = msgspec.json.encode(found), msgspec.json.encode(expected)
    expect(one == other, f"{law}: {one.decode():.300} is not {other.decode():.300}")


def sound(store):
    """The law: the file verifies."""
    report = store.verify()
    expect(report.ok, "the file does not verify:", "; ".join(map(str, report.problems)))


def raw(store, *statements):
    """Damage a file past its guards, which are there again when it is done."""
    connection = apsw.Connection(store.path)
    guards = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for statement in statements:
        connection.execute(*statement) if isinstance(statement, tuple) else connection.execute(statement)
    for _, sql in guards:
        connection.execute(sql)
    connection.close()


def chat(store, trace_id="t1", steps=12):
    """A run of a little of everything; its states, by seq - 1."""
    trace = store.start({"log": [], "n": 0, "text": "a", "f": 0.5}, id=trace_id, reducers={"n": "sum", "log": "append"})
    states = [{"log": [], "n": 0, "text": "a", "f": 0.5}]

    def then(**changes):
        new = {**states[-1], **changes}
        states.append({key: value for key, value in new.items() if value is not None})

    for number in range(steps):
        with trace.step("work") as step:
            step.put("log", {"number": number, "text": "x" * 20})
            then(log=[*states[-1]["log"], {"number": number, "text": "x" * 20}])
            step.put("n", number)
            then(n=states[-1]["n"] + number)
            step.sum("f", 0.1 * number)
            then(f=states[-1]["f"] + 0.1 * number)
            if number % 3 == 1:
                step.delete("text")
                then(text=None)
            else:
                step.replace("text", f"step {number}")
                then(text=f"step {number}")
            if number % 4 == 3:
                step.splice("log", 1, 1, ["spliced", number])
                log = states[-1]["log"]
                then(log=[log[0], "spliced", number, *log[2:]])
        states.append(states[-1])
    return trace, states


def every_state(store, trace_id, states, first=1):
    """The law: each state is what it was."""
    for seq, state in enumerate(states, 1):
        if seq >= first:
            equal(store.state_at(trace_id, seq), state, f"another state of {trace_id} at {seq}")


@probe
def nothing(folder):
    """The control: a store that is only opened and closed."""
    es.open(folder / "runs.db").close()
