"""Downloads from a real server that breaks off, lies, crawls or is not there."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer, md5, names, refusal, run

from dualnet.data import svhn
from dualnet.data.fetch import fetch
from dualnet.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
TRAIN, TEST = "train_32x32.mat", "test_32x32.mat"
LARGE, SMALL = os.urandom(300_000), b"abc"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(monkeypatch):
    """Serves two files in the place of SVHN's."""
    files = {TRAIN: LARGE, TEST: SMALL}
    monkeypatch.setattr(svhn, "FILES", tuple(
        replace(file, md5=md5(files[file.path]), size=len(files[file.path]))
        for file in svhn.FILES))
    for name, content in files.items():
        monkeypatch.setitem(svhn.OFFICIAL_MD5, name, md5(content))
    with FileServer(files) as server:
        yield server


def test_files_come_whole_and_the_reports_run_from_nothing_to_everything(server, tmp_path):
    reports = run("svhn", tmp_path / "new", server)
    assert (tmp_path / "new" / TRAIN).read_bytes() == LARGE
    assert names(tmp_path / "new") == [TEST, TRAIN]
    large = [report.done for report in reports if report[:2] == (TRAIN, "fetching")]
    assert (large[0], large[-1]) == (0, len(LARGE)) and large == sorted(large)
    assert {report.total for report in reports if report.file == TRAIN} == {len(LARGE)}


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    run("svhn", tmp_path, server)
    assert run("svhn", tmp_path, server) == [] and len(server.requests) == 2


def test_a_connection_that_breaks_goes_on_where_it_broke(server, tmp_path):
    server.break_after, server.block = 100_000, 100_000
    run("svhn", tmp_path, server)
    assert (tmp_path / TRAIN).read_bytes() == LARGE
    # 300,000 bytes in three answers; none of them was sent twice
    assert server.requests[:3] == [
        (TRAIN, None), (TRAIN, "bytes=100000-"), (TRAIN, "bytes=200000-")]
    assert server.sent == len(LARGE) + len(SMALL)


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges, server.break_after, server.breaks = False, 100_000, 2
    run("svhn", tmp_path, server)
    assert (tmp_path / TRAIN).read_bytes() == LARGE
    assert server.sent == 2 * 100_000 + len(LARGE) + len(SMALL)


def test_a_server_that_always_breaks_is_given_up_and_resumed_by_the_next_call(server, tmp_path):
    server.ranges, server.break_after = False, 100_000
    said = refusal("svhn", tmp_path, server)
    assert "broke off at 100000 of 300000 bytes" in said and "run the same command again" in said
    assert names(tmp_path) == [f"{TRAIN}.part"]
    server.ranges, server.break_after, server.requests = True, None, []
    run("svhn", tmp_path, server)
    assert (tmp_path / TRAIN).read_bytes() == LARGE
    assert server.requests[0] == (TRAIN, "bytes=100000-")


def test_a_silent_server_is_given_up_in_time(server, tmp_path):
    server.block, server.pause_s = 100_000, 60.0
    began = time.monotonic()
    said = refusal("svhn", tmp_path, server, timeout_s=1.0)
    assert time.monotonic() - began < 10
    assert "broke off at 100000 of 300000 bytes (timed out)" in said
    assert names(tmp_path) == [f"{TRAIN}.part"]


def test_a_slow_server_may_take_longer_than_the_timeout(server, tmp_path):
    # 12 blocks, 0.1 s after each: 1.2 s in all, but never 0.6 s without a byte
    server.block, server.pause_s = 25_000, 0.1
    began = time.monotonic()
    run("svhn", tmp_path, server, timeout_s=0.6)
    assert time.monotonic() - began > 0.6 and len(server.requests) == 2


@pytest.mark.security(11, "a server that sends another file")
def test_a_wrong_file_is_named_by_both_checksums_and_removed(server, tmp_path):
    server.files[TRAIN] = b"<html>moved</html>"
    said = refusal("svhn", tmp_path, server)
    assert f"expected MD5 {md5(LARGE)}, found {md5(b'<html>moved</html>')}" in said
    assert names(tmp_path) == []


@pytest.mark.security(11, "a server that never ends a file")
def test_an_endless_file_is_cut_off(server, tmp_path):
    server.files[TRAIN] = LARGE * 60    # 18 MB: more than the sockets hold
    assert "more than twice the 300000 bytes" in refusal("svhn", tmp_path, server)
    assert names(tmp_path) == [] and server.sent < 60 * len(LARGE)


def test_a_rest_of_another_file_ends_as_a_wrong_file_and_then_starts_over(server, tmp_path):
    (tmp_path / f"{TRAIN}.part").write_bytes(b"x" * 1000)
    assert "not the official" in refusal("svhn", tmp_path, server)
    assert names(tmp_path) == []
    run("svhn", tmp_path, server)
    assert (tmp_path / TRAIN).read_bytes() == LARGE


def test_a_rest_longer_than_the_file_starts_over(server, tmp_path):
    (tmp_path / f"{TRAIN}.part").write_bytes(LARGE + b"x")
    run("svhn", tmp_path, server)
    assert (tmp_path / TRAIN).read_bytes() == LARGE


def test_a_whole_file_that_lacks_only_its_name_is_not_sent_again(server, tmp_path):
    (tmp_path / f"{TRAIN}.part").write_bytes(LARGE)
    run("svhn", tmp_path, server)
    assert (tmp_path / TRAIN).read_bytes() == LARGE and server.sent == len(SMALL)


def test_an_overloaded_server_is_asked_again_and_a_missing_file_is_not(server, tmp_path):
    server.errors = [503, 429]
    run("svhn", tmp_path, server)
    assert (tmp_path / TRAIN).read_bytes() == LARGE
    server.requests, server.files = [], {}
    said = refusal("svhn", tmp_path / "other", server)
    assert "404" in said and "--mirror" in said and str(tmp_path / "other" / TRAIN) in said
    assert len(server.requests) == 1


def test_without_a_network_it_says_which_file_to_put_where(server, tmp_path):
    with FileServer({}) as gone:
        pass
    said = refusal("svhn", tmp_path, gone)
    assert "refused" in said and f"put {TRAIN} from elsewhere at {tmp_path / TRAIN}" in said


def test_a_file_put_there_by_hand_is_taken_and_a_wrong_one_is_left_alone(server, tmp_path):
    (tmp_path / TRAIN).write_bytes(LARGE)
    run("svhn", tmp_path, server)
    assert [name for name, _ in server.requests] == [TEST]
    (tmp_path / TEST).write_bytes(b"mine")
    assert "move it away" in refusal("svhn", tmp_path, server)
    assert (tmp_path / TEST).read_bytes() == b"mine"


def test_a_mirror_must_be_a_web_address(tmp_path):
    with pytest.raises(UserError, match="http:// or https://, found 'file:///etc'"):
        list(fetch("svhn", tmp_path, timeout_s=1, mirror="file:///etc"))


# ---- processes ---------------------------------------------------------------------------------

PROGRAM = """
import dataclasses, json, sys
from dualnet.cli import main
from dualnet.data import svhn
official = json.loads(sys.argv[1])
svhn.OFFICIAL_MD5.update({name: md5 for name, (md5, size) in official.items()})
svhn.FILES = tuple(dataclasses.replace(file, md5=official[file.path][0],
                                       size=official[file.path][1]) for file in svhn.FILES)
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def start(server, tmp_path):
    """Runs `data fetch svhn` in a process of its own; all of them speak to tmp_path/log."""
    official = {name: (md5(content), len(content)) for name, content in server.files.items()}
    processes = []

    def start(folder):
        with open(tmp_path / "log", "a") as log:
            processes.append(subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(official), "data", "fetch", "svhn",
                 "--data-dir", folder, "--mirror", server.url], cwd=ROOT, stderr=log))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait(10)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_download_once(start, server, tmp_path):
    folder, log = tmp_path / "data", tmp_path / "log"
    server.gate.clear()
    both = [start(folder) for _ in range(2)]
    # The server holds one of them; once the other says that it waits, the gate opens.
    wait_until(lambda: f"waiting {TRAIN}" in log.read_text())
    server.gate.set()
    assert [process.wait(30) for process in both] == [0, 0], log.read_text()
    assert [name for name, _ in server.requests] == [TRAIN, TEST]
    assert (folder / TRAIN).read_bytes() == LARGE
    assert names(folder) == [TEST, TRAIN]


def test_a_killed_download_frees_the_lock_and_is_resumed(start, server, tmp_path):
    folder = tmp_path / "data"
    server.block, server.pause_s = 100_000, 60.0
    process = start(folder)
    part = folder / f"{TRAIN}.part"
    wait_until(lambda: part.exists() and part.stat().st_size == 100_000)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert names(folder) == [part.name]
    server.pause_s = 0.0
    run("svhn", folder, server)
    assert (folder / TRAIN).read_bytes() == LARGE
    assert server.requests[1] == (TRAIN, "bytes=100000-")
