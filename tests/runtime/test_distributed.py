"""How a process finds out whether it is one of many; what is half set is an error that says what is missing."""

import socket

import pytest

from mpafer_jax.runtime import distributed
from mpafer_jax.runtime.distributed import Cluster, find_cluster
from mpafer_jax.runtime.errors import ClusterError

FLAGS = {"coordinator_address": "10.0.0.2:8476", "num_processes": 4, "process_id": 3}
TRIPLE = {"JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_GPUS_ON_NODE": "8",
}


def without(variables, *names):
    return {name: value for name, value in variables.items() if name not in names}


def test_one_process_where_nothing_says_otherwise():
    assert find_cluster({}) is None
    assert find_cluster({**SLURM, "SLURM_NTASKS": "1"}) is None
    assert find_cluster(TRIPLE, mode="off") is None
    assert find_cluster({**TRIPLE, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None


def test_flags_come_before_the_environment_and_the_environment_before_schedulers():
    address = "10.0.0.2:8476"
    assert find_cluster({}, **FLAGS) == Cluster("the flags", address, 4, 3)
    assert find_cluster({**TRIPLE, "JAX_PROCESS_ID": "1"}, **FLAGS).process_id == 3
    assert find_cluster({**SLURM, **TRIPLE}) == Cluster("the environment", address, 4, 3)


def test_schedulers_are_left_to_jax():
    for environment in (
        SLURM,
        {**SLURM, "JAX_COORDINATOR_ADDRESS": "10.0.0.2:1"},  # which JAX reads itself
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.2:3"},
    ):
        assert find_cluster(environment).coordinator_address is None
    assert find_cluster({}, tpu_machine=True).source == "a TPU machine"
    gke = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}
    assert find_cluster(gke, tpu_machine=True) is not None
    assert find_cluster(gke) is None  # JAX was told to use another platform
    assert find_cluster({}, mode="on") is not None


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({}, without(FLAGS, "process_id"), r"--num_processes=4 without --process_id: set all of"),
        (without(TRIPLE, "JAX_PROCESS_ID"), {}, "JAX_NUM_PROCESSES=4 without JAX_PROCESS_ID: set all of"),
        (without(TRIPLE, "JAX_NUM_PROCESSES"), {}, "without JAX_NUM_PROCESSES"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, {}, "without JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        ({**TRIPLE, "JAX_PROCESS_ID": "4"}, {}, "JAX_NUM_PROCESSES is '4' and JAX_PROCESS_ID is '4': expected"),
        ({**TRIPLE, "JAX_NUM_PROCESSES": "four"}, {}, "JAX_NUM_PROCESSES is 'four'"),
        ({**TRIPLE, "JAX_COORDINATOR_ADDRESS": "10.0.0.2"}, {}, "JAX_COORDINATOR_ADDRESS is '10.0.0.2': expected host"),
        (TRIPLE, {"mode": "off", "num_processes": 4}, "--distributed=off contradicts --num_processes=4"),
        (without(SLURM, "SLURM_STEP_NODELIST"), {}, "SLURM_NTASKS=16 tasks, but SLURM_STEP_NODELIST is not set.*srun"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, {}, "1 task.s. on a node with SLURM_GPUS_ON_NODE=8"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, "OMPI_COMM_WORLD_SIZE=2 processes, but OMPI_MCA_orte_hnp_uri"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {"tpu_machine": True}, "several hosts .a,b., but TPU_WORKER_ID"),
        ({"MEGASCALE_NUM_SLICES": "2"}, {"tpu_machine": True}, "MEGASCALE_NUM_SLICES=2 without MEGASCALE_COORD"),
    ],
)
def test_half_set_is_an_error(environment, options, message):
    with pytest.raises(ClusterError, match=message):
        find_cluster(environment, **options)


def test_a_coordinator_that_does_not_answer_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # bound, and nobody listens
        with pytest.raises(ClusterError, match=rf"process 1 of 2: nothing answers at {address}.*every process was"):
            distributed.start(Cluster("the flags", address, 2, 1), timeout_seconds=0)


def test_tpu_chips_are_looked_for_only_where_jax_would_use_them(tmp_path):
    (tmp_path / "accel0").touch()
    library = {"TPU_LIBRARY_PATH": "/lib/libtpu.so"}
    assert distributed.has_tpu_chips(library, tmp_path)
    assert distributed.has_tpu_chips({**library, "JAX_PLATFORMS": "tpu,cpu"}, tmp_path)
    assert not distributed.has_tpu_chips({**library, "JAX_PLATFORMS": "cpu"}, tmp_path)
    assert not distributed.has_tpu_chips(library, tmp_path / "nothing")
