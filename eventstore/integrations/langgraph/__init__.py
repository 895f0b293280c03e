"""LangGraph's checkpoints in the log: `EventStoreSaver`, for `compile(checkpointer=…)`.

Needs the extra `langgraph`.
"""

from .saver import EventStoreSaver

__all__ = ["EventStoreSaver"]
