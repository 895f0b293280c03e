"""The async face: the same verbs with the same signatures, over the one sync core."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from contextlib import suppress

import pytest

import eventstore as es

PUT = es.StateDelta.put


def go(path, main, **keywords):
    """Run `main(store)` in an event loop of its own."""

    async def run():
        async with es.aopen(path, durability="normal", **keywords) as store:
            return await asyncio.wait_for(main(store), 60)

    return asyncio.run(run())


# The same verbs


def public(cls):
    inherited = [base for base in cls.__mro__ if base is not object]
    return {name for base in inherited for name in vars(base) if not name.startswith("_")}


TWINS = [(es.Store, es.AsyncStore), (es.Trace, es.AsyncTrace), (es.CheckpointStore, es.AsyncCheckpointStore)]
# What the stores of both kinds are made of, and the engine uses of itself; no verbs of a user.
NOT_VERBS = {"mark"}


@pytest.mark.parametrize(("sync", "twin"), TWINS)
def test_every_public_verb_has_its_twin_and_no_other(sync, twin):
    assert public(twin) == public(sync) - NOT_VERBS


@pytest.mark.parametrize(
    ("sync", "twin", "name"),
    [(sync, twin, name) for sync, twin in TWINS for name in sorted(public(sync) - NOT_VERBS)],
    ids=lambda item: getattr(item, "__name__", item),
)
def test_a_verb_takes_the_same_parameters(sync, twin, name):
    mine, theirs = inspect.getattr_static(sync, name), inspect.getattr_static(twin, name)
    assert isinstance(mine, property) is isinstance(theirs, property)
    if not isinstance(mine, property):
        wanted, given = inspect.signature(mine), inspect.signature(theirs)
        assert given.parameters == wanted.parameters


def test_opening_takes_the_same_parameters():
    assert inspect.signature(es.aopen).parameters == inspect.signature(es.open).parameters


def test_every_verb_that_reads_or_writes_is_awaited():
    for _, twin in TWINS:
        for name in public(twin) - {"step", "get"}:
            member = inspect.getattr_static(twin, name)
            if not isinstance(member, property):
                assert inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member), name
    assert inspect.iscoroutinefunction(es.AsyncStore.get)


def test_the_verbs_do_what_they_do(path):
    async def main(store):
        trace = await store.start({"log": [], "n": 0}, id="t1", name="chat", reducers={"log": "append"}, node="ask")
        async with trace.step("ask", es.ExecutionMetadata(duration_ms=5), next="answer") as step:
            step.put("log", "hi")
            assert step.get("log") == ["hi"]
        saved = await trace.checkpoint("answer")
        assert (await trace.append([PUT("n", 1)], append_id="a")).version == 4
        assert (await store.append("t1", [PUT("n", 1)], append_id="a")).duplicate
        assert (await trace.note("seen")).version == 5
        assert await trace.raise_barrier("ok") == "ok#1"
        assert trace.pending_barriers == ["ok#1"]
        assert await trace.decide("ok", es.Approve()) == "ok#1"
        assert (trace.id, trace.name, trace.next_node, trace.graph_hash) == ("t1", "chat", "answer", "")
        assert trace.state == await store.state_at("t1") == {"log": ["hi"], "n": 1, "ok.approved": True}
        assert await store.state_at("t1", 1) == {"log": [], "n": 0}
        assert (trace.get("n"), await store.get("t1", "n", at=1), await store.get("t1", "absent", None)) == (1, 0, None)
        assert await trace.refresh() == trace.version == 8
        assert [entry.node_name for entry in await trace.entries()] == ["ask"]
        assert (await trace.execution_trace()).barrier_decisions[0].decision == es.Approve()
        assert [event.seq async for event in trace.events(after=2)] == [3, 4, 5, 6, 7, 8]
        assert [event.seq async for event in store.events("t1", upto=2)] == [1, 2]
        assert (await store.snapshot_at("t1", 8)).restore() == trace.state
        assert (await store.checkpoints.load(saved.checkpoint_id)).state == {"log": ["hi"], "n": 0}
        assert [found.seq for found in await store.checkpoints.list("t1")] == [8, 6, 3]
        assert (await store.checkpoints.load_latest("t1")).seq == 8
        assert await store.checkpoints.delete(saved.checkpoint_id)
        assert await store.checkpoints.prune("t1", 1) == 1
        kept = await store.checkpoints.save(es.Checkpoint.new("t9", "", None, {"n": 1}))
        assert kept.seq == 1
        fork = await store.fork("t1", at=3, id="t2")
        assert fork.state == {"log": ["hi"], "n": 0}
        await trace.end()
        assert trace.status == "completed"
        assert [info.trace_id for info in await store.traces(limit=2)] == ["t2", "t9"]
        opened = await store.open_trace("t1")
        assert opened.state == trace.state
        assert await store.drop_bases() == 0
        assert (await store.stats()).steps == 2  # t1's one, and the fork's that shares it
        assert (await store.verify()).ok
        assert (store.path, store.durability) == (path, "normal")

    go(path, main)
    with es.open(path) as store:
        assert store.verify().ok


def test_opening_may_be_awaited_too(path):
    async def main():
        store = await es.aopen(path)
        await store.start({"n": 1}, id="t1")
        await store.close()
        await store.close()

    asyncio.run(main())
    with es.open(path) as store:
        assert store.state_at("t1") == {"n": 1}


def test_an_open_that_fails_raises_where_it_is_awaited(tmp_path):
    async def main():
        with pytest.raises(es.StorageError):
            await es.aopen(tmp_path / "absent.db", create=False)
        with pytest.raises(es.StorageError):
            async with es.aopen(tmp_path / "absent.db", create=False):
                pass

    asyncio.run(main())


# Many tasks


def test_two_hundred_tasks_lose_nothing_and_share_commits(path):
    async def main(store):
        counted = []
        store._store._database.writer.set_commit_hook(lambda: bool(counted.append(1)))

        async def run(number):
            trace = await store.start({"log": []}, id=f"t{number}")
            for turn in range(5):
                async with trace.step("work") as step:
                    step.append("log", turn)
            assert trace.state == {"log": list(range(5))}

        await asyncio.gather(*map(run, range(200)))
        assert len(counted) < 200 * 6 / 2
        for number in range(200):
            assert await store.state_at(f"t{number}") == {"log": list(range(5))}
        assert (await store.verify()).ok

    go(path, main)


def test_tasks_on_one_trace_with_any_are_dense(path):
    async def main(store):
        trace = await store.start({"log": []}, id="t1")
        results = await asyncio.gather(
            *(trace.append([es.StateDelta.append("log", [n])], expected_version=es.ANY) for n in range(50))
        )
        assert sorted(result.version for result in results) == list(range(2, 52))
        assert sorted(trace.state["log"]) == list(range(50))
        assert trace.state == await store.state_at("t1")

    go(path, main)


def test_of_two_overlapping_steps_on_one_trace_one_wins(path):
    async def main(store):
        trace = await store.start({"n": 0}, id="t1")
        entered = asyncio.Barrier(2)

        async def run(number):
            async with trace.step("work") as step:
                step.put("n", number)
                await entered.wait()
            return number

        results = await asyncio.gather(run(1), run(2), return_exceptions=True)
        lost = [result for result in results if isinstance(result, es.WrongExpectedVersion)]
        won = [result for result in results if isinstance(result, int)]
        assert (len(lost), len(won)) == (1, 1)
        assert trace.state == await store.state_at("t1") == {"n": won[0]}
        async with trace.step("again") as step:
            step.put("n", 9)
        assert await store.state_at("t1") == {"n": 9}

    go(path, main)


def test_a_conflict_reaches_its_own_task_only(path):
    async def main(store):
        trace, rival = await store.start({"n": 0}, id="t1"), await store.open_trace("t1")
        others = [await store.start({"n": 0}, id=f"o{number}") for number in range(10)]

        async def run(handle):
            async with handle.step("work") as step:
                step.put("n", 1)

        results = await asyncio.gather(*map(run, [trace, *others, rival]), return_exceptions=True)
        assert [type(result) for result in results] == [type(None)] * 11 + [es.WrongExpectedVersion]
        await rival.refresh()
        await run(rival)
        assert (await store.verify()).ok

    go(path, main)


# Exceptions and cancellation


def test_an_exception_in_a_step_is_recorded_and_goes_on(path):
    async def main(store):
        trace = await store.start({"n": 0}, id="t1")
        with pytest.raises(ZeroDivisionError):
            async with trace.step("work") as step:
                step.put("n", 1)
                raise ZeroDivisionError
        with pytest.raises(es.ValueRefused):
            async with trace.step("work") as step:
                step.put("n", float("nan"))
        assert trace.state == await store.state_at("t1") == {"n": 0}
        assert [entry.success for entry in await trace.entries()] == [False, False]

    go(path, main)


def test_a_failure_is_recorded_even_when_another_writer_came_between(path):
    async def main(store):
        trace = await store.start({"n": 0}, id="t1")
        with pytest.raises(ZeroDivisionError):
            async with trace.step("work"):
                await store.append("t1", [PUT("n", 5)])
                raise ZeroDivisionError
        assert [entry.success for entry in await trace.entries()] == [False]

    go(path, main)


def test_a_step_that_is_cancelled_in_its_block_is_recorded_as_failed(path):
    async def main(store):
        trace = await store.start({"n": 0}, id="t1")

        async def run():
            async with trace.step("work") as step:
                step.put("n", 1)
                await asyncio.sleep(60)

        task = asyncio.create_task(run())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert trace.state == await store.state_at("t1") == {"n": 0}
        assert [entry.error for entry in await trace.entries()] == ["CancelledError"]

    go(path, main)


def test_cancelling_a_task_that_waits_for_its_commit_undoes_nothing(path):
    async def main(store):
        traces = [await store.start({"n": 0}, id=f"t{number}") for number in range(40)]

        async def run(trace):
            async with trace.step("work", append_id="once") as step:
                step.put("n", 1)

        tasks = [asyncio.create_task(run(trace)) for trace in traces]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(result, asyncio.CancelledError) for result in results)
        for trace in traces:
            await trace.refresh()
            assert trace.state == await store.state_at(trace.id)
            await run(trace)  # the retry settles it, whether it had landed or not
            assert await store.state_at(trace.id) == {"n": 1}
            assert len([entry for entry in await trace.entries() if entry.success]) == 1
        assert (await store.verify()).ok

    go(path, main)


def test_an_unforeseen_error_of_the_writer_reaches_every_task(path, monkeypatch):
    async def main(store):
        traces = [await store.start({"n": 0}, id=f"t{number}") for number in range(5)]

        def broken(batch):
            raise RuntimeError("unforeseen")

        async def run(trace):
            async with trace.step("work") as step:
                step.put("n", 1)

        with monkeypatch.context() as patch:
            patch.setattr(store._store._writer, "_run", broken)
            results = await asyncio.gather(*map(run, traces), return_exceptions=True)
        assert [str(result) for result in results] == ["unforeseen"] * 5
        await asyncio.gather(*map(run, traces))
        assert [trace.state["n"] for trace in traces] == [1] * 5

    go(path, main)


def test_an_unforeseen_error_of_one_acknowledgement_hangs_no_other_task(path, monkeypatch):
    async def main(store):
        traces = [await store.start({"n": 0}, id=f"t{number}") for number in range(5)]
        acknowledge = es.Trace._acknowledge

        def broken(self, pending):
            if self.id == "t2":
                raise RuntimeError("unforeseen")
            return acknowledge(self, pending)

        async def run(trace):
            async with trace.step("work") as step:
                step.put("n", 1)

        with monkeypatch.context() as patch:
            patch.setattr(es.Trace, "_acknowledge", broken)
            done = asyncio.gather(*map(run, traces), return_exceptions=True)
            results = await asyncio.wait_for(done, 1)
        assert [str(result) for result in results] == ["None", "None", "unforeseen", "None", "None"]

    go(path, main)


# The end


def test_closing_finishes_what_is_queued(path):
    async def main():
        store = await es.aopen(path)
        traces = [await store.start({"n": 0}, id=f"t{number}") for number in range(20)]

        async def run(trace):
            async with trace.step("work") as step:
                step.put("n", 1)

        tasks = [asyncio.create_task(run(trace)) for trace in traces]
        await asyncio.sleep(0)
        await store.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return [result is None for result in results]

    landed = asyncio.run(main())
    with es.open(path) as store:
        assert [store.state_at(f"t{number}")["n"] == 1 for number in range(20)] == landed
        assert any(landed)


def test_a_closed_store_says_so_to_every_call(path):
    async def main():
        store = await es.aopen(path)
        trace = await store.start({"n": 0}, id="t1")
        await store.close()
        for call in (
            lambda: store.state_at("t1"),
            lambda: store.start(),
            lambda: store.traces(),
            lambda: trace.note("seen"),
            lambda: trace.append([PUT("n", 1)]),
            lambda: store.checkpoints.list("t1"),
        ):
            with pytest.raises(es.StoreClosed):
                await call()
        with pytest.raises(es.StoreClosed):
            async with trace.step("work") as step:
                step.put("n", 1)

    asyncio.run(main())


def test_a_store_that_is_never_closed_does_not_hang_the_exit(path):
    program = (
        "import asyncio, sys, eventstore as es\n"
        "async def main():\n"
        "    store = await es.aopen(sys.argv[1])\n"
        "    trace = await store.start({'n': 0}, id='t1')\n"
        "    async with trace.step('work') as step:\n"
        "        step.put('n', 1)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], timeout=30, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with es.open(path) as store:
        assert store.state_at("t1") == {"n": 1}


def test_the_loop_is_not_blocked_while_commits_sync(path):
    async def main(store):
        trace = await store.start({"n": 0}, id="t1")
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticker = asyncio.create_task(tick())
        for number in range(20):
            async with trace.step("work") as step:
                step.put("n", number)
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker
        assert ticks > 20

    go(path, main)


def test_looking_back_is_awaited(path):
    async def main(store):
        trace = await store.start({"n": 0}, id="t1", name="count")
        for number in (1, 2, 3):
            async with trace.step("add") as step:
                step.put("n", number)
        past = await trace.at(step=2)
        assert past.state == {"n": 2} and trace.get("n", at="step:1") == 1
        assert [then.state["n"] async for then in trace.history(after=1)] == [1, 2, 3]
        assert [then.state["n"] async for then in trace.history(reverse=True)] == [3, 2, 1, 0]
        assert [write.value for write in await trace.blame("n")] == [0, 1, 2, 3]
        assert (await trace.why(-1)).execution.node_name == "add"
        assert len((await trace.timeline()).spans) == 3
        forked = await trace.fork("step:1", put={"n": 10}, id="t2")
        async with forked.step("add") as step:
            step.put("n", 11)
        assert es.diff(past, await forked.at()).parted == es.Side("t1", 3)
        plan = await store.plan_retention(keep_checkpoints=0, drop_bases=True)
        assert (await store.apply(plan)).is_finished

    go(path, main)
