"""Compiles a configuration's training and evaluation steps for a TPU slice that need not be there."""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import time

from mpafer_jax.cli.parser import several
from mpafer_jax.cli.runner import argument, command, number
from mpafer_jax.config.schema import Config
from mpafer_jax.runtime.errors import ConfigError
from mpafer_jax.runtime.flops import count_flops
from tests.bench import shapes
from tests.bench.chips import Slice, describe_slice
from tests.bench.hlo import Traffic, measure_traffic

_MAKERS = {"train": shapes.train_step, "eval": shapes.eval_step}
_HEAD = (
    "| slice (hosts) | CLIP, dtype | step, images a device | memory, GB: arguments + temporaries + program | of | "
    "TFLOP | memory traffic, GB | exchanged, MB | bound: images/s, by |\n|---|---|---|---:|---:|---:|---:|---:|---:|"
)


@dataclasses.dataclass(frozen=True)
class Report:
    """A compiled step, per device.

    Attributes:
      step: "train" or "eval".
      images: per call, over all devices.
      arguments, results, temporaries, program: memory in bytes; donated arguments count once.
      flops: of matrix products.
    """

    step: str
    where: Slice
    images: int
    arguments: int
    results: int
    temporaries: int
    program: int
    flops: float
    traffic: Traffic
    compile_seconds: float

    @property
    def memory(self) -> int:
        return self.arguments + self.results + self.temporaries + self.program

    @property
    def available(self) -> float:
        return self.where.chip.hbm_bytes * self.where.device_share

    def bounds(self) -> dict[str, float]:
        """Lower bounds of the seconds per call: of compute, memory and links."""
        chip, share = self.where.chip, self.where.device_share
        links = sum(c.link_bytes(len(self.where.devices)) for c in self.traffic.collectives)
        return {
            "compute": self.flops / (chip.peak_flops * share),
            "memory": self.traffic.memory_bytes / (chip.hbm_bandwidth * share),
            "links": links / (chip.link_bandwidth * share),
        }


def check(config: Config, where: Slice, step: str, num_classes: int | None) -> Report:
    size = config.train.batch_size // config.train.accumulate if step == "train" else config.eval.batch_size
    if size % len(where.devices):
        raise ConfigError(
            f"a batch of {size} for config.{step} cannot be split over the {len(where.devices)} devices of "
            f"{where.name}; give --images_per_device, or a multiple"
        )
    clip, classes = shapes.find_clip_config(config), shapes.count_classes(config, num_classes)
    made = _MAKERS[step](config, clip, classes, where.devices)
    started = time.monotonic()
    compiled = made.function.lower(*made.arguments).compile()
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    return Report(
        step=step,
        where=where,
        images=made.images,
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
        flops=count_flops(made.function, *made.arguments),
        traffic=measure_traffic(compiled.as_text()),
        compile_seconds=seconds,
    )


def describe(report: Report, config: Config) -> str:
    where, bounds = report.where, report.bounds()
    by = max(bounds, key=bounds.__getitem__)
    exchanged = [f"{c.count} {c.kind} of {c.num_bytes / 1e6:.3f} MB together" for c in report.traffic.collectives]
    lines = [
        f"{report.step} step of {config.clip.name}, {config.clip.dtype}, for {where.name}: {len(where.devices)} "
        f"devices in {where.num_hosts} host(s), {report.images} images, compiled in {report.compile_seconds:.0f} s",
        f"  memory       {report.memory / 1e9:.2f} GB of {report.available / 1e9:.0f}: arguments "
        f"{report.arguments / 1e9:.3f}, results {report.results / 1e9:.3f}, "
        f"temporaries {report.temporaries / 1e9:.3f}, program {report.program / 1e9:.3f}",
        f"  compute      {report.flops / 1e12:.3f} TFLOP in matrix products, at least {1e3 * bounds['compute']:.2f} ms",
        f"  traffic      {report.traffic.memory_bytes / 1e9:.2f} GB to and from memory, at least "
        f"{1e3 * bounds['memory']:.2f} ms",
        f"  exchanges    {'; '.join(exchanged) or 'none'}, at least {1e3 * bounds['links']:.3f} ms",
        f"  bound        {report.images / bounds[by]:,.0f} images/s on all devices, by {by}",
    ]
    if report.traffic.unknown_loops:
        lines.append(f"  {report.traffic.unknown_loops} loop(s) of unknown length: traffic counts one round of each")
    if report.memory > report.available:
        lines.append("  DOES NOT FIT: set train.accumulate, clip.remat=full, clip.dtype=bfloat16 or fewer images")
    return "\n".join(lines)


def table_row(report: Report, config: Config) -> str:
    """The report as a Markdown table row with the columns of `_HEAD`."""
    bounds = report.bounds()
    by = max(bounds, key=bounds.__getitem__)
    parts = " + ".join(f"{x / 1e9:.2f}" for x in (report.arguments, report.temporaries, report.program))
    exchanged = sum(c.num_bytes for c in report.traffic.collectives)
    cells = (
        f"{report.where.name} ({report.where.num_hosts})",
        f"{config.clip.name.rpartition('/')[2]}, {config.clip.dtype}",
        f"{report.step}, {report.images // len(report.where.devices)}",
        parts,
        f"{report.available / 1e9:.0f}{'' if report.memory <= report.available else ': too much'}",
        f"{report.flops / 1e12:.2f}",
        f"{report.traffic.memory_bytes / 1e9:.1f}",
        f"{exchanged / 1e6:.2f}",
        f"{report.images / bounds[by]:,.0f}, {by}",
    )
    return f"| {' | '.join(cells)} |"


@command(
    "compile_check",
    argument("--topology", type=several(), default=("v5e:4x4",), help="slices, such as v5e:4x4, v6e:8x8, v4:2x2x2"),
    argument("--steps", type=several(_MAKERS), default=("train", "eval"), help="which steps"),
    number("--images_per_device", 0, default=0, help="sets the batch sizes (default: those of the configuration)"),
    number("--num_classes", 2, help="where only the dataset knows how many there are"),
    argument("--table", action="store_true", help="one line of a Markdown table for each step instead"),
    config=True,
    called="python -m tests.bench.compile_check",
)
def compile_check(arguments: argparse.Namespace) -> int:
    """Compiles a configuration's training and evaluation steps for a TPU slice that need not be there.

        pip install -e '.[tpu]'
        JAX_PLATFORMS=cpu python -m tests.bench.compile_check --config=configs/rafdb.py:bf16 --topology=v5e:4x4 \\
          --images_per_device=32 --config.data.dir=unused

    Needs neither data nor weights: the compiler for TPUs runs on any Linux machine with libtpu. Prints for each step,
    per device: memory (arguments, results, temporaries, program) against the chip's, floating-point operations of the
    matrix products, traffic to memory, exchanges between devices, and the bound on images per second that follows: the
    slowest of the three at the chip's peak rates. No run can be faster; how much slower it is only a run can tell.

    Exit code 1 where a step does not fit the chip's memory.
    """
    fits, images = True, arguments.images_per_device
    config = Config.from_config_dict(arguments.config)
    if arguments.table:
        print(_HEAD)
    for name in arguments.topology:
        where = describe_slice(name)
        sized = _with_images(config, images * len(where.devices)) if images else config
        for step in arguments.steps:
            report = check(sized, where, step, arguments.num_classes)
            print((table_row if arguments.table else describe)(report, sized), flush=True)
            fits = fits and report.memory <= report.available
    return 0 if fits else 1


def _with_images(config: Config, size: int) -> Config:
    train = config.train.model_copy(update={"batch_size": size})
    return config.model_copy(update={"train": train, "eval": config.eval.model_copy(update={"batch_size": size})})


if __name__ == "__main__":
    compile_check.start()
