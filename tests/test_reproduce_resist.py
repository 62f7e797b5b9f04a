"""resist-...: what its rows train and send, and what is told of them."""

import json

import pytest
from official_files import write_cifar100, write_svhn

from dualnet.cli import main
from dualnet.reproduce.dun import GB, TARGETS
from dualnet.reproduce.runner import Job
from dualnet.reproduce.sites import gigabytes, training
from dualnet.reproduce.target import SCALES
from dualnet.run import Run

TARGET = {target.name: target for target in TARGETS}
TABLES = ("resist-cifar10", "resist-cifar100", "resist-svhn")


def rows(name, scale):
    return {variant.name: variant for variant in TARGET[name].variants(scale)}


@pytest.mark.parametrize("scale", SCALES[1:])
@pytest.mark.parametrize("name", [*TABLES, "resist-ablation"])
def test_all_rows_see_as_many_images(name, scale):
    settings = [row.settings for row in rows(name, scale).values()]
    assert len({each.iterations * each.batch_size * each.sites for each in settings}) == 1
    assert all(each.iterations % each.local_iterations == 0 or scale != "cpu" for each in settings)


@pytest.mark.parametrize("name", TABLES)
def test_local_sgd_has_the_schedule_of_the_sub_nets(name):
    for scale in SCALES:
        found = rows(name, scale)
        for sites in (2, 8):
            local, resist = (found[f"{way}, {sites} sites"].settings
                             for way in ("local SGD", "ResIST"))
            assert local == resist.replace(decompose=False, min_blocks=0)
            assert resist.sites == sites and resist.is_decomposed
        assert found["one site"].settings.sites == 1


def test_the_full_scale_is_what_was_published():
    settings = rows("resist-cifar100", "full")["ResIST, 4 sites"].settings
    # 40 epochs of 390 batches of 128 at each of four sites
    assert (settings.iterations, settings.batch_size, settings.lr) == (40 * 390, 128, 0.03)
    assert (settings.local_iterations, settings.momentum, settings.weight_decay) == (50, 0.9, 5e-4)
    assert (settings.net, settings.data) == ("preact-resnet101-basic", "cifar100")
    eight = rows("resist-cifar100", "full")["ResIST, 8 sites"].settings
    assert (eight.min_blocks, eight.iterations) == (4, 20 * 390)


def test_the_ablation_ends_with_the_rows_of_the_table():
    table, ablation = rows("resist-cifar10", "full"), rows("resist-ablation", "full")
    assert ablation["+ pre-activation"].settings == table["ResIST, 2 sites"].settings
    assert ablation["8 sites, + shorter rounds"].settings == table["ResIST, 8 sites"].settings
    assert ablation["2 sites, naive"].settings.net == "resnet101-basic"
    found = [row.published["accuracy"][0].value for row in ablation.values()]
    assert found == [0.663, 0.683, 0.843, 0.915, 0.92, 0.865, 0.899, 0.913]


def test_gigabytes_have_the_published_digits(tmp_path):
    """Shared 15,422,116 and m = 11, 6, 4 blocks of 1,180,672 weights; 41,396,900 in all.  The
    paper cuts what it does not round."""
    for name, row in rows("resist-gb", "cpu").items():
        way, sites = name.split(", ")
        sites = int(sites.removesuffix(" sites"))
        count = 41_396_900 if way == "local SGD" else (
            15_422_116 + {2: 11, 4: 6, 8: 4}[sites] * 1_180_672)
        found = gigabytes(Job(row.settings, tmp_path, None)).figures
        assert found["gb_100_classes"] == 8 * sites * count / 1e9
        printed = GB[sites][way == "ResIST"]
        assert printed in (round(found["gb_100_classes"], 3),
                           int(1000 * found["gb_100_classes"]) / 1000)
        # 513 weights for each class, at every site
        assert found["gb_10_classes"] == pytest.approx(
            8 * sites * (count - 90 * 513) / 1e9, abs=1e-12)
        assert found["gb_100_classes_dealt"] <= found["gb_100_classes"]


def test_figures_are_those_of_the_run_and_bytes_those_of_its_rounds(tmp_path):
    settings = rows("resist-cifar10", "smoke")["ResIST, 2 sites"].settings.replace(
        device="cpu", threads=1, iterations=4, eval_every=2, batch_size=4)
    found = training(Job(settings, tmp_path / "run", 20))
    lines = Run(tmp_path / "run").metrics("resist")
    tests = [line["accuracy"] for line in lines if line["split"] == "test"]
    # two sites of 4 images: 16 after 2 iterations, 32 after 4
    assert found.curves["accuracy_images"] == [[16, tests[0]], [32, tests[1]]]
    assert found.figures["accuracy"] == tests[1]
    # two rounds of two sites; 8 blocks of two 3x3 convolutions of 64 maps are dealt out once
    block = 2 * (64 * 64 * 9 + 2 * 64)
    assert found.figures["bytes_exchanged"] == found.figures["bytes_rounds"] / 2
    assert found.figures["bytes_rounds"] == 2 * 2 * 4 * (2 * (899_994 - 8 * block) + 8 * block)
    assert (found.figures["images"], found.figures["blocks_per_site"]) == (32, 4)


def test_a_training_that_diverges_says_when(tmp_path):
    settings = rows("resist-cifar10", "smoke")["one site"].settings.replace(
        device="cpu", threads=1, iterations=4, local_iterations=2, lr=1e30)
    figures = training(Job(settings, tmp_path / "run", 20)).figures
    assert figures["accuracy"] is None and 1 <= figures["diverged_at"] <= 4


@pytest.mark.parametrize(("name", "write"), [
    ("resist-cifar100", write_cifar100), ("resist-svhn", write_svhn)])
def test_the_other_data_sets_are_read_from_their_official_files(name, write, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write(data)
    row = rows(name, "smoke")["ResIST, 2 sites"]
    assert row.settings.data == name.removeprefix("resist-")
    found = training(Job(row.settings.replace(device="cpu", threads=1, data_dir=str(data)),
                         tmp_path / "run", row.test_images))
    assert 0 <= found.figures["accuracy"] <= 1


def test_a_data_set_that_is_not_there_is_a_sentence(tmp_path, capsys):
    words = ["reproduce", "resist-svhn", "--scale", "smoke", "--seeds", "0", "--data-dir",
             str(tmp_path), "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "found")]
    assert main(words) == 65
    assert "data fetch svhn" in capsys.readouterr().err
    assert not any(json.loads(line) for path in tmp_path.glob("found/*.jsonl")
                   for line in path.read_text().splitlines())
