"""Exports a trained checkpoint: its prompts alone, or the whole predictor as a program.

    python -m mpafer_jax.cli.export runs/rafdb --to=prompts --out=exported
    python -m mpafer_jax.cli.export runs/rafdb --to=prompts,stablehlo,onnx --out=exported

    prompts    one safetensors file of some hundred kilobytes, which is read wherever a workdir is
    stablehlo  images in, probabilities out, for any program that has JAX: neither Flax nor this package is needed
    onnx       the same for ONNX Runtime; needs the package jax2onnx (docs/export.md)

Every form is read back, compared with the checkpoint on drawn faces, and timed; beside them lies a card (README.md)
that says what they are, with checksums. The checkpoint is a workdir, its `checkpoints` folder, or one `step_N` folder.
"""

# argparse, and not absl's flags: the checkpoint is an argument here.

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.prompt_file import save_prompts
from mpafer_jax.cli import options, runner, usage
from mpafer_jax.config import redaction
from mpafer_jax.inference import loading
from mpafer_jax.inference.export import card, check, onnx, programs
from mpafer_jax.runtime import console, devices, files, preemption, progress
from mpafer_jax.runtime.errors import CheckpointError, ExportError

FORMS = ("prompts", "stablehlo", "onnx")
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_CHECKED = 8  # images


def export(
    path: str,
    forms: Sequence[str],
    out: Path,
    *,
    which: checkpoints.Which = "best",
    clip: str = "",
    batch_size: int = 0,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    weights_inside: bool = False,
) -> dict[str, check.Check]:
    """Writes the forms and the card.

    Args:
      path: of the checkpoint, see `checkpoint.load`.
      forms: of `FORMS`.
      out: folder for the files, new or empty.
      which: of several checkpoints.
      clip: where the CLIP is now; '' for where the checkpoint says.
      batch_size: images of one call of a program; 0 for any number.
      platforms: on which StableHLO is to run.
      weights_inside: whether StableHLO holds the weights itself.

    Returns:
      How each form compared.

    Raises:
      CheckpointError: no checkpoint, or its CLIP is not there.
      ExportError: a form does not give the checkpoint's numbers.
      FileExistsError: the folder holds something.
      ModuleNotFoundError: the converter to ONNX is not installed.
    """
    if "onnx" in forms:
        onnx.import_packages()  # before anything is written
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; an export goes into a new or empty folder only")
    params, description, step = checkpoints.load(path, which)
    description = without_places(description)
    checks: dict[str, check.Check] = {}
    details: dict[str, Any] = {}
    with _whole(out) as folder:
        if "prompts" in forms:
            save_prompts(folder, params, description.model_dump(mode="json"), step)
            checks["prompts"] = _check_prompts(folder, params)
        if set(forms) - {"prompts"}:
            found = programs.program(loading.from_checkpoint(path, which, clip))
            details = {"batch": batch_size or "any number", "size": found.image_size, "beside": not weights_inside}
            readers: dict[str, Callable[[], check.Run]] = {}
            if "stablehlo" in forms:
                programs.save_stablehlo(
                    folder, found, batch_size=batch_size, platforms=platforms, weights_inside=weights_inside
                )
                readers["stablehlo"] = lambda: programs.load_stablehlo(folder)
            if "onnx" in forms:
                onnx.save_onnx(folder, found, batch_size=batch_size)
                readers["onnx"] = lambda: onnx.load_onnx(folder)
            pixels = check.drawn_faces(batch_size or _CHECKED, found.image_size)
            reference, dtype = _compiled(found), description.config["clip"]["dtype"]
            for form, reader in readers.items():
                checks[form] = check.compare(reader(), reference, pixels, dtype=dtype, device=devices.kind())
        card.write_card(
            folder,
            folder_name=out.name,
            description=description,
            step=step,
            results=_results(files.any_path(path, "the checkpoint"), step),
            chosen_on_test=description.chosen_on_test(which),
            checks=checks,
            checksums={file.name: _sha256(file) for file in sorted(folder.iterdir())},
            program=details,
        )
    return checks


@contextlib.contextmanager
def _whole(out: Path) -> Generator[Path]:
    """Yields a folder in `out`, whose files become those of `out` if the block ends well, and are deleted if not."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=out) as folder:
        yield Path(folder)
        for file in Path(folder).iterdir():
            file.rename(out / file.name)


def without_places(description: Description) -> Description:
    """The description without the places of the machine that trained (`places`)."""
    return description.model_copy(
        update={
            "config": redaction.without_places(description.config),
            "clip_name": redaction.without_place("clip.name", description.clip_name),
        }
    )


def _check_prompts(out: Path, params: Mapping[str, Any]) -> check.Check:
    again, _, _ = checkpoints.load(out, "best")
    if again.keys() != params.keys() or any(not np.array_equal(again[name], params[name]) for name in params):
        raise ExportError(f"the prompts in {out} are not the checkpoint's; the disk may be damaged")
    return check.Check(images=0)


def _compiled(found: programs.Program) -> check.Run:
    """The predictor's own function, with its weights on the device."""
    call: Any = jax.jit(found.call)
    weights = jax.device_put(found.weights)

    def run(pixels: check.Pixels) -> dict[str, Any]:
        return {name: np.asarray(value) for name, value in call(weights, pixels).items()}

    return run


def _results(path: Path, step: int) -> dict[str, Any] | None:
    """Of the workdir's summary, what was measured of this very checkpoint."""
    summary = path / "summary.json"
    if not summary.is_file():
        return None
    found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    for which in ("best", "last"):
        if which in found and found[which]["step"] == step:
            return {split: found[which][split] for split in ("validation", "test") if split in found[which]}
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Exports, says what was written and how it compared; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    idle: dict[str, str] = {"--which": checkpoints.SEVERAL} if checkpoints.holds_one(arguments.checkpoint) else {}
    if "stablehlo" not in arguments.to:
        idle |= dict.fromkeys(("--platforms", "--weights"), "--to=stablehlo")
        if "onnx" not in arguments.to:
            idle["--batch_size"] = "--to=stablehlo or --to=onnx"
    options.refuse_idle(parser, argv, idle)
    with parser.console(arguments):
        return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    try:
        with progress.task("exporting"):
            checks = export(
                arguments.checkpoint,
                arguments.to,
                out,
                which=arguments.which,
                clip=arguments.clip,
                batch_size=arguments.batch_size,
                platforms=arguments.platforms,
                weights_inside=arguments.weights == "inside",
            )
    except (CheckpointError, ModuleNotFoundError, OSError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 2
    except ExportError as error:
        logging.error("%s: %s", type(error).__name__, error)
        return 1
    for form, found in checks.items():
        console.line(f"{form}: {found.sentence()}")
    for file in sorted(out.iterdir()):
        console.line(f"{file}  {file.stat().st_size:,} bytes")
    return 0


def _parser() -> usage.Parser:
    parser = usage.Parser(prog="python -m mpafer_jax.cli.export", description=__doc__ or "")
    add = parser.add_argument
    add("checkpoint", help="a run's workdir, its checkpoints folder, or one step_N folder")
    add("--to", type=_several(FORMS), default=("prompts",), metavar="FORMS", help=f"of {', '.join(FORMS)}; with commas")
    out = files.path_argument("--out")
    add("--out", type=out, required=True, metavar="DIR", help="folder for the files, new or empty")
    add("--which", choices=("best", "last"), default="best", help="of a run's checkpoints")
    add("--clip", default="", help="where the checkpoint's CLIP is now, if not where it was")
    add("--batch_size", type=_count, default=0, help="images of one call of a program; 0: any number (default)")
    add(
        "--platforms",
        type=_several(_PLATFORMS),
        default=("cpu", "cuda", "tpu"),
        help="what StableHLO is to run on (default cpu,cuda,tpu)",
    )
    add(
        "--weights",
        choices=("beside", "inside"),
        default="beside",
        help="of StableHLO: in a file of their own (default), or in the program's",
    )
    return parser


def _several(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)!r} is none of {', '.join(known)}")
        return names

    return parse


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, found {text!r}")
    return int(text)


if __name__ == "__main__":
    runner.import_libraries_without_torch()
    with preemption.ending():
        sys.exit(main())
