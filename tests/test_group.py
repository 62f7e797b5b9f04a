"""The roles over torch.distributed with gloo: real processes, real sockets."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from official_files import write_cifar10
from pairs import DEADLINE_S, ROLES, launch
from test_resume import CPU, together
from torch.distributed import DistNetworkError

from dualnet.channel import QueueChannel
from dualnet.from_prototxt import build_net
from dualnet.methods.dual.build import build_parts, build_role, describe_wires
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import all_channels
from dualnet.rendezvous import Meeting, environment_here, free_port, open_store
from dualnet.run import Run
from dualnet.session import load_data

ROOT = Path(__file__).resolve().parent.parent
STEPS = 5
SMALL = ["--data", "cifar10", "--batch-size", "20", "--iterations", STEPS, "--threads", "1",
         "--log-every", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """100 training images, 20 test images."""
    path = tmp_path_factory.mktemp("group")
    write_cifar10(path)
    return path


def run(folder, *words):
    process = launch(folder, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def weights(folder):
    """Of all roles of a run, by role and name."""
    return {f"{role}/{name}": value for role in ROLES
            for name, value in Run(folder).load_checkpoint(role, STEPS)["part"].items()}


def in_memory(folder):
    settings = DualConfig(data="cifar10", data_dir=str(folder), batch_size=20, iterations=STEPS,
                          threads=1, log_every=2).resolved()
    dataset, batches = load_data(settings)
    parts = build_parts(settings, build_net(settings, batches.input_shape, dataset.num_classes))
    wires = describe_wires(parts, batches.input_shape)
    channels = QueueChannel.ends(all_channels(wires), timeout_s=60)
    roles = {name: build_role(name, settings, parts, wires, batches, channels[name], CPU)
             for name in settings.roles}
    states = together(roles, lambda role: list(role.steps()) and role.state_dict()["part"])
    return {f"{role}/{name}": value for role, state in states.items()
            for name, value in state.items()}


def test_admm_over_gloo_over_files_and_in_memory_gives_the_same_weights_bit_for_bit(folder):
    found = {"memory": in_memory(folder)}
    for backend in ("file", "gloo"):
        code, _, err = run(folder, "-m", "dualnet", "train", "dual", *SMALL, "--backend", backend,
                           "--out", backend)
        assert code == 0, err
        found[backend] = weights(folder / backend)
    assert len(found["memory"]) > 8
    for backend in ("file", "gloo"):
        assert found[backend].keys() == found["memory"].keys()
        assert all(torch.equal(value, found["memory"][name])
                   for name, value in found[backend].items()), backend
    assert not (folder / "gloo" / "exchange").exists()
    summaries = [Run(folder / backend).summary() for backend in ("file", "gloo")]
    for key in ("test_accuracy", "test_accuracy_merged", "bytes_exchanged"):
        assert summaries[0][key] == summaries[1][key]


def torchrun(folder, *words, **environment):
    """examples/torchrun.sh as on a machine of its own."""
    return subprocess.Popen(
        [ROOT / "examples" / "torchrun.sh", *map(str, SMALL), *words], cwd=folder, text=True,
        env={**os.environ, "PYTHON": sys.executable, "DUALNET_DATA": str(folder), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_under_torchrun_each_process_is_the_role_of_its_rank(folder):
    expected = in_memory(folder)
    here = {**environment_here(), "NNODES": "2"}
    started = {"one machine": [torchrun(folder, "--out", "one machine")],
               "two": [torchrun(folder, "--out", "two", NODE_RANK=rank, **here) for rank in "01"]}
    for name, machines in started.items():
        said = [process.communicate(timeout=DEADLINE_S) for process in machines]
        assert all(process.returncode == 0 for process in machines), said
        # the last role alone speaks
        assert [out.count("through conv3' of net2") for out, _ in said] == (
            [1] if name == "one machine" else [0, 1])
        assert all(torch.equal(value, expected[key])
                   for key, value in weights(folder / name).items())


@pytest.mark.slow
def test_torchrun_with_another_number_of_processes_than_parts_is_refused(folder):
    process = torchrun(folder, "--out", "three", NPROC_PER_NODE="3")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0
    said = [line for line in err.splitlines() if line.startswith("dualnet: ")]
    assert said and set(said) == {
        "dualnet: --cut pool2 makes 2 parts, which need as many processes, and torchrun has "
        "started 3; change one of the two"}
    assert not (folder / "three").exists()


@pytest.fixture
def here(monkeypatch):
    """Roles by hand meet at a port of the loopback."""
    for name, value in environment_here().items():
        monkeypatch.setenv(name, value)
    return os.environ["MASTER_ADDR"] + ":" + os.environ["MASTER_PORT"]


def test_roles_that_disagree_both_say_so(folder, here):
    roles = [launch(folder, "-m", "dualnet", role, *SMALL, "--backend", "gloo", "--lr", lr,
                    "--out", "differ", stderr=subprocess.PIPE)
             for role, lr in zip(ROLES, ("0.01", "0.02"), strict=True)]
    for process in roles:
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 78, err
        assert "lr: net" in err and "0.01" in err and "0.02" in err
    assert not (folder / "differ").exists()


@pytest.mark.fault(65, "kill -9 of either role over gloo while the other waits for its message")
@pytest.mark.parametrize("victim", ROLES)
def test_a_killed_role_ends_the_other_with_75_and_all_go_on_together(pair, here, victim):
    whole = pair("whole", "--backend", "gloo")
    whole.finish()
    cut = pair("cut", "--backend", "gloo", "--peer-timeout", "60")
    cut.await_lines(victim, 3)
    cut.kill([victim])
    other, = set(ROLES) - {victim}
    code = cut.processes[other].wait(30)      # by the end of the connection, not by the timeout
    assert code == 75, cut.log(other)
    assert "another role has ended" in cut.log(other)
    assert "run the same command again to resume" in cut.log(other)
    for role in ROLES:
        cut.start(role)
    cut.finish()
    assert all(len(cut.starts(role)) == 1 for role in ROLES)
    for role in ROLES:
        mine, expected = cut.weights(role), whole.weights(role)
        assert all(torch.equal(mine[name], value) for name, value in expected.items())


def test_a_silent_role_ends_the_other_with_75_at_the_peer_timeout(pair, here):
    both = pair("silent", "--backend", "gloo", "--peer-timeout", "2")
    both.await_lines("net2", 1)
    both.processes["net2"].send_signal(signal.SIGSTOP)
    assert both.processes["net1"].wait(30) == 75, both.log("net1")
    assert "silent for 2 s" in both.log("net1")


KEEP_STORE = """
import sys
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", int(sys.argv[1]), is_master=True, wait_for_workers=False)
sys.stdin.read()
"""


def test_no_question_to_the_store_waits_longer_than_its_deadline(folder):
    port = free_port()
    keeper = launch(folder, "-c", KEEP_STORE, port, stdin=subprocess.PIPE)
    try:
        store = open_store(Meeting("127.0.0.1", port), "net1", leads=False, join_timeout_s=60,
                           timeout_s=0.5)
        assert store.add("number", 2) == 2 and store.check(["number"])
        keeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, keeper.pid, os.WSTOPPED)    # until then it may answer
        for ask in (lambda: store.check(["number"]), lambda: store.add("number", 1),
                    lambda: store.get("number")):
            with pytest.raises(DistNetworkError, match=f"127.0.0.1:{port} within 0.5 s"):
                ask()
    finally:
        keeper.kill()
        keeper.communicate()


@pytest.mark.fault(67, "the port bound by another socket; a port at which nobody listens")
def test_a_busy_port_and_a_wrong_address_are_named(folder, here):
    words = [*SMALL, "--backend", "gloo", "--handshake-timeout", "1", "--out", "nowhere"]
    host, _, port = here.partition(":")
    with socket.create_server((host, int(port))):
        code, _, err = run(folder, "-m", "dualnet", "net1", *words)
    assert code == 2 and f"net1 cannot listen at {here} (Address already in use)" in err
    code, _, err = run(folder, "-m", "dualnet", "net2", *words)
    assert code == 75 and f"net1 to listen at {here}" in err
    code, _, err = run(folder, "-m", "dualnet", "net1", *words)
    assert code == 75 and f"net2 to join at {here}" in err
    assert "Traceback" not in err and not (folder / "nowhere").exists()


def test_without_an_address_the_roles_say_what_to_set(folder, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run(folder, "-m", "dualnet", "net1", *SMALL, "--backend", "gloo")
    assert code == 2 and "MASTER_ADDR and MASTER_PORT" in err


@pytest.mark.fault(68, "the sources are searched: the store is in the memory of a process")
def test_no_store_is_a_file():
    for path in (ROOT / "dualnet").rglob("*.py"):
        text = path.read_text()
        assert "FileStore" not in text and "file://" not in text, path


@pytest.mark.security(15, "the sockets that the processes of a run listen at are read from /proc")
def test_on_one_machine_no_other_can_reach_the_roles(pair, here):
    both = pair("reach", "--backend", "gloo")
    both.await_lines("net2", 1)
    found = [address for process in both.processes.values() for address in listening(process.pid)]
    assert found and set(found) == {"0100007F"}      # 127.0.0.1
    both.finish()


def listening(pid):
    """Addresses at which a process listens, as /proc writes them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(entry)
        except OSError:
            continue
        if name.startswith("socket:["):
            inodes.add(name[8:-1])
    rows = [line.split() for table in ("tcp", "tcp6")
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]
