"""Devices and data parallelism; no other module handles devices.

Uses `jax.pmap`: state and frozen towers are replicated, the batch is split over the devices of all processes along one
named axis. The state has no device axis (in_axes and out_axes None).
"""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import os
import pathlib
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mpafer_jax.runtime.errors import ConfigError

AXIS = "batch"
_PREFETCHED = 2  # batches on the devices beside the one in use

T = TypeVar("T")


def replicate(tree: T) -> T:
    """Copies every array to each local device.

    Needed before a state's first donation: a step that donates an array on a single device deletes it before the other
    devices have their copy.
    """
    mesh = Mesh(np.array(cast(Any, jax.local_devices())), (AXIS,))
    return cast(T, jax.device_put(tree, NamedSharding(mesh, PartitionSpec())))


def shard_batch(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits a process's part of a batch over its devices: [b, ...] -> [local devices, b / local devices, ...]."""
    devices = jax.local_device_count()
    # Not -1, which NumPy cannot infer for an empty array.
    return {name: value.reshape(devices, len(value) // devices, *value.shape[1:]) for name, value in batch.items()}


def prefetch(batches: Iterable[Mapping[str, np.ndarray]]) -> Generator[dict[str, jax.Array]]:
    """Puts batches on the devices ahead of use, so that transfer overlaps computation.

    `batches` are this process's parts, split by `shard_batch`; a generator is closed with this one.
    """
    mesh = Mesh(np.array(cast(Any, jax.local_devices())), (AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    waiting: collections.deque[dict[str, jax.Array]] = collections.deque()
    try:
        for batch in batches:
            waiting.append(jax.device_put(shard_batch(batch), sharding))
            if len(waiting) > _PREFETCHED:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        if isinstance(batches, Generator):
            batches.close()


def results(step: Callable[[Any], T], batches: Iterable[Mapping[str, np.ndarray]]) -> Generator[T]:
    """Yields step(batch) of every batch, on the host, reading each while the next is computed.

    `step` is a `data_parallel` function of one batch; `batches` as for `prefetch`.
    """
    before: T | None = None
    with contextlib.closing(prefetch(batches)) as moved:
        for batch in moved:
            now = step(batch)
            if before is not None:
                yield to_host(before)
            before = now
    if before is not None:
        yield to_host(before)


def spread(rows: np.ndarray[Any, Any]) -> jax.Array:
    """Puts an array on this process's devices for functions under plain `jax.jit`.

    Its leading axis is split if divisible by the number of devices, so that they compute in parallel; else the array is
    replicated.
    """
    mesh = Mesh(np.array(cast(Any, jax.local_devices())), (AXIS,))
    spec = PartitionSpec(AXIS) if len(rows) % jax.local_device_count() == 0 else PartitionSpec()
    return jax.device_put(rows, NamedSharding(mesh, spec))


def check_batch_size(field: str, batch_size: int, parts: int = 1) -> None:
    """Refuses a global batch size that cannot be split evenly.

    Args:
      field: the config field, for the message.
      batch_size: images over all processes.
      parts: into which each device's share is split again (gradient accumulation).

    Raises:
      ConfigError: it cannot be split.
    """
    unit = jax.device_count() * parts
    if batch_size % unit:
        lower, upper = batch_size // unit * unit, (batch_size // unit + 1) * unit
        raise ConfigError(
            f"config.{field} is {batch_size}, which {jax.device_count()} devices x {parts} part(s) cannot "
            f"share evenly; use {upper}" + (f" or {lower}" if lower else "")
        )


def data_parallel(
    function: Callable[..., T], *, donate: tuple[int, ...] = (), on: Sequence[Any] | None = None
) -> Callable[..., T]:
    """Compiles a function that runs on all devices at once, each with its part of the batch.

    Args:
      function: its last argument is the batch, split by `shard_batch`; all others are replicated. Its results must be
        equal on all devices (`sum_over_devices`, `gather_over_devices`).
      donate: positions of donated arguments.
      on: devices that this process does not own, such as those of a described TPU slice. The result can then be traced,
        lowered and compiled for them, with an unsplit batch; each device's program is the same.
    """
    replicated = len(inspect.signature(function).parameters) - 1
    if on is None:
        in_axes = (None,) * replicated + (0,)
        return jax.pmap(function, axis_name=AXIS, in_axes=in_axes, out_axes=None, donate_argnums=donate)
    mesh = Mesh(np.array(cast(Any, on)), (AXIS,))
    specs = (*(PartitionSpec(),) * replicated, PartitionSpec(AXIS))
    # check_vma=False, as pmap does: the results are not checked to be equal on all devices.
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return cast(Callable[..., T], jax.jit(mapped, donate_argnums=donate))


def sum_over_devices(tree: T) -> T:
    """Sums every array over all devices; inside `data_parallel` only."""
    return cast(T, jax.lax.psum(tree, AXIS))


def gather_over_devices(tree: T) -> T:
    """Concatenates every array over all devices, [b, ..] -> [devices * b, ..]; inside `data_parallel` only.

    The order is that of the devices, which may differ from that of the processes' parts of a batch: rows that must be
    told apart need to carry their position.
    """
    return cast(T, jax.lax.all_gather(tree, AXIS, tiled=True))


def matmul_precision() -> str:
    """JAX's name for the default precision of float32 products, such as "float32".

    "default" is device-dependent: TensorFloat-32 on GPUs that have it, bfloat16 on TPUs. A CPU computes in full
    precision, which is called "float32" here.
    """
    chosen = str(cast(Any, jax.config).jax_default_matmul_precision or "default")
    return "float32" if jax.default_backend() == "cpu" and chosen == "default" else chosen


# Units that multiply bfloat16 numbers, the faster first, by their names in Linux's /proc/cpuinfo.
_BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")


@functools.cache
def bfloat16_unit(cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> str:
    """Name of the CPU's unit for products of bfloat16 numbers, "amx_bf16" or "avx512_bf16".

    Returns:
      "" where JAX computes on an accelerator, the CPU has no such unit, or the system does not tell (it is not Linux).
    """
    if jax.default_backend() != "cpu" or not cpuinfo.is_file():
        return ""
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), list[str]())
    return next((unit for unit in _BFLOAT16_UNITS if unit in flags), "")


# Settings of JAX, off by default, that change numbers, besides the matmul precision. The random generator is none:
# `PromptLearner.initial_params` names its own.
_SETTINGS = ("jax_enable_x64", "jax_disable_jit", "jax_disable_most_optimizations")
# Flags of XLA that do not change numbers: number of CPU devices, dumps and caches, memory. Any other flag may.
_HARMLESS = re.compile(
    r"--xla_(force_host_platform_device_count|dump_\w*|hlo_profile|\w*(cache_dir|memory_fraction))(=.*)?"
)


def unusual_settings() -> dict[str, str]:
    """Non-default settings of JAX and XLA that change numbers: name -> value."""
    values = cast(Any, jax.config).values
    unusual = {name: "True" for name in _SETTINGS if values.get(name)}
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE"):
        flags = [flag for flag in os.environ.get(name, "").split() if not _HARMLESS.fullmatch(flag)]
        if flags:
            unusual[name] = " ".join(sorted(flags))
    return unusual


def kind() -> str:
    """The first device's name by its driver: "cpu", "NVIDIA H100 80GB HBM3", "TPU v5 lite"."""
    return str(cast(Any, jax.devices()[0]).device_kind)


def num_devices() -> jax.Array:
    """Number of devices that share the batch, [] float32; inside `data_parallel` only."""
    return sum_over_devices(jnp.ones((), jnp.float32))


def device_index() -> jax.Array:
    """Index of this device, [] int32, in the order of `gather_over_devices`; inside `data_parallel` only."""
    return jax.lax.axis_index(AXIS)


def to_global(tree: T) -> T:
    """Replicated local arrays as global ones, as Orbax saves them with several processes."""
    if jax.process_count() == 1:
        return tree
    from orbax.checkpoint import utils as ocp_utils  # here, since it takes a second to import

    return cast(T, jax.tree.map(cast(Any, ocp_utils).fully_replicated_host_local_array_to_global_array, tree))


def to_host(tree: T) -> T:
    """Replicated arrays as NumPy arrays."""

    def local_copy(array: jax.Array) -> np.ndarray[Any, Any]:
        return np.asarray(cast(Any, array.addressable_data(0)))

    return cast(T, jax.tree.map(local_copy, tree))
