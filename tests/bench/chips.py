"""TPU slices as abstract topologies, with the peak rates of their chips."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any, cast

from jax.experimental import topologies

from mpafer_jax.runtime.errors import UserError

GIGA, TERA = 1e9, 1e12


class TopologyError(UserError):
    """An unknown slice; the message lists known names."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip, from the "System architecture" pages of Cloud TPU's documentation.

    Attributes:
      hbm_bandwidth: bytes per second.
      peak_flops: bfloat16 operations per second; float32 products are rounded to bfloat16 by default.
      link_bandwidth: bytes per second over all links to other chips, both directions together.
    """

    name: str
    hbm_bytes: float
    hbm_bandwidth: float
    peak_flops: float
    link_bandwidth: float


_CHIPS = {
    "v4": Chip("v4", 32 * GIGA, 1228 * GIGA, 275 * TERA, 300 * GIGA),
    "v5e": Chip("v5e", 16 * GIGA, 819 * GIGA, 197 * TERA, 400 * GIGA),
    "v5p": Chip("v5p", 95 * GIGA, 2765 * GIGA, 459 * TERA, 1200 * GIGA),
    "v6e": Chip("v6e", 32 * GIGA, 1640 * GIGA, 918 * TERA, 800 * GIGA),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice as an abstract topology.

    Attributes:
      name: such as "v5e:4x4".
      devices: JAX's devices; two per chip on v4.
    """

    name: str
    chip: Chip
    devices: tuple[Any, ...]
    num_chips: int
    num_hosts: int

    @property
    def device_share(self) -> float:
        return self.num_chips / len(self.devices)


def describe_slice(name: str) -> Slice:
    """A slice by name; needs no such hardware.

    Args:
      name: generation and chips along each axis of the torus: v5e:4x4, v6e:2x4, v4:2x2x2, v5p:4x4x4.
    """
    generation, _, shape = name.partition(":")
    sizes = [int(size) for size in shape.split("x") if size.isdecimal()]
    if generation not in _CHIPS or len(sizes) != shape.count("x") + 1 or not all(sizes):
        raise TopologyError(
            f"topology {name!r}: expected GENERATION:CHIPSxCHIPS[xCHIPS] with one of {', '.join(_CHIPS)}, such as "
            "v5e:4x4 or v4:2x2x2"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "the compiler for TPUs is in the package libtpu, which is not installed: pip install -e '.[tpu]'"
        )
    # Allows concurrent checks, also beside a program that uses a TPU, and skips libtpu's query of a metadata server.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    bounds = [min(2, size) for size in sizes[:2]] + [1] * (3 - len(sizes[:2]))  # a host's chips: 2x2, or fewer
    try:
        found = topologies.get_topology_desc(name, "tpu", chips_per_host_bounds=bounds)
    except Exception as error:  # libtpu's errors for unknown shapes vary
        raise TopologyError(f"topology {name!r} cannot be described: {error}") from error
    devices = cast(Sequence[Any], found.devices)
    hosts = {device.process_index for device in devices}
    return Slice(name, _CHIPS[generation], tuple(devices), math.prod(sizes), len(hosts))
