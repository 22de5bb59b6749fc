"""Measures our steps against the plain PyTorch way: the same CLIP with random weights, batch, losses and update."""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import importlib.util
import itertools
import pathlib

from absl import logging

from mpafer_jax.cli.parser import at_least, whole_numbers
from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.runtime import files
from tests.bench import measure, measures, report
from tests.bench.client import BenchmarkError
from tests.bench.problem import CLIPS, PRECISIONS, Setting
from tests.bench.worker import CONTENDERS


@command(
    "benchmark",
    path("--out", required=True, help="folder for benchmark.md, benchmark.json and the contenders' log"),
    argument("--clip", choices=CLIPS, default="vit_b16", help="shape of the CLIP"),
    argument("--batch_sizes", type=whole_numbers, default=[16], help="images at once; several for one table each"),
    number("--num_classes", 2, default=7, help="classes"),
    number("--top_k", 1, default=16, help="patches of the local score"),
    argument(
        "--precision",
        choices=tuple(PRECISIONS),
        action="append",
        help="what products are computed in; bfloat16 as with the configs' :bf16; several for tables of each (default: "
        "float32)",
    ),
    argument(
        "--contender",
        choices=tuple(CONTENDERS),
        action="append",
        help="who is measured (default: all); ours_plain_products in bfloat16 alone",
    ),
    argument("--measure", choices=tuple(measures.TITLES), action="append", help="what is measured (default: all)"),
    number("--repeats", 1, default=7, help="turns"),
    number("--starts", 0, default=1, help="how often cold and warm starts and peak memory are measured"),
    argument("--block_seconds", type=at_least(0, float), default=1.0, help="how long a block of calls lasts at least"),
    argument("--remat", choices=("none", "dots", "full"), default="dots", help="what our backward pass keeps"),
    number("--threads", 0, default=0, help="cores and threads of each contender (default: all)"),
    number("--seed", 0, default=0, help="of weights, images and prompts (default 0)"),
    called="python -m tests.bench.benchmark",
)
def benchmark(arguments: argparse.Namespace) -> int:
    """Measures our steps against the plain PyTorch way: the same CLIP with random weights, batch, losses and update.

        pip install -e '.[bench]'
        python -m tests.bench.benchmark --out=benchmark
        python -m tests.bench.benchmark --clip=vit_l14 --batch_sizes=8 --repeats=3 --out=benchmark_l14
        python -m tests.bench.benchmark --precision=float32 --precision=bfloat16 --out=benchmark_precisions

    Every contender is a process of its own, and they are timed in turns. Nothing is timed before outputs, losses and
    the prompts' gradients are equal to 1e-4. Prints Markdown tables, and writes them and every single time to --out. On
    a machine that others use look at the quotients, not at the seconds.
    """
    if "plain" in (arguments.contender or CONTENDERS) and importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError("the plain PyTorch way needs PyTorch: pip install -e '.[bench]'")
    out: pathlib.Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    try:
        text, results = run(arguments, out)
    except BenchmarkError as error:
        logging.error("%s (the contenders' own messages: %s)", error, out / "contenders.log")
        return 1
    files.write_text(out / "benchmark.md", text)
    files.write_json(out / "benchmark.json", results)
    print(text)
    return 0


def run(arguments: argparse.Namespace, out: pathlib.Path) -> tuple[str, list[dict[str, object]]]:
    """Runs all problems of the command line: their tables, and all measurements."""
    options = measure.Options(
        contenders=tuple(name for name in CONTENDERS if name in (arguments.contender or CONTENDERS)),
        measures=tuple(name for name in measures.TITLES if name in (arguments.measure or measures.TITLES)),
        repeats=arguments.repeats,
        starts=arguments.starts,
        block_seconds=arguments.block_seconds,
        remat=arguments.remat,
        threads=arguments.threads,
        log=out / "contenders.log",
    )
    found: list[measure.Results] = []
    precisions: list[str] = arguments.precision or ["float32"]
    batch_sizes: list[int] = arguments.batch_sizes
    for precision, batch_size in itertools.product(precisions, batch_sizes):
        setting = Setting(
            clip=arguments.clip,
            batch_size=batch_size,
            num_classes=arguments.num_classes,
            top_k=arguments.top_k,
            precision=precision,
            seed=arguments.seed,
        )
        same = () if precision == "bfloat16" else ("ours_plain_products",)  # as ours
        contenders = tuple(name for name in options.contenders if name not in same)
        found.append(measure.run(setting, dataclasses.replace(options, contenders=contenders)))
    described = {"options": {**dataclasses.asdict(options), "log": None}}
    return "\n".join(report.render(results) for results in found), [
        {**described, **results.as_json()} for results in found
    ]


if __name__ == "__main__":
    benchmark.start()
