"""The only file that knows how the processes of a run find each other, and how they agree.

One process and many run the same command. Which it is comes, in this order, from flags, from the variables
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, from Slurm, from Open MPI, or from a TPU machine; the
last three are read by JAX itself. What is only half there is an error: a run that quietly went on as many single
processes would train the same thing many times, all in one folder.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, TypeVar, cast

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from mpafer_jax.runtime.errors import ClusterError

Mode = Literal["auto", "on", "off"]
T = TypeVar("T")

# A process that sends no sign of life for so long is taken for dead, and the others end. JAX's 100 s would let a whole
# slice wait for longer than a minute; much less would end runs for a network's hiccup.
HEARTBEAT_SECONDS = 30
# How long a process that has ended waits for the others to end too.
SHUTDOWN_SECONDS = 60

_TRIPLE = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
_MULTISLICE = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")
# What process 0 waits before it leaves with an error: it holds the service through which the others would notice, and
# those that failed for the same reason should have said so themselves by then.
_LAST_SECONDS = 2


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How this process finds the others of its run.

    Attributes:
      source: where this was read.
      coordinator_address: "host:port" of process 0; None where JAX works it and the rest out.
      num_processes: how many there are.
      process_id: which of them this is.
    """

    source: str
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def find_cluster(
    environment: Mapping[str, str],
    *,
    mode: Mode = "auto",
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    tpu_machine: bool = False,
) -> Cluster | None:
    """Works out whether this process is one of many.

    Args:
      environment: the environment variables.
      mode: "auto" as this module says; "off" for a single process whatever the environment says; "on" to leave it to
        JAX, which also knows Kubernetes jobs, and to fail where it finds nothing.
      coordinator_address, num_processes, process_id: the flags; all or none.
      tpu_machine: whether this machine has TPU chips that JAX will use (`has_tpu_chips`).

    Returns:
      What to start, or None for a single process.

    Raises:
      ClusterError: flags or environment are set by half or contradict each other.
    """
    flags = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    given = {f"--{name}": str(value) for name, value in flags.items() if value is not None}
    if mode == "off":
        if given:
            listed = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ClusterError(f"--distributed=off contradicts {listed}; leave out one or the other")
        return None
    if given:
        return _explicit(given, [f"--{name}" for name in flags], "the flags")
    variables = {name: environment[name] for name in _TRIPLE.values() if environment.get(name)}
    # JAX reads the address by itself too, so the address alone may stand beside a scheduler's variables.
    if variables.keys() - {"JAX_COORDINATOR_ADDRESS"}:
        return _explicit(variables, list(_TRIPLE.values()), "the environment")
    if mode == "on":
        return Cluster("JAX's own detection, --distributed=on")
    cluster = _slurm(environment) or _open_mpi(environment) or _tpu(environment, tpu_machine)
    if variables and cluster is None:
        raise _half_set(variables, list(_TRIPLE.values()), "the environment")
    return cluster


def has_tpu_chips(environment: Mapping[str, str], devices: pathlib.Path = pathlib.Path("/dev")) -> bool:
    """Whether JAX will find TPU chips on this machine: a device file of theirs, and the library that drives them."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return False
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in environment:
        return False
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))


def start(cluster: Cluster | None, *, timeout_seconds: int = 300) -> None:
    """Joins the other processes; nothing to do for None. Before anything asks JAX for its devices.

    Args:
      cluster: from `find_cluster`.
      timeout_seconds: how long to wait for the others.

    Raises:
      ClusterError: process 0 cannot be reached in time, or JAX found no cluster. Where process 0 is there and another
        is not, JAX itself ends the process (DEADLINE_EXCEEDED, exit code 134).
    """
    if cluster is None:
        return
    method = "deactivate" if cluster.coordinator_address else None  # what is given is complete: nothing to detect
    which = f", process {cluster.process_id} of {cluster.num_processes}" if cluster.coordinator_address else ""
    logging.info("waiting up to %d s for the other processes (%s%s)", timeout_seconds, cluster.source, which)
    try:
        if cluster.coordinator_address and cluster.process_id:
            _wait_for_coordinator(cluster.coordinator_address, timeout_seconds)
        _State.joining = True
        jax.distributed.initialize(
            cluster.coordinator_address,
            cluster.num_processes,
            cluster.process_id,
            cluster_detection_method=method,
            initialization_timeout=timeout_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"the processes did not find each other within {timeout_seconds} s ({cluster.source}{which}: {error}). See "
            "that every process was started, that the coordinator's port is free there and open to the others, and "
            "that they agree on address and number; --distributed=off runs this process alone"
        ) from error
    finally:
        _State.joining = False


def _wait_for_coordinator(address: str, timeout_seconds: int) -> None:
    """Returns when somebody listens there; JAX's own waiting would end in an abort."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise OSError(f"nothing answers at {address}: {error}") from error
            time.sleep(0.5)


def is_one_of_many() -> bool:
    """Whether this process has found others; not before `start`."""
    # Asked first, since to ask JAX for the number would settle that there is one process, and take the devices.
    return _has_joined() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is process 0, the one that writes logs, tables and reports; so is one that has no others yet."""
    return not _has_joined() or jax.process_index() == 0


class _State:
    joining = False


def _has_joined() -> bool:
    """Whether JAX can be asked for the processes; not while it joins them, though it then logs lines and counts as
    initialized: to ask it would take the devices before the others are there, which ends the process."""
    return jax.distributed.is_initialized() and not _State.joining


def broadcast(tree: T) -> T:
    """Process 0's arrays, as NumPy arrays, on every process; shapes and dtypes must be the same on all."""
    if jax.process_count() == 1:
        return tree
    return cast(T, multihost_utils.broadcast_one_to_all(cast(Any, tree)))


def all_agree(yes: bool) -> bool:
    """Whether it is so on every process; all must ask."""
    if jax.process_count() == 1:
        return yes
    return bool(np.all(multihost_utils.process_allgather(np.asarray(yes))))


def wait_for_all(point: str) -> None:
    """Returns when every process has come to the point of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def leave(code: int) -> NoReturn:
    """Ends a process that failed, with this exit code.

    One of many ends at once: an orderly exit would wait a minute for the others, who wait for this one. They notice
    that it is gone, and end too, within `HEARTBEAT_SECONDS` and some seconds.
    """
    if not is_one_of_many():
        sys.exit(code)
    if is_first():
        time.sleep(_LAST_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _explicit(given: Mapping[str, str], names: list[str], source: str) -> Cluster | None:
    if len(given) < len(names):
        raise _half_set(given, names, source)
    address, count, index = (given[name] for name in names)
    numbers = [int(value) if value.isdigit() else -1 for value in (count, index)]
    if not 0 <= numbers[1] < numbers[0]:
        raise ClusterError(
            f"{names[1]} is {count!r} and {names[2]} is {index!r}: expected a number of processes and, for each of "
            f"them, another number from 0 to {names[1]} - 1"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{names[0]} is {address!r}: expected host:port of process 0, for example 10.0.0.2:8476")
    return Cluster(source, address, *numbers) if numbers[0] > 1 else None


def _half_set(given: Mapping[str, str], names: list[str], source: str) -> ClusterError:
    missing = [name for name in names if name not in given]
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    return ClusterError(
        f"{source} give {listed} without {', '.join(missing)}: set all of {', '.join(names)} for a run of several "
        "processes, or none of them for a run of one"
    )


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    tasks = environment.get("SLURM_NTASKS", "1")
    if "SLURM_JOB_ID" not in environment or tasks == "1":
        return None
    needed = ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    missing = [name for name in needed if name not in environment]
    if missing:
        raise ClusterError(
            f"this Slurm job has SLURM_NTASKS={tasks} tasks, but {', '.join(missing)} is not set, so this process is "
            "not one of them: start it with srun (launch/slurm.sbatch), or give --distributed=off to run it alone"
        )
    local_tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0].partition(",")[0]
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    if (
        gpus.isdigit()
        and local_tasks.isdigit()
        and int(local_tasks) < int(gpus)
        and "JAX_LOCAL_DEVICE_IDS" not in environment
    ):
        raise ClusterError(
            f"Slurm started {local_tasks} task(s) on a node with SLURM_GPUS_ON_NODE={gpus}, and JAX gives each task "
            f"one GPU: use --ntasks-per-node={gpus}, or set JAX_LOCAL_DEVICE_IDS to the GPUs of each task (0,1,..)"
        )
    return Cluster(f"Slurm, SLURM_NTASKS={tasks}")


def _open_mpi(environment: Mapping[str, str]) -> Cluster | None:
    size = environment.get("OMPI_COMM_WORLD_SIZE", "1")
    if size == "1":
        return None
    if "OMPI_MCA_orte_hnp_uri" not in environment:  # Open MPI 5 gives no address that JAX could read
        raise ClusterError(
            f"mpirun started OMPI_COMM_WORLD_SIZE={size} processes, but OMPI_MCA_orte_hnp_uri, from which JAX takes "
            "the coordinator's address, is not set; set JAX_COORDINATOR_ADDRESS=HOST:PORT of rank 0, "
            "JAX_NUM_PROCESSES=$OMPI_COMM_WORLD_SIZE and JAX_PROCESS_ID=$OMPI_COMM_WORLD_RANK in each"
        )
    return Cluster(f"Open MPI, OMPI_COMM_WORLD_SIZE={size}")


def _tpu(environment: Mapping[str, str], tpu_machine: bool) -> Cluster | None:
    if not tpu_machine:
        return None
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts and not environment.get("TPU_WORKER_ID"):
        raise ClusterError(
            f"the TPU slice has several hosts ({hosts}), but TPU_WORKER_ID, which says which of them this is, is not "
            "set; on GKE both come from the webhook of its TPU nodes: request google.com/tpu in the pod"
        )
    slices = {name: environment[name] for name in _MULTISLICE if environment.get(name)}
    if slices and len(slices) < len(_MULTISLICE):
        raise _half_set(slices, list(_MULTISLICE), "the environment's TPU slices")
    return Cluster("a TPU machine")
