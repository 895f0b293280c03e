"""The demo program: it audits, tells what it found, and what it wrote holds together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

import eventstore as es

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "examples" / "source_audit.py"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of three modules, one of which cannot be parsed, and a test that is left out."""
    folder = tmp_path / "source"
    (folder / "inner" / "tests").mkdir(parents=True)
    (folder / "a.py").write_text("def one():\n    return 1\n", "utf-8")
    (folder / "broken.py").write_text("def (\n", "utf-8")
    (folder / "inner" / "__init__.py").write_text(
        "class C:\n    async def two(self):\n        pass\n\n        pass\n", "utf-8"
    )
    (folder / "inner" / "tests" / "c.py").write_text("def left_out(): pass\n", "utf-8")
    return folder


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_the_audit_of_a_folder(source: Path, tmp_path: Path) -> None:
    done = demo(tmp_path, str(source), "--db", "audit.db")
    assert done.returncode == 0, done.stderr
    assert "3 modules of" in done.stdout
    assert "broken cannot be audited: invalid syntax" in done.stdout
    assert re.search(r"^inner +5 +1 +1 +4 +two", done.stdout, re.MULTILINE)
    assert re.search(r"^all 2 +7 +2 +1 +4 +inner\.two", done.stdout, re.MULTILINE)
    assert re.search(r"^modules +1 +2$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines() if str(source) not in line)
    with es.open(tmp_path / "audit.db", create=False) as store:
        (info,) = store.traces()
        state = store.state_at(info.trace_id)
        assert (state["lines"], state["functions"], state["classes"], state["longest"]) == (7, 2, 1, 4)
        entries = store.open_trace(info.trace_id).entries()
        assert [entry.success for entry in entries] == [True, False, True]
        assert store.verify().ok


def test_the_weight_of_whole_states_is_what_it_says(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    program: ModuleType = pytest.importorskip("source_audit")
    with es.open(tmp_path / "audit.db") as store:
        modules = program.find_modules(source)
        trace = store.start(program.START, reducers=program.REDUCERS)
        versions, whole_bytes = program.run(trace, source, modules, 60, program.Console(quiet=True))
        states = [store.state_at(trace.id, version) for version in versions[1:]]
    assert len(states) == len(modules) == 3
    assert whole_bytes == sum(len(msgspec.json.encode(state)) for state in states)


def test_time_is_limited(source: Path, tmp_path: Path) -> None:
    done = demo(tmp_path, str(source), "--seconds", "0")
    assert done.returncode == 0, done.stderr
    assert "0 seconds are up; the rest is left out." in done.stdout
    assert (tmp_path / "source_audit.db").exists()


def test_a_folder_without_source_is_refused(tmp_path: Path) -> None:
    done = demo(tmp_path, str(tmp_path))
    assert done.returncode == 2
    assert "holds no Python source" in done.stderr
    assert not (tmp_path / "source_audit.db").exists()


def test_the_standard_library_in_part(tmp_path: Path) -> None:
    done = demo(tmp_path, "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert f"modules of {sysconfig.get_path('stdlib')}, each a durable step" in done.stdout
    assert re.search(r"the whole state written at each step +[\d.]+ [kM]B +[\d.]+ times as much", done.stdout)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_runs_pytest_last() -> None:
    assert planned("test").endswith("-m pytest")
    assert planned("demo", "DIR=a b").endswith('examples/source_audit.py "a b"')
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def planned(*arguments: str) -> str:
    """The last command that make would run."""
    command = ["make", "--no-print-directory", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
