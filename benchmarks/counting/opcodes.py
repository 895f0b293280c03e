"""CPU without noise, in Python's own unit: how many bytecode instructions a call executes.

The interpreter tells a trace function of each one. What compiled code does inside of one is not seen, so that this is
the cost of the Python around SQLite and msgspec, which is what the engine's authors can change. The same code counts
the same on every machine with the same Python minor version, in a process whose PYTHONHASHSEED is 0.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from benchmarks.worker import under

P = ParamSpec("P")
T = TypeVar("T")


def counted(call: Callable[[], object], inside: str = "") -> int:
    """The instructions that `call()` executes on this thread, those of all that it calls included.

    `inside`: only those of code in files whose path begins so. Whatever happens once (imports, caches that fill) is
    better done before.

    >>> counted(lambda: [n for n in range(20)]) - counted(lambda: [n for n in range(10)]) > 0
    True
    """
    executed = 0

    def instruction(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal executed
        if event == "opcode":
            executed += 1
        return instruction

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(inside):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return instruction

    tracing, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()  # when it runs depends on what was allocated before, and it may call finalizers
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(tracing)
        if collecting:
            gc.enable()
    return executed


def fresh(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(…)` in a fresh process in which sets are in the same order every time."""
    return under(("env", "PYTHONHASHSEED=0"), function, *args, **kwargs)
