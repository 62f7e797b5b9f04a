"""What is published of the ledgers, and that a number changed by hand is found."""

import json
import shutil
from pathlib import Path

import pytest
from matplotlib import pyplot

from dualnet import fingerprint
from dualnet.cli import main
from dualnet.page import files
from dualnet.page.verify import problems

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(tmp_path):
    """A copy of what is published."""
    return Path(shutil.copytree(ROOT / "results", tmp_path / "results"))


def change(path, number, alter):
    """Alter line `number` (from 1) of a ledger, as an editor would."""
    lines = path.read_text().splitlines()
    line = json.loads(lines[number - 1])
    alter(line)
    lines[number - 1] = json.dumps(line)
    path.write_text("\n".join(lines) + "\n")


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


@pytest.mark.parametrize(("name", "alter", "found"), [
    ("thesis-table.jsonl", accuracy, ["thesis-table.png", "README.md"]),
    ("thesis-table.jsonl", half_of_accuracy, ["thesis-table.jsonl, line 1", "thesis-table.png"]),
    ("thesis-9.1.jsonl", a_point_of_a_curve, ["thesis-9.1.png"]),
    ("bench-pipeline.jsonl", a_speed, ["bench-pipeline.png", "bench.md"])])
def test_a_number_changed_in_a_ledger_is_found(results, name, alter, found):
    change(results / name, 1, alter)
    said = problems(results)
    assert all(any(problem.startswith(str(results / each)) for problem in said) for each in found)
    assert len(said) == len(found)


@pytest.mark.parametrize(("name", "old", "new"), [
    ("README.md", "| single | accuracy | 77.78 % ", "| single | accuracy | 77.87 % "),
    ("bench.md", "1.51 (1.47 to 1.55)", "1.57 (1.47 to 1.55)"),
    ("compare-losses/table.csv", "single,3,0,,0,0.675733", "single,3,0,,0,0.685733"),
    ("compare-losses/runs.csv", "admm-s0,admm,0,0.6817", "admm-s0,admm,0,0.6917")])
def test_a_number_changed_in_a_report_or_table_is_found(results, name, old, new):
    path = results / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    problem, = problems(results)
    assert problem.startswith(str(results / name).replace("runs.csv", "table.csv"))


def test_a_figure_of_other_lines_or_of_none_is_found(results):
    shutil.copy(results / "thesis-9.2.png", results / "thesis-9.1.png")
    (results / "thesis-9.3.png").unlink()
    shutil.copy(results / "thesis-9.2.png", results / "thesis-9.7.png")
    (results / "thesis-9.2.jsonl").rename(results / "thesis-9.8.jsonl")
    said = "\n".join(problems(results))
    for name, reason in (("thesis-9.1.png", "fingerprint"), ("thesis-9.3.png", "found none"),
                         ("thesis-9.7.png", "expected a target or a benchmark of that name"),
                         ("thesis-9.8.jsonl", "expected a target or a benchmark of that name"),
                         ("thesis-9.2.png", "expected lines that it is drawn from")):
        assert any(name in line and reason in line for line in said.splitlines()), name


def test_the_report_draws_and_renders_what_changed_and_nothing_else(results):
    assert files.write(results) == []
    change(results / "thesis-9.4.jsonl", 1, lambda line: line.update(wall_s=line["wall_s"] + 9))
    before = {path: path.read_bytes() for path in results.glob("*.png")}
    assert {path.name for path in files.write(results)} == {"thesis-9.4.png", "README.md"}
    assert problems(results) == []
    assert {path.name for path, data in before.items() if path.read_bytes() != data} == {
        "thesis-9.4.png"}


def test_verify_ends_with_one_where_something_does_not_agree(results, capsys):
    words = ["reproduce", "--verify", "--results", str(results)]
    assert main(words) == 0
    shutil.copy(results / "thesis-9.2.png", results / "thesis-9.1.png")
    assert main(words) == 1
    said = capsys.readouterr()
    assert "thesis-9.1.png: expected the fingerprint" in said.err
    assert said.out.endswith("1 disagreement\n")


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
