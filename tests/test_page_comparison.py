"""All methods on one axis: what is read from the ledgers, and where it is drawn."""

import dataclasses
import re
from pathlib import Path

import pytest

from dualnet.config import TrainConfig
from dualnet.methods.dual.settings import DualConfig
from dualnet.page.comparison import groups, section
from dualnet.page.scatter import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    ZERO,
    Mark,
    scatter,
    ticks,
    x_range,
    y_range,
)
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.target import SCALES, Target, Variant, digest
from dualnet.reproduce.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent
SINGLE = Variant("plain", TrainConfig(data="mnist", net="lenet"))
DUAL = Variant("cut", DualConfig(data="mnist", net="lenet"))
TARGET = Target("t", "A paper, table 1", "something", dict.fromkeys(SCALES, "1 min"),
                lambda scale: [SINGLE, DUAL])


def add(folder, variant, seed, figures, **changes):
    known = Ledger(ROOT / "results", "thesis-table").lines()[0]
    Ledger(folder, "t").append({
        **known, "target": "t", "variant": variant.name, "seed": seed, "data": "mnist",
        "config": digest(variant.settings.replace(seed=seed)), "device_name": "a processor",
        "ours": figures.get("accuracy"), "wall_s": 10.0, "figures": figures, **changes})


def test_a_point_is_the_mean_over_seeds_and_has_only_what_the_ledger_has(tmp_path):
    add(tmp_path, SINGLE, 0, {"accuracy": 0.5}, wall_s=10.0)
    add(tmp_path, SINGLE, 1, {"accuracy": 0.7}, wall_s=20.0)
    add(tmp_path, SINGLE, 2, {"accuracy": None}, wall_s=1.0)             # diverged
    add(tmp_path, SINGLE, 0, {"accuracy": 0.1}, scale="smoke")          # says nothing
    add(tmp_path, SINGLE, 0, {"accuracy": 0.1}, config="00000000")      # other settings
    add(tmp_path, DUAL, 0, {"errors": 125.0, "bytes_exchanged": 3_500_000.0,
                            "memory_bytes": 400_000_000})
    add(tmp_path, DUAL, 1, {"errors": 175.0, "bytes_exchanged": 0.0, "memory_bytes": 0},
        device_name="another")
    found = groups([TARGET], tmp_path)
    assert list(found) == [("mnist", "a processor"), ("mnist", "another")]
    single, dual = found["mnist", "a processor"]
    assert (single.method, single.variant, single.net) == ("single", "plain", "lenet")
    assert single.accuracy.mean == pytest.approx(60) and single.accuracy.n == 2
    assert single.seconds.mean == pytest.approx(15)
    assert single.megabytes is None and single.memory is None
    # 125 errors of 10,000 images: 98.75 %
    assert dual.method == "dual" and dual.accuracy.mean == pytest.approx(98.75)
    assert dual.megabytes.mean == pytest.approx(3.5) and dual.memory.mean == pytest.approx(400)
    other, = found["mnist", "another"]
    assert other.megabytes.mean == 0.0 and other.memory is None     # 0: the system did not tell
    assert groups([dataclasses.replace(TARGET, compared=False)], tmp_path) == {}


def test_an_axis_has_the_rows_that_have_its_figure_and_says_how_many(tmp_path):
    assert "not measured" in section([TARGET], tmp_path)
    add(tmp_path, SINGLE, 0, {"accuracy": 0.5, "bytes_exchanged": 0.0})
    add(tmp_path, DUAL, 0, {"accuracy": 0.7})
    text = section([TARGET], tmp_path)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == [
        "wall-clock seconds; 2 of 2 rows", "MB communicated; 1 of 2 rows",
        "MB of memory per process: not measured"]
    assert re.findall(r"<title>(.*?)</title>", text) == [
        "1: plain (t), 50.00 %, 10 wall-clock seconds",
        "2: cut (t), 70.00 %, 10 wall-clock seconds",
        "1: plain (t), 50.00 %, 0.0 MB communicated"]
    row = re.search(r'<th scope="row">2</th>(.*)</tr>', text)[1]
    assert re.findall(r">([^<]+)</td>", row) == [
        "dual", "cut", "t", "lenet", "70.00 %", "1", "10", "not measured", "not measured"]


def test_every_method_that_a_target_trains_is_on_the_page():
    page = (ROOT / "results" / "index.html").read_text()
    found = groups(TARGETS.values(), ROOT / "results")
    points = [point for points in found.values() for point in points]
    assert {"single", "dual", "partition", "net2wider", "monolith"} <= {
        point.method for point in points}
    for point in points:
        assert f": {point.variant} ({point.target}), {point.accuracy.mean:.2f}" in page


def circles(text):
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)
    return [(float(x), float(y)) for x, y in found]


def test_a_circle_stands_where_its_numbers_say():
    def mark(x, y):
        return Mark(x, y, 0.0, "1", "#000", "")

    # 10 and 1000 have 100 in the middle of a logarithmic axis, 60 is in the middle of 50 and 70
    (first, low), (middle, half), (last, high) = circles(scatter(
        [mark(10, 50), mark(100, 60), mark(1000, 70)], "x", "d"))
    assert LEFT < first < middle < last < WIDTH - RIGHT
    assert middle == pytest.approx((first + last) / 2, abs=0.1)
    assert low > half > high and half == pytest.approx((low + high) / 2, abs=0.1)
    assert low < HEIGHT
    (zero, _), (other, _) = circles(scatter([mark(0, 50), mark(10, 50)], "x", "d"))
    assert zero < LEFT + ZERO < other
    (only, _), = circles(scatter([mark(0, 50)], "x", "d"))
    assert only == zero


def test_a_bar_ends_a_deviation_above_and_below_its_circle():
    text = scatter([Mark(10, 60, 5.0, "1", "#000", ""), Mark(10, 65, 0.0, "2", "#000", "")], "x",
                   "d")
    (_, at), (_, above) = circles(text)
    low, high = map(float, re.search(r'class="bar"[^>]*y1="([\d.]+)" y2="([\d.]+)"', text).groups())
    assert high == pytest.approx(above, abs=0.1) and low - at == pytest.approx(at - high, abs=0.2)


def test_an_axis_has_numbers_within_its_ends():
    assert ticks(0.9, 1.1) == [1.0] and ticks(11, 25) == [15.0, 20.0]
    # The shortest axis there is has a number wherever it begins
    assert all(ticks(*x_range([start / 100])) for start in range(100, 1000))
    assert y_range([Mark(1, 99.9, 0, "", "", ""), Mark(1, 11.0, 0, "", "", "")]) == (5, 102)
