"""Processes share a file: each append goes in once, in order, and no process waits for ever."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import eventstore as es

WRITER = """
import json, sys, time, eventstore as es
path, name, start = sys.argv[1], sys.argv[2], float(sys.argv[3])
slowest = 0.0
with es.open(path, durability="normal") as store:
    own = store.start({"log": []}, id=name)
    shared = store.open_trace("shared")
    time.sleep(max(0.0, start - time.time()))
    for turn in range(60):
        began = time.monotonic()
        with own.step("work") as step:
            step.append("log", turn)
        delta = es.StateDelta.append("log", [[name, turn]])
        shared.append([delta], expected_version=es.ANY, append_id=f"{name} {turn}")
        slowest = max(slowest, time.monotonic() - began)
print(json.dumps(slowest))
"""


def start(path, name, at):
    command = [sys.executable, "-c", WRITER, path, name, str(at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_four_processes_lose_nothing_and_none_starves(path):
    with es.open(path) as store:
        store.start({"log": []}, id="shared")
    at = time.time() + 2
    processes = {name: start(path, name, at) for name in ("a", "b", "c", "d")}
    outputs = {name: process.communicate(timeout=120) for name, process in processes.items()}
    assert [error for _, error in outputs.values()] == [""] * 4
    assert max(json.loads(output) for output, _ in outputs.values()) < 5
    with es.open(path) as store:
        assert store.verify().ok
        for name in processes:
            assert store.state_at(name) == {"log": list(range(60))}
        log = store.state_at("shared")["log"]
        assert store.open_trace("shared").version == 1 + 240
        for name in processes:
            assert [turn for who, turn in log if who == name] == list(range(60))


def test_a_killed_writer_holds_up_nobody_and_a_retry_settles_what_it_did(path):
    with es.open(path) as store:
        trace = store.start({"log": []}, id="shared")
        for number in range(3):
            process = start(path, f"victim {number}", 0)
            deadline = time.monotonic() + 30
            while trace.refresh() < 2 + 70 * number and time.monotonic() < deadline:
                time.sleep(0.001)
            process.kill()
            process.communicate()
            trace.refresh()
            log = store.state_at("shared")["log"]
            turns = [turn for who, turn in log if who == f"victim {number}"]
            assert turns == list(range(len(turns)))
            for turn in range(60):  # the same appends again, by another process
                delta = es.StateDelta.append("log", [[f"victim {number}", turn]])
                trace.append([delta], expected_version=es.ANY, append_id=f"victim {number} {turn}")
            turns = [turn for who, turn in store.state_at("shared")["log"] if who == f"victim {number}"]
            assert turns == list(range(60))
        assert store.verify().ok
