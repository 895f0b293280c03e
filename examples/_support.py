"""The run that time_travel.py looks back at: a support agent that looks an order up, searches two sources side by
side, drafts an answer with a model that fails at first, and asks a human before it sends it.
"""

from __future__ import annotations

import time

import eventstore as es

graph = es.Graph("support", reducers={"messages": "append", "sources": "append", "spent": "sum"})


@graph.node
def look_up(ctx: es.Context) -> None:
    time.sleep(0.03)
    ctx.put("order", {"id": 7, "total": 40, "late_days": 12})


@graph.node
def policies(ctx: es.Context) -> None:
    time.sleep(0.05)
    ctx.put("sources", "refunds are free after 10 days")
    ctx.put("spent", 0.002)
    ctx.record(token_cost=0.002)


@graph.node
def history(ctx: es.Context) -> None:
    time.sleep(0.08)
    ctx.put("sources", "first complaint of this customer")
    ctx.put("spent", 0.003)
    ctx.record(token_cost=0.003)


@graph.node(retry=2)
def draft(ctx: es.Context) -> None:
    time.sleep(0.02)
    if ctx.attempt == 1:
        raise TimeoutError("the model did not answer")
    time.sleep(0.06)
    ctx.record(token_cost=0.011)
    ctx.put("messages", {"role": "assistant", "content": f"We refund {ctx.state['order']['total']}."})
    ctx.put("spent", 0.011)


graph.parallel("search", "policies", "history")
graph.barrier("approve", prompt="Send the draft?")


@graph.node(side_effects=True)
def send(ctx: es.Context) -> None:
    time.sleep(0.04)
    ctx.put("sent", True)


@graph.node
def apologise(ctx: es.Context) -> None:
    ctx.put("messages", {"role": "assistant", "content": "We are sorry, this needs more time."})


graph.edge("look_up", "search").edge("search", "draft").edge("draft", "approve")
graph.edge_if("approve", "send", lambda state: state["approve.approved"], name="approved")
graph.edge("approve", "apologise")
graph.start("look_up").end("send", "apologise")
