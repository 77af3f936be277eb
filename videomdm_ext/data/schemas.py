"""What each kind of JSON file may hold (schemas.json), checked where it is read; JSON without NaN and infinity."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videomdm_ext.errors import CONTROL, DatasetError, printable

PLACE = Path(__file__).with_name("schemas.json")
LARGEST = 1e8  # magnitude of a number in a list of them: no pixel, metre or second is as large
WORDS = {"object": "names with values", "array": "a list", "string": "a text", "integer": "a whole number",
         "number": "a number", "boolean": "true or false", "null": "null"}  # fmt: skip
EXPECTED = {
    "type": lambda value: " or ".join(WORDS[kind] for kind in ([value] if isinstance(value, str) else value)),
    "enum": lambda value: f"one of {', '.join(map(str, value))}",
    "minimum": lambda value: f"{value:g} or more", "exclusiveMinimum": lambda value: f"a number above {value:g}",
    "maximum": lambda value: f"at most {value:g}", "exclusiveMaximum": lambda value: f"a number under {value:g}",
    "minItems": lambda value: f"{value} or more entries", "maxItems": lambda value: f"at most {value} entries",
    "maxLength": lambda value: f"at most {value} characters", "format": lambda _: "a text without control characters",
    "pattern": lambda value: f"a text with {value}", "required": lambda value: f"the entries {', '.join(value)}",
    "additionalProperties": lambda _: "no other entries",
    "numbers": lambda depth: f"a list of {'lists of ' * (depth - 1)}numbers within ±{LARGEST:g}",
}  # fmt: skip
"""What is expected in words, by the keyword of the schema that does not hold."""


def read(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text. ValueError for NaN, infinity, 1e999, integers of more than 64 bits and halves of
    characters, RecursionError where it is nested too deep."""
    found = json.loads(text, object_pairs_hook=pairs, parse_constant=_refused, parse_float=_finite, parse_int=_whole)
    if re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a character, which no text can hold") from error
    return found


def _refused(text: str) -> None:
    raise ValueError(f"{text}, which is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        _refused(text[:40])
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def text_of(content: Any, **style: Any) -> str:
    """The JSON text of a value, with null for NaN and infinity and no control character that is not escaped; `style`
    are options of json.dumps."""
    return printable(json.dumps(plain(content), allow_nan=False, **style))


def plain(value: Any) -> Any:
    """Lists, dictionaries and numbers of Python, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check(content: Any, kind: str, path: str) -> Any:
    """The content, if it is as a file of this kind has to be. DatasetError names the file and the entry, what was
    expected there and what was found."""
    for error in _validator(kind).iter_errors(content):
        where = error.json_path.removeprefix("$").removeprefix(".")
        found = "null" if error.instance is None else shortened(error.instance)
        if error.validator == "required":
            found = f"no {', '.join(name for name in error.validator_value if name not in error.instance)}"
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            found = ", ".join(name for name in error.instance if name not in known)[:80]
        expected = EXPECTED.get(error.validator, lambda _: f"what {PLACE.name} describes")(error.validator_value)
        at = f"{path}: {shortened(where)[1:-1]}" if where else path
        raise DatasetError(f"{at}: expected {expected}, found {found}. Correct that entry, or make the file again.")
    return content


def shortened(value: Any) -> str:
    """A value as a message shows it, on one line and never longer than 80 characters."""
    if isinstance(value, Mapping | list | tuple):
        return f"{'names with values' if isinstance(value, Mapping) else 'a list'} ({len(value)})"
    shown = repr(value[:80]) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:76]} ..."


@functools.cache
def _validator(kind: str) -> Any:
    import jsonschema

    checker = jsonschema.FormatChecker(())
    checker.checks("plain")(lambda value: not isinstance(value, str) or not CONTROL.search(value))
    rules = {**json.loads(PLACE.read_text(encoding="utf-8")), "$ref": f"#/$defs/{kind}"}
    known = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"numbers": _numbers})
    return known(rules, format_checker=checker)


def _numbers(validator: Any, depth: int, values: Any, schema: Any) -> Iterator[Any]:
    """The keyword `numbers` of a schema: it holds for lists of a million numbers too, in one look at each."""
    import jsonschema

    for _ in range(depth - 1):
        if not isinstance(values, list) or not all(isinstance(row, list) for row in values):
            yield jsonschema.ValidationError("numbers")
            return
        values = [number for row in values for number in row]
    kinds = set(map(type, values)) if isinstance(values, list) else {None}
    if not kinds <= {int, float} or any(abs(number) >= LARGEST for number in values):
        yield jsonschema.ValidationError("numbers")
