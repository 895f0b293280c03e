"""The parts of the bit-rot campaign: the same seed gives the same file, and a judge who is not blind."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

import eventstore as es

from . import sample
from .rot import WAL_ROWS, Scene, flipped, integrity_check, judge


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path, seed=7)


def bit_of_the_last_body(scene):
    """A bit in the middle of a letter of the last commit of the trace chat."""
    connection = apsw.Connection(str(scene.sound))
    body = connection.execute(
        "SELECT body FROM log WHERE trace = (SELECT id FROM trace WHERE trace_id = 'chat') ORDER BY id DESC LIMIT 1"
    ).get
    connection.close()
    text = body.encode()[:100]
    assert scene.content[""].count(text) == 1
    return scene.content[""].index(text) * 8 + 12 * 8


def test_a_seed_gives_the_same_file_to_the_byte(tmp_path):
    for name in ("one.db", "two.db"):
        sample.make(tmp_path / name, 3)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.db", "two.db"))
    assert one == two
    sample.make(tmp_path / "three.db", 4)
    assert (tmp_path / "three.db").read_bytes() != one


def test_the_sample_holds_a_little_of_everything(scene):
    connection = apsw.Connection(str(scene.sound))
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    empty = {table for table in tables if connection.execute(f"SELECT count(*) FROM {table}").get == 0}
    assert empty == {"rewrite_due", "chain_key"}
    assert connection.execute("SELECT count(DISTINCT parent IS NULL) FROM base").get == 2
    assert connection.execute("SELECT count(DISTINCT typeof(body)) FROM log").get == 2
    assert connection.execute("SELECT count(DISTINCT coalesce(owner, due_us > 0)) FROM lease").get >= 1
    assert connection.pragma("freelist_count") > 0
    connection.close()
    assert 200_000 < len(scene.content[""]) < 500_000
    assert len({question.split(" ")[0] for question in scene.expected.given}) >= 12


def test_a_sound_file_is_unchanged_to_the_judge(scene):
    for read_only in (True, False):
        scene.place()
        assert judge(scene.path, scene.known, scene.expected, read_only=read_only).kind == "unchanged"


def test_a_bit_of_a_body_is_named_and_sqlite_sees_nothing(scene):
    scene.place(main=flipped(scene.content[""], bit_of_the_last_body(scene)))
    assert integrity_check(scene.path)
    verdict = judge(scene.path, scene.known, scene.expected)
    assert verdict.kind == "named" and "trace chat" in verdict.detail and verdict.spared


def test_a_bit_of_the_header_is_refused(scene):
    scene.place(main=flipped(scene.content[""], 8))
    assert not integrity_check(scene.path)
    assert judge(scene.path, scene.known, scene.expected).kind == "refused"


def test_the_judge_sees_an_answer_that_changed_without_a_word(scene):
    scene.expected.given["traces"] = "something else"
    scene.place()
    assert judge(scene.path, scene.known, scene.expected).kind == "lost"


def test_a_bit_of_the_wal_takes_commits_away_and_only_a_head_kept_elsewhere_tells(tmp_path):
    scene = Scene(tmp_path, seed=7, wal_rows=WAL_ROWS)
    middle = len(scene.content["-wal"]) // 2 * 8
    scene.place(wal=flipped(scene.content["-wal"], middle))
    with es.open(scene.path, read_only=True) as store:
        report = store.verify()
        assert report.ok and report.heads != scene.heads
    scene.place(wal=flipped(scene.content["-wal"], middle))
    verdict = judge(scene.path, scene.known, scene.expected, heads=scene.heads)
    assert verdict.kind == "named" and "head" in verdict.detail
    assert Path(scene.path).exists()
