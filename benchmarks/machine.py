"""The machine that a run was measured on, and a digest of what was measured."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import apsw

from .results import Machine

ROOT = Path(__file__).parent.parent
MEASURED = ("eventstore", "schema", "benchmarks")
PACKAGES = (
    "apsw",
    "msgspec",
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-sqlite",
    "dbos",
    "eventsourcing",
    "apache-burr",
    "salamander-db",
)


def machine(folder: Path) -> Machine:
    """What is known of this machine; `folder`: where the measured files will go."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
        sqlite=apsw.sqlite_lib_version(),
        sync_us=sync_us(folder),
        packages=_packages(),
    )


def sync_us(folder: Path, count: int = 101) -> float:
    """The median µs that appending 4 KiB to a file and syncing it takes."""
    laps, path = [], folder / "sync"
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            started = time.perf_counter_ns()
            file.write(bytes(4096))
            getattr(os, "fdatasync", os.fsync)(file.fileno())
            laps.append((time.perf_counter_ns() - started) / 1000)
    path.unlink()
    return median(laps)


def code() -> str:
    """A digest of the sources: figures of other sources are no part of the same run."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in MEASURED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".sql"):
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
