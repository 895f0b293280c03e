"""A thread whose serializer encrypts: nothing of it can be read in the file, and no plaintext gets in."""

from __future__ import annotations

import operator
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph

from eventstore.integrations.langgraph import EventStoreSaver, PlaintextRefused

STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)
CONFIG = {"configurable": {"thread_id": "t"}}
SECRET = "the secret word"


class State(TypedDict):
    log: Annotated[list, operator.add]


def compiled(saver):
    graph = StateGraph(State)
    graph.add_node("work", lambda state: {"log": [f"{SECRET} {len(state['log'])}"]})
    graph.add_edge(START, "work").add_edge("work", END)
    return graph.compile(checkpointer=saver)


@pytest.fixture
def sealing():
    return EncryptedSerializer.from_pycryptodome_aes(STRICT, key=b"0123456789abcdef")


def test_nothing_of_a_run_can_be_read_in_the_file(tmp_path, sealing):
    path = tmp_path / "runs.db"
    with EventStoreSaver(path, serde=sealing) as saver:
        for _ in range(40):
            compiled(saver).invoke({"log": ["from me"]}, CONFIG)
        expected = [f"{SECRET} {n}" if n % 2 else "from me" for n in range(80)]
        assert compiled(saver).get_state(CONFIG).values["log"] == expected
        assert saver.store.verify().ok
        saver.store.drop_bases()
    with EventStoreSaver(path, serde=sealing) as saver:
        assert compiled(saver).get_state(CONFIG).values["log"] == expected
        assert [len(then.values.get("log", ())) for then in compiled(saver).get_state_history(CONFIG)][:2] == [80, 79]
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert SECRET.encode() not in written and b"from me" not in written


def test_a_list_that_grows_is_stored_by_its_new_chunks(tmp_path, sealing):
    with EventStoreSaver(tmp_path / "runs.db", serde=sealing) as saver:
        for _ in range(3):
            compiled(saver).invoke({"log": ["x" * 100]}, CONFIG)
        trace_id, _ = saver.place(CONFIG)
        ops = [
            event.event.op
            for event in saver.store.events(trace_id)
            if event.kind == "delta" and event.event.key == "log"
        ]
        assert ops == ["put", *["append"] * 5]


def test_plaintext_smuggled_into_an_encrypted_thread_is_refused(tmp_path, sealing):
    with EventStoreSaver(tmp_path / "runs.db", serde=sealing) as saver:
        compiled(saver).invoke({"log": ["from me"]}, CONFIG)
        honest = saver.get_tuple(CONFIG).config
        smuggler = EventStoreSaver(saver.store)
        smuggler.put_writes(honest, [("log", ["not from me"])], "task")
        with pytest.raises(PlaintextRefused, match="'msgpack' is not encrypted"):
            saver.get_tuple(CONFIG)
        checkpoint = {
            "v": 4, "id": "2" + "f" * 35, "ts": "2026-01-01T00:00:00+00:00", "versions_seen": {},
            "channel_values": {"log": ["not from me"]}, "channel_versions": {"log": "9"},
        }  # fmt: skip
        smuggler.put(honest, checkpoint, {"source": "loop", "step": 9, "parents": {}}, {"log": "9"})
        for read in (lambda: saver.get_tuple(CONFIG), lambda: list(saver.list(CONFIG))):
            with pytest.raises(PlaintextRefused) as refused:
                read()
            assert refused.value.codec == "msgpack"
        with pytest.raises(PlaintextRefused):
            saver.with_allowlist([("app", "Model")]).get_tuple(CONFIG)


def test_an_allow_list_goes_into_the_serializer_that_encrypts(tmp_path, sealing):
    with EventStoreSaver(tmp_path / "runs.db", serde=sealing) as saver:
        allowing = saver.with_allowlist([("app", "Model")])
        assert isinstance(allowing.serde, EncryptedSerializer) and allowing.serde is not saver.serde
        compiled(allowing).invoke({"log": ["from me"]}, CONFIG)
        assert saver.get_tuple(CONFIG).checkpoint["channel_values"]["log"] == ["from me", f"{SECRET} 1"]


def test_a_long_list_is_put_as_one_chunk_again_once_in_a_while(tmp_path, sealing):
    with EventStoreSaver(tmp_path / "runs.db", serde=sealing) as saver:
        for _ in range(50):
            compiled(saver).invoke({"log": ["x"]}, CONFIG)
        trace_id, seq = saver.place(CONFIG)
        assert saver.store.state_at(trace_id, seq)["log"].count < 70
        assert len(saver.get_tuple(CONFIG).checkpoint["channel_values"]["log"]) == 100
