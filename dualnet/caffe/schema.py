"""Typed records from the tree of a prototxt file: known fields, checked values, defaults.

Raises PrototxtError for a field that the message does not have, naming the nearest that it has, and
for a value that is none of the field's type.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from dualnet.caffe.messages import ENUMS, TABLES
from dualnet.caffe.prototxt import Field, Message, Position, PrototxtError, Scalar
from dualnet.config import nearest

ANY = "any"


class FieldType(NamedTuple):
    """What a message says of one field; default None: absent unless given."""

    type: str
    is_repeated: bool
    default: str | None


@dataclasses.dataclass
class Record:
    """A message with its values in Python's types; two are equal wherever they stand.

    record["field"]  the value given, else the default: [] for a repeated field, an empty record
                     for a message, None for a field without a default
    """

    type: str
    at: Position = dataclasses.field(compare=False)
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    places: dict[str, list[Position]] = dataclasses.field(default_factory=dict, compare=False)

    def __getitem__(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        field = MESSAGES[self.type][name]
        if field.is_repeated:
            return []
        if field.type in MESSAGES:
            return Record(field.type, self.at)
        return None if field.default is None else _CONVERT[_kind(field.type)](
            field.default, field.type)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def given(self) -> dict[str, Any]:
        """The values that the file gives, without the defaults."""
        return dict(self.values)

    def where(self, name: str, index: int = 0) -> Position:
        """Where the field stands; where the message stands if it is not given."""
        places = self.places.get(name, [])
        return places[index] if index < len(places) else self.at

    def fail(self, sentence: str, name: str = "", index: int = 0) -> PrototxtError:
        """The error about this message or one of its fields."""
        return PrototxtError(self.where(name, index), sentence)

    def put(self, name: str, value: Any, at: Position) -> None:
        """Set a field, or add to it if it is repeated."""
        if MESSAGES[self.type][name].is_repeated:
            self.values.setdefault(name, []).append(value)
        else:
            self.values[name] = value
        self.places.setdefault(name, []).append(at)


def decode(message: Message, type: str) -> Record:
    """The record of the given message type.  Raises PrototxtError."""
    record = Record(type, message.at)
    fields = MESSAGES[type]
    for field in message.fields:
        if field.name not in fields:
            raise PrototxtError(field.at, f"{_title(type)} has no field '{field.name}'"
                                f"{nearest(field.name, fields)}")
        spec = fields[field.name]
        if field.name in record and not spec.is_repeated:
            raise PrototxtError(field.at, f"'{field.name}' may be given once, and was given in "
                                f"line {record.where(field.name).line}")
        record.put(field.name, _value(field, spec), field.at)
    return record


def _value(field: Field, spec: FieldType) -> Any:
    value = field.value
    if spec.type in MESSAGES or spec.type == ANY:
        if isinstance(value, Scalar):
            raise PrototxtError(value.at, f"'{field.name}' takes fields in braces, found {value}")
        return value if spec.type == ANY else decode(value, spec.type)
    kind = _kind(spec.type)
    if isinstance(value, Message):
        raise PrototxtError(value.at, f"'{field.name}' takes {_describe(spec.type)}, found "
                            "fields in braces")
    try:
        if value.is_quoted != (kind == "string"):
            raise ValueError
        return _CONVERT[kind](value.text, spec.type)
    except (ValueError, OverflowError):
        known = ENUMS.get(spec.type, ())
        raise PrototxtError(value.at, f"'{field.name}' takes {_describe(spec.type)}, found {value}"
                            f"{nearest(value.text.upper(), known)}") from None


# -- values ----------------------------------------------------------------------------------------

_LIMITS = {"int32": (-2**31, 2**31 - 1), "uint32": (0, 2**32 - 1), "int64": (-2**63, 2**63 - 1)}
_DESCRIBED = {
    "int32": "a whole number", "int64": "a whole number", "uint32": "a whole number from 0",
    "float": "a number", "bool": "true or false", "string": "a text in quotes"}
_HEXADECIMAL = re.compile(r"-?0[xX]")
_OCTAL = re.compile(r"-?0[0-7]+")


def _describe(type: str) -> str:
    return _DESCRIBED.get(type) or "one of " + ", ".join(ENUMS[type])


def _kind(type: str) -> str:
    return "enum" if type in ENUMS else "int" if type in _LIMITS else type


def _int(text: str, type: str) -> int:
    base = 16 if _HEXADECIMAL.match(text) else 8 if _OCTAL.fullmatch(text) else 10
    number = int(text, base)
    low, high = _LIMITS[type]
    if not low <= number <= high:
        raise ValueError
    return number


def _float(text: str, type: str) -> float:
    if _HEXADECIMAL.match(text):
        return float(int(text, 16))
    word = text.lower().removesuffix("f") if not text.lower().endswith("inf") else text
    number = float(word)
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError
    return number


def _bool(text: str, type: str) -> bool:
    if text in ("true", "True", "t", "1"):
        return True
    if text in ("false", "False", "f", "0"):
        return False
    raise ValueError


def _enum(text: str, type: str) -> str:
    """The name of an enumeration's value; a number is taken for the value it stands for."""
    names = ENUMS[type]
    if text in names:
        return text
    number = int(text)
    if not 0 <= number < len(names):
        raise ValueError
    return names[number]


_CONVERT: dict[str, Callable[[str, str], Any]] = {
    "int": _int, "float": _float, "bool": _bool, "enum": _enum, "string": lambda text, _: text}


# -- tables ----------------------------------------------------------------------------------------

def _read_tables(tables: str) -> dict[str, dict[str, FieldType]]:
    messages: dict[str, dict[str, FieldType]] = {}
    for line in filter(str.strip, tables.splitlines()):
        if not line.startswith(" "):
            fields = messages[line.strip()] = {}
            continue
        for entry in filter(str.strip, line.split(";")):
            declared, _, default = entry.partition("=")
            name, type = declared.split()
            fields[name.removesuffix("*")] = FieldType(type, name.endswith("*"),
                                                       default.strip() or None)
    return messages


MESSAGES = _read_tables(TABLES)

_TITLES = {"NetParameter": "a net", "SolverParameter": "a solver", "LayerParameter": "a layer",
           "V1LayerParameter": "an old layer ('layers')", "ParamSpec": "a 'param'",
           "NetStateRule": "a rule ('include', 'exclude')", "FillerParameter": "a filler",
           "BlobShape": "a 'shape'", "NetState": "a state"}


def _title(type: str) -> str:
    return _TITLES.get(type) or f"a {type}"
