"""Text and JSON that another process wrote, read with care."""

import json
import re
from typing import Any

LONGEST_LINE = 1000  # characters kept of a text for people
DEEPEST = 32  # nested lists and objects in JSON


def printable(text: str) -> str:
    """Text that a terminal and a JSON string take as it is: one line of printable ASCII."""
    line = " ".join(text.split())
    return "".join(c if " " <= c <= "~" else "?" for c in line)[:LONGEST_LINE]


def all_printable(value: Any) -> Any:
    """A JSON value whose texts are printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [all_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): all_printable(item) for key, item in value.items()}
    return value


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises ValueError if it is none: no JSON, not ASCII, NaN or infinity, a key twice in an object
    (readers differ in which one counts), or nested deeper than 32.
    """
    text = data.decode("ascii")
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    # Counting brackets is all that most texts need.
    if text.count("[") + text.count("{") > DEEPEST and _depth(text) > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


# Kept, because building it costs more than parsing a status block does.
_DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_without_repeats)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def _depth(text: str) -> int:
    """How deep the brackets of a JSON text are nested, those in strings aside."""
    depth = deepest = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest
