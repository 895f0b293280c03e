"""The demo: its worker is killed half-way, another one goes on, and what the run wrote holds together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.filesize import decimal

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


@pytest.fixture
def long_source(tmp_path: Path) -> Path:
    """A folder that takes seconds to audit, so that its worker is killed long before it is done."""
    folder = tmp_path / "source"
    folder.mkdir()
    function = "def f(a, b):\n" + "    a = [b + a, (b, {a: b}), f(a, b=b)]\n" * 6
    for number in range(64):
        (folder / f"m{number:02}.py").write_text(function * (30 + number), "utf-8")
    return folder


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_the_audit_of_a_folder(source: Path, tmp_path: Path) -> None:
    done = demo(tmp_path, str(source), "--db", "audit.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^3 modules of .* in 3 branches: ", done.stdout, re.MULTILINE)
    assert "broken cannot be audited: invalid syntax" in done.stdout
    assert "\nReport on 2 modules? Approved by demo.\n" in done.stdout
    assert re.search(r"^inner +5 +1 +1 +4 +two", done.stdout, re.MULTILINE)
    assert re.search(r"^all 2 +7 +2 +1 +4 +inner\.two", done.stdout, re.MULTILINE)
    assert re.search(r"^modules +\d +2$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines() if str(source) not in line)
    with es.open(tmp_path / "audit.db", create=False) as store:
        (info,) = store.traces()
        assert (info.name, info.status) == ("source-audit", "completed")
        last_line = done.stdout.splitlines()[-1]
        assert re.search(rf"^Look into it: .*eventstore --db audit\.db log {info.trace_id[:8]}$", last_line)
        state = store.state_at(info.trace_id)
        assert (state["lines"], state["functions"], state["classes"], state["longest"]) == (7, 2, 1, 4)
        (decided,) = store.barriers(pending=None)
        assert decided.decision == es.Approve(by="demo")
        assert store.verify().ok


def test_a_worker_killed_half_way_loses_nothing_and_nothing_runs_twice(long_source: Path, tmp_path: Path) -> None:
    done = demo(tmp_path, str(long_source))
    assert (done.returncode, done.stderr) == (0, "")
    told = re.search(
        r"^Process (\d+) was killed \(SIGKILL\) after (\d+) branches; process (\d+) ran (\d+)\.$",
        done.stdout,
        re.MULTILINE,
    )
    assert told is not None, done.stdout
    killed, settled, second, rest = map(int, told.groups())
    assert 16 <= settled < 32 and settled + rest == 32
    assert "\nIn the log: 32 executions of 32 branches; 0 ran twice, 0 were lost.\n" in done.stdout
    with es.open(tmp_path / "source_audit.db", create=False) as store:
        (info,) = store.traces()
        events = [recorded.event for recorded in store.events(info.trace_id)]
        owners = [event for event in events if isinstance(event, es.OwnerChanged)]
        assert [int(owner.owner.partition("@")[0]) for owner in owners][:2] == [killed, second]
        resumed = events.index(owners[1])
        branches = [event for event in events if isinstance(event, es.BranchExecuted)]
        assert sum(isinstance(event, es.BranchExecuted) for event in events[:resumed]) == settled
        audited = [
            module["module"]
            for branch in branches
            for delta in branch.deltas
            if delta.key == "modules"
            for module in delta.value
        ]
        assert sorted(audited) == [f"m{number:02}" for number in range(64)]
        state = store.state_at(info.trace_id)
        assert sorted(module["module"] for module in state["modules"]) == sorted(audited)
        assert state["lines"] == 7 * sum(range(30, 94)) and state["longest"] == 7
        assert [module["module"] for module in state["report"]] == [f"m{number}" for number in range(63, 53, -1)]
        middle = store.state_at(info.trace_id, resumed)
        assert 0 < len(middle["modules"]) < 64
        assert re.search(rf"^modules +{len(middle['modules'])} +64$", done.stdout, re.MULTILINE)
        commits = {recorded.first_seq: recorded.seq for recorded in store.events(info.trace_id)}.values()
        whole_bytes = sum(len(msgspec.json.encode(store.state_at(info.trace_id, seq))) for seq in commits)
        assert f"the whole state written at each of {len(commits)} commits" in done.stdout
        assert f" {decimal(whole_bytes)} " in done.stdout
        assert store.verify().ok


def test_a_folder_without_source_is_refused(tmp_path: Path) -> None:
    done = demo(tmp_path, str(tmp_path))
    assert done.returncode == 2
    assert "holds no Python source" in done.stderr
    assert not (tmp_path / "source_audit.db").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_runs_pytest_last() -> None:
    assert planned("test").endswith("-m pytest")
    assert planned("demo", "DIR=a b").endswith('examples/source_audit.py "a b"')
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def planned(*arguments: str) -> str:
    """The last command that make would run."""
    command = ["make", "--no-print-directory", "--dry-run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
