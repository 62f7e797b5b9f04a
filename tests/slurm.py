"""A Slurm of one node, with all it writes in one folder: daemons that the tests start and end."""

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager

from mounts import free_port, require, until

CPUS = 8    # that the node claims, whatever the machine has: no task is bound to one

CONFIG = """\
ClusterName=rig
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is queued again waits for as long as a credential lasts.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=low Nodes=node Default=YES PriorityTier=1 MaxTime=60
PartitionName=graceful Nodes=node PriorityTier=1 GraceTime=120 MaxTime=60
PartitionName=high Nodes=node PriorityTier=2 MaxTime=60
"""


class Slurm:
    """The client commands of one cluster; `environment` is what they need."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *words, **settings):
        """What a command prints; `settings` are set in its environment."""
        done = subprocess.run([str(word) for word in words], cwd=self.folder, timeout=60,
                              capture_output=True, text=True, check=False,
                              env={**self.environment, **settings})
        assert done.returncode == 0, f"{words}: {done.stderr}{self.log()}"
        return done.stdout

    def submit(self, *words, **settings):
        """The number of the new job."""
        return self.call("sbatch", "--parsable", *words, **settings).strip()

    def job(self, number):
        """What the controller knows of a job, by the names of `scontrol show job`."""
        words = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self):
        return "".join(f"\n{path.name}: {path.read_text()[-2000:]}"
                       for path in sorted(self.folder.glob("*.log")))


@contextmanager
def cluster(folder, options=""):
    """A Slurm whose partition `high` preempts `low`, and `graceful` after a time of grace;
    `options` are further lines of slurm.conf."""
    require("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    (folder / "slurm.conf").write_text(CONFIG.format(
        folder=folder, host=socket.gethostname().partition(".")[0], cpus=CPUS,
        controller_port=free_port(), node_port=free_port()) + options)
    slurm, daemons = Slurm(folder), []
    try:
        daemons.append(_daemon(slurm, "munged", "--foreground", "--force", *(
            f"--{what}-file={folder}/munge.{what}" for what in ("key", "pid", "seed")),
            f"--socket={folder}/munge.socket", f"--log-file={folder}/munge.log"))
        until((folder / "munge.socket").exists, "munged")
        for words in (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "node"]):
            daemons.append(_daemon(slurm, *words, "-f", folder / "slurm.conf"))
        until(lambda: _is_ready(slurm, daemons), "an idle node", told=slurm.log)
        yield slurm
    finally:
        if len(daemons) == 3:
            _answer(slurm, "scancel", "--user=root")
            until(lambda: not _answer(slurm, "squeue", "--noheader"), "the end of all jobs")
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(60)


def _daemon(slurm, program, *words):
    with open(slurm.folder / f"{program}.log", "ab") as log:
        path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        return subprocess.Popen([path, *map(str, words)], stdout=log, stderr=log,
                                stdin=subprocess.DEVNULL, env=slurm.environment)


def _is_ready(slurm, daemons):
    assert all(daemon.poll() is None for daemon in daemons), slurm.log()
    return "idle" in _answer(slurm, "sinfo", "--noheader", "--format=%T")


def _answer(slurm, *words):
    """What a command prints, or nothing while its daemon does not answer."""
    return subprocess.run(words, env=slurm.environment, timeout=60, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
