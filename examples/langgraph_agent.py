"""A LangGraph agent that asks before it pays, in an event store: interrupt, resume, another future, diff, blame."""

from __future__ import annotations

import argparse
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt

import eventstore as es
from eventstore.integrations.langgraph import EventStoreSaver


class State(TypedDict):
    """What the agent knows."""

    messages: Annotated[list[AnyMessage], add_messages]
    total: int
    paid: int


def agent(saver: EventStoreSaver) -> Any:
    """Look the order up, ask a human, pay."""

    def look_up(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage("Order 7 was 40.", id="m2")], "total": 40}

    def approve(state: State) -> Command[Any]:
        answer = interrupt(f"Refund {state['total']}?")
        return Command(goto="pay" if answer == "yes" else END)

    def pay(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"We refunded {state['total']}.", id="m3")], "paid": state["total"]}

    graph: Any = StateGraph(State)
    graph.add_node("look_up", look_up)
    graph.add_node("approve", approve, destinations=("pay", END))
    graph.add_node("pay", pay)
    graph.add_edge(START, "look_up").add_edge("look_up", "approve").add_edge("pay", END)
    return graph.compile(checkpointer=saver)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", default="eventstore.db", help="the event store (default: eventstore.db)")
    path = parser.parse_args().db
    config: Any = {"configurable": {"thread_id": "order-7"}}

    with EventStoreSaver(path) as saver:
        stopped = agent(saver).invoke({"messages": [HumanMessage("Refund my order 7.", id="m1")]}, config)
        print("It asks:", stopped["__interrupt__"][0].value)

    with EventStoreSaver(path) as saver:  # another process, any time later
        graph = agent(saver)
        print("Answered yes:", graph.invoke(Command(resume="yes"), config)["messages"][-1].content)

        asked = next(then for then in graph.get_state_history(config) if then.next == ("approve",))
        cheaper = graph.update_state(asked.config, {"total": 30})  # another future from there
        graph.invoke(None, cheaper)
        print("With 30 instead:", graph.invoke(Command(resume="yes"), config)["messages"][-1].content)

        first, second = (saver.place(then) for then in (asked.config, config))
        assert first is not None and second is not None
        print("\nWhat has changed since it asked, in the log's words:")
        print(es.diff(saver.store.open_trace(first[0]).at(first[1]), saver.store.open_trace(second[0])))
        print("\nWho wrote the total:")
        for write in saver.store.open_trace(second[0]).blame("total"):
            print(f"  step {write.step}, {write.node}: {es.readable(write.value)}")
    print("\nNow try: eventstore threads order-7; eventstore diff order-7 --at step:2; eventstore blame order-7 total")


if __name__ == "__main__":
    main()
