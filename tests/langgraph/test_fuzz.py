"""The saver against LangGraph's InMemorySaver: the same random operations, and the same answers to the letter.

The inputs are what LangGraph may send: a channel that changed has a version that no checkpoint had before, and is
among the new ones; one that did not change has its value and version.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import warnings
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED, TASKS
from langgraph.types import Send
from reference import Reference
from savers import at, exact, uuid_of

import eventstore as es
from eventstore.integrations.langgraph import EventStoreSaver

THREAD = st.sampled_from("abc")
SCOPE = st.sampled_from([("a", "")] * 6 + [("a", "child:1"), ("b", ""), ("c", "")])
TINY = es.AdaptiveFold(min_tail_deltas=2, min_tail_rows=1, min_link_bytes=64, max_link_bytes=256, small_state_bytes=0)
CHANNEL = st.sampled_from(["messages", "messages", "log", "doc", "note"])
ANY = st.integers(0, 1000)
DELTA = ("messages", "log")
"""Channels that LangGraph may find to be delta channels: what they are made of survives pruning."""
NUMBER = st.sampled_from([0, 1, True, False, 1.0, 0.0, -1, 200, 2**40, 0.1, None])
TEXT = st.sampled_from(["", "a", "é🙂", "text " * 60, "x" * 300])
MESSAGE = st.one_of(
    st.builds(HumanMessage, TEXT, id=st.sampled_from(["h1", "h2", None])),
    st.builds(AIMessage, TEXT, tool_calls=st.just([{"name": "look", "args": {}, "id": "c1"}]), id=st.just("i1")),
    st.builds(ToolMessage, TEXT, tool_call_id=st.just("c1")),
    st.builds(lambda: RemoveMessage(id="h1")),
)
LEAF = st.one_of(NUMBER, TEXT, st.binary(max_size=3))
ITEM = st.one_of(
    LEAF, MESSAGE, st.lists(LEAF, max_size=3),
    st.dictionaries(st.sampled_from("xyz"), LEAF | st.lists(LEAF, max_size=2)), st.builds(Send, st.just("node"), LEAF),
)  # fmt: skip
ITEMS = st.lists(ITEM, max_size=4)
VALUE = st.one_of(LEAF, ITEM, ITEMS)
CHANGE = st.one_of(
    st.tuples(st.just("extend"), ITEMS, st.just(0)),
    st.tuples(st.just("extend"), st.lists(NUMBER, min_size=5, max_size=40), st.just(0)),
    st.tuples(st.sampled_from(["window", "edit", "insert", "drop", "in place"]), ITEMS, ANY),
    st.tuples(st.sampled_from(["same", "equal", "tuple", "lose", "forget"]), st.just([]), st.just(0)),
    st.tuples(st.just("set"), VALUE, st.just(0)),
)
CHANGES = st.dictionaries(CHANNEL, CHANGE, max_size=3)
METADATA = st.fixed_dictionaries(
    {"source": st.sampled_from(["input", "loop", "fork"]), "step": st.integers(-1, 3), "parents": st.just({})},
    optional={
        "run_id": st.sampled_from(["r1", "r2", "r3"]), "score": st.sampled_from([1, True, 1.0, None, "1"]),
        "tags": st.just(["x", {"y": None}]), "é": st.just("ü"), "nul": st.just("a\0b"),
    },
)  # fmt: skip
EXTRA = st.sampled_from([{}, {"metadata": {"user": "u", "n": 1}}, {"metadata": {"step": 9}}])
RETENTION = ["copy_thread", "prune", "delete_for_runs", "delete_thread"]
FILTER = st.dictionaries(
    st.sampled_from(["source", "step", "score", "run_id", "tags", "nul", "parents", "none"]),
    st.sampled_from(["loop", "update", 1, 0, True, 1.0, None, "1", "r1", ["x", {"y": None}], "ab", {}]),
    max_size=2,
)
WRITE = st.tuples(st.sampled_from(["messages", "log", TASKS, ERROR, INTERRUPT, RESUME, SCHEDULED]), VALUE)


class Cipher:
    """No secret at all, but what it gives is different each time, as with a real one."""

    def __init__(self):
        self.times = 0

    def encrypt(self, plaintext):
        self.times += 1
        return "mask", self.times.to_bytes(4, "big") + bytes(byte ^ self.times % 256 for byte in plaintext)

    def decrypt(self, ciphername, ciphertext):
        return bytes(byte ^ int.from_bytes(ciphertext[:4], "big") % 256 for byte in ciphertext[4:])


def changed(old, how, items, where, in_place):
    """A channel's value after a change; the items that stay are the same objects."""
    if how in ("set", "same", "equal"):
        return items if how == "set" else old if how == "same" else copy.deepcopy(old)
    if how == "tuple":
        return tuple(old) if isinstance(old, list) else old
    old = old if isinstance(old, list) else []
    index = where % (len(old) + 1)
    if how == "in place" and in_place and old:
        item = old[where % len(old)]
        if isinstance(item, dict | list):
            item.update(x=where) if isinstance(item, dict) else item.append(where)
        return list(old)
    end = {"drop": index + 1 + where % 3, "edit": index + len(items)}.get(how, index)
    return {
        "extend": old + items, "window": old[index:] + items, "drop": old[:index] + old[end:],
    }.get(how, old[:index] + items + old[end:])  # fmt: skip


class Kept:
    """What a checkpoint was made of: living objects, as LangGraph holds them between two supersteps."""

    def __init__(self, number=None, parent=None, values=(), versions=(), seen=()):
        self.number, self.parent = number, parent
        self.values, self.versions, self.seen = dict(values), dict(versions), dict(seen)

    def copy(self):
        return Kept(self.number, self.parent, copy.deepcopy(self.values), self.versions, copy.deepcopy(self.seen))


class Savers(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="savers-"))
        self.ours = []

    @initialize(
        serde=st.sampled_from(["plain", "plain", "encrypted", "pickle"]), exact=st.booleans(), kind=st.integers(0, 2),
        tiny=st.booleans(),
    )  # fmt: skip
    def begin(self, serde, exact, kind, tiny):
        plain = JsonPlusSerializer(allowed_msgpack_modules=None, pickle_fallback=serde == "pickle")
        self.serde = EncryptedSerializer(Cipher(), plain) if serde == "encrypted" else plain
        self.exact, self.kind, self.tiny = exact, kind, tiny
        self.reference = Reference(serde=self.serde)
        self.ours = [self.opened(), self.opened()]
        self.kept, self.early = {}, {}
        self.clock, self.last = 9, ("a", "")

    def opened(self):
        """A saver of its own on the file; one whose store folds at every turn, where that was chosen."""
        path = str(self.folder / "runs.db")
        store = es.open(path, durability="normal", fold_policy=TINY) if self.tiny else path
        return EventStoreSaver(store, serde=self.serde, durability="normal", exact=self.exact)

    def close(self, saver):
        saver.close()
        saver.store.close()

    def tick(self):
        self.clock += 1
        return self.clock

    def version(self):
        now = self.tick()
        return [now, f"{now:032}.{now * 7919 % 10**6:06}", now + 0.5][self.kind]

    def both(self, which, method, *arguments, **keywords):
        for one in (self.reference, self.ours[which]):
            getattr(one, method)(*arguments, **keywords)

    def pick(self, scope, number):
        """A checkpoint of the scope, most often the last one; None where there is none."""
        kept = self.kept.get(scope, [])
        return kept[-1 if number > 400 else number % len(kept)] if kept else None

    # What LangGraph does

    @rule(
        scope=SCOPE, which=st.integers(0, 1), under=ANY,
        steps=st.lists(st.tuples(CHANGES, METADATA), min_size=1, max_size=6),
        begin=st.sampled_from(["go on", "read", "copy"]), order=ANY, extra=EXTRA,
    )  # fmt: skip
    def run(self, scope, which, under, steps, begin, order, extra):
        """Puts in a line: the first under the last checkpoint, an earlier one, one that never was, or none.

        `begin`: go on with the living values, with those that the saver gives, or with equal ones.
        """
        parent = self.pick(scope, under) if under > 30 else None
        name = uuid_of(parent.number) if parent else "ffffffff-never-was" if under < 5 else None
        kept = parent or Kept()
        if parent and begin == "read":
            found = self.ours[which].get_tuple(at(scope[0], name, scope[1])).checkpoint
            kept = Kept(None, None, found["channel_values"], kept.versions, kept.seen)
        elif begin == "copy":
            kept = kept.copy()
        for changes, metadata in steps:
            number = self.early.pop(scope, None) or self.tick() * 1000 + (0 if order > 100 else -1500 - order)
            kept = Kept(number, name, kept.values, kept.versions, kept.seen)
            before = dict(kept.versions)
            self.change(kept, changes, scope)
            if number // 1000 % 3 == 0:
                kept.seen = {**kept.seen, f"node {number // 1000 % 5}": before}
            new = {channel: kept.versions[channel] for channel in changes if channel in kept.versions}
            self.send(scope, which, kept, metadata, new, extra)
            self.kept.setdefault(scope, []).append(kept)
            name = uuid_of(number)

    def change(self, kept, changes, scope):
        if any(how == "in place" for how, *_ in changes.values()) and self.exact:
            for other in self.kept.get(scope, []):
                other.values = copy.deepcopy(other.values)
        for channel, (how, items, where) in changes.items():
            value = changed(kept.values.get(channel), how, items, where, self.exact)
            kept.values[channel], kept.versions[channel] = value, self.version()
            if how in ("lose", "forget") or (how in ("same", "equal") and value is None):
                del kept.values[channel]
            if how == "forget":
                del kept.versions[channel]

    def send(self, scope, which, kept, metadata, new, extra):
        for one in (self.reference, self.ours[which]):
            checkpoint = {
                "v": 4, "ts": f"2026-01-01T00:00:00.{kept.number:09}+00:00", "id": uuid_of(kept.number),
                "channel_values": dict(kept.values), "channel_versions": dict(kept.versions),
                "versions_seen": {node: dict(seen) for node, seen in kept.seen.items()},
                "updated_channels": sorted(new) if kept.number % 2 else None,
            }  # fmt: skip
            if kept.number % 5 == 0:
                checkpoint["pending_sends"] = []
            config = {**at(scope[0], kept.parent, scope[1]), **extra}
            sent_metadata, sent_new = copy.deepcopy(metadata), dict(new)
            if bare := [channel for channel in DELTA if channel in kept.versions and channel not in kept.values]:
                sent_metadata["counters_since_delta_snapshot"] = dict.fromkeys(bare, (1, 1))
            returned = one.put(config, checkpoint, sent_metadata, sent_new)
            assert returned["configurable"] == at(scope[0], uuid_of(kept.number), scope[1])["configurable"]
            for used in (
                *checkpoint["versions_seen"].values(),
                checkpoint["channel_versions"],
                checkpoint["channel_values"],
            ):
                used.clear()  # LangGraph goes on using some of these
            for used in (checkpoint, sent_metadata, sent_new):
                used.clear()
        self.last = scope

    @rule(scope=SCOPE, which=st.integers(0, 1), number=ANY, changes=CHANGES, metadata=METADATA, retry=st.booleans())
    def put_again(self, scope, which, number, changes, metadata, retry):
        kept = self.pick(scope, number)
        if kept is not None and (*scope, kept.parent) not in self.reference.hidden:
            changes = {} if retry else changes
            self.change(kept, changes, scope)
            new = {name: kept.versions[name] for name in changes if name in kept.versions}
            self.send(scope, which, kept, metadata, new, {})

    @rule(scope=SCOPE, which=st.integers(0, 1), number=ANY, metadata=METADATA)
    def copy_as_update_state_does(self, scope, which, number, metadata):
        kept = self.pick(scope, number)
        if kept is not None:
            again = Kept(self.tick() * 1000, kept.parent, kept.values, kept.versions, kept.seen)
            self.send(scope, which, again, metadata, {}, {})
            self.kept[scope].append(again)

    @rule(
        scope=SCOPE, which=st.integers(0, 1), number=ANY, writes=st.lists(WRITE, max_size=4),
        task=st.sampled_from("abc"), path=st.sampled_from(["", "", "~1", "~2"]),
    )  # fmt: skip
    def put_writes(self, scope, which, number, writes, task, path):
        kept = self.pick(scope, number)
        if number < 60 or kept is None:
            name = self.early.setdefault(scope, self.tick() * 1000)
        else:
            name = kept.number
        self.both(which, "put_writes", at(scope[0], uuid_of(name), scope[1]), writes, task, path)
        self.last = scope

    # What happens to threads and files

    @rule(
        how=st.sampled_from(RETENTION), thread=THREAD, run=st.sampled_from(["r1", "r2", "r3"]), which=st.integers(0, 1)
    )
    def retain(self, how, thread, run, which):
        match how:
            case "copy_thread" if thread != "c":
                self.retain("delete_thread", "c", run, which)
                self.both(which, "copy_thread", thread, "c")
                for (name, namespace), kept in list(self.kept.items()):
                    if name == thread:
                        self.kept["c", namespace] = [one.copy() for one in kept]
                        self.compare_all(("c", namespace))
            case "prune":
                self.both(which, "prune", [thread, "unknown"], strategy="keep_latest")
            case "delete_for_runs":
                self.both(which, "delete_for_runs", [run, "unknown"])
                self.early = {scope: number for scope, number in self.early.items() if self.reference.visible(*scope)}
            case "delete_thread":
                self.both(which, "delete_thread", thread)
                self.early = {scope: number for scope, number in self.early.items() if scope[0] != thread}
        self.forget()

    def forget(self):
        """What the reference does not show any more cannot be a parent."""
        for scope, kept in list(self.kept.items()):
            names = set(self.reference.visible(*scope))
            self.kept[scope] = [one for one in kept if uuid_of(one.number) in names]

    @rule(which=st.integers(0, 1), bases=st.booleans())
    def reopen_or_drop_bases(self, which, bases):
        if bases:
            self.ours[which].store.drop_bases()
        else:
            self.close(self.ours[which])
            self.ours[which] = self.opened()

    # The laws

    def seen(self, found):
        """A tuple to the letter, but for a parent that is not shown, never or no more: it may be named or not."""
        told = exact(found)
        if told and told["parent"]:
            thread, namespace, name = told["parent"]
            if name not in self.reference.storage[thread][namespace] or told["parent"] in self.reference.hidden:
                told["parent"] = None
        return told

    @rule(
        scope=SCOPE, which=st.integers(0, 1), filter=FILTER, before=st.none() | ANY,
        limit=st.none() | st.integers(0, 5),
        number=st.none() | ANY,
    )  # fmt: skip
    def list_some(self, scope, which, filter, before, limit, number):
        earlier = self.pick(scope, before) if before is not None else None
        one = self.pick(scope, number) if number is not None and number < 300 else None
        config = at(scope[0], one and uuid_of(one.number), scope[1])
        asked = {
            "filter": filter or None, "limit": limit,
            "before": earlier and at(scope[0], uuid_of(earlier.number), scope[1]),
        }  # fmt: skip
        ours, theirs = (
            [self.seen(found) for found in one.list(config, **asked)] for one in (self.ours[which], self.reference)
        )
        assert ours == theirs

    @invariant()
    def both_know_the_same_latest(self):
        for one in self.ours:
            config = at(self.last[0], None, self.last[1])
            assert self.seen(one.get_tuple(config)) == self.seen(self.reference.get_tuple(config))

    def compare_all(self, scope, saver=None):
        """Every checkpoint of a scope, each by its id and all in a list, and the history of its delta channels."""
        saver = saver or self.ours[0]
        thread, namespace = scope
        expected = [self.seen(found) for found in self.reference.list(at(thread, None, namespace))]
        assert [self.seen(found) for found in saver.list(at(thread, None, namespace))] == expected
        for place in expected:
            config = at(thread, place["config"][2], namespace)
            assert self.seen(saver.get_tuple(config)) == place
            bare = [name for name in place["versions"] if name not in place["values"]]
            self.compare_histories(saver, scope, place["config"][2], bare)

    def compare_histories(self, saver, scope, name, channels):
        asked = [channel for channel in channels if self.is_whole(scope, name, channel)]
        config = at(scope[0], name, scope[1])
        ours, theirs = (
            {
                channel: repr(one)
                for channel, one in which.get_delta_channel_history(config=config, channels=asked).items()
            }
            for which in (saver, self.reference)
        )
        assert ours == theirs

    def is_whole(self, scope, name, channel):
        """Whether the history is to be whole: nothing is hidden of it, or the channel is known for a delta channel."""
        for hidden, versions, values in self.reference.path(*scope, name):
            if hidden and (channel not in versions or channel not in DELTA):
                return False
            if channel in values:
                break
        return True

    def everything_is_the_same(self, saver):
        every = sorted((self.seen(found) for found in saver.list(None)), key=lambda found: found["config"])
        assert every == sorted(
            (self.seen(found) for found in self.reference.list(None)), key=lambda found: found["config"]
        )
        for scope in self.kept:
            self.compare_all(scope, saver)

    def teardown(self):
        if self.ours:
            for saver in self.ours:
                self.everything_is_the_same(saver)
            self.ours[0].store.drop_bases()
            self.everything_is_the_same(self.ours[0])
            report = self.ours[1].store.verify()
            assert report.ok, report.problems
            last = self.opened()
            self.everything_is_the_same(last)
            self.close(last)
        for saver in self.ours:
            self.close(saver)
        shutil.rmtree(self.folder)


class TestFuzz(Savers.TestCase):
    """Warnings are errors: in a file that nobody damages, no base is ever found to be damaged."""

    if os.environ.get("HYPOTHESIS_PROFILE") != "long":
        settings = settings(max_examples=12, stateful_step_count=25)

    def runTest(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            super().runTest()
