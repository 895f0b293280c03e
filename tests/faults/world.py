"""A graph that does a little of everything, and the world outside that its nodes change.

Bodies are generators, so that one definition makes a sync graph and an async one: a number asks to sleep
that long, a tuple for a durable call. What a node writes depends on its idempotency key alone, so that an
uninterrupted run of the same trace id elsewhere comes to the same state.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import NamedTuple

import tenacity

import eventstore as es

ROUNDS = 2
INPUT = {"wanted": "everything", "log": [], "total": 0}


class Line(NamedTuple):
    """What was done outside. `what`: `call` (a function was entered), `effect`, `made` (a value of a durable call)."""

    what: str
    key: str
    path: str
    occurrence: int
    attempt: int
    process: int
    detail: int


class Outside:
    """A file of lines, each synced before the next thing happens: what no crash takes back."""

    def __init__(self, path, process=0):
        self.path = str(path)
        self.process = process
        self.watch = None

    def write(self, what, ctx, detail=0):
        """One line more."""
        line = f"{what} {ctx.idempotency_key} {ctx.path} {ctx.occurrence} {ctx.attempt} {self.process} {detail}\n"
        out = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(out, line.encode())
            if what == "effect":
                os.fsync(out)
        finally:
            os.close(out)
        if self.watch is not None:
            self.watch(what, ctx)

    def lines(self, *what):
        """The lines of these kinds; of all without any."""
        if not Path(self.path).exists():
            return []
        found = []
        for text in Path(self.path).read_text("ascii").splitlines():
            kind, key, path, *numbers = text.split(" ")
            if not what or kind in what:
                found.append(Line(kind, key, path, *map(int, numbers)))
        return found


class Rejected(Exception):
    """The uninterrupted run fails where a human (or a rule) said that the node failed."""


def did(path, occurrence, key):
    """What a node with side effects writes; a human who says that it happened records the same."""
    return {f"did {path} {occurrence}": key}


def gate(seed, occurrence):
    """How the barrier's visits are decided; the same in every run of that seed."""
    choices = [
        es.Approve(by="ana"),
        es.Modify({"limit": seed % 97}, by="bo"),
        es.Reject("not yet", by="ana"),
        es.Reroute("revise", by="bo"),
    ]
    return choices[(seed + occurrence) % len(choices)]


RULES = {
    "pay": "ask",
    "ship": "retry",
    "bill": "fail",
    "gather/charge": "ask",
    "gather/notify": "retry",
    "gather/report": "fail",
    "each": "retry",
}


def rule_of(path):
    """The in-doubt rule of a path with side effects; None for one without."""
    return RULES.get(path) or RULES.get(path.partition("/")[0])


def make_graph(outside, *, is_async=False, rejected=frozenset(), pace=0.001, rounds=ROUNDS):
    """The graph. `rejected`: visits (path, occurrence) that fail; `pace`: how long a sleep is, at most four times."""
    graph = es.Graph("everything", reducers={"log": "append", "total": "sum"})
    patient = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(4 * pace),
        retry=tenacity.retry_if_not_exception_type(Rejected),
    )

    def enter(ctx):
        outside.write("call", ctx)
        if (ctx.path, ctx.occurrence) in rejected:
            raise Rejected(ctx.path)

    def pause(ctx):
        return ctx.random.uniform(0, 4 * pace)

    def act(ctx):
        yield pause(ctx)
        outside.write("effect", ctx)
        yield pause(ctx)
        return did(ctx.path, ctx.occurrence, ctx.idempotency_key)

    def plan(ctx):
        enter(ctx)
        ctx.put("token", str(ctx.uuid()))
        yield pause(ctx)
        ctx.put("log", [f"plan {ctx.occurrence}"])
        return {"round": ctx.occurrence, "items": [10 * ctx.occurrence + number for number in range(3)]}

    def pay(ctx):
        enter(ctx)
        return (yield from act(ctx))

    def unpaid(ctx):
        enter(ctx)
        yield 0
        return {f"unpaid {ctx.occurrence}": True}

    def flaky(ctx):
        enter(ctx)
        yield pause(ctx)
        if ctx.attempt < 3:
            raise ConnectionError(f"attempt {ctx.attempt}")
        return {"log": [f"flaky {ctx.occurrence}"], "total": 1}

    def research(ctx):
        enter(ctx)
        found = []
        for number in range(3):

            def look(number=number):
                outside.write("made", ctx, number)
                return f"{ctx.idempotency_key} {number}"

            found.append((yield f"look {number}", look))
            yield pause(ctx)
        return {"found": found, "log": [f"research {ctx.occurrence}"]}

    def search(ctx):
        enter(ctx)
        yield pause(ctx)
        return {"log": [f"search {ctx.occurrence}"], "total": 10}

    def charge(ctx):
        enter(ctx)
        return (yield from act(ctx))

    def notify(ctx):
        enter(ctx)
        yield pause(ctx)
        if ctx.attempt < 2:
            raise ConnectionError("busy")
        ctx.put("total", 100)
        return (yield from act(ctx))

    def report(ctx):
        enter(ctx)
        return (yield from act(ctx))

    def revise(ctx):
        enter(ctx)
        yield pause(ctx)
        return {"log": [f"revise {ctx.occurrence}"]}

    def ship(ctx):
        enter(ctx)
        ctx.put("total", 1000)
        return (yield from act(ctx))

    def each(ctx, item):
        enter(ctx)
        ctx.put("log", [item])
        if item % 10 == 1 and ctx.attempt < 2:
            yield pause(ctx)
            raise ConnectionError(f"item {item}")
        return (yield from act(ctx))

    def bill(ctx):
        enter(ctx)
        return (yield from act(ctx))

    def unbilled(ctx):
        enter(ctx)
        yield 0
        return {f"unbilled {ctx.occurrence}": True}

    def finish(ctx):
        enter(ctx)
        yield 0
        return {"done": len(ctx.state["log"])}

    driven = in_a_task if is_async else at_once
    for body in (plan, unpaid, research, search, revise, unbilled, finish):
        graph.node(driven(body))
    graph.node(retry=patient)(driven(flaky))
    for body, rule in ((pay, "ask"), (ship, "retry"), (bill, "fail"), (charge, "ask"), (report, "fail")):
        graph.node(side_effects=True, in_doubt=rule)(driven(body))
    graph.node(side_effects=True, in_doubt="retry", retry=patient)(driven(notify))
    graph.parallel("gather", "search", "charge", "notify", "report", strategy="collect_all")
    graph.map(over="items", max_concurrency=2, side_effects=True, in_doubt="retry", retry=patient)(driven(each))
    graph.barrier("approve", prompt=lambda state: f"round {state['round']}", keys=["limit"])

    graph.start("plan").end("finish")
    graph.edge("plan", "pay").edge("pay", "flaky").edge("unpaid", "flaky").edge_fallback("pay", "unpaid")
    graph.edge("flaky", "research").edge("research", "gather").edge("gather", "approve")
    graph.edge_if("approve", "ship", lambda state: state["approve.approved"], name="approved")
    graph.edge("approve", "revise").edge("revise", "ship").edge("ship", "each").edge("each", "bill")
    graph.edge_fallback("bill", "unbilled")
    for node in ("bill", "unbilled"):
        graph.edge_if(node, "plan", lambda state: state["round"] < rounds, name="more")
        graph.edge(node, "finish")
    return graph.build()


def at_once(body):
    """A body as a sync node."""

    def work(ctx, *item):
        running, answer = body(ctx, *item), None
        while True:
            try:
                asked = running.send(answer)
            except StopIteration as finished:
                return finished.value
            if isinstance(asked, tuple):
                answer = ctx.call(*asked, durable=True)
            else:
                answer = time.sleep(asked)

    return named_as(body, work)


def in_a_task(body):
    """A body as an async node."""

    async def work(ctx, *item):
        running, answer = body(ctx, *item), None
        while True:
            try:
                asked = running.send(answer)
            except StopIteration as finished:
                return finished.value
            if isinstance(asked, tuple):
                answer = await ctx.call(*asked, durable=True)
            else:
                answer = await asyncio.sleep(asked)

    return named_as(body, work)


def named_as(body, work):
    """`work` under the body's name."""
    work.__name__ = work.__qualname__ = body.__name__
    return work
