"""The redaction hook: what it hides never reaches the file."""

from __future__ import annotations

import pytest

import eventstore as es


def test_redaction_runs_before_anything_reaches_the_file(path, tmp_path):
    def redact(key, value):
        return "***" if key == "card" else value

    with es.open(path, redact=redact) as store:
        trace = store.start({"card": "4111", "n": 0}, id="t1")
        with trace.step("pay") as step:
            step.put("card", "4111")
            step.put("n", 1)
            assert step.get("card") == "***"
        trace.append([es.StateDelta.put("card", "4111")])
        assert trace.state == store.state_at("t1") == {"card": "***", "n": 1}
    assert not [file for file in tmp_path.iterdir() if b"4111" in file.read_bytes()]


def test_redaction_covers_the_values_of_a_decision(path, tmp_path):
    with es.open(path, redact=lambda key, value: "***" if key == "card" else value) as store:
        trace = store.start({}, id="t1")
        trace.decide(
            trace.raise_barrier("ask", default=es.Modify({"card": "a card number"})),
            es.Modify({"card": "a card number"}),
        )
        assert trace.state["card"] == "***"
        assert store.verify().ok
    assert not [file for file in tmp_path.iterdir() if b"a card number" in file.read_bytes()]


def test_what_the_redaction_hook_returns_is_guarded_too(path):
    with es.open(path, redact=lambda key, value: object()) as store:
        trace = store.start({}, id="t1")
        with pytest.raises(es.ValueRefused), trace.step("put") as step:
            step.put("n", 1)
        assert store.state_at("t1") == {}
