"""LangGraph's checkpoints in the log: `EventStoreSaver`, for `compile(checkpointer=…)`.

`import_sqlite` brings a file of LangGraph's SqliteSaver over. Needs the extra `langgraph`.
"""

from .importing import ImportedThread, ImportReport, import_sqlite
from .saver import EventStoreSaver
from .sealed import PlaintextRefused

__all__ = ["EventStoreSaver", "ImportReport", "ImportedThread", "PlaintextRefused", "import_sqlite"]
