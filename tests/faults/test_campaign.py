"""The table of the campaigns: a loss and a blind control both fail it."""

from __future__ import annotations

import io
import re

from rich.console import Console

from .__main__ import DOCUMENT, campaigns
from .campaign import Control, Result, Run
from .figures import markdown, print_failures, put_into, table

GOOD = Result("power cuts, FULL", 1000, 400, "acknowledged appends", [], [Control("NORMAL", 7, 1000)], "none torn")


def test_a_result_holds_when_nothing_was_lost_and_every_control_lost_something():
    assert GOOD.holds
    assert not GOOD._replace(failures=["seed 1, cut 7: t1 ends at 4"]).holds
    assert not GOOD._replace(controls=[*GOOD.controls, Control("a lying disk", 0, 1000)]).holds
    assert not GOOD._replace(controls=[]).holds


def text(act):
    """What is printed on a console."""
    console = Console(file=io.StringIO(), width=120)
    act(console)
    return console.file.getvalue()


def test_what_was_lost_is_told_and_so_is_a_blind_control():
    lost = GOOD._replace(failures=[f"cut {number}" for number in range(30)], controls=[Control("NORMAL", 0, 9)])
    told = text(lambda console: print_failures(console, [lost, GOOD._replace(controls=[])]))
    assert "LOST in power cuts, FULL: cut 0" in told and "and 10 more" in told
    assert "BLIND: NORMAL lost nothing" in told and "has no control" in told
    assert text(lambda console: print_failures(console, [GOOD])) == ""


def test_the_table_shows_the_control_beside_the_zero(tmp_path):
    told = text(lambda console: console.print(table([GOOD], "again", 120)))
    assert "0 acknowledged appends" in told and "NORMAL: 7 of 1,000" in told and "none torn" in told
    document = tmp_path / "doc.md"
    document.write_text("before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n")
    put_into(document, markdown([GOOD]), "Seed 7.")
    assert document.read_text().startswith("before\n<!-- faults -->\n| what was tried |")
    assert document.read_text().endswith("Seed 7.\n<!-- /faults -->\nafter\n") and "old" not in document.read_text()


def test_a_seed_gives_each_part_its_own_choices_again():
    run, again = (Run(1, 7, None, lambda count: None) for _ in range(2))
    assert run.rng("a", 1).random() == again.rng("a", 1).random()
    assert len({run.rng(*salt).random() for salt in ((), ("a",), ("a", 1), ("b",))}) == 4


def test_every_campaign_has_a_name_of_its_own_and_a_small_setting():
    found = campaigns()
    assert len({one.name for one in found}) == len(found)
    assert all(0 <= one.quick <= one.full for one in found)


def test_the_published_table_is_of_a_whole_campaign_in_which_all_held():
    published = DOCUMENT.read_text("utf-8").partition("<!-- faults -->")[2].partition("<!-- /faults -->")[0]
    rows = re.findall(r"^\| (?!what was tried|---)(.*) \|$", published, re.MULTILINE)
    assert len(rows) >= len(campaigns())
    assert all(re.match(r"0 ", row.split(" | ")[3]) for row in rows)
