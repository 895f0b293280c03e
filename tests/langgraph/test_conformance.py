"""LangGraph's own conformance suite, each of its tests as one of ours."""

from __future__ import annotations

import asyncio
from importlib import import_module

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability, DetectedCapabilities

SUITE = [
    pytest.param(check, id=f"{capability.value}-{check.__name__}")
    for capability in Capability
    for check in getattr(
        import_module(f"langgraph.checkpoint.conformance.spec.test_{capability.value}"),
        f"ALL_{capability.value.upper()}_TESTS",
    )
]
pytestmark = pytest.mark.usefixtures("ours")


def test_every_capability_is_there(saver):
    detected = DetectedCapabilities.from_instance(saver)
    assert detected.missing == set()
    assert len(detected.detected) >= 8


@pytest.mark.parametrize("check", SUITE)
def test_it_conforms(open_saver, check):
    async def within():
        async with open_saver() as saver:
            await check(saver)

    asyncio.run(within())


def test_the_report_says_full(open_saver):
    @checkpointer_test(name="EventStoreSaver")
    async def ours():
        async with open_saver() as saver:
            yield saver

    report = asyncio.run(validate(ours))
    assert report.conformance_level() == "FULL"
    assert sum(result.tests_passed for result in report.results.values()) == len(SUITE)
