"""Lines of metrics: what a kill or a full disk leaves of them, and which survive a restart."""

import json
import logging
import os
import subprocess

import pytest

from dualnet.metrics import MetricsFile, MetricsReader, surviving


def train(generation, *steps):
    return [{"step": step, "split": "train", "generation": generation} for step in steps]


def score(generation, step):
    return {"step": step, "split": "test", "generation": generation}


def resume(generation, base, step):
    return {"step": step, "split": "resume", "generation": generation, "base": base}


def kept(records):
    return [(line["generation"], line["step"], line["split"]) for line in surviving(records)]


def test_an_undisturbed_run_keeps_all_its_lines():
    assert surviving([]) == []
    lines = [*train(1, 10, 20), score(1, 20), *train(1, 30)]
    assert surviving(lines) == lines


def test_what_was_written_after_the_checkpoint_is_left_out():
    lines = [*train(1, 10, 20, 30), resume(2, 1, 20), *train(2, 30, 40)]
    assert kept(lines) == [(1, 10, "train"), (1, 20, "train"), (2, 30, "train"), (2, 40, "train")]


def test_a_generation_that_has_written_nothing_yet_has_undone_lines_already():
    assert kept([*train(1, 10, 20, 30), resume(2, 1, 20)]) == [(1, 10, "train"), (1, 20, "train")]


def test_the_test_at_the_start_is_made_again_and_counts_once():
    lines = [*train(1, 10), score(1, 10), *train(1, 20), score(1, 20), *train(1, 30),
             resume(2, 1, 20), score(2, 20), *train(2, 30)]
    assert kept(lines) == [(1, 10, "train"), (1, 10, "test"), (1, 20, "train"), (2, 20, "test"),
                           (2, 30, "train")]


def test_the_base_need_not_be_the_generation_before():
    """
    1: 10 20 30 40      base
    2:          40 50     1 from 30, died before a checkpoint
    3:          40        1 from 30, died too
    4:       30 40 50 60  1 from 20: the checkpoint at 30 was damaged
    6:                60    4 from 50; this role took no part in generation 5
    """
    lines = [*train(1, 10, 20, 30, 40), resume(2, 1, 30), *train(2, 40, 50), resume(3, 1, 30),
             *train(3, 40), resume(4, 1, 20), *train(4, 30, 40, 50, 60), resume(6, 4, 50),
             *train(6, 60)]
    assert [(generation, step) for generation, step, _ in kept(lines)] == [
        (1, 10), (1, 20), (4, 30), (4, 40), (4, 50), (6, 60)]


def test_a_start_further_back_cuts_all_generations_between():
    # 3 goes on from iteration 10 of 1 although 2 went on from 20 of 1; 4 from 15 of 3
    lines = [*train(1, 10, 20), resume(2, 1, 20), *train(2, 30), resume(3, 1, 10),
             *train(3, 12, 15, 18), resume(4, 3, 15), *train(4, 20)]
    assert [(generation, step) for generation, step, _ in kept(lines)] == [
        (1, 10), (3, 12), (3, 15), (4, 20)]


def test_a_start_from_the_seed_leaves_nothing_of_before():
    # twice generation 1: the exchange folder was removed, and no checkpoint was common
    lines = [*train(1, 10, 20), resume(1, 0, 0), *train(1, 10), resume(2, 1, 10), *train(2, 20)]
    assert [(generation, step) for generation, step, _ in kept(lines)] == [(1, 10), (2, 20)]


def test_a_first_line_that_a_full_disk_took_is_told_from_the_others():
    lines = [*train(1, 10, 20, 30), *train(2, 21, 31)]
    assert [(generation, step) for generation, step, _ in kept(lines)] == [
        (1, 10), (1, 20), (2, 21), (2, 31)]


def test_half_a_line_of_a_killed_process_is_removed_before_the_next_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    assert first.is_empty
    first.write({"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    again = MetricsFile(path)
    assert not again.is_empty
    again.write({"step": 3})
    assert MetricsReader(path).new() == [{"step": 1}, {"step": 3}]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
@pytest.mark.fault(69, "a tmpfs of 16 kB that is filled under the metrics, and emptied again")
def test_a_full_disk_costs_lines_and_one_warning(tmp_path, caplog):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path],
                      capture_output=True).returncode != 0:
        pytest.skip("no right to mount a tmpfs here")
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    try:
        metrics.write({"step": 1})
        with pytest.raises(OSError), open(tmp_path / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        with caplog.at_level(logging.WARNING):
            for step in range(2, 2000):     # the page of the file has room for some of them
                metrics.write({"step": step})
                metrics.sync()
        assert [f"cannot write {path}" in line.getMessage() for line in caplog.records] == [True]
        (tmp_path / "ballast").unlink()
        metrics.write({"step": 9999})
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps[-1] == 9999 and steps[:-1] == list(range(1, len(steps))) and len(steps) < 1000
    finally:
        metrics.close()
        subprocess.run(["umount", tmp_path], check=True)
