"""data fetch, verify and list, as they are typed."""

import gzip
import os
import pty
import signal
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, md5
from official_files import write_cifar10

from dualnet.cli import main
from dualnet.data import cifar10, mnist

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def handler_of_pytest():
    """Puts back the handler of SIGTERM that `main` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A folder with 20 images per batch whose checksums are taken for the official ones."""
    write_cifar10(tmp_path)
    for name in cifar10.OFFICIAL_MD5:
        content = (tmp_path / "cifar-10-batches-py" / name).read_bytes()
        monkeypatch.setitem(cifar10.OFFICIAL_MD5, name, md5(content))
    return tmp_path


def test_verify_is_content_with_official_files(official, capsys):
    assert main(["data", "verify", "cifar10", "--data-dir", str(official)]) == 0
    said = capsys.readouterr().out
    assert "test_batch: official\n" in said and "cifar10: 7 of 7 files are official" in said


def test_verify_warns_of_files_that_load_but_are_others(official, capsys, monkeypatch):
    monkeypatch.setitem(cifar10.OFFICIAL_MD5, "test_batch", "0" * 32)
    words = ["data", "verify", "cifar10", "--data-dir", str(official)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "test_batch: missing, or not the official file" in said.out
    assert "warning: " in said.err and "100 training and 20 test images" in said.err
    assert main([*words, "--strict-checksums"]) == 65
    assert "test_batch are not the official ones" in capsys.readouterr().err


def test_verify_refuses_what_is_missing_or_damaged(official, capsys):
    words = ["data", "verify", "cifar10", "--data-dir", str(official)]
    batch = official / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(b"damaged")
    assert main(words) == 65
    batch.unlink()
    assert main(words) == 65
    assert f"{batch}: cannot be read" in capsys.readouterr().err


def test_list_names_every_data_set_and_the_variable_sets_the_folder(official, capsys, monkeypatch):
    monkeypatch.setenv("DUALNET_DATA", str(official))
    assert main(["data", "list"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["cifar10"] == f"in {official}" and lines["shapes"] == "built in"
    assert "'dualnet data fetch cifar100' downloads 169 MB" in lines["cifar100"]
    assert lines.keys() == {"cifar10", "cifar100", "mnist", "svhn", "shapes"}


def test_the_built_in_set_has_nothing_to_fetch_or_verify(tmp_path, capsys):
    assert main(["data", "fetch", "shapes", "--data-dir", str(tmp_path)]) == 0
    assert main(["data", "verify", "shapes", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("built in, nothing to") == 2


@pytest.mark.parametrize(("words", "said"), [
    (["fetch", "cifar1"], "unknown data set 'cifar1'; did you mean cifar10"),
    (["fetch", "mnist", "--timeout", "0"], "--timeout must be above 0"),
    (["fetch", "mnist", "--mirror", "there"], "found 'there'")])
def test_a_wrong_word_is_answered(tmp_path, capsys, words, said):
    assert main(["data", *words, "--data-dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_training_without_the_data_names_the_command_and_fetches_nothing(tmp_path, capsys):
    words = ["train", "single", "--data", "mnist", "--data-dir", str(tmp_path), "--out",
             str(tmp_path / "run")]
    assert main(words) == 65
    assert f"run 'dualnet data fetch mnist --data-dir {tmp_path}'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def digits(monkeypatch):
    """Serves incompressible files in the place of MNIST's."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    contents = {name: np.random.default_rng(0).bytes(100_000) for name in mnist.OFFICIAL_MD5}
    monkeypatch.setattr(mnist, "FILES", tuple(
        replace(file, md5=md5(contents[file.name.removesuffix(".gz")]), size=100_100)
        for file in mnist.FILES))
    for name, content in contents.items():
        monkeypatch.setitem(mnist.OFFICIAL_MD5, name, md5(content))
    with FileServer({f"{name}.gz": gzip.compress(content)
                     for name, content in contents.items()}) as server:
        yield server


def test_fetch_logs_bytes_and_the_time_left(digits, tmp_path, capsys):
    words = ["data", "fetch", "mnist", "--data-dir", str(tmp_path), "--mirror", digits.url]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "fetching t10k-images-idx3-ubyte.gz: 0.0 of 0.1 MB\n" in said.err
    assert "MB/s  ETA 0:00:00\n" in said.err and "\r" not in said.err
    assert said.out == f"mnist: every file is official, in {tmp_path}\n"
    assert main(words) == 0 and capsys.readouterr().err == ""


def test_a_terminal_sees_a_bar():
    master, terminal = pty.openpty()
    code = ("import sys; from dualnet.cli.data import _Display; from dualnet.data.fetch import "
            "Progress; d = _Display(); [d.show(Progress('file', 'fetching', n, 1000)) for n in "
            "(0, 500, 1000)]; d.close()")
    termios.tcsetwinsize(terminal, (24, 80))
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=terminal, timeout=60)
    os.close(terminal)
    assert process.returncode == 0
    assert b"fetching file: 100%" in os.read(master, 10_000)
    os.close(master)


def test_a_terminal_is_not_needed_for_help():
    found = subprocess.run([sys.executable, "-m", "dualnet", "data", "fetch", "--help"], cwd=ROOT,
                           capture_output=True, text=True, timeout=60)
    assert "--mirror" in found.stdout and "--timeout" in found.stdout
