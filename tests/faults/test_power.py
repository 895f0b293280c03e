"""When the power fails: an effect has its intent on disk, what was decided stays decided, and from whatever the
disk kept a run goes on without repeating silently what it did."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import NamedTuple

import pytest

import eventstore as es

from .disk import put_back, recording
from .harness import begin, exists, finish
from .laws import Reading, check_run
from .world import INPUT, Outside, make_graph, rule_of

SEED = int(os.environ.get("FAULTS_SEED", "20260301"))


@pytest.fixture
def disk():
    with recording() as disk:
        yield disk


@pytest.fixture
def outside(tmp_path):
    return Outside(tmp_path / "outside.txt", process=1)


class Moment(NamedTuple):
    """The instant before an effect: what the disk holds, whose effect it is, and how far the log goes."""

    image: dict[str, bytes]
    path: str
    key: str
    version: int


@pytest.mark.parametrize(
    ("durability", "kept", "is_async"),
    [("normal", "nothing", False), ("normal", "some", False), ("full", "nothing", False), ("normal", "nothing", True)],
)
def test_when_an_effect_happens_its_intent_is_on_disk(disk, path, outside, tmp_path, durability, kept, is_async):
    moments, rng = [], random.Random(SEED)
    graph = make_graph(outside, is_async=is_async, pace=0)
    with es.open(path, durability=durability) as store:

        def watch(what, ctx):
            if what == "call" and rule_of(ctx.path):
                version = store.open_trace("t1").version
                moments.append(Moment(disk.image(path, kept, rng), ctx.path, ctx.idempotency_key, version))

        begin(graph, store, "t1", SEED)
        outside.watch = watch
        assert es.resume(graph, store, "t1").status == "completed"
    assert {moment.path for moment in moments} >= {"pay", "ship", "bill", "gather/charge", "gather/notify", "each/0"}
    for number, (image, node, key, version) in enumerate(moments):
        with es.open(put_back(image, tmp_path / f"cut-{number}.db")) as store:
            assert Reading.of(store, "t1").intents[key] > 0, node
            if durability == "full" and "/" not in node:
                assert store.open_trace("t1").version == version
            assert store.verify().ok


def test_a_node_without_side_effects_costs_no_sync_under_normal(disk, path, outside):
    syncs = []
    graph = es.Graph("pure")
    graph.node(lambda ctx: syncs.clear(), name="one")
    graph.node(lambda ctx: None, name="two")
    graph.node(lambda ctx: {"syncs": len(syncs)}, name="three")
    graph.edge("one", "two").edge("two", "three").start("one").end("three")
    with es.open(path, durability="normal") as store:
        disk.watch = lambda what: syncs.append(what) if what == "sync" else None
        assert es.run(graph, store).state["syncs"] == 0


ACTS = {
    "a decision": lambda store: store.decide("t1", "ask", es.Approve()),
    "a decision that comes early": lambda store: store.decide("t1", "ask#2", es.Approve()),
    "a standing decision": lambda store: store.decide("t1", "ask#*", es.Approve()),
    "a cancellation": lambda store: store.cancel("t1"),
    "a trim": lambda store: store.trim("t2", 21, retry_window_s=0),
    "an erasure": lambda store: store.erase("t2"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_what_a_human_did_is_on_disk_when_it_returns(disk, path, tmp_path, act):
    graph = es.Graph("ask").barrier("ask").start("ask").end("ask")
    with es.open(path, durability="normal", checkpoint_policy=es.CheckpointPolicy.manual()) as store:
        es.run(graph, store, id="t1")
        other = store.start({"n": 0}, id="t2")
        for number in range(30):
            with other.step("count") as step:
                step.put("n", number)
        act(store)
        image = disk.image(path)
        found = look(store)
    with es.open(put_back(image, tmp_path / "cut.db")) as store:
        assert look(store) == found
        assert store.verify().ok


def look(store):
    """All that a store shows of both traces."""
    shown = {}
    for trace_id in ("t1", "t2"):
        try:
            shown[trace_id] = [(recorded.seq, recorded.event) for recorded in store.events(trace_id)]
        except es.TraceErased as erased:
            shown[trace_id] = str(erased)
    return shown, store.traces()


def test_a_pure_step_under_normal_may_be_lost(disk, path, tmp_path):
    with es.open(path, durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        trace.append([es.BarrierRaised("ask#1", "ask")])
        trace.decide("ask", es.Approve())
        kept = trace.version
        with trace.step("count") as step:
            step.put("n", 1)
        image = disk.image(path)
    with es.open(put_back(image, tmp_path / "cut.db")) as store:
        assert store.open_trace("t1").version == kept
        assert store.verify().ok


class Cut(NamedTuple):
    """A power cut in the midst of a run. `lines`: what had been done outside."""

    image: dict[str, bytes]
    lines: bytes
    what: str


@pytest.mark.parametrize("durability", ["normal", "full"])
def test_wherever_the_power_fails_a_run_goes_on_from_what_the_disk_kept(
    disk, path, outside, tmp_path, long, durability
):
    rng, cuts = random.Random(SEED), []
    most = 200 if long else 10

    def watch(what, *_):
        if rng.random() < (0.6 if long else 0.1) or what == "effect":
            kept = rng.choice(("nothing", "nothing", "some", "everything"))
            done = Path(outside.path)
            cuts.append(
                Cut(disk.image(path, kept, rng), done.read_bytes() if done.exists() else b"", f"{what}, {kept}")
            )

    disk.watch = outside.watch = watch
    graph = make_graph(outside, pace=0)
    with es.open(path, durability=durability) as store:
        begin(graph, store, "t1", SEED)
        assert es.resume(graph, store, "t1").status == "completed"
    disk.watch = None
    assert len(cuts) > most
    for number, cut in enumerate(rng.sample(cuts, most)):
        folder = tmp_path / f"cut-{number}"
        folder.mkdir()
        go_on(cut, folder, durability)


def go_on(cut, folder, durability):
    """Start the machine again, resume the run, and check it."""
    (folder / "outside.txt").write_bytes(cut.lines)
    outside = Outside(folder / "outside.txt", process=2)
    graph = make_graph(outside, pace=0)
    try:
        with es.open(put_back(cut.image, folder / "runs.db"), durability=durability) as store:
            known = Reading.of(store, "t1").known
            if not exists(store, "t1"):
                es.run(graph, store, INPUT, id="t1")
            finish(graph, store, "t1", outside, SEED)
            check_run(store, "t1", outside, SEED, [(1, known)], folder)
    except BaseException as error:
        error.add_note(f"seed {SEED}, cut after {cut.what}, in {folder}")
        raise
