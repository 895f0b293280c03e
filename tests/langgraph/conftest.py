"""What the tests of the LangGraph saver share.

`SAVER=memory` runs those that do not need a file against LangGraph's own InMemorySaver: so one sees that the tests
say of LangGraph what is true of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

IN_MEMORY = os.environ.get("SAVER") == "memory"
if not IN_MEMORY:
    from eventstore.integrations.langgraph import EventStoreSaver


@pytest.fixture
def ours() -> None:
    """What is tested is about files or retention, which InMemorySaver does not have."""
    if IN_MEMORY:
        pytest.skip("InMemorySaver has no such thing")


@pytest.fixture
def make_saver(path: str) -> Iterator[Callable[..., BaseCheckpointSaver[Any]]]:
    """`make_saver()`: a saver of its own on the test's file, as another process would open it."""
    if IN_MEMORY:
        memory = InMemorySaver()
        yield lambda **_: memory
        return
    with ExitStack() as stack:

        def make(**keywords: Any) -> EventStoreSaver:
            saver = EventStoreSaver(path, **{"durability": "normal", **keywords})
            stack.callback(saver.close)
            return saver

        yield make


@pytest.fixture
def saver(make_saver: Callable[..., BaseCheckpointSaver[Any]]) -> BaseCheckpointSaver[Any]:
    """A saver on a new file."""
    return make_saver()


@pytest.fixture
def open_saver(path: str) -> Callable[[], Any]:
    """`async with open_saver() as saver:` on the test's file."""
    return InMemorySaver if IN_MEMORY else lambda: EventStoreSaver.from_conn_string(path)
