"""train resist as a user runs it: sites in one process and under torchrun, kills, real folders."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
from official_files import write_cifar10
from test_resnet_runs import DEADLINE_S, curve, start, trained_until
from test_resume import differing

from dualnet.cli import main
from dualnet.export import state_of
from dualnet.run import Run

SITES = 3
NET = '''
"""A small net with one long section."""
from dualnet.nets.preact_resnet import preact


def tiny(input_shape, num_classes):
    return preact(input_shape, num_classes, blocks=(1, 6), widths=(4, 6), stem=4, projection=True)
'''


@pytest.fixture(scope="module")
def folder():
    """100 training images, 20 test images, and the net."""
    with tempfile.TemporaryDirectory(prefix="dualnet-tests-") as name:
        write_cifar10(Path(name))
        (Path(name) / "nets.py").write_text(NET)
        yield Path(name)


def words_of(folder, out, *more):
    return [str(word) for word in (
        "-m", "dualnet", "train", "resist", "--net", f"{folder}/nets.py:tiny", "--data", "cifar10",
        "--data-dir", folder, "--batch-size", 10, "--lr", 0.05, "--sites", SITES, "--iterations", 6,
        "--local-iterations", 2, "--threads", 1, "--out", out, *more)]


def run(folder, words, processes=1):
    process = start(folder, words, processes)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def weights(out, step=6):
    return Run(out).load_checkpoint("resist", step)["net"]


@pytest.fixture(scope="module")
def simulated(folder):
    """Three rounds of all sites in one process, running statistics too."""
    code, said, err = run(folder, words_of(folder, folder / "one", "--statistics", "running"))
    assert code == 0, err
    assert "3 sites, 5 blocks dealt out, at most 2 to a site; sent and received: " in said
    return folder / "one"


@pytest.mark.slow
def test_sites_that_are_processes_have_the_weights_of_simulated_ones_bit_for_bit(folder, simulated):
    out = folder / "several"
    code, said, err = run(folder, words_of(folder, out, "--statistics", "running"), SITES)
    assert code == 0, err
    assert said.count("test accuracy") == 1         # the first site alone speaks
    assert differing(weights(out), weights(simulated)) == []
    assert curve(out, "resist") == curve(simulated, "resist")
    one, several = Run(simulated).summary(), Run(out).summary()
    assert one["test_accuracy"] == several["test_accuracy"]
    assert one["bytes_rounds"] == several["bytes_rounds"] > 0
    assert (one["bytes_exchanged"], one["processes"], several["processes"]) == (0, 1, SITES)
    # The first site waits for the others in each round, and is not all of its time away.
    assert one["wait_share"] == {"resist": 0} and 0.001 < several["wait_share"]["resist"] < 0.95
    # of three sites that send and receive about as much, one stays within its process
    assert several["bytes_exchanged"] == several["bytes_rounds"] * 2 // 3
    found = run(folder, ["-m", "dualnet", "eval", str(out)])
    assert found[1] == f"test accuracy: {100 * several['test_accuracy']:.2f} %\n"
    folded = state_of(Run(out))                     # a third of the dealt branches, for a plain net
    assert (folded["block2_1.conv2.weight"] / weights(out)["block2_1.conv2.weight"]
            ).mean().item() == pytest.approx(1 / 3)


@pytest.mark.slow
def test_a_site_that_dies_ends_the_round_which_can_be_run_again(folder):
    more = ("--iterations", 40, "--local-iterations", 2)
    code, _, err = run(folder, words_of(folder, folder / "undisturbed", *more))
    assert code == 0, err
    out = folder / "killed"
    process = start(folder, words_of(folder, out, *more), SITES)
    trained_until(out, 4, "resist")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    first = int(Run(out).environment("resist")["pid"])
    victim = next(int(pid) for pid in children if int(pid) != first)
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE_S)
    if not Run(out).summary_path.exists():      # else it was faster than the signal
        assert process.returncode != 0
        assert "which goes on from the newest checkpoint" in err or "SIGTERM" in err, err
        code, _, err = run(folder, words_of(folder, out, *more), SITES)
        assert code == 0 and "resuming" in err, err
    assert differing(weights(out, 40), weights(folder / "undisturbed", 40)) == []


def site_words(folder, out, site, *more):
    """Of a site in a folder, the first one is 1; the others have run folders of their own."""
    return words_of(folder, out if site == 1 else f"{out}-site{site}", "--exchange-dir",
                    f"{out}-exchange", "--site", site, *more)


@pytest.mark.slow
def test_sites_that_share_a_folder_only_have_the_weights_of_simulated_ones(folder, simulated):
    out = folder / "shared"
    sites = [start(folder, site_words(folder, out, site, "--statistics", "running"))
             for site in (3, 1, 2)]
    said, errors = zip(*(site.communicate(timeout=DEADLINE_S) for site in sites), strict=True)
    assert [site.returncode for site in sites] == [0, 0, 0], errors
    assert [text.count("test accuracy") for text in said] == [0, 1, 0]
    assert differing(weights(out), weights(simulated)) == []
    assert curve(out, "resist") == curve(simulated, "resist")
    summary = Run(out).summary()
    assert summary["processes"] == SITES and 0.001 < summary["wait_share"]["resist"] < 0.95
    assert summary["bytes_exchanged"] == summary["bytes_rounds"] * 2 // 3 > 0


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "number", "code"), [
    (1, signal.SIGKILL, -signal.SIGKILL), (3, signal.SIGTERM, 143)])
def test_a_site_of_a_folder_that_ends_comes_back_and_all_go_on(folder, victim, number, code):
    more = ("--iterations", 20, "--local-iterations", 2)
    whole = folder / "whole"
    if not whole.exists():
        ended, _, err = run(folder, words_of(folder, whole, *more))
        assert ended == 0, err
    out = folder / f"killed-{victim}"
    sites = {site: start(folder, site_words(folder, out, site, *more)) for site in (1, 2, 3)}
    trained_until(out, 4, "resist")
    sites[victim].send_signal(number)
    sites[victim].communicate(timeout=DEADLINE_S)
    if not Run(out).summary_path.exists():      # else it was faster than the signal
        assert sites[victim].returncode == code
        sites[victim] = start(folder, site_words(folder, out, victim, *more))
    errors = [site.communicate(timeout=DEADLINE_S)[1] for site in sites.values()
              if site.returncode is None]
    assert {site.returncode for site in sites.values()} <= {0, code}, errors
    assert sites[2].returncode == 0, errors
    assert differing(weights(out, 20), weights(whole, 20)) == []


@pytest.mark.parametrize(("words", "sentence"), [
    (["--site", "1"], "--exchange-dir and --site belong together"),
    (["--exchange-dir", "x"], "--exchange-dir and --site belong together"),
    (["--exchange-dir", "x", "--site", "3"], "--site takes 1 to --sites 2"),
    (["--exchange-dir", "x", "--site", "1", "--sites", "1"], "of at least two sites"),
    (["--exchange-dir", "x", "--site", "2", "--sites", "10", "--data", "shapes"],
     "--exchange-dir connects at most 9 sites")])
def test_flags_of_a_folder_that_do_not_fit_are_refused(words, sentence, capsys, tmp_path,
                                                       monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "resist", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_another_number_of_processes_than_sites_is_refused(folder):
    code, _, err = run(folder, words_of(folder, folder / "odd"), 2)
    assert code != 0 and "torchrun has started 2 processes for --sites 3; start one for each" in err
    assert not (folder / "odd").exists()

