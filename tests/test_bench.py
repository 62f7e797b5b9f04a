"""The benchmark of the exchange."""

from dualnet import bench
from dualnet.cli import main


def test_a_ratio_is_of_medians():
    found = {"exchange": [6.0, 2.0, 4.0], "memcpy": [1.0, 9.0, 2.0], "save_load": [8.0, 8.0, 8.0]}
    assert bench.ratios(found) == {"memcpy": 2.0, "save_load": 0.5}


def test_the_exchange_is_measured_between_two_processes_and_leaves_nothing(tmp_path, capsys):
    words = ["--dir", str(tmp_path), "--size", "4096", "--count", "5"]
    assert main(["bench", "exchange", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4096 bytes, n = 5, in {tmp_path}"
    assert [line.split()[0] for line in lines[2:]] == ["exchange", "memcpy", "save_load"]
    assert all(0 < float(line.split()[1]) < 1000 for line in lines[2:])   # ms
    assert not list(tmp_path.iterdir())


def test_nonsense_is_refused(tmp_path, capsys):
    assert main(["bench", "exchange", "--dir", str(tmp_path / "missing")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["bench", "exchange", "--dir", str(tmp_path), "--size", "4"]) == 2
