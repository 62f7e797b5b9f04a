"""Protobuf's text format, as Caffe's prototxt files have it: text to a tree and back.

The tree knows fields and values, not what they mean; `schema` gives them types.  Every node keeps
where it stood, so that all complaints about a file can name the line.

    field     name: value     name { ... }     name: { ... }     name < ... >     name: [v, v]
    value     "text"  'text'  12  -0.5e3  0x1F  .5f  inf  nan  true  MAX
    between   spaces, # comments, and a ',' or ';' behind a field
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from dualnet.errors import UserError

MAX_DEPTH = 64
MAX_CHARACTERS = 16 * 2**20


class Position(NamedTuple):
    """Where something stands in a file; line and column count from 1."""

    source: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


class PrototxtError(UserError):
    """A prototxt file that cannot be used: where, what was expected and what was found."""

    def __init__(self, at: Position, sentence: str) -> None:
        super().__init__(f"{at}: {sentence}")
        self.at = at
        self.sentence = sentence

    @property
    def line(self) -> int:
        """The line of the file, counted from 1."""
        return self.at.line


@dataclasses.dataclass(frozen=True)
class Scalar:
    """One value as it is written; two are equal wherever they stand.

    text       a number or word as written; of a quoted string the characters meant.  Bytes that
               are no UTF-8 are lone surrogates, as in os.fsdecode
    is_quoted  whether it is a quoted string
    """

    text: str
    is_quoted: bool
    at: Position = dataclasses.field(compare=False)

    def __str__(self) -> str:
        return _quote(self.text) if self.is_quoted else self.text


@dataclasses.dataclass(frozen=True)
class Message:
    """The fields between two braces, or of a whole file, in their order.

    A list `name: [a, b]` is kept as the two fields it stands for.
    """

    fields: tuple["Field", ...]
    at: Position = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Field:
    """A name and its value."""

    name: str
    value: Scalar | Message
    at: Position = dataclasses.field(compare=False)


def read(path: Path) -> Message:
    """The tree of a file.  Raises PrototxtError, or UserError if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise PrototxtError(Position(str(path), line, column), "expected text in UTF-8, found the "
                            f"byte 0x{content[error.start]:02x}; is this a binary file?") from None
    return parse(text, str(path))


def parse(text: str, source: str = "prototxt") -> Message:
    """The tree of `text`; `source` names it in complaints.  Raises PrototxtError."""
    if len(text) > MAX_CHARACTERS:
        raise PrototxtError(Position(source, 1, 1), f"expected at most {MAX_CHARACTERS} "
                            f"characters, found {len(text)}")
    return _Parser(text, source).whole()


def to_text(message: Message, indent: str = "") -> str:
    """The text of a tree, one field per line; `parse` gives the same tree back."""
    lines = []
    for field in message.fields:
        if isinstance(field.value, Message):
            inner = to_text(field.value, indent + "  ")
            lines.append(f"{indent}{field.name} {{\n{inner}{indent}}}\n")
        else:
            lines.append(f"{indent}{field.name}: {field.value}\n")
    return "".join(lines)


# -- tokens ----------------------------------------------------------------------------------------

_TOKEN = re.compile(r"""
    (?P<skip>   [ \t\r\n\v\f]+ | \#[^\n]* )
  | (?P<number> 0[xX][0-9a-fA-F]+ | (?: [0-9]+\.?[0-9]* | \.[0-9]+ ) (?:[eE][+-]?[0-9]+)? [fF]? )
  | (?P<word>   [A-Za-z_][A-Za-z0-9_]* )
  | (?P<string> "(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*' )
  | (?P<mark>   [-:{}<>\[\],;] )
""", re.VERBOSE)
_GLUED = re.compile(r"[A-Za-z0-9_.]")
_WORD_AS_NUMBER = re.compile(r"inf(inity)?|nan", re.IGNORECASE)


class _Token(NamedTuple):
    kind: str       # number, word, string, mark, end
    text: str
    at: Position

    def __str__(self) -> str:
        if self.kind == "end":
            return "the end of the file"
        shown = self.text if len(self.text) <= 40 else self.text[:40] + "..."
        return shown if self.kind == "string" else f"'{shown}'"


def _tokens(text: str, source: str) -> Iterator[_Token]:
    line, line_start, place = 1, 0, 0
    while place < len(text):
        at = Position(source, line, place - line_start + 1)
        match = _TOKEN.match(text, place)
        if match is None:
            raise PrototxtError(at, _no_token(text, place))
        kind, word = match.lastgroup or "", match.group()
        place = match.end()
        if kind == "number" and _GLUED.match(text, place):
            raise PrototxtError(at, f"expected a number, found '{word}{text[place]}...'")
        if kind != "skip":
            yield _Token(kind, word, at)
        elif "\n" in word:
            line += word.count("\n")
            line_start = match.start() + word.rindex("\n") + 1
    yield _Token("end", "", Position(source, line, place - line_start + 1))


def _no_token(text: str, place: int) -> str:
    if text[place] in "\"'":
        return f"expected a {text[place]} at the end of the string, found the end of the line"
    if text[place] == "/":
        return "expected a field, found '/' (comments begin with #)"
    return f"expected a field or a value, found the character {text[place]!r}"


# -- strings ---------------------------------------------------------------------------------------

_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})"
                     r"|U([0-9a-fA-F]{8})|(.))")
_SINGLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11,
           "\\": 92, "'": 39, '"': 34, "?": 63}


def _bytes_of(token: _Token) -> bytes:
    """The bytes that a quoted string stands for."""
    body, place, parts = token.text[1:-1], 0, []
    for match in _ESCAPE.finditer(body):
        parts += [_encode(body[place:match.start()], token), _escaped(match, token)]
        place = match.end()
    return b"".join([*parts, _encode(body[place:], token)])


def _encode(text: str, token: _Token) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise PrototxtError(token.at, "expected characters in the string, found the surrogate "
                            f"{text[error.start]!r}") from None


def _escaped(match: re.Match[str], token: _Token) -> bytes:
    octal, hexadecimal, short, long, single = match.groups()
    if octal or hexadecimal:
        number = int(octal, 8) if octal else int(hexadecimal, 16)
        if number < 256:
            return bytes([number])
    elif short or long:
        number = int(short or long, 16)
        if number < 0x110000 and not 0xD800 <= number < 0xE000:
            return chr(number).encode()
    elif single in _SINGLE:
        return bytes([_SINGLE[single]])
    raise PrototxtError(token.at, f"expected a known escape in the string, found {match.group()}")


def _quote(text: str) -> str:
    """`text` as a quoted string in one line."""
    def shown(character: str) -> str:
        code = ord(character)
        if character in "\"\\":
            return "\\" + character
        if 0xDC80 <= code < 0xDD00:                # a byte that is no UTF-8
            return f"\\{code - 0xDC00:03o}"
        return f"\\{code:03o}" if code < 32 or code == 127 else character
    return '"' + "".join(map(shown, text)) + '"'


# -- fields ----------------------------------------------------------------------------------------

class _Parser:
    """Recursive descent with one token of look-ahead."""

    def __init__(self, text: str, source: str) -> None:
        self._rest = _tokens(text, source)
        self._next = next(self._rest)

    def whole(self) -> Message:
        return Message(self._fields("", 0), Position(self._next.at.source, 1, 1))

    def _take(self) -> _Token:
        token = self._next
        if token.kind != "end":
            self._next = next(self._rest)
        return token

    def _is_next(self, marks: str) -> bool:
        return self._next.kind == "mark" and self._next.text in marks

    def _refuse(self, expected: str) -> NoReturn:
        raise PrototxtError(self._next.at, f"expected {expected}, found {self._next}")

    def _fields(self, closing: str, depth: int) -> tuple[Field, ...]:
        """Fields up to the mark `closing`, or up to the end of the file."""
        found: list[Field] = []
        while not (self._is_next(closing) if closing else self._next.kind == "end"):
            if self._is_next("["):
                self._refuse("a field name (extensions in [] are not part of Caffe)")
            if self._next.kind != "word":
                self._refuse(f"a field name or '{closing}'" if closing else "a field name")
            found += self._field(self._take(), depth)
            if self._is_next(",;"):
                self._take()
        return tuple(found)

    def _field(self, name: _Token, depth: int) -> list[Field]:
        has_colon = self._is_next(":")
        if has_colon:
            self._take()
        elif not self._is_next("{<"):
            self._refuse(f"':' or '{{' behind '{name.text}'")
        values = self._list(depth) if self._is_next("[") else [self._value(depth)]
        return [Field(name.text, value, name.at) for value in values]

    def _list(self, depth: int) -> list[Scalar | Message]:
        self._take()
        values: list[Scalar | Message] = []
        while not self._is_next("]"):
            values.append(self._value(depth))
            if self._is_next(","):
                self._take()
                if self._is_next("]"):
                    self._refuse("a value behind the ','")
            elif not self._is_next("]"):
                self._refuse("',' or ']'")
        self._take()
        return values

    def _value(self, depth: int) -> Scalar | Message:
        token = self._next
        if self._is_next("{<"):
            return self._message(depth + 1)
        if token.kind == "string":
            return self._string()
        if self._is_next("-"):
            self._take()
            if self._next.kind != "number" and not _WORD_AS_NUMBER.fullmatch(self._next.text):
                self._refuse("a number behind '-'")
            return Scalar("-" + self._take().text, False, token.at)
        if token.kind not in ("number", "word"):
            self._refuse("a value")
        return Scalar(self._take().text, False, token.at)

    def _string(self) -> Scalar:
        """Adjacent strings are one."""
        at, content = self._next.at, b""
        while self._next.kind == "string":
            content += _bytes_of(self._take())
        return Scalar(content.decode("utf-8", "surrogateescape"), True, at)

    def _message(self, depth: int) -> Message:
        opening = self._next
        if depth > MAX_DEPTH:
            self._refuse(f"at most {MAX_DEPTH} messages inside each other")
        self._take()
        closing = "}" if opening.text == "{" else ">"
        fields = self._fields(closing, depth)
        self._take()
        return Message(fields, opening.at)
