"""Error hints: what a path without a checkpoint holds, and what to give instead."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from itertools import islice

from mpafer_jax.artifacts.run_dir import CONFIG
from mpafer_jax.backbones import files as weights_files
from mpafer_jax.data.preprocess import IMAGE_SUFFIXES
from mpafer_jax.runtime import metric_writer

_A_CLIP = "a CLIP, which is not trained on expressions: predict with --zero_shot and --clip"
_PROGRAMS = (".stablehlo", ".onnx")
_LOOKED_AT = 1000  # files listed of a folder, which may hold any number
_RUNS_BELOW = ("*", "*/*", "*/*/*")  # a sweep's runs are at POINT/seed_N or TABLE/POINT/seed_N


def what_is_there(path: pathlib.Path, checkpoints: str) -> str:
    """A clause on the content of a path without a checkpoint, and what to give instead.

    `path` is on a disk or in a bucket; `checkpoints` is the name of a workdir's folder of checkpoints.
    """
    if path.is_file():
        if weights_files.looks_like_clip(path):
            return f"it looks like {_A_CLIP}"
        return "it is a file: give its folder"
    if not path.is_dir():
        if path.parent.name == checkpoints and path.parent.is_dir():
            return f"there is no such folder, but {', '.join(sorted(p.name for p in path.parent.iterdir())) or 'none'}"
        if "clip" in path.name.lower():
            return "there is no such folder; a CLIP without a checkpoint predicts with --zero_shot and --clip"
        return "there is no such folder"
    names = {entry.name for entry in islice(path.iterdir(), _LOOKED_AT)}
    suffixes = {pathlib.PurePath(name).suffix.lower() for name in names}
    if not names:
        return "the folder is empty"
    if path.parent.parent.name == checkpoints:  # a part of a step
        return f"it is a part of a checkpoint: give {path.parent}"
    if weights_files.looks_like_clip(path):
        return f"it looks like {_A_CLIP}"
    if suffixes.intersection(_PROGRAMS):
        return "it looks like an exported program, for other software to run: give the run's workdir, or export prompts"
    runs = (match.parent for below in _RUNS_BELOW for match in path.glob(f"{below}/{checkpoints}"))
    if run := next(iter(runs), None):
        return f"it looks like a folder of runs, of a sweep perhaps: give one of them, such as {run}"
    if checkpoints in names or path.name == checkpoints or _of_a_run(names):
        return "it looks like a run that has saved none yet: the same command resumes with it"
    if suffixes & IMAGE_SUFFIXES:
        return "there are images, which predict takes without a flag"
    return "there is no checkpoint in that folder"


def _of_a_run(names: Iterable[str]) -> bool:
    return {CONFIG, metric_writer.LINES} <= set(names)
