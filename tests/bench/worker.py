"""Worker process of a contender: JSON requests on stdin, responses on stdout, one object per line.

    python -m tests.bench.worker CONTENDER FOLDER [--remat=dots] [--threads=2]

Requests: {"do": "load"}, {"do": "check", "path": ..}, {"do": "time", "measure": .., "calls": ..}, {"do": "flops"},
{"do": "peak_memory"}. A first line is sent after the imports. A response {"error": ..} ends the process, as does the
end of stdin.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

CONTENDERS = ("ours", "ours_plain_products", "plain", "compiled")
PREDICTING = "predicting:"  # begins the name of a contender of bulk prediction


def main() -> None:
    """Responds to requests until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("contender", help=f"one of {CONTENDERS}, or {PREDICTING} and one of engines.ENGINES")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--remat", default="dots")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    # Output of libraries goes to stderr; the pipe is for responses only.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if arguments.threads:  # before libraries start threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    try:
        name: str = arguments.contender
        if name.startswith(PREDICTING):
            load = _import_predicting(arguments)
        else:
            load = _import_ours(arguments) if name.startswith("ours") else _import_torch(arguments)
        _say(answers, {})
        _answer(load, answers)
    except Exception as error:
        traceback.print_exc()
        _say(answers, {"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=answers, flush=True)


def _import_ours(arguments: argparse.Namespace) -> Callable[[], Any]:
    """Imports the modules of the training command."""
    from mpafer_jax.runtime import without_torch

    importlib.import_module("mpafer_jax.jobs.train")
    without_torch.prefer()
    from tests.bench import problem
    from tests.bench.jax_contender import JaxContender

    plain_products = arguments.contender == "ours_plain_products"
    return lambda: JaxContender(problem.read(arguments.folder), remat=arguments.remat, plain_products=plain_products)


def _import_torch(arguments: argparse.Namespace) -> Callable[[], Any]:
    import torch

    from tests.bench import problem
    from tests.bench.torch_contender import TorchContender

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return lambda: TorchContender(problem.read(arguments.folder), compiled=arguments.contender == "compiled")


def _import_predicting(arguments: argparse.Namespace) -> Callable[[], Any]:
    from tests.bench.engines import Predicting

    return lambda: Predicting(arguments.folder, arguments.contender.removeprefix(PREDICTING))


def _answer(load: Callable[[], Any], answers: TextIO) -> None:
    from tests.bench import timing

    contender: Any = None
    calls: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        match question["do"]:
            case "load":
                contender = load()
                calls = dict(contender.calls())
                answer = {"device": contender.device, "bfloat16_unit": getattr(contender, "bfloat16_unit", "")}
            case "check":
                import numpy as np

                np.savez(question["path"], allow_pickle=False, **contender.check())
                answer = {}
            case "time":
                answer = {"seconds": timing.time_block(calls[question["measure"]], question["calls"])}
            case "flops":
                answer = {"flops": contender.flops()}
            case "peak_memory":
                answer = {"bytes": contender.peak_memory()}
            case unknown:
                raise ValueError(f"unknown question {unknown!r}")
        _say(answers, answer)


if __name__ == "__main__":
    main()
