"""Compiled graphs on the saver, sync and async: they go through the states that they go through on InMemorySaver."""

from __future__ import annotations

import asyncio
import operator
import subprocess
import sys
import threading
from typing import Annotated, Any, TypedDict

import apsw
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, StateUpdate, interrupt
from savers import at, put, told, told_state, uuid_of

T = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    log: Annotated[list, operator.add]
    messages: Annotated[list, add_messages]
    turn: int
    answer: Any
    upto: int


def thread(name):
    return {"configurable": {"thread_id": name}}


def loop(saver, **keywords):
    """Two nodes that alternate until `upto`."""

    def think(state):
        turn = state.get("turn", 0) + 1
        return {
            "turn": turn,
            "log": [f"think {turn}"],
            "messages": [{"role": "ai", "content": "é" * turn, "id": f"m{turn}"}],
        }

    def act(state):
        turn = state.get("turn", 0)
        return {"log": [{"act": turn}], "messages": [{"role": "user", "content": "go on", "id": f"u{turn % 3}"}]}

    graph = StateGraph(State)
    graph.add_node("think", think)
    graph.add_node("act", act)
    graph.add_edge(START, "think")
    graph.add_edge("think", "act")
    graph.add_conditional_edges(
        "act", lambda state: "think" if state.get("turn", 0) < state["upto"] else END, ["think", END]
    )
    return graph.compile(checkpointer=saver, **keywords)


def asking(saver):
    """A node that asks twice, and two in parallel that ask once each."""

    def ask(state):
        return {"log": [interrupt("name?"), interrupt({"question": "age?"})]}

    def left(state):
        return {"log": ["left", interrupt("left?")]}

    def right(state):
        return {"log": ["right", interrupt("right?")]}

    graph = StateGraph(State)
    for node in (ask, left, right):
        graph.add_node(node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "left")
    graph.add_edge("ask", "right")
    return graph.compile(checkpointer=saver)


def fanned(saver, broken=()):
    """Sends that work in parallel; those in `broken` fail."""

    def work(state):
        if state["number"] in broken:
            raise ValueError(f"no {state['number']}")
        return {"log": [state["number"] ** 2]}

    graph = StateGraph(State)
    graph.add_node("plan", lambda state: {"log": ["plan"]})
    graph.add_node("work", work)
    graph.add_node("gather", lambda state: {"answer": sum(n for n in state["log"] if isinstance(n, int))})
    graph.add_edge(START, "plan")
    graph.add_conditional_edges(
        "plan", lambda state: [Send("work", {"number": n}) for n in range(state["upto"])], ["work"]
    )
    graph.add_edge("work", "gather")
    return graph.compile(checkpointer=saver)


def nested(saver, checkpointer):
    """A graph in a graph: what is within asks, and remembers its turns if it has a saver."""
    inner = StateGraph(State)
    inner.add_node("count", lambda state: {"turn": state.get("turn", 0) + 1, "log": ["within"]})
    inner.add_node("ask", lambda state: {"answer": interrupt("go on?"), "log": [f"asked {state['turn']}"]})
    inner.add_edge(START, "count")
    inner.add_edge("count", "ask")
    within = inner.compile(checkpointer=checkpointer)

    def call(state):
        found = within.invoke({"log": []})
        return {"log": [found["log"]], "answer": [found["answer"], found["turn"]]}

    outer = StateGraph(State)
    outer.add_node("before", lambda state: {"log": ["before"]})
    outer.add_node("call", call)
    outer.add_edge(START, "before")
    outer.add_edge("before", "call")
    return outer.compile(checkpointer=saver)


# What is done to a graph. Each gives what it saw.


def turns(saver, how):
    graph = loop(saver)
    seen = [graph.invoke({"upto": upto, "log": [upto]}, T, **how) for upto in (2, 3, 5)]
    return [*seen, told(graph, T)]


def interrupts(saver, how):
    graph = asking(saver)
    seen = [graph.invoke({"log": ["begin"]}, T, **how), graph.get_state(T).next]
    seen += [graph.invoke(Command(resume=answer), T, **how) for answer in ("ana", 7)]
    asked = {one.id: one.value for one in graph.get_state(T).interrupts}
    right = next(name for name, value in asked.items() if value == "right?")
    seen.append(graph.invoke(Command(resume={right: "r"}), T, **how))
    seen.append(graph.invoke(Command(resume="l", update={"answer": 1}), T, **how))
    return [*map(without_ids, seen), told(graph, T)]


def without_ids(found):
    """A result of invoke, its interrupts by their values, which parallel nodes raise in any order."""
    if isinstance(found, dict) and "__interrupt__" in found:
        return {**found, "__interrupt__": sorted(repr(one.value) for one in found["__interrupt__"])}
    return found


def static_interrupts(saver, how):
    graph = loop(saver, interrupt_before=["act"], interrupt_after=["act"])
    seen = [graph.invoke({"upto": 2}, T, **how)]
    while graph.get_state(T).next:
        seen.append(graph.invoke(None, T, **how))
    return [*seen, told(graph, T)]


def updates(saver, how):
    graph = loop(saver)
    graph.update_state(T, {"log": ["first of all"], "upto": 2}, as_node="__start__")
    seen = [graph.invoke(None, T, **how)]
    graph.update_state(T, {"log": ["by hand"], "answer": None}, as_node="think")
    seen.append(graph.invoke(None, T, **how))
    graph.bulk_update_state(
        T,
        [[StateUpdate({"log": ["x"]}, "think"), StateUpdate({"log": ["y"]}, "act")], [StateUpdate({"turn": 0}, "act")]],
    )
    graph.update_state(T, None, as_node="__copy__")
    graph.update_state(T, None, as_node=END)
    seen.append(graph.invoke({"upto": 1}, T, **how))
    return [*seen, told(graph, T)]


def time_travel(saver, how):
    graph = loop(saver)
    graph.invoke({"upto": 3}, T, **how)
    seen = []
    for state in list(graph.get_state_history(T)):
        seen.append(graph.invoke(None, state.config, **how))
        forked = graph.update_state(state.config, {"log": ["fork"], "upto": 2}, as_node="act")
        seen.append(told_state(graph.get_state(forked)))
        seen.append(graph.invoke(None, forked, **how))
        seen.append(told_state(graph.get_state(state.config)))
    copied = graph.update_state(list(graph.get_state_history(T))[-3].config, None, as_node="__copy__")
    return [*seen, told_state(graph.get_state(copied)), told(graph, T)]


def failures(saver, how):
    one_by_one = {**T, "max_concurrency": 1}  # so that all the others are done when the last one fails
    for _ in range(2):
        with pytest.raises(ValueError, match="no 4"):
            fanned(saver, broken=[4]).invoke({"upto": 5}, one_by_one, **how)
        with pytest.raises(ValueError, match="no 4"):
            fanned(saver, broken=[4, 3, 2]).invoke(None, one_by_one, **how)
    seen = [told(fanned(saver), T)]
    return [*seen, fanned(saver).invoke(None, T, **how), told(fanned(saver), T)]


def within(checkpointer):
    def run(saver, how):
        graph = nested(saver, checkpointer)
        seen = []
        for answer in ("a", "b", "c"):
            seen.append(graph.invoke({"log": [answer]}, T, **how))
            state = graph.get_state(T, subgraphs=True)
            seen += [told_state(state)[:3], [told_state(one.state)[:3] for one in state.tasks if one.state]]
            seen.append(graph.invoke(Command(resume=answer), T, **how))
        return [*map(without_ids, seen), told(graph, T), spaces(saver)]

    run.__name__ = f"within_{checkpointer}"
    return run


def spaces(saver):
    """How many checkpoints each namespace has, without the ids in their names."""
    found = [each.config["configurable"]["checkpoint_ns"].split(":")[0] for each in saver.list(thread("t"))]
    return {name: found.count(name) for name in found}


def functions(saver, how):
    @task
    def double(number):
        return number * 2

    @entrypoint(checkpointer=saver)
    def flow(number, *, previous=None):
        doubled = [double(n) for n in range(number)]
        total = sum(one.result() for one in doubled) + (previous or 0)
        answer = interrupt(f"{total}?")
        return entrypoint.final(value=[total, answer], save=total)

    seen = []
    for number in (3, 4):
        seen.append(flow.invoke(number, T, **how))
        seen.append(flow.invoke(Command(resume=f"yes {number}"), T, **how))
    return [*map(without_ids, seen), told(flow, T)]


SCENARIOS = [
    turns,
    interrupts,
    static_interrupts,
    updates,
    time_travel,
    failures,
    within(None),
    within(True),
    functions,
]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_everything_is_as_in_memory(saver, scenario, durability):
    how = {"durability": durability}
    assert repr(scenario(saver, how)) == repr(scenario(InMemorySaver(), how))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_sync_run_inside_a_running_loop_is_the_same(saver, scenario):
    async def inside():
        return scenario(saver, {})

    assert repr(asyncio.run(inside())) == repr(scenario(InMemorySaver(), {}))


class Awaited:
    """A graph whose `invoke`, `update_state` … run their async twins, each on the running loop of another thread."""

    def __init__(self, graph, loop):
        self.graph, self.loop = graph, loop

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            async def gathered():
                if name == "get_state_history":
                    return [state async for state in self.graph.aget_state_history(*arguments, **keywords)]
                return await getattr(self.graph, f"a{name}")(*arguments, **keywords)

            return asyncio.run_coroutine_threadsafe(gathered(), self.loop).result()

        return call


@pytest.fixture
def running_loop():
    """A loop that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    worker = threading.Thread(target=loop.run_forever)
    worker.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    worker.join()
    loop.close()


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize(
    "scenario", [turns, interrupts, static_interrupts, updates, time_travel, failures], ids=lambda one: one.__name__
)
def test_async_runs_are_the_same(saver, running_loop, monkeypatch, scenario, durability):
    how, expected = {"durability": durability}, scenario(InMemorySaver(), {"durability": durability})
    for name in ("loop", "asking", "fanned"):
        make = globals()[name]
        monkeypatch.setitem(
            globals(), name, lambda *given, make=make, **known: Awaited(make(*given, **known), running_loop)
        )
    assert repr(scenario(saver, how)) == repr(expected)


# Interrupt and resume


def test_a_run_is_resumed_by_another_saver(make_saver):
    asking(make_saver()).invoke({"log": []}, T)
    asking(make_saver()).invoke(Command(resume="ana"), T)
    last = asking(make_saver())
    assert [one.value for one in last.get_state(T).interrupts] == [{"question": "age?"}]
    last.invoke(Command(resume=7), T)
    assert last.get_state(T).values == {"log": ["ana", 7], "messages": []}


CHILD = """
import sys
sys.path.insert(0, {folder!r})
from eventstore.integrations.langgraph import EventStoreSaver
from langgraph.types import Command
from test_graphs import T, asking
with EventStoreSaver.from_conn_string({path!r}) as saver:
    asking(saver).invoke({given}, T)
"""


@pytest.mark.usefixtures("ours")
def test_a_run_is_resumed_in_another_process(make_saver, path, request):
    asking(make_saver()).invoke({"log": ["begin"]}, T)
    for given in ('Command(resume="ana")', "Command(resume=7)"):
        code = CHILD.format(folder=str(request.path.parent), path=path, given=given)
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    graph = asking(make_saver())
    assert graph.get_state(T).values["log"] == ["begin", "ana", 7]
    assert {one.value for one in graph.get_state(T).interrupts} == {"left?", "right?"}


@pytest.mark.usefixtures("ours")
def test_a_run_goes_on_while_others_hold_the_file_open(make_saver):
    savers = [make_saver() for _ in range(3)]
    for turn in range(1, 10):
        loop(savers[turn % 3]).invoke({"upto": turn}, T)
    memory = loop(InMemorySaver())
    for turn in range(1, 10):
        memory.invoke({"upto": turn}, T)
    assert [told(loop(saver), T) for saver in savers] == [told(memory, T)] * 3


def test_a_channel_changes_its_type_between_runs(make_saver):
    shapes = [[1, 2], 5, [{"a": 1}], None, [True], True, ["x"], "x", [], {"b": []}, [[1]], [1.0], [1]]

    def built(saver):
        graph = StateGraph(State)
        graph.add_node("answer", lambda state: {"answer": shapes[state["turn"]]})
        graph.add_edge(START, "answer")
        return graph.compile(checkpointer=saver)

    saver, memory = make_saver(), InMemorySaver()
    for turn in range(len(shapes)):
        for one in (saver, memory):
            built(one).invoke({"turn": turn}, T)
            built(one).update_state(T, {"answer": shapes[-turn]}, as_node="answer")
        saver = make_saver() if turn % 3 == 2 else saver
    assert told(built(saver), T) == told(built(memory), T)


# Many at once


def test_many_threads_of_many_threads(saver):
    """Threads of LangGraph, each run by a thread of Python."""
    ends = {}

    def run(name):
        for upto in (2, 4):
            ends[name] = loop(saver).invoke({"upto": upto}, thread(name))

    workers = [threading.Thread(target=run, args=(f"t{number}",)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = turns_of_memory(2, 4)
    assert set(ends) == {f"t{number}" for number in range(12)}
    assert all(told(loop(saver), thread(name)) == expected for name in ends)


def turns_of_memory(*upto):
    graph = loop(InMemorySaver())
    for one in upto:
        graph.invoke({"upto": one}, T)
    return told(graph, T)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_many_runs_on_one_loop(saver, durability):
    async def all_of_them():
        names = [f"t{number}" for number in range(40)]
        await asyncio.gather(*[loop(saver).ainvoke({"upto": 3}, thread(name), durability=durability) for name in names])
        return [[told_state(state) async for state in loop(saver).aget_state_history(thread(name))] for name in names]

    graph = loop(InMemorySaver())
    graph.invoke({"upto": 3}, T, durability=durability)
    assert asyncio.run(all_of_them()) == [told(graph, T)] * 40


def test_many_runs_of_one_thread(make_saver):
    """They fork each other's checkpoints; each comes to its end, and each line of checkpoints is whole."""
    saver = make_saver()

    async def all_of_them():
        return await asyncio.gather(*[loop(saver).ainvoke({"upto": 3, "log": [n]}, T) for n in range(20)])

    asyncio.run(all_of_them())
    for one in (saver, make_saver()):
        found = {each.config["configurable"]["checkpoint_id"]: each for each in one.list(at())}
        for each in found.values():
            assert each.parent_config is None or each.parent_config["configurable"]["checkpoint_id"] in found
            assert repr(one.get_tuple(each.config)) == repr(each)
        assert len(found) >= 20 * 3


def test_one_saver_serves_one_loop_after_another(saver):
    graph = loop(saver)
    for upto in (1, 2, 4):
        asyncio.run(graph.ainvoke({"upto": upto}, T))
    graph.invoke({"upto": 5}, T)
    assert told(graph, T) == turns_of_memory(1, 2, 4, 5)


def test_one_saver_serves_several_loops_at_once(saver):
    begin = threading.Barrier(4)

    def run(name):
        begin.wait()
        asyncio.run(loop(saver).ainvoke({"upto": 5}, thread(name)))

    workers = [threading.Thread(target=run, args=(f"t{number}",)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(told(loop(saver), thread(f"t{number}")) == turns_of_memory(5) for number in range(4))


@pytest.mark.usefixtures("ours")
def test_the_loop_goes_on_while_a_commit_waits(make_saver, path):
    saver = make_saver()
    put(saver, 0, values={"a": 0})
    other = apsw.Connection(path)

    async def work():
        checkpoint = {**saver.get_tuple(at()).checkpoint, "id": uuid_of(1)}
        other.execute("BEGIN IMMEDIATE")
        waiting = [
            asyncio.create_task(saver.aput(at("t", uuid_of(0)), checkpoint, {"step": 1}, {})),
            asyncio.create_task(saver.aput_writes(at("t", uuid_of(0)), [("a", 1)], "task")),
            asyncio.create_task(saver.adelete_thread("other")),
        ]
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert (await saver.aget_tuple(at())).checkpoint["id"] == uuid_of(0)
        assert [each.checkpoint["id"] async for each in saver.alist(at())] == [uuid_of(0)]
        assert not any(one.done() for one in waiting[:2])
        other.execute("COMMIT")
        await asyncio.gather(*waiting)
        return await saver.aget_tuple(at())

    assert asyncio.run(work()).checkpoint["id"] == uuid_of(1)
    other.close()


def test_a_cancelled_run_can_be_run_again(saver):
    async def work():
        running = asyncio.create_task(loop(saver).ainvoke({"upto": 500}, {**T, "recursion_limit": 2000}))
        while not [each async for each in saver.alist(at(), limit=1)]:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return await loop(saver).ainvoke({"upto": 2, "turn": 0}, T)

    assert asyncio.run(work())["turn"] >= 1
    states = list(saver.list(at()))
    assert all(repr(saver.get_tuple(each.config)) == repr(each) for each in states)
