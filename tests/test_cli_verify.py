"""`eventstore verify`: heads that were kept elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import eventstore as es
from eventstore.cli.app import main


@pytest.fixture
def file(path, record):
    """A closed store of two traces."""
    with es.open(path) as store:
        record(store, 4, "t1")
        record(store, 4, "t2")
    return path


@pytest.fixture
def run(file):
    """`run(*arguments)`: what `eventstore verify` gives."""
    return lambda *arguments, **how: CliRunner().invoke(main, ["--db", file, "verify", *arguments], **how)


@pytest.fixture
def kept(run, tmp_path):
    """A file with the heads of now."""
    kept = tmp_path / "heads.json"
    kept.write_text(run("--json").stdout)
    return str(kept)


def heads(kept):
    return json.loads(Path(kept).read_text("utf-8"))["heads"]


def test_a_log_that_grew_has_its_earlier_heads(file, run, kept):
    with es.open(file) as store:
        store.append("t1", [es.Note("more")])
    told = run("--heads", kept)
    assert (told.exit_code, "2 heads of 2 found" in told.stdout) == (0, True)
    report = json.loads(run("--heads", kept, "--json").stdout)
    assert report["ok"] and report["anchors"] == {"t1": 17, "t2": 17}


@pytest.mark.parametrize("named", [["t1", "--head", "{}"], ["--head", "t1={}"], ["t1", "--head", "t1={}"]])
def test_a_cut_off_end_is_told(run, kept, tamper, named):
    head = heads(kept)["t1"]
    arguments = [argument.format(head) for argument in named]
    assert run(*arguments).exit_code == 0
    tamper("DELETE FROM base")
    tamper("DELETE FROM checkpoint")
    assert tamper("DELETE FROM log WHERE trace = 1 AND first_seq = 14") == 1
    assert run("t1").exit_code == 0
    told = run(*arguments)
    assert told.exit_code == 1 and "head" in told.stdout and "t1" in told.stdout


def test_a_trace_that_is_gone_is_told(run, tmp_path):
    told = run("--head", f"t9={'0' * 32}")
    assert told.exit_code == 1 and "t9" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--head", "ab" * 16], "name it"),
        (["t1", "--head", "xyz"], "32 hex digits"),
        (["--head", "t1="], "32 hex digits"),
    ],
)
def test_what_is_no_head_is_a_wrong_command_line(run, arguments, told):
    refused = run(*arguments)
    assert refused.exit_code == 2 and told in refused.output


@pytest.mark.parametrize("content", ["", "[1]", '{"heads": [1]}', '{"heads": {"t1": 1}}', "[" * 100_000])
def test_what_verify_did_not_print_is_refused(run, content):
    refused = run("--heads", "-", input=content)
    assert refused.exit_code == 2 and "is not what verify --json prints" in refused.output
