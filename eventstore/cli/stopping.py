"""Ctrl-C and SIGTERM: the first gives runs back at their next step, the second interrupts."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130
"""Exit code of what was stopped, as shells give it."""
NOTICE = b"Stopping at the next step; once more interrupts it.\n"


@contextmanager
def graceful_stop() -> Iterator[threading.Event]:
    """An event that the first signal sets. The second one raises KeyboardInterrupt."""
    stop, signalled = threading.Event(), threading.Event()

    def on_signal(*_: Any) -> None:
        if signalled.is_set():
            raise KeyboardInterrupt
        signalled.set()
        stop.set()
        if sys.stderr is not None:
            os.write(2, NOTICE)  # a handler may interrupt a print, which cannot be entered twice

    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals are the main thread's
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
