"""Real file systems to test on, mounted and taken down by the tests: context managers.

A test is skipped, with the reason, where this is not root or a program is missing.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

START_S = 60
GLUSTER_PORT = 24007  # where bricks look for their glusterd
REFUSED = ("not permitted", "permission denied", "superuser", "failed to setup loop device")
CACHE_S = 5  # how long a bindfs mount believes what it knows of a name


def require(*programs):
    """Skip the test unless it is run by root and these programs are installed."""
    if os.geteuid() != 0:
        pytest.skip("this needs root")
    for program in programs:
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            pytest.skip(f"{program} is not installed")


def require_fuse():
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse")


def run(*words, **options):
    """Run a program to its end; its output if it fails."""
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=START_S, check=False, **options)
    assert done.returncode == 0, f"{words}: {done.stdout}"
    return done.stdout


def until(condition, what, limit_s=START_S, told=lambda: ""):
    """Wait for a daemon, or for what one does; `told` is asked what it has said if that fails."""
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up, f"waited {limit_s} s for {what}{told()}"
        time.sleep(0.05)


@contextmanager
def mounted(point, *command):
    """Mount on the new folder `point` with `command`."""
    point.mkdir()
    try:
        run(*command)
    except AssertionError as error:
        if any(word in str(error).lower() for word in REFUSED):
            pytest.skip(f"this machine does not permit the mount: {error}")
        raise
    try:
        yield point
    finally:
        if subprocess.run(["umount", point], stderr=subprocess.DEVNULL).returncode:
            run("umount", "--lazy", point)


@contextmanager
def tmpfs(folder, options):
    """A memory file system: options "size=1m", "nr_inodes=20"."""
    require("mount")
    with mounted(folder / "tmpfs", "mount", "-t", "tmpfs", "-o", f"{options},mode=0755", "tmpfs",
                 folder / "tmpfs") as point:
        yield point


@contextmanager
def ext4(folder, options="rw"):
    """A file system of 64 MB in a file."""
    require("mkfs.ext4")
    image = folder / "ext4.img"
    with open(image, "wb") as file:
        file.truncate(64 * 2**20)
    run("mkfs.ext4", "-q", image)
    with mounted(folder / "ext4", "mount", "-o", f"loop,{options}", image,
                 folder / "ext4") as point:
        yield point


@contextmanager
def bound(source, target):
    """`source` mounted on `target` too, as a file system of its own to link(2) and rename(2)."""
    require("mount")
    source.mkdir()
    with mounted(target, "mount", "--bind", source, target) as point:
        yield point


@contextmanager
def bindfs_pair(folder):
    """Two mounts of one folder, whose caches know nothing of each other and last 5 s.

    A stand-in for two clients of a network file system with long cache times.
    """
    require("bindfs")
    require_fuse()
    back = folder / "back"
    back.mkdir()
    times = ",".join(f"{kind}_timeout={CACHE_S}" for kind in ("attr", "entry", "negative"))
    with ExitStack() as stack:
        yield [stack.enter_context(mounted(folder / name, "bindfs", "-o", times, back,
                                           folder / name)) for name in ("client1", "client2")]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def sshfs_pair(folder):
    """Two sshfs mounts of one folder, through an sshd of our own with its own keys."""
    require("sshfs", "sshd", "ssh-keygen")
    require_fuse()
    (folder / "back").mkdir()
    for key in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key)
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(f"""\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PermitRootLogin yes
Subsystem sftp internal-sftp
""")
    empty = Path("/run/sshd")  # sshd insists on this folder
    made = not empty.exists()
    empty.mkdir(exist_ok=True)
    server = subprocess.Popen([shutil.which("sshd", path="/usr/sbin:/sbin"), "-D", "-f", config,
                               "-E", folder / "sshd.log"], start_new_session=True)
    options = (f"IdentityFile={folder}/user,StrictHostKeyChecking=no,"
               "UserKnownHostsFile=/dev/null,LogLevel=ERROR")
    try:
        until((folder / "sshd.pid").exists, "sshd")
        with ExitStack() as stack:
            yield [stack.enter_context(mounted(
                folder / name, "sshfs", "-p", port, "-o", options,
                f"root@127.0.0.1:{folder}/back", folder / name)) for name in ("client1", "client2")]
    finally:
        server.terminate()
        server.wait(START_S)
        if made:
            empty.rmdir()


@contextmanager
def gluster_pair(folder):
    """Two clients of one GlusterFS volume of one brick, served by a glusterd of our own."""
    require("glusterd", "glusterfs", "gluster")
    require_fuse()
    sock = folder / "glusterd.socket"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", GLUSTER_PORT))
        except OSError:
            pytest.skip(f"port {GLUSTER_PORT} is taken: is there another glusterd?")
    for name in ("state", "run", "brick"):
        (folder / name).mkdir()
    config = folder / "glusterd.vol"
    config.write_text(f"""\
volume management
    type mgmt/glusterd
    option working-directory {folder}/state
    option run-directory {folder}/run
    option glusterd-sockfile {sock}
    option transport-type socket
    option transport.socket.listen-port {GLUSTER_PORT}
    option transport.address-family inet
end-volume
""")
    server = subprocess.Popen(["glusterd", "-N", "-f", config, "-l", folder / "glusterd.log",
                               "-p", folder / "glusterd.pid"], start_new_session=True)

    def gluster(*words):
        return run("gluster", "--mode=script", f"--glusterd-sock={sock}", *words)

    with ExitStack() as stack:
        stack.callback(_end_group, server)  # bricks and helpers with it
        until(lambda: subprocess.run(
            ["gluster", "--mode=script", f"--glusterd-sock={sock}", "volume", "list"],
            capture_output=True, check=False).returncode == 0, "glusterd")
        gluster("volume", "create", "rig", f"{socket.gethostname()}:{folder}/brick", "force")
        gluster("volume", "start", "rig")
        stack.callback(gluster, "volume", "stop", "rig", "force")
        yield [stack.enter_context(mounted(
            folder / name, "glusterfs", f"--volfile-server={socket.gethostname()}",
            "--volfile-id=rig", f"--log-file={folder}/{name}.log", folder / name))
            for name in ("client1", "client2")]


def _end_group(server):
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(START_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(START_S)
