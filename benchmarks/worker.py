"""Run one function of a benchmark in a process of its own.

`fresh(function, …)` starts `python -m benchmarks.worker module:function ARGUMENTS`; arguments and the
result travel as JSON and are converted by the function's own annotations. A fresh process has no
warm caches, no grown heap and no other system's threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

import msgspec

P = ParamSpec("P")
T = TypeVar("T")
TIMEOUT_S = 600


class WorkerFailed(Exception):
    """A measured system crashed or gave a wrong result."""


def fresh(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `function(…)`, called in a new process. Raises WorkerFailed."""
    return under((), function, *args, **kwargs)


def under(prefix: Sequence[str], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`fresh`, the new process being started by the command `prefix`."""
    name = f"{function.__module__}:{function.__qualname__}"
    call = msgspec.json.encode([args, kwargs]).decode()
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [*prefix, sys.executable, "-m", "benchmarks.worker", name, call]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"{name} was not done in {TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise WorkerFailed(f"{name} exited with {done.returncode}; what it said stands above")
    result: T = msgspec.json.decode(done.stdout, type=get_type_hints(function)["return"])
    return result


def main(name: str, call: str) -> None:
    """Call the named function and print its result."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    args, kwargs = msgspec.json.decode(call)
    hints = get_type_hints(function)
    names = [*signature(function).parameters]
    args = [msgspec.convert(value, hints[name]) for name, value in zip(names, args, strict=False)]
    kwargs = {name: msgspec.convert(value, hints[name]) for name, value in kwargs.items()}
    with redirect_stdout(sys.stderr):  # the result alone goes out, whatever a system likes to say
        result = function(*args, **kwargs)
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
