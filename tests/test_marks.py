"""Numbers within a text, each with the place in the ledgers that it is from."""

from pathlib import Path

import pytest

from dualnet.bench import results as bench_results
from dualnet.errors import DataError
from dualnet.page.marks import filled
from dualnet.reproduce.ledger import Ledger
from dualnet.reproduce.target import digest
from dualnet.reproduce.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent


def measured_by_hand(folder):
    """Accuracies of `admm` 50, 53, 59 % and of `single` 51, 51, 54 %; speeds of two rounds."""
    variants = {each.name: each for each in TARGETS["thesis-table"].variants("cpu")}
    known = Ledger(ROOT / "results", "thesis-table").lines()[0]
    ledger = Ledger(folder, "thesis-table")
    for name, values in (("admm", (0.50, 0.53, 0.59)), ("single", (0.51, 0.51, 0.54))):
        for seed, value in enumerate(values):
            config = digest(variants[name].settings.replace(seed=seed))
            ledger.append({**known, "variant": name, "seed": seed, "config": config, "ours": value,
                           "figures": {"accuracy": value, "bytes_exchanged": 1e6 * value}})
    pipeline = bench_results.newest(ROOT / "results", "pipeline")
    ways = [{"way": "single", "images_per_s": [10.0, 20.0]},
            {"way": "lockstep", "images_per_s": [15.0, 24.0],
             "alone_s": {"net1": [4.0, 1.0], "net2": [2.0, 1.6]}},
            {"way": "lockstep", "size": 8, "file_system": "ext4", "seconds": [0.002, 0.004],
             "images": {"net1": [3, 5], "net2": [2, 2]}}]
    for device in ("cpu", "cuda"):
        bench_results.ledger(folder, "pipeline").append(
            {**pipeline, "device": device, "measured": ways if device == "cpu" else []})
    (folder / "compare-x").mkdir()
    (folder / "compare-x" / "runs.csv").write_text(
        "name,variant,seed,accuracy,merged,difference,collapsed,diverged,seconds,bytes\n"
        "s0,single,0,0.5,,,False,,1.5,0\na0,admm,0,0.25,0.125,-0.25,True,,2.5,3000000\n")


@pytest.mark.parametrize(("mark", "expected"), [
    # mean 54, deviations -4, -1, 5: root of 42 / 2 is 4.58; -1, +2, +5: mean 2, 4.303 * 3 / root 3
    ("thesis-table@cpu; admm; accuracy; {mean:.2f} +- {sd:.2f} ({n})", "54.00 +- 4.58 (3)"),
    ("thesis-table@cpu; admm - single; accuracy; {said}", "+2.00 [-5.45, +9.45] (3)"),
    ("thesis-table@cpu; single; accuracy; {published:.2f}", "77.78"),
    # 15 / 10 and 24 / 20
    ("bench-pipeline@cpu; lockstep / single; images_per_s; {said}", "1.35 (1.20 to 1.50)"),
    ("bench-pipeline@cpu; lockstep; images_per_s; {high:.0f}", "24"),
    # 64 images in 6.4 s against 4, and in 3.2 s against 1.6
    ("bench-pipeline@cpu; bound; images_per_s; {said}", "1.80 (1.60 to 2.00)"),
    ("bench-pipeline@cpu; lockstep @ 8 ext4; milliseconds; {said}", "3.00 (2.00 to 4.00)"),
    # 3 / 2 and 5 / 2
    ("bench-pipeline@cpu; lockstep @ 8 ext4; images.net1 / images.net2; {said}",
     "2.00 (1.50 to 2.50)"),
    ("thesis-table@cpu; admm; megabytes; {mean:.2f}", "0.54"),
    ("compare-x; admm; accuracy; {mean:.1f}", "25.0"),
    ("compare-x; admm; merged; {mean:.1f}", "12.5"),
    ("compare-x; admm; difference; {said}", "-25.00 (1)"),
    ("compare-x; admm; collapsed; {count} of {n}", "1 of 1"),
    ("compare-x; admm; megabytes; {mean:.1f}", "3.0"),
    ("compare-x; admm; seconds; {mean:.1f}", "2.5")])
def test_a_mark_is_filled_with_the_number_it_names(tmp_path, mark, expected):
    measured_by_hand(tmp_path)
    text = f"a\n| <!--= {mark} -->7<!--/--> | b"
    assert filled(text, tmp_path / "README.md", tmp_path) == text.replace(">7<", f">{expected}<")


@pytest.mark.parametrize("mark", [
    "thesis-table@cpu; admn; accuracy; {mean}", "thesis-table@gpu; admm; accuracy; {mean}",
    "thesis-table@tpu; admm; accuracy; {mean}", "thesis-table@cpu; admm; accuracy; {median}",
    "thesis-table@cpu; frozen; accuracy; {mean}", "thesis-table@cpu; admm; accuracies; {mean}",
    "thesis-table@cpu; admm; accuracy; {mean:q}", "bench-pipeline@cuda; single; images_per_s; {n}",
    "bench-capacity@cpu; single; images; {n}", "bench-pipeline@cpu; lockstep; images.net1; {n}",
    "compare-y; admm; accuracy; {mean}", "a; b"])
def test_a_mark_that_leads_to_no_number_is_named_with_its_line(tmp_path, mark):
    measured_by_hand(tmp_path)
    with pytest.raises(DataError, match=r"README\.md, line 2: expected a mark .*correct the mark"):
        filled(f"a\n<!--= {mark} -->7<!--/-->", tmp_path / "README.md", tmp_path)


def test_a_mark_that_does_not_end_in_its_line_is_no_mark_of_a_later_one(tmp_path):
    measured_by_hand(tmp_path)
    text = "<!--= compare-x; admm; accuracy; {mean} -->\n7<!--/-->"
    with pytest.raises(DataError, match=r"line 1: expected a mark"):
        filled(text, tmp_path / "README.md", tmp_path)


def test_the_first_screen_of_the_readme_has_both_speeds_and_the_accuracy():
    screen = (ROOT / "README.md").read_text().partition("```")[0]
    assert screen.count("\n") < 30
    for source in ("thesis-table@cpu; admm - single; accuracy",
                   "bench-pipeline@cpu; pipelined, M = 2 / single; images_per_s",
                   "bench-pipeline@cpu; pipelined, M = 2 / single, all cores; images_per_s"):
        assert f"<!--= {source};" in screen
