"""The roles over gloo on two hosts without a common folder, as far as one machine can show: each
in a network namespace of its own, between them a link that can be cut."""

import subprocess
from contextlib import ExitStack, contextmanager

import pytest
from mounts import REFUSED, require
from pairs import ITERATIONS, ROLES, check_weights

pytestmark = pytest.mark.rig

LINK = "link0"                                          # the name of either end
ADDRESSES = {"net1": "192.0.2.1", "net2": "192.0.2.2"}  # of the block for documentation, RFC 5737
PORT = 29500                                            # in a namespace every port is free
PEER_TIMEOUT_S = 10
UNSUPPORTED = (*REFUSED, "not supported", "unknown device type")


@contextmanager
def network():
    """A network namespace: a command that runs others in it, and the process it belongs to.

    It is gone with that process, which ends with this one.
    """
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with holder.stdin, holder.stdout, holder.stderr:
            holder.stdin.write("ready\n")
            holder.stdin.flush()
            if holder.stdout.readline() != "ready\n":
                pytest.skip(f"this machine permits no namespace: {holder.stderr.read()}")
            yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"], str(holder.pid)
    finally:
        holder.kill()
        holder.wait()


def ip(*words, within=()):
    done = subprocess.run([*within, "ip", *words], capture_output=True, text=True, timeout=60,
                          check=False)
    if any(word in done.stderr.lower() for word in UNSUPPORTED):
        pytest.skip(f"this machine permits no link between namespaces: {done.stderr}")
    assert done.returncode == 0, f"ip {words}: {done.stderr}"


@pytest.fixture
def networks():
    """By role the command that runs others on its host; the two hosts are joined by a link."""
    require("ip", "unshare", "nsenter")
    with ExitStack() as stack:
        first, second = [stack.enter_context(network()) for _ in ROLES]
        ip("link", "add", LINK, "netns", first[1], "type", "veth",
           "peer", "name", LINK, "netns", second[1])
        for role, (within, _) in zip(ROLES, (first, second), strict=True):
            ip("address", "add", f"{ADDRESSES[role]}/24", "dev", LINK, within=within)
            for device in (LINK, "lo"):
                ip("link", "set", device, "up", within=within)
        yield dict(zip(ROLES, (first[0], second[0]), strict=True))


@pytest.fixture
def hosts(networks, pair, monkeypatch):
    """The roles by name, started, each on its host and in a folder of its own."""
    monkeypatch.setenv("MASTER_ADDR", ADDRESSES["net1"])
    monkeypatch.setenv("MASTER_PORT", str(PORT))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", LINK)
    return {role: pair(f"host-of-{role}", "--backend", "gloo", "--peer-timeout", PEER_TIMEOUT_S,
                       roles=[role], within=networks[role]) for role in ROLES}


def check_hosts(hosts, calm):
    for role, host in hosts.items():
        host.finish()
        check_weights(host.run, calm, [role])


def test_two_hosts_train_the_net_of_one_bit_for_bit(hosts, calm):
    check_hosts(hosts, calm)


@pytest.mark.fault(66, "two network namespaces, and the link between them is set down while both "
                       "roles train")
@pytest.mark.parametrize("cut_at", ROLES)
def test_a_cut_link_ends_both_with_75_and_all_go_on_when_it_is_back(hosts, networks, calm, cut_at):
    for role, host in hosts.items():
        assert host.await_lines(role, 12)
    ip("link", "set", LINK, "down", within=networks[cut_at])
    for role, host in hosts.items():
        assert host.processes[role].wait(3 * PEER_TIMEOUT_S) == 75, host.log(role)
        assert f"silent for {PEER_TIMEOUT_S} s" in host.log(role)
        assert "run the same command again to resume" in host.log(role)
        assert 0 < host.held(role)[-1][1] < ITERATIONS
        assert "Traceback" not in host.log(role)
    ip("link", "set", LINK, "up", within=networks[cut_at])
    for role, host in hosts.items():
        host.start(role)
    check_hosts(hosts, calm)
    resumed = [host.starts(role) for role, host in hosts.items()]
    assert resumed[0] == resumed[1] and len(resumed[0]) == 1
