"""A Slurm cluster of one node on this machine: munged, slurmctld and slurmd, started for a test and ended after it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue")

CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MaxArraySize={max_array}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
JobRequeue=1
KillWait=5
OverTimeLimit=0
SchedulerParameters=sched_interval=1,bf_interval=1,requeue_delay=1
NodeName={host} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None if one can."""
    missing = [name for name in NEEDS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "slurmd wants root"


@contextmanager
def one_node(root: Path, cpus: int = 4, max_array: int = 6) -> Iterator[dict[str, str]]:
    """Starts the cluster.

    Args:
        root: an empty folder for its state; short, since sockets lie in it.
        cpus: how many it says it has, whatever the machine has.
        max_array: the largest array that it takes.

    Yields:
        The environment in which sbatch and the others speak to it.
    """
    for name in ("state", "spool"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    config = root / "slurm.conf"
    config.write_text(CONFIG.format(root=root, host=host, cpus=cpus, max_array=max_array, ctld=_port(), slurmd=_port()))
    key = root / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(config)}
    munge = [f"--{k}={root}/munge.{v}" for k, v in (("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"))]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--seed-file={root}/munge.seed", *munge],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config), "-N", host],
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            log = (root / f"{command[0]}.out").open("wb")
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(0.3)
        _wait_for_idle(environment, root)
        yield environment
    finally:
        subprocess.run(["scancel", "--me", "--signal=KILL"], env=environment, capture_output=True, check=False)
        subprocess.run(["scancel", "--me"], env=environment, capture_output=True, check=False)
        time.sleep(0.5)
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_idle(environment: dict[str, str], root: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
        if done.stdout.strip().startswith("idle"):
            return
        time.sleep(0.3)
    logs = "\n".join(path.read_text(errors="replace")[-800:] for path in sorted(root.glob("*.log")))
    raise RuntimeError(f"the cluster did not come up: {done.stdout} {done.stderr}\n{logs}")


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
