"""Bodies and values that no engine wrote: each door says what is wrong, in an error that is documented."""

from __future__ import annotations

import json
import pickle

import ormsgpack
import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

import eventstore as es
from eventstore import codec, link
from eventstore.codec import Row, decode_event
from eventstore.integrations.langgraph import EventStoreSaver
from eventstore.integrations.langgraph.values import decoded
from tests.faults.campaign import Run
from tests.faults.hostile_bodies import naively
from tests.faults.hostile_doors import Doors
from tests.faults.hostile_payloads import MAKERS, Built, payload

MODULE = "tests.faults.hostile_payloads"
BILLIONS = b"\xdd\xff\xff\xff\xff"


@pytest.mark.parametrize("decode", [codec.decode_rows, codec.decode_derived, link.decode_link, link.decode_whole])
@pytest.mark.parametrize(
    "data", [BILLIONS, b"\x91" * 100_000, b"[" * 100_000, b'[{"key":"\xff"}]', b"", b"\xc7\x00\x63"  ]
)  # fmt: skip
def test_a_body_that_is_none_is_a_value_error(decode, data):
    with pytest.raises(ValueError):
        decode(data)


def test_a_delta_without_a_value_or_of_an_unknown_op_does_not_fold():
    for body in (b'[{"key":"k"}]', b'[{"key":"k","op":"append"}]', b'[{"key":"k","op":"steal","value":1}]'):
        with pytest.raises(es.StateError):
            link.fold_rows({}, {}, codec.decode_rows(body))
        with pytest.raises(es.StateError):
            link.Link().add_rows(codec.decode_rows(body))


def test_a_sum_beyond_64_bits_does_not_fold():
    with pytest.raises(es.StateError, match="64 bits"):
        link.fold_rows({}, {"n": 2**63 - 1}, codec.decode_rows(b'[{"key":"n","op":"sum","value":1}]'))


def test_a_state_with_numbers_beyond_64_bits_is_held_as_json():
    assert link.decode_whole(link.encode_whole({}, {"n": 10**30})) == ({}, {"n": 10**30})


@pytest.mark.filterwarnings("ignore::eventstore.BaseCorrupted")
@pytest.mark.parametrize("door", ["rows", "bases", "roots", "dumps", "transcripts", "commands", "values", "blobs"])
def test_some_of_each_kind_go_through_each_door(tmp_path, door):
    rng = Run(0, 9, None, None).rng(door)
    getattr(Doors(tmp_path), door)([make(rng) for name, make in sorted(MAKERS.items()) if name not in ("deep", "link")])


def test_what_trusts_its_decoders_is_bitten():
    assert naively(b"[" * 100_000) and naively(b"[1]") and naively(b'[{"key":1}]')
    assert not naively(b"[") and not naively(b'[{"key":"a","value":1}]')


def test_a_payload_is_made_again_by_its_seed():
    assert payload(Run(0, 4, None, None).rng()) == payload(Run(0, 4, None, None).rng())


def named_by(codec_name):
    """A blob of that codec that names a class of these tests."""
    content = ormsgpack.packb((MODULE, "Built", [], "__init__"))
    return {
        "msgpack": ormsgpack.packb(ormsgpack.Ext(0, content)),
        "pickle": pickle.dumps(Built.__new__(Built)),
        "json": json.dumps(
            {"lc": 2, "type": "constructor", "id": ["tests", "faults", "hostile_payloads", "Built"]}
        ).encode(),
    }[codec_name]


@pytest.mark.parametrize("codec_name", ["msgpack", "json", "pickle"])
def test_the_saver_builds_nothing_that_a_blob_names(codec_name):
    before = Built.count
    with EventStoreSaver(":memory:") as saver:
        try:
            found = decoded(saver.serde, es.Opaque(codec_name, named_by(codec_name)))
        except NotImplementedError:
            found = None  # pickle: there is no such codec for it
    assert Built.count == before and not isinstance(found, Built)


def test_a_serializer_that_trusts_builds_it():
    before = Built.count
    trusting = JsonPlusSerializer(allowed_msgpack_modules=True)
    assert isinstance(trusting.loads_typed(("msgpack", named_by("msgpack"))), Built)
    assert Built.count == before + 1


def test_encoding_is_capped_in_depth():
    deep = []
    for _ in range(codec.MAX_DEPTH):
        deep = [deep]
    with es.open(":memory:") as store:
        trace = store.start({})
        for value in (deep, [deep], {"a": deep}):
            with pytest.raises(es.ValueRefused, match="deeper than"):
                trace.append([es.StateDelta.put("k", value)])
        assert dict(trace.state) == {}


@pytest.mark.parametrize("name", [7, None, [], b"short"])
def test_an_id_that_is_none_is_a_malformed_event(name):
    with pytest.raises(ValueError, match="not an event of kind"):
        decode_event(Row("checkpoint_put", data=[name, 0]))
