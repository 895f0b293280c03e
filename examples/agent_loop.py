"""An agent's loop with a scripted model: an answer is in the log before the loop goes on, and is paid for once."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import eventstore as es

Message = dict[str, Any]
PER_CHARACTER = 0.000_002 / 4  # a token is about four
CALL = {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": '{"id": 7}'}}
SCRIPT: list[Message] = [
    {"role": "system", "content": "You help customers of a shop."},
    {"role": "user", "content": "Where is my order 7?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "name": "find_order", "content": '{"status": "sent"}'},
    {"role": "assistant", "content": "It is on its way."},
]


def agent(script: list[Message]) -> es.Graph:
    """The loop: hear the user, ask the model, run its tools and ask again until it answers without one."""
    graph = es.Graph("agent", reducers={"messages": es.Reducer.APPEND})

    async def scripted_model(messages: list[Message]) -> Message:
        return script[len(messages)]

    @graph.node
    async def hear(ctx: es.Context) -> dict[str, Any]:
        return {"messages": [script[len(ctx.state["messages"])]]}

    @graph.node
    async def model(ctx: es.Context) -> dict[str, Any]:
        answer = await ctx.call("model", lambda: scripted_model(ctx.state["messages"]), durable=True)
        ctx.record(token_cost=PER_CHARACTER * len(json.dumps([*ctx.state["messages"], answer])))
        return {"messages": [answer]}

    @graph.node(side_effects=True, in_doubt="retry")
    async def tools(ctx: es.Context) -> dict[str, Any]:
        at, calls = len(ctx.state["messages"]), ctx.state["messages"][-1]["tool_calls"]
        return {"messages": script[at : at + len(calls)]}

    def goes_on(state: Any) -> bool:
        return len(state["messages"]) < len(script)

    graph.start("hear").edge_if("hear", "model", goes_on).edge_if("tools", "model", goes_on)
    graph.edge_if("model", "tools", lambda state: state["messages"][-1].get("tool_calls"), name="calls a tool")
    return graph.edge_if("model", "hear", goes_on).end("hear", "model", "tools")


async def converse(script: list[Message], database: str) -> None:
    async with es.aopen(database) as store:
        done = await es.run_async(agent(script), store, {"messages": script[:1]})
        cost = sum(entry.metadata.token_cost or 0 for entry in done.execution_log)
        steps, middle = len(done.execution_log), done.execution_log[len(done.execution_log) // 2]
        print(f"{done.status}: {steps} steps, {len(done.state['messages'])} messages, {cost:.6f} spent")
        then = (await store.state_at(done.trace_id, middle.seq))["messages"]
        print(f"After step {middle.step} ({middle.node_name}, event {middle.seq}): {len(then)} messages; the last one:")
        print(f"  {json.dumps(then[-1])[:100]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="An agent's loop that replays a recorded conversation, durably.")
    parser.add_argument("recorded", nargs="?", type=Path, help='gzipped, a conversation a line: {"messages": [...]}')
    parser.add_argument("--run", type=int, default=0, metavar="N", help="which line, from 0 (default: the first)")
    parser.add_argument("--db", default=":memory:", help="the event store (default: none that stays)")
    options = parser.parse_args()
    lines = gzip.decompress(options.recorded.read_bytes()).splitlines() if options.recorded else []
    script = json.loads(lines[options.run])["messages"] if lines else SCRIPT
    asyncio.run(converse(script, options.db))


if __name__ == "__main__":
    main()
