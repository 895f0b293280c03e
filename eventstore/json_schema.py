"""The JSON Schema of event bodies, generated from the msgspec types.

`schema/events.schema.json` holds it for readers without Python; a test compares the two.
`python -m eventstore.json_schema` prints it.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from .event import StateDelta
from .recorded import KINDS


def event_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of one TEXT body of the log: a list of deltas and control events.

    >>> event_schema()["type"]
    'array'
    """
    kinds = list(KINDS.items())
    types = [StateDelta, *(cls for _, cls in kinds)]
    (delta, *refs), components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    components["StateDelta"]["properties"]["kind"] = {"const": "delta"}
    events: list[dict[str, Any]] = [delta]
    for (kind, _), ref in zip(kinds, refs, strict=True):
        events.append(
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "data": ref},
                "required": ["kind", "data"],
                "additionalProperties": False,
            }
        )
    components["StateDelta"]["not"] = {"required": ["data"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event body: the events of one commit, in order of seq",
        "type": "array",
        "minItems": 1,
        "items": {"oneOf": events},
        "$defs": components,
    }


def main() -> None:
    """Print the schema."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(event_schema()), indent=2) + b"\n")


if __name__ == "__main__":
    main()
