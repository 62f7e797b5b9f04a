"""Protobuf's text format: any tree comes back from its text, and bad text is refused by line."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prototxts import CAFFENET, LENET, QUICK, SOLVER

from dualnet.caffe.prototxt import (
    MAX_DEPTH,
    Field,
    Message,
    Position,
    PrototxtError,
    Scalar,
    parse,
    read,
    to_text,
)
from dualnet.errors import UserError

HERE = Position("made", 1, 1)
names = st.text(string.ascii_letters + "_", min_size=1).flatmap(
    lambda first: st.text(string.ascii_letters + string.digits + "_").map(first.__add__))
words = names
numbers = st.one_of(
    st.integers().map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["inf", "-inf", "nan", "-nan", "0x1F", "-0XaB", "017", ".5", "5.", "1e-4",
                     "2.5f", "-3F", "1E+10"]))
# Any bytes: text, control characters, and what is no UTF-8.
texts = st.binary().map(lambda content: content.decode("utf-8", "surrogateescape"))
scalars = st.one_of(
    st.builds(Scalar, words, st.just(False), st.just(HERE)),
    st.builds(Scalar, numbers, st.just(False), st.just(HERE)),
    st.builds(Scalar, st.one_of(st.text(), texts), st.just(True), st.just(HERE)))


def messages_of(values):
    fields = st.lists(st.builds(Field, names, values, st.just(HERE)), max_size=5)
    return st.builds(Message, fields.map(tuple), st.just(HERE))


trees = st.recursive(messages_of(scalars), lambda inner: messages_of(st.one_of(scalars, inner)),
                     max_leaves=20)


@settings(max_examples=300, deadline=None)
@given(tree=trees)
def test_a_tree_comes_back_from_its_text(tree):
    assert parse(to_text(tree)) == tree


@settings(max_examples=500, deadline=None)
@given(text=st.one_of(st.text(), st.text("ab{}<>[]:;,\"'\\-#\n .0159exf")))
def test_any_text_is_a_tree_or_an_error_with_its_line(text):
    try:
        tree = parse(text, "file")
    except PrototxtError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert str(error).startswith(f"file:{error.line}:")
    else:
        assert parse(to_text(tree)) == tree


@pytest.mark.parametrize("text", [LENET, QUICK, CAFFENET, SOLVER])
def test_old_files_come_back_from_their_text(text):
    assert parse(to_text(parse(text))) == parse(text)


def plain(message):
    """The tree as nested lists, by which the spellings below are compared with values by hand."""
    return [(field.name, plain(field.value) if isinstance(field.value, Message) else
             field.value.text) for field in message.fields]


@pytest.mark.parametrize(("text", "expected"), [
    ("a: 1 b: MAX", [("a", "1"), ("b", "MAX")]),
    ("a:1;b:2,c:3", [("a", "1"), ("b", "2"), ("c", "3")]),
    ("a{b:1}", [("a", [("b", "1")])]),
    ("a: { b: 1 }", [("a", [("b", "1")])]),
    ("a < b: 1 c < > >", [("a", [("b", "1"), ("c", [])])]),
    ("a: [1, 2] b: []", [("a", "1"), ("a", "2")]),
    ("a: [{b: 1}, <>]", [("a", [("b", "1")]), ("a", [])]),
    ("a [{b: 1}]", None),
    ("a: 1 # b: 2\n#c\nd: 3", [("a", "1"), ("d", "3")]),
    ("a: - 5 b: -inf", [("a", "-5"), ("b", "-inf")]),
    ("a: \"x#'y\" 'z\"' \"\"", [("a", "x#'yz\"")]),
    (r'a: "\n\t\\\"\x41\101\u00e9\U0001F600\0"', [("a", '\n\t\\"AA\u00e9\U0001f600\0')]),
    (r'a: "\303" "\251"', [("a", "\u00e9")]),
    (r"a: '\377'", [("a", "\udcff")]),
    ("", []), ("  # nothing\n", [])])
def test_spellings_that_the_format_allows(text, expected):
    if expected is None:
        with pytest.raises(PrototxtError):
            parse(text)
    else:
        assert plain(parse(text)) == expected


@pytest.mark.parametrize(("text", "at", "sentence"), [
    ("a: 1\n  b", (2, 4), "expected ':' or '{' behind 'b', found the end of the file"),
    ("a:\n\n}", (3, 1), "expected a value, found '}'"),
    ("a {\n b: 1", (2, 6), "expected a field name or '}', found the end of the file"),
    ("a: 1\n}", (2, 1), "expected a field name, found '}'"),
    ("a < b: 1 }", (1, 10), "expected a field name or '>', found '}'"),
    ("a: \"x\nb: 1", (1, 4), 'expected a " at the end of the string'),
    ("a: 'x\\", (1, 4), "expected a ' at the end of the string"),
    ("a: \"\\q\"", (1, 4), r"expected a known escape in the string, found \q"),
    ("a: \"\\777\"", (1, 4), "expected a known escape"),
    ("a: \"\\ud800\"", (1, 4), "expected a known escape"),
    ("a: 3x", (1, 4), "expected a number, found '3x...'"),
    ("a: 1.2.3", (1, 4), "expected a number, found '1.2....'"),
    ("a: 0x", (1, 4), "expected a number"),
    ("a: [1 2]", (1, 7), "expected ',' or ']', found '2'"),
    ("a: [1,]", (1, 7), "expected a value behind the ','"),
    ("a: -b", (1, 5), "expected a number behind '-', found 'b'"),
    ("[x.y]: 1", (1, 1), "extensions in [] are not part of Caffe"),
    ("/* a */", (1, 1), "comments begin with #"),
    ("a: @", (1, 4), "expected a field or a value, found the character '@'"),
    ("a: 1,, b: 2", (1, 6), "expected a field name, found ','")])
def test_bad_text_is_refused_with_its_place_and_what_was_expected(text, at, sentence):
    with pytest.raises(PrototxtError) as caught:
        parse(text, "net.prototxt")
    assert (caught.value.line, caught.value.at.column) == at
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"net.prototxt:{at[0]}:{at[1]}: expected")


def test_depth_is_bounded():
    inside = "a {" * MAX_DEPTH + "}" * MAX_DEPTH
    assert parse(inside)
    with pytest.raises(PrototxtError, match=f"at most {MAX_DEPTH} messages inside each other"):
        parse("b {" + inside + "}")


def test_size_is_bounded():
    with pytest.raises(PrototxtError, match="at most 16777216 characters, found 16777217"):
        parse(" " * (2**24 + 1))


def test_a_file_may_begin_with_a_byte_order_mark_and_end_lines_as_windows_does(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'\xef\xbb\xbfname: "a"\r\n# comment\r\nb {\r\n c: 1 }')
    tree = read(path)
    assert plain(tree) == [("name", "a"), ("b", [("c", "1")])]
    assert tree.fields[1].at == Position(str(path), 3, 1)


def test_a_binary_file_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"a: 1\n\x0a\xff\x12")
    with pytest.raises(PrototxtError, match="byte 0xff; is this a binary file") as caught:
        read(path)
    assert caught.value.line == 3
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "none.prototxt")
