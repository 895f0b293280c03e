"""What the ancestors of a checkpoint wrote to a channel that stores no value: by hand, and by real graphs."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import END, START, StateGraph
from langgraph.types import Overwrite, Send
from savers import at, exact, id_of, put, told, uuid_of, write


def history(saver, number, *channels, **where):
    """The history of each channel, asked in both ways: its seed, if any, and the values written."""
    config = at(where.pop("thread", "t"), None if number is None else uuid_of(number), **where)
    found = saver.get_delta_channel_history(config=config, channels=list(channels))
    again = asyncio.run(saver.aget_delta_channel_history(config=config, channels=list(channels)))
    assert repr(dict(found)) == repr(dict(again))
    assert list(found) == list(channels)
    return {name: (one.get("seed", "none"), [value for _, _, value in one["writes"]]) for name, one in found.items()}


def line(saver, length, *, stored=(), thread="t", namespace="", channel="a", first=0):
    """A line of checkpoints that each write their number; those in `stored` hold a snapshot."""
    for number in range(first, first + length):
        values = {channel: _DeltaSnapshot([f"up to {number}"])} if number in stored else {}
        put(
            saver, number, under=number - 1 if number else None, thread=thread, namespace=namespace, values=values,
            versions={channel: number + 1},
        )  # fmt: skip
        write(saver, number, (channel, number), thread=thread, namespace=namespace)


def test_writes_come_oldest_first_and_without_those_of_the_target(saver):
    line(saver, 5)
    assert history(saver, 4, "a") == {"a": ("none", [0, 1, 2, 3])}
    assert history(saver, 2, "a") == {"a": ("none", [0, 1])}
    assert history(saver, 0, "a") == {"a": ("none", [])}


def test_a_write_is_a_triple_of_task_channel_and_value(saver):
    line(saver, 2)
    found = saver.get_delta_channel_history(config=at("t", uuid_of(1)), channels=["a"])
    assert [tuple(one) for one in found["a"]["writes"]] == [("task", "a", 0)]


def test_within_a_checkpoint_path_then_task_then_index_decide(saver):
    put(saver, 0, versions={"a": 1})
    write(saver, 0, ("a", "z1"), ("b", "-"), ("a", "z2"), task="z", path="~1")
    write(saver, 0, ("a", "a1"), task="a", path="~2")
    write(saver, 0, ("a", "y1"), ("a", "y2"), task="y", path="~1")
    write(saver, 0, ("a", "no path"), task="zz")
    put(saver, 1, under=0, versions={"a": 1})
    assert history(saver, 1, "a", "b") == {
        "a": ("none", ["no path", "y1", "y2", "z1", "z2", "a1"]),
        "b": ("none", ["-"]),
    }


def test_late_writes_stand_where_they_belong(saver):
    line(saver, 4)
    write(saver, 0, ("a", "late"), task="zz")
    assert history(saver, 3, "a") == {"a": ("none", [0, "late", 1, 2])}


def test_the_seed_is_the_nearest_stored_value_and_its_own_writes_follow_it(saver):
    line(saver, 7, stored=[1, 3])
    assert history(saver, 6, "a") == {"a": (_DeltaSnapshot(["up to 3"]), [3, 4, 5])}
    assert history(saver, 3, "a") == {"a": (_DeltaSnapshot(["up to 1"]), [1, 2])}
    assert history(saver, 1, "a") == {"a": ("none", [0])}


@pytest.mark.parametrize("value", [[10, 20], None, 0, "", [], {}, False])
def test_any_stored_value_is_a_seed(saver, value):
    put(saver, 0, versions={"a": 1})
    write(saver, 0, ("a", "subsumed"))
    put(saver, 1, under=0, values={"a": value})
    write(saver, 1, ("a", 1))
    put(saver, 2, under=1, versions={"a": 3})
    assert repr(history(saver, 2, "a")) == repr({"a": (value, [1])})


def test_a_versioned_channel_without_a_value_is_no_seed(saver):
    put(saver, 0, values={"a": "seed"})
    put(saver, 1, under=0, versions={"a": 2})
    put(saver, 2, under=1, versions={"a": 2})
    assert history(saver, 2, "a") == {"a": ("seed", [])}


def test_a_value_stays_a_seed_while_its_version_does(saver):
    put(saver, 0, values={"a": "seed"})
    write(saver, 0, ("a", 0))
    put(saver, 1, under=0, values={"a": "seed", "b": 1}, versions={"a": 1, "b": 2})
    write(saver, 1, ("a", 1))
    put(saver, 2, under=1, versions={"a": 3})
    assert history(saver, 2, "a") == {"a": ("seed", [1])}


def test_channels_stop_each_by_itself(saver):
    for number, values in enumerate([{}, {"a": "seed a"}, {}, {"b": "seed b"}, {}]):
        put(
            saver,
            number,
            under=number - 1 if number else None,
            values=values,
            versions=dict.fromkeys("abc", number + 1),
        )
        write(saver, number, *[(channel, number) for channel in "abc"])
    assert history(saver, 4, "a", "b", "c") == {
        "a": ("seed a", [1, 2, 3]),
        "b": ("seed b", [3]),
        "c": ("none", [0, 1, 2, 3]),
    }


def test_forks_see_the_writes_on_their_own_path(saver):
    line(saver, 3)
    put(saver, 3, under=1, versions={"a": 4})
    write(saver, 3, ("a", "fork"))
    put(saver, 4, under=3, versions={"a": 5})
    put(saver, 5, under=2, versions={"a": 6})
    assert history(saver, 4, "a") == {"a": ("none", [0, 1, "fork"])}
    assert history(saver, 5, "a") == {"a": ("none", [0, 1, 2])}


def test_a_second_root_has_no_ancestors(saver):
    line(saver, 3)
    put(saver, 3, versions={"a": 4})
    put(saver, 4, under=3, versions={"a": 4})
    assert history(saver, 4, "a") == {"a": ("none", [])}


def test_without_an_id_the_latest_checkpoint_is_meant(saver):
    line(saver, 4)
    assert history(saver, None, "a") == history(saver, 3, "a") == {"a": ("none", [0, 1, 2])}


def test_namespaces_and_threads_are_apart(saver):
    line(saver, 3)
    line(saver, 2, namespace="child:1", stored=[0])
    line(saver, 2, thread="other")
    assert history(saver, None, "a", namespace="child:1") == {"a": (_DeltaSnapshot(["up to 0"]), [0])}
    assert history(saver, None, "a", thread="other") == {"a": ("none", [0])}


def test_what_is_not_there_wrote_nothing(saver):
    line(saver, 3)
    assert history(saver, 2) == {}
    assert history(saver, 2, "unknown") == {"unknown": ("none", [])}
    assert history(saver, 9, "a") == {"a": ("none", [])}
    assert history(saver, None, "a", thread="unknown") == {"a": ("none", [])}


def test_a_missing_parent_ends_the_walk(saver):
    put(saver, 2, under=1, versions={"a": 1})
    write(saver, 2, ("a", 2))
    put(saver, 3, under=2, versions={"a": 1})
    assert history(saver, 3, "a") == {"a": ("none", [2])}


def test_a_parent_that_comes_later_counts(saver):
    put(saver, 2, under=1, versions={"a": 1})
    write(saver, 1, ("a", 1))
    assert history(saver, 2, "a") == {"a": ("none", [])}
    put(saver, 1, versions={"a": 1})
    assert history(saver, 2, "a") == {"a": ("none", [1])}


@pytest.mark.usefixtures("ours")
def test_a_loop_of_parents_ends(saver):
    for number, under in ((0, 2), (1, 0), (2, 1), (3, 3), (4, 2)):
        put(saver, number, under=under, versions={"a": 1})
        write(saver, number, ("a", number))
    assert history(saver, 4, "a") == {"a": ("none", [0, 1, 2])}
    assert set(history(saver, 2, "a")["a"][1]) >= {0, 1}
    assert history(saver, 3, "a")["a"][1] in ([], [3])


@pytest.mark.usefixtures("ours")
class TestRetention:
    """A channel's history outlives the checkpoints that it runs through."""

    def test_pruning_keeps_what_the_latest_is_made_of(self, make_saver):
        saver = make_saver()
        line(saver, 8, stored=[2])
        before = history(saver, 7, "a")
        saver.prune(["t"])
        assert [id_of(found.config) for found in saver.list(at())] == [uuid_of(7)]
        assert all(saver.get_tuple(at("t", uuid_of(number))) is None for number in range(7))
        assert history(saver, 7, "a") == history(make_saver(), 7, "a") == before
        assert before == {"a": (_DeltaSnapshot(["up to 2"]), [2, 3, 4, 5, 6])}

    def test_pruning_without_any_seed_keeps_all_writes(self, saver):
        line(saver, 5)
        saver.prune(["t"])
        assert history(saver, 4, "a") == {"a": ("none", [0, 1, 2, 3])}

    def test_pruning_again_and_again_while_the_line_grows(self, make_saver):
        saver = make_saver()
        for first in range(0, 12, 3):
            line(saver, 3, first=first, stored=[4])
            saver.prune(["t"])
            saver = make_saver()
        assert history(saver, 11, "a") == {"a": (_DeltaSnapshot(["up to 4"]), list(range(4, 11)))}
        assert len(list(saver.list(at()))) == 1

    def test_pruning_goes_as_deep_as_the_deepest_channel(self, saver):
        for number in range(6):
            values = {"a": number} if number == 4 else {"b": number} if number == 1 else {}
            put(
                saver,
                number,
                under=number - 1 if number else None,
                values=values,
                versions=dict.fromkeys("ab", number + 1),
            )
            write(saver, number, ("a", number), ("b", number))
        before = history(saver, 5, "a", "b")
        saver.prune(["t"])
        assert history(saver, 5, "a", "b") == before == {"a": (4, [4]), "b": (1, [1, 2, 3, 4])}

    def test_pruning_keeps_the_path_of_the_latest_not_of_its_siblings(self, saver):
        line(saver, 4)
        put(saver, 5, under=1, versions={"a": 9})
        saver.prune(["t"])
        assert history(saver, 5, "a") == {"a": ("none", [0, 1])}

    def test_pruning_with_delete_leaves_nothing(self, saver):
        line(saver, 4)
        saver.prune(["t"], strategy="delete")
        assert list(saver.list(None)) == []
        put(saver, 4, under=3, versions={"a": 1})
        assert history(saver, 4, "a") == {"a": ("none", [])}

    def test_pruning_keeps_each_namespace_by_itself(self, saver):
        line(saver, 4, stored=[1])
        line(saver, 3, namespace="child:1")
        saver.prune(["t"])
        assert history(saver, None, "a") == {"a": (_DeltaSnapshot(["up to 1"]), [1, 2])}
        assert history(saver, None, "a", namespace="child:1") == {"a": ("none", [0, 1])}
        assert len(list(saver.list({"configurable": {"thread_id": "t"}}))) == 2

    def test_a_run_deleted_in_the_middle_leaves_its_writes(self, make_saver):
        saver = make_saver()
        for number in range(6):
            run = "gone" if number in (2, 3) else "kept"
            put(saver, number, under=number - 1 if number else None, versions={"a": number + 1}, run_id=run)
            write(saver, number, ("a", number))
        saver.delete_for_runs(["gone"])
        assert [found.metadata["step"] for found in saver.list(at())] == [5, 4, 1, 0]
        assert saver.get_tuple(at("t", uuid_of(3))) is None
        assert history(saver, 5, "a") == history(make_saver(), 5, "a") == {"a": ("none", [0, 1, 2, 3, 4])}
        assert history(saver, 3, "a") == {"a": ("none", [])}

    def test_a_run_deleted_with_its_snapshot_still_seeds(self, saver):
        for number in range(4):
            values = {"a": "seed"} if number == 1 else {}
            put(
                saver,
                number,
                under=number - 1 if number else None,
                values=values,
                versions={"a": number + 1},
                run_id=f"{number}",
            )
            write(saver, number, ("a", number))
        saver.delete_for_runs(["1", "2"])
        assert history(saver, 3, "a") == {"a": ("seed", [1, 2])}

    def test_a_run_deleted_at_the_end_is_gone(self, saver):
        for number in range(4):
            put(saver, number, under=number - 1 if number else None, versions={"a": 1}, run_id=f"{number}")
            write(saver, number, ("a", number))
        saver.delete_for_runs(["3", "2"])
        assert id_of(saver.get_tuple(at()).config) == uuid_of(1)
        assert history(saver, None, "a") == {"a": ("none", [0])}

    def test_a_copy_has_the_whole_history(self, make_saver):
        saver = make_saver()
        line(saver, 6, stored=[1])
        put(saver, 6, under=3, versions={"a": 7})
        before = [history(saver, number, "a") for number in range(7)]
        saver.copy_thread("t", "copy")
        saver.delete_thread("t")
        assert [history(saver, number, "a", thread="copy") for number in range(7)] == before
        assert [history(make_saver(), number, "a", thread="copy") for number in range(7)] == before
        assert history(saver, 5, "a") == {"a": ("none", [])}

    def test_a_copy_of_what_was_pruned(self, make_saver):
        saver = make_saver()
        line(saver, 6, stored=[1])
        before = history(saver, 5, "a")
        saver.prune(["t"])
        saver.copy_thread("t", "copy")
        saver.delete_thread("t")
        assert len(list(saver.list(at("copy")))) == 1
        assert history(make_saver(), 5, "a", thread="copy") == before
        line(saver, 3, thread="copy", first=6)
        saver.prune(["copy"])
        assert history(make_saver(), 8, "a", thread="copy") == {"a": (before["a"][0], [*before["a"][1], 5, 6, 7])}

    def test_a_pruned_copy_leaves_the_source_as_it_was(self, make_saver):
        saver = make_saver()
        line(saver, 6, stored=[1])
        saver.copy_thread("t", "copy")
        before = [exact(found) for found in saver.list(at())]
        saver.prune(["copy"])
        assert [exact(found) for found in make_saver().list(at())] == before
        assert history(saver, 3, "a") == {"a": (_DeltaSnapshot(["up to 1"]), [1, 2])}


# Real graphs


def extend(state, writes):
    """The reducer: every write is an item or a list of them; RESET begins anew."""
    return [*state, *(item for written in writes for item in (written if isinstance(written, list) else [written]))]


def built(saver, frequency, wide=False):
    """A loop of three nodes that append to `log`, and to `rare` every other time; `wide` ones are sent in parallel."""

    log, rare = (Annotated[list, DeltaChannel(extend, snapshot_frequency=every)] for every in (frequency, 2))
    fields = {"log": log, "rare": rare, "turn": int, "upto": int}
    State = TypedDict("State", fields, total=False)

    def first(state):
        turn = state.get("turn", 0) + 1
        return {"log": [f"first {turn}"], "turn": turn, **({"rare": [turn]} if turn % 2 else {})}

    def second(state):
        return {"log": [{"of": "second", "seen": len(state["log"])}, 1, True, 1.0]}

    def sent(state):
        return {"log": [f"sent {state['number']}"]}

    def onward(state):
        if state["turn"] < state["upto"]:
            return "first"
        return END

    graph = StateGraph(State)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    if wide:
        graph.add_node("sent", sent)
        graph.add_conditional_edges("first", lambda state: [Send("sent", {"number": n}) for n in (3, 1, 2)], ["sent"])
        graph.add_edge("sent", "second")
    else:
        graph.add_edge("first", "second")
    graph.add_conditional_edges("second", onward, ["first", END])
    return graph.compile(checkpointer=saver)


def run(graph, config, durability):
    """Two runs, an update by hand, a third run, a fork in the middle of the second and a run of it."""
    graph.invoke({"upto": 3, "log": ["begin"]}, config, durability=durability)
    graph.invoke({"upto": 5}, config, durability=durability)
    graph.update_state(config, {"log": ["by hand"]}, as_node="second")
    graph.invoke({"upto": 7, "log": ["again"]}, config, durability=durability)
    past = list(graph.get_state_history(config))
    forked = graph.update_state(past[len(past) // 2].config, {"log": ["forked"], "upto": 6}, as_node="second")
    graph.invoke(None, forked, durability=durability)
    graph.update_state(config, {"log": Overwrite(["over"])}, as_node="second")
    return graph.invoke({"upto": 9}, config, durability=durability)


@pytest.mark.parametrize("wide", [False, True], ids=["line", "wide"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("frequency", [1, 3, 100])
class TestGraphs:
    """Graphs with delta channels go through the same states as with LangGraph's own saver."""

    def test_every_state_is_the_same(self, make_saver, durability, frequency, wide):
        graph, other = built(make_saver(), frequency, wide), built(InMemorySaver(), frequency, wide)
        config = {"configurable": {"thread_id": "t"}}
        assert repr(run(graph, config, durability)) == repr(run(other, config, durability))
        assert told(graph, config) == told(other, config)
        again = built(make_saver(), frequency, wide)
        assert told(again, config) == told(other, config)

    @pytest.mark.usefixtures("ours")
    def test_the_state_survives_pruning_and_goes_on(self, make_saver, durability, frequency, wide):
        graph, other = built(make_saver(), frequency, wide), built(InMemorySaver(), frequency, wide)
        config = {"configurable": {"thread_id": "t"}}
        for one in (graph, other):
            run(one, config, durability)
        for upto in (10, 12):
            make_saver().prune(["t"])
            graph = built(make_saver(), frequency, wide)
            assert len(list(graph.get_state_history(config))) == 1
            assert repr(graph.get_state(config).values) == repr(other.get_state(config).values)
            ends = [repr(one.invoke({"upto": upto}, config, durability=durability)) for one in (graph, other)]
            assert ends[0] == ends[1]
            kept = told(graph, config)
            assert kept[:-1] == told(other, config)[: len(kept) - 1]

    @pytest.mark.usefixtures("ours")
    def test_a_copy_is_the_same_and_goes_on(self, make_saver, durability, frequency, wide):
        saver = make_saver()
        graph = built(saver, frequency, wide)
        config, copied = ({"configurable": {"thread_id": name}} for name in ("t", "copy"))
        run(graph, config, durability)
        saver.copy_thread("t", "copy")
        assert told(graph, copied) == told(graph, config)
        ends = [repr(graph.invoke({"upto": 12}, one, durability=durability)) for one in (copied, config)]
        assert ends[0] == ends[1]
        before = told(graph, copied)
        saver.delete_thread("t")
        assert told(built(make_saver(), frequency, wide), copied) == before
