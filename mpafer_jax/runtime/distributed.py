"""Multi-process runs: cluster detection, collectives on the host, and exit.

A cluster is described, in this order, by flags, by the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID, by Slurm, by Open MPI, or by a TPU machine; JAX itself reads the last three. An incomplete description
is an error: each process would otherwise train alone, all in one folder.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
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

from mpafer_jax.runtime import signals
from mpafer_jax.runtime.errors import ClusterError

Mode = Literal["auto", "on", "off"]
T = TypeVar("T")

# A process without a heartbeat for so long counts as dead, and the others end. JAX's default, 100 s, lets a whole slice
# wait; much less would end runs on short network failures.
HEARTBEAT_SECONDS = 30
SHUTDOWN_SECONDS = 60  # a process that has ended waits so long for the others

_TRIPLE = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
_MULTISLICE = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")
# Process 0 waits so long before it exits with an error: it hosts the coordination service, and processes that failed
# for the same reason should report it themselves first.
_LAST_SECONDS = 2


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Description of a multi-process run.

    Attributes:
      source: origin of the description, for messages.
      coordinator_address: "host:port" of process 0; None if JAX detects it and the rest.
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
    """Detects whether this process is one of several.

    Args:
      environment: the environment variables.
      mode: "auto": see this module; "off": a single process regardless of the environment; "on": JAX's detection, which
        also knows Kubernetes, and failure if it finds no cluster.
      coordinator_address, num_processes, process_id: the flags; all or none.
      tpu_machine: whether this machine has TPU chips that JAX will use (`has_tpu_chips`).

    Returns:
      The cluster to join, or None for a single process.

    Raises:
      ClusterError: flags or environment are incomplete or contradict each other.
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
    # JAX reads the address itself too, so it may occur alone beside a scheduler's variables.
    if variables.keys() - {"JAX_COORDINATOR_ADDRESS"}:
        return _explicit(variables, list(_TRIPLE.values()), "the environment")
    if mode == "on":
        return Cluster("JAX's own detection, --distributed=on")
    cluster = _slurm(environment) or _open_mpi(environment) or _tpu(environment, tpu_machine)
    if variables and cluster is None:
        raise _half_set(variables, list(_TRIPLE.values()), "the environment")
    return cluster


def has_tpu_chips(environment: Mapping[str, str], devices: pathlib.Path = pathlib.Path("/dev")) -> bool:
    """Whether JAX will find TPU chips on this machine: their device files and driver library exist."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms.split(","):
        return False
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in environment:
        return False
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))


def start(cluster: Cluster | None, *, timeout_seconds: int = 300) -> None:
    """Joins the other processes; does nothing for None. To be called before JAX's devices are used.

    Raises:
      ClusterError: process 0 cannot be reached in time, or JAX found no cluster. If another process is missing, JAX
        itself ends this one (DEADLINE_EXCEEDED, exit code 134).
    """
    if cluster is None:
        return
    method = "deactivate" if cluster.coordinator_address else None  # nothing to detect
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
    if not is_one_of_many():  # as on a TPU machine that is a slice of its own: nobody to agree with on when to stop
        signals.take_back()  # JAX has taken SIGTERM, and only notes it


def _wait_for_coordinator(address: str, timeout_seconds: int) -> None:
    """Waits until the address accepts connections; a timeout inside JAX would abort the process."""
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
    """Whether this process has joined others (`start`)."""
    # `_has_joined` first: `process_count` would initialize the devices of a single process.
    return _has_joined() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is process 0, which writes logs, tables and reports. True for a run of one and before `start`."""
    return not _has_joined() or jax.process_index() == 0


class _State:
    joining = False


def _has_joined() -> bool:
    """Whether JAX may be asked for the processes: not while it joins them (then it counts as initialized, and may log),
    since that would initialize the devices too early and abort.
    """
    return jax.distributed.is_initialized() and not _State.joining


def broadcast(tree: T) -> T:
    """Process 0's arrays, as NumPy arrays, on every process; shapes and dtypes must be equal on all."""
    if jax.process_count() == 1:
        return tree
    return cast(T, multihost_utils.broadcast_one_to_all(cast(Any, tree)))


def broadcast_text(text: str) -> str:
    """Process 0's text on every process."""
    if jax.process_count() == 1:
        return text
    content = text.encode()
    length = int(broadcast(np.asarray(len(content), np.int32)))
    return bytes(broadcast(np.frombuffer(content[:length].ljust(length), np.uint8))).decode()


def disagreement(here: str) -> str:
    """What to say in an error where a text, not empty, is not the same on every process; '' where it is."""
    first = broadcast_text(here)
    if all_agree(here == first):
        return ""
    return f"process 0 has {first}, {'and another process something else' if here == first else f'this one {here}'}"


def differences(here: Mapping[str, Any]) -> list[str]:
    """What to say in an error, a line each, where named values are not the same on every process; [] where they are.

    The values are compared as JSON has them.
    """
    own: dict[str, Any] = json.loads(json.dumps(here))
    first: dict[str, Any] = json.loads(broadcast_text(json.dumps(own)))
    differing = [name for name in {**first, **own} if first.get(name) != own.get(name)]
    if all_agree(not differing):
        return []
    lines = [f"{name}: process 0 has {first.get(name)!r}, this one {own.get(name)!r}" for name in differing]
    return lines or ["another process differs from process 0, as this one does not, and says in what"]


def all_agree(yes: bool) -> bool:
    """Whether `yes` holds on every process; all must call it."""
    if jax.process_count() == 1:
        return yes
    return bool(np.all(multihost_utils.process_allgather(np.asarray(yes))))


def wait_for_all(point: str) -> None:
    """Barrier: waits until every process has reached the point of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def leave(code: int) -> NoReturn:
    """Ends a failed process with this exit code.

    One of several exits at once: a regular exit would wait a minute for the others, who wait for this one. They notice
    within `HEARTBEAT_SECONDS` and some seconds, and end too.
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
