"""What is published of the ledgers, and that a number changed by hand is found."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import pyplot

from dualnet import fingerprint
from dualnet.cli import main
from dualnet.page import files
from dualnet.page.elements import body
from dualnet.page.index import render
from dualnet.page.verify import problems
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.rows import measured_scales, table
from dualnet.reproduce.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(tmp_path):
    """A copy of what is published, with the README beside it."""
    shutil.copy(ROOT / "README.md", tmp_path)
    return Path(shutil.copytree(ROOT / "results", tmp_path / "results"))


def change(path, which, alter):
    """Alter a line of a ledger, as an editor would; gives its number, from 1.

    which  a variant, of which the newest line is meant, or the number itself, -1 for the newest
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    number = which % (len(lines) + 1) if isinstance(which, int) else max(
        number for number, line in enumerate(lines, start=1) if line["variant"] == which)
    alter(lines[number - 1])
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return number


# -- verify ----------------------------------------------------------------------------------------

def test_every_published_figure_and_number_has_its_entry_in_a_ledger():
    assert problems(ROOT / "results") == []


def accuracy(line):
    line["ours"] = line["figures"]["accuracy"] = line["ours"] + 0.001


def half_of_accuracy(line):
    line["ours"] += 0.001


def a_point_of_a_curve(line):
    line["curves"]["loss2"][3][1] += 0.001


def a_speed(line):
    line["measured"][0]["images_per_s"][0] *= 1.5


def a_speed_of_an_older_line(line):
    line["measured"][0]["seconds"][0] *= 1.5


@pytest.mark.parametrize(("name", "which", "alter", "found"), [
    ("thesis-table.jsonl", "single", accuracy, ["thesis-table.png", "README.md", "index.html",
                                                 "../README.md"]),
    ("thesis-table.jsonl", "single", half_of_accuracy,
     ["thesis-table.jsonl, line {number}", "thesis-table.png", "index.html"]),
    ("thesis-9.1.jsonl", "single", a_point_of_a_curve, ["thesis-9.1.png", "index.html"]),
    ("bench-pipeline.jsonl", -1, a_speed, ["bench-pipeline.png", "bench.md", "index.html",
                                             "../README.md"]),
    ("bench-exchange.jsonl", 1, a_speed_of_an_older_line, ["index.html"])])
def test_a_number_changed_in_a_ledger_is_found(results, name, which, alter, found):
    number = change(results / name, which, alter)
    said = problems(results)
    for each in found:
        start = str((results / each.format(number=number)).resolve())
        assert any(problem.startswith(start) for problem in said), each
    assert len(said) == len(found)


# What is looked for has one digit in brackets, which is changed.
@pytest.mark.parametrize(("name", "pattern"), [
    ("README.md", r"\| single \| accuracy \| 77\.7(8) % "),
    ("bench.md", r"\d\.\d(\d) \(\d\.\d+ to \d\.\d+\)"),
    ("../README.md", r"; admm; accuracy; \{mean:\.2f\} .*?-->\d\d\.(\d)"),
    ("index.html", r"\"published\">77\.7(8) % \("),
    ("compare-losses/table.csv", r"\nsingle,\d,0,,0,0\.\d\d(\d)"),
    ("compare-losses/runs.csv", r"\nadmm-s0,admm,0,0\.\d(\d)")])
def test_a_number_changed_in_a_report_or_table_is_found(results, name, pattern):
    path = (results / name).resolve()
    text = path.read_text()
    at = re.search(pattern, text).start(1)
    path.write_text(f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1:]}")
    said = problems(results)
    # The fingerprint of the runs is in index.html and in curves.png, their mean in README.md.
    assert len(said) == (4 if path.name == "runs.csv" else 1)
    assert said[-1].startswith(str(path).replace("runs.csv", "table.csv"))


def test_a_figure_of_other_lines_or_of_none_is_found(results):
    shutil.copy(results / "thesis-9.2.png", results / "thesis-9.1.png")
    (results / "thesis-9.3.png").unlink()
    shutil.copy(results / "thesis-9.2.png", results / "thesis-9.7.png")
    (results / "thesis-9.2.jsonl").rename(results / "thesis-9.8.jsonl")
    shutil.copy(results / "compare-speed/curves.png", results / "compare-losses/curves.png")
    said = "\n".join(problems(results))
    for name, reason in (("thesis-9.1.png", "fingerprint"), ("thesis-9.3.png", "found none"),
                         ("thesis-9.7.png", "expected a target or a benchmark of that name"),
                         ("thesis-9.8.jsonl", "expected a target or a benchmark of that name"),
                         ("thesis-9.2.png", "expected lines that it is drawn from"),
                         ("compare-losses/curves.png", "fingerprint")):
        assert any(name in line and reason in line for line in said.splitlines()), name


def test_the_report_draws_and_renders_what_changed_and_nothing_else(results):
    assert files.write(results) == []
    change(results / "thesis-9.4.jsonl", -1, lambda line: line.update(wall_s=line["wall_s"] + 9))
    before = {path: path.read_bytes() for path in results.glob("*.png")}
    assert {path.name for path in files.write(results)} == {
        "thesis-9.4.png", "README.md", "index.html"}
    assert problems(results) == []
    assert {path.name for path, data in before.items() if path.read_bytes() != data} == {
        "thesis-9.4.png"}


def test_a_benchmark_leaves_no_page_that_is_behind(tmp_path, capsys):
    words = ["bench", "capacity", "--cut", "pool2", "--results", str(tmp_path)]
    assert main(words) == 0
    assert not (tmp_path / files.PAGE).exists()     # which nobody has asked for
    files.write(tmp_path)
    assert main([*words, "--memory-limit", "5G"]) == 0
    assert problems(tmp_path) == []
    assert f"written: {tmp_path / files.PAGE}" in capsys.readouterr().out


def test_verify_ends_with_one_where_something_does_not_agree(results, capsys):
    words = ["reproduce", "--verify", "--results", str(results)]
    assert main(words) == 0
    shutil.copy(results / "thesis-9.2.png", results / "thesis-9.1.png")
    assert main(words) == 1
    said = capsys.readouterr()
    assert "thesis-9.1.png: expected the fingerprint" in said.err
    assert said.out.endswith("2 disagreements\n")       # index.html embeds the figure


# -- the page --------------------------------------------------------------------------------------

class Page(HTMLParser):
    """The tags of a page with their attributes, the places in it, the rows of its tables."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"{self.open} is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def page():
    return Page((ROOT / "results" / "index.html").read_text())


def test_the_page_needs_nothing_else_and_its_links_lead_somewhere(page):
    places = {given["id"] for _, given in page.tags if "id" in given}
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, given in page.tags:
        assert not any(name.startswith("on") for name in given)
        target = given.get("href")
        if target:
            assert target[1:] in places if target[0] == "#" else (
                ROOT / "results" / target).is_file(), (tag, target)
    style = (ROOT / "results" / "index.html").read_text().partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_the_page_has_every_figure_of_a_target_and_says_what_it_is(page):
    pictures = {base64.b64decode(given["src"].removeprefix("data:image/png;base64,")): given["alt"]
                for tag, given in page.tags if tag == "img"}
    drawn = [ROOT / "results" / f"{name}.png" for name in TARGETS]
    assert pictures == {path.read_bytes(): f"{path.stem}, measured beside published values"
                        for path in drawn if path.exists()}


def test_the_page_has_every_row_of_every_target_with_its_command(page):
    for target in TARGETS.values():
        lines = list(Ledger(ROOT / "results", target.name).latest().values())
        for scale in measured_scales(target, lines) or ["cpu"]:
            for row in table(target, lines, scale).rows:
                assert list(row) in page.rows
            assert any(cells[0].startswith(f"{target.name} {target.paper}: {target.shows}.")
                       and f"dualnet reproduce {target.name} --scale {scale} --seeds " in cells[0]
                       for cells in page.rows)


def test_a_page_without_measurements_says_so_of_every_figure(tmp_path):
    rows = [row for row in Page(render(TARGETS.values(), tmp_path)).rows
            if len(row) == 11 and row[0] != "variant"]
    figures = sum(len({variant.figure, *variant.published}) for target in TARGETS.values()
                  for variant in target.variants("cpu"))
    assert len(rows) == figures and all(row[3] == "not measured" for row in rows)


def test_what_looks_like_a_tag_is_text():
    text = body(("a", 'b"'), [("<b>", "1 < 2 & `x<y`")])
    page = Page(f"<table>{text}</table>")
    assert page.rows == [["<b>", "1 < 2 & x<y"]]
    assert [tag for tag, _ in page.tags] == ["table", "tbody", "tr", "th", "td", "code"]
    assert page.tags[4][1] == {"data-label": 'b"'}


# -- fingerprints ----------------------------------------------------------------------------------

def test_a_fingerprint_is_read_from_the_png_it_was_drawn_into(tmp_path):
    path = tmp_path / "figure.png"
    figure = pyplot.figure()
    figure.savefig(path, metadata=fingerprint.metadata([1, "two"]))
    assert fingerprint.of_png(path) == fingerprint.fingerprint([1, "two"])
    assert fingerprint.of_png(path) != fingerprint.fingerprint([1, "two "])
    figure.savefig(path)
    pyplot.close(figure)
    assert fingerprint.of_png(path) is None


def test_a_damaged_png_has_no_fingerprint(tmp_path):
    whole = (ROOT / "results" / "thesis-9.4.png").read_bytes()
    path = tmp_path / "figure.png"
    assert fingerprint.of_png(path) is None
    for data in (b"", b"no png", whole[:-20], whole.replace(b"IDAT", b"IDAX", 1),
                 whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]):
        path.write_bytes(data)
        assert fingerprint.of_png(path) is None
