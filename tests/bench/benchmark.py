"""Measures our steps against the plain PyTorch way: the same CLIP with random weights, batch, losses and update.

    pip install -e '.[bench]'
    python -m tests.bench.benchmark --out=benchmark
    python -m tests.bench.benchmark --clip=vit_l14 --batch_sizes=8 --repeats=3 --out=benchmark_l14

Every contender is a process of its own, and they are timed in turns. Nothing is timed before outputs, losses and the
prompts' gradients are equal to 1e-4. Prints Markdown tables, and writes them and every single time to --out. On a
machine that others use look at the quotients, not at the seconds.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from mpafer_jax.cli import runner
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError
from tests.bench import measure, measures, report
from tests.bench.client import BenchmarkError
from tests.bench.problem import CLIPS, PRECISIONS, Setting
from tests.bench.worker import CONTENDERS

_CLIP = flags.DEFINE_enum("clip", "vit_b16", list(CLIPS), "Shape of the CLIP.")
_BATCHES = flags.DEFINE_list("batch_sizes", ["16"], "Images at once; several for one table each.")
_CLASSES = flags.DEFINE_integer("num_classes", 7, "Classes.", 2)
_TOP_K = flags.DEFINE_integer("top_k", 16, "Patches of the local score.", 1)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", PRECISIONS, "What products are computed in; bfloat16 as with the configs' :bf16."
)
_CONTENDERS = flags.DEFINE_multi_enum("contender", list(CONTENDERS), list(CONTENDERS), "Who is measured.")
_MEASURES = flags.DEFINE_multi_enum("measure", list(measures.TITLES), list(measures.TITLES), "What is measured.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Turns.", 1)
_STARTS = flags.DEFINE_integer("starts", 1, "How often cold and warm starts and peak memory are measured.", 0)
_BLOCK = flags.DEFINE_float("block_seconds", 1.0, "How long a block of calls lasts at least.", 0)
_REMAT = flags.DEFINE_enum("remat", "dots", ["none", "dots", "full"], "What our backward pass keeps (clip.remat).")
_THREADS = flags.DEFINE_integer("threads", 0, "Cores and threads of each contender; 0: all.", 0)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, images and prompts.", 0)
_OUT = flags.DEFINE_string("out", None, "Folder for benchmark.md, benchmark.json and the contenders' log.")


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    runner.refuse_arguments(argv)
    if "plain" in _CONTENDERS.value and importlib.util.find_spec("torch") is None:
        print("the plain PyTorch way needs PyTorch: pip install -e '.[bench]'", file=sys.stderr)
        sys.exit(2)
    try:
        out = runner.folder(str(_OUT.value), "--out")
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    out.mkdir(parents=True, exist_ok=True)
    try:
        text, results = run(out)
    except BenchmarkError as error:
        print(f"{error} (the contenders' own messages: {out / 'contenders.log'})", file=sys.stderr)
        sys.exit(1)
    files.write_text(out / "benchmark.md", text)
    files.write_json(out / "benchmark.json", results)
    print(text)


def run(out: pathlib.Path) -> tuple[str, list[dict[str, object]]]:
    """All problems of the command line: their tables, and everything measured."""
    options = measure.Options(
        contenders=tuple(name for name in CONTENDERS if name in _CONTENDERS.value),
        measures=tuple(name for name in measures.TITLES if name in _MEASURES.value),
        repeats=_REPEATS.value,
        starts=_STARTS.value,
        block_seconds=_BLOCK.value,
        remat=_REMAT.value,
        threads=_THREADS.value,
        log=out / "contenders.log",
    )
    found: list[measure.Results] = []
    for batch_size in _BATCHES.value or []:
        setting = Setting(
            clip=_CLIP.value,
            batch_size=int(batch_size),
            num_classes=_CLASSES.value,
            top_k=_TOP_K.value,
            precision=_PRECISION.value,
            seed=_SEED.value,
        )
        found.append(measure.run(setting, options))
    described = {"options": {**dataclasses.asdict(options), "log": None}}
    return "\n".join(report.render(results) for results in found), [
        {**described, **results.as_json()} for results in found
    ]


if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    runner.start(main)
