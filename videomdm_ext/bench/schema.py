"""The published schema of metrics.json, and a check of a value against it that needs no other package.

Of JSON Schema it knows what metrics_schema.json uses: type, enum, required, properties, additionalProperties, items,
minItems and references to #/$defs.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLACE = Path(__file__).with_name("metrics_schema.json")
KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "type", "enum", "required", "properties",
    "additionalProperties", "items", "minItems",
}  # fmt: skip
"""Words of JSON Schema that a schema may use here."""


def metrics_schema() -> dict[str, Any]:
    """The schema of metrics.json."""
    return dict(json.loads(PLACE.read_text(encoding="utf-8")))


def faults(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What in a value does not follow the schema, each with its place; empty where all does."""
    return list(_faults(value, schema, schema, "$"))


def _faults(value: Any, schema: Mapping[str, Any], whole: Mapping[str, Any], place: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{place}: expected {' or '.join(kinds)}, found {_brief(value)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place}: expected one of {', '.join(map(str, schema['enum']))}, found {_brief(value)}"
    if isinstance(value, dict):
        yield from _of_object(value, schema, whole, place)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{place}: expected {schema['minItems']} entries or more, found {len(value)}"
        for index, entry in enumerate(value if "items" in schema else ()):
            yield from _faults(entry, schema["items"], whole, f"{place}[{index}]")


def _of_object(
    value: Mapping[str, Any], schema: Mapping[str, Any], whole: Mapping[str, Any], place: str
) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{place}: expected an entry {name!r}, found none"
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, entry in value.items():
        inner = known.get(name, others)
        if inner is not None:
            yield from _faults(entry, inner, whole, f"{place}.{name}")


def _is(value: Any, kind: str) -> bool:
    """Whether a value is of a kind; true and false are no numbers."""
    return isinstance(value, KINDS[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:37]}..."
