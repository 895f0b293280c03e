"""The harness's cases at small sizes, by the floor and this engine: each has its figures, no wrong state passes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.cases import contention, folding, growth, importing, memory_peaks, starting
from benchmarks.registry import CASES
from benchmarks.result import Measure, Measurement, middle
from benchmarks.systems.floor import FloorNormal
from benchmarks.worker import WorkerFailed
from benchmarks.workload import WrongResult
from benchmarks.workloads import Work

SYSTEMS = ("floor", "engine")


@pytest.fixture
def found(tmp_path):
    """`found(case)`: what a quick run of the case yields; nothing of it may fail."""

    def run(case):
        bench = Bench(tmp_path, quick=True, say=lambda text: None, asked=SYSTEMS)
        everything = list(CASES[case].function()(bench))
        assert bench.failed == {}
        return everything

    return run


def figures(found, workload=None):
    """`{system: {figure: number}}` of the measurements of a workload."""
    chosen = [one for one in found if isinstance(one, Measurement) and workload in (None, one.workload)]
    assert len({one.system for one in chosen}) == len(chosen)
    return {one.system: {name: middle(figure) for name, figure in one.figures.items()} for one in chosen}


def test_growth_has_what_a_step_a_file_and_two_reads_cost_at_each_size(found):
    everything = found("growth")
    for of_system in (by_run := figures(everything, "chat")).values():
        assert of_system.keys() == {
            f"{figure}@{size}" for figure in ("step_us", "file_bytes", "latest_us", "at_us") for size in (20, 100)
        }
        assert min(of_system.values()) > 0
        assert of_system["file_bytes@100"] > of_system["file_bytes@20"]
    for of_system in (by_file := figures(everything, "small-runs")).values():
        assert of_system.keys() == {f"{figure}@traces={n}" for figure in ("step_us", "latest_us") for n in (10, 50)}
    assert by_run.keys() == by_file.keys() == set(SYSTEMS)


def test_a_size_beyond_a_systems_largest_run_is_left_out_with_the_reason(tmp_path):
    measured = growth.steps_of_a_run("floor-normal", str(tmp_path / "grown"), [10, 10**6], 0)
    assert "step_us@10" in measured.figures and "step_us@1000000" not in measured.figures
    assert measured.missing == {"step_us@1000000": "100,000 steps are its largest run here"}


def test_the_fold_policies_have_their_two_bounds_measured(found):
    everything = found("fold-policies")
    by_policy = figures(everything, "mixed")
    assert by_policy.keys() == folding.POLICIES.keys()
    assert by_policy["fold-none"]["c1"] == 0
    assert by_policy["fold-none"]["c2"] > by_policy["fold-adaptive"]["c2"] > 0
    assert by_policy["fold-none"]["file_bytes"] < by_policy["fold-adaptive"]["file_bytes"]
    bounds = [one for one in everything if isinstance(one, Measure)]
    assert [one.name[:2] for one in bounds] == ["c1", "c2"]
    assert all(one.met and one.result > 0 for one in bounds)


@pytest.mark.parametrize("policy", folding.POLICIES)
def test_what_a_restore_reads_is_what_the_engine_says_it_read(path, policy):
    folding.record(policy, path, Work("mixed", steps=300))
    found = folding.restores(path, "run-0", 20)
    with es.open(path, read_only=True) as store:
        for seq, read_bytes, state_bytes in found:
            _, _, restored = store._reader.restore("run-0", seq)
            assert read_bytes == restored.chain_bytes + restored.tail_bytes
            assert state_bytes == len(msgspec.json.encode(restored.state))


def test_a_batch_import_has_its_rates(found):
    everything = found("batch-import")
    for workload in ("transcripts", "bulk"):
        by_system = figures(everything, workload)
        assert by_system.keys() == set(SYSTEMS)
        for of_system in by_system.values():
            assert of_system["events_per_s"] > of_system["steps_per_s"] > 0
            assert of_system["file_bytes"] > 10_000


@pytest.mark.parametrize("name", ["floor-normal", "engine-normal"])
def test_a_file_of_real_transcripts_can_be_imported_instead(tmp_path, name):
    source = tmp_path / "real.jsonl"
    runs = [
        {"name": "one", "reward": None, "messages": [{"role": "user"}, {"role": "tool"}], "steps": [{"action": "ls"}]}
    ]
    source.write_bytes(b"\n".join(map(msgspec.json.encode, runs)))
    imported = importing.transcripts(name, str(tmp_path / "runs.db"), str(source))
    assert (imported.steps, imported.events) == (3, 8)


def test_starting_has_the_import_the_opening_and_the_first_state(found):
    everything = found("starting")
    imports, opens = figures(everything, "import"), figures(everything, "chat")
    assert imports.keys() == opens.keys() == set(SYSTEMS)
    assert imports["engine"]["import_ms"] > 0
    for of_system in opens.values():
        assert of_system["open_latest_us"] > of_system["open_us"] > 0


def test_contention_has_rate_slowest_step_fairness_and_errors_of_threads_and_of_processes(found):
    by_system = figures(found("contention"))
    assert by_system.keys() == set(SYSTEMS)
    for of_system in by_system.values():
        for where in ("threads=4", "processes=2"):
            assert of_system[f"steps_per_s@{where}"] > 0
            assert of_system[f"slowest_ms@{where}"] > 0
            assert 0 < of_system[f"fairness@{where}"] <= 1
            assert of_system[f"errors@{where}"] == 0


def test_memory_has_a_peak_of_writing_and_of_reading(found):
    by_system = figures(found("memory-peaks"))
    assert by_system.keys() == set(SYSTEMS)
    for of_system in by_system.values():
        assert 2**16 < of_system["peak_write_bytes"] < 2**28
        assert 2**16 < of_system["peak_read_bytes"] < 2**28


# Systems that are wrong, and that give up


class Forgetful(FloorNormal):
    """Its latest state lacks the last message."""

    def latest(self, run):
        state = super().latest(run)
        return {**state, "messages": state["messages"][:-1]}


CHAT = Work("chat", runs=2, steps=3)
ONE = Work("chat", steps=3)


@pytest.mark.parametrize(
    ("module", "reading"),
    [
        (growth, lambda path: growth.look("any", path, ONE)),
        (growth, lambda path: growth.among("any", f"{path}-new", [10])),
        (starting, lambda path: starting.open_once("any", path, ONE)),
        (memory_peaks, lambda path: memory_peaks.read("any", path, ONE)),
        (contention, lambda path: contention.threads("floor-normal", f"{path}-new", 2, CHAT)),
    ],
    ids=["growth", "growth of a file", "starting", "memory", "contention"],
)
def test_a_system_that_gives_a_wrong_state_is_found_out(path, monkeypatch, module, reading):
    floor = FloorNormal(path)
    for run, steps in ONE.plan():
        floor.write(run, ONE.state, steps)
    floor.close()
    monkeypatch.setattr(module, "system", lambda name: FloorNormal)
    reading(path)
    Path(f"{path}-new").unlink(missing_ok=True)
    monkeypatch.setattr(module, "system", lambda name: Forgetful)
    with pytest.raises(WrongResult):
        reading(path)


def test_a_run_that_a_system_gives_up_is_counted_and_the_caller_goes_on(path):
    class Busy(FloorNormal):
        def write(self, run, state, steps):
            if run == "run-0":
                raise OSError("database is locked")
            return super().write(run, state, steps)

    busy = Busy(path)
    caller = contention.call(busy, CHAT.state, list(CHAT.plan()))
    busy.close()
    assert caller.errors == {"run-0": "OSError: database is locked"}
    assert caller.steps == 3


def test_callers_of_whom_one_does_not_come_are_not_waited_for_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(contention, "READY_WITHIN_S", 0.01)
    with pytest.raises(WorkerFailed):
        contention.process("floor-normal", str(tmp_path / "file"), str(tmp_path), 1, 2, CHAT)
