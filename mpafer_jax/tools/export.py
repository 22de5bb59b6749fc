"""Exports a trained checkpoint: its prompts alone, or the whole predictor as a program.

    python -m mpafer_jax.tools.export runs/rafdb --to=prompts --out=exported
    python -m mpafer_jax.tools.export runs/rafdb --to=prompts,stablehlo,onnx --out=exported

prompts    one safetensors file of some hundred kilobytes, which is read wherever a workdir is
stablehlo  pictures in, probabilities out, for any program that has JAX: neither Flax nor this package is needed
onnx       the same for ONNX Runtime; needs the package jax2onnx (docs/export.md)

Every form is read back, compared with the checkpoint on drawn faces, and timed; beside them lies a card (README.md) that
says what they are, with checksums. The checkpoint is a workdir, its `checkpoints` folder, or one `step_N` folder.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np
from absl import app, flags

from mpafer_jax import checkpoint, command
from mpafer_jax.checkpoint import CheckpointError, Description
from mpafer_jax.export import card, check, onnx, programs
from mpafer_jax.export.prompts import save_prompts
from mpafer_jax.prediction import Predictor

_TO = flags.DEFINE_list("to", ["prompts"], "Forms, with commas between them: prompts, stablehlo, onnx.")
_OUT = flags.DEFINE_string("out", None, "Folder for the files.")
_WHICH = flags.DEFINE_enum("which", "best", ["best", "last"], "Of a workdir's checkpoints.")
_CLIP = flags.DEFINE_string("clip", "", "Where the CLIP is now, if no longer where the checkpoint says.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "Pictures of one call of a program; 0: any number.", lower_bound=0)
_PLATFORMS = flags.DEFINE_list("platforms", ["cpu", "cuda", "tpu"], "StableHLO: what it is to run on.")
_WEIGHTS = flags.DEFINE_enum(
    "weights", "beside", ["beside", "inside"], "StableHLO: weights in a file of their own, or in the program's."
)
_FORMS = ("prompts", "stablehlo", "onnx")
_PRIVATE = (("data", "dir"), ("data", "prepared_dir"), ("clip", "cache_dir"))  # paths of this machine
_CHECKED = 8  # pictures


class UsageError(ValueError):
    """Flags that do not go together; the message says which."""


def export(path: str, forms: list[str], out: pathlib.Path) -> dict[str, check.Check]:
    """Writes the forms and the card; returns how each compared.

    Raises:
      CheckpointError: no checkpoint, or its CLIP is not there.
      CheckError: a form does not give the checkpoint's numbers.
      ModuleNotFoundError: the converter to ONNX is not installed.
    """
    params, description, step = checkpoint.load(path, cast(Any, _WHICH.value))
    description = without_paths(description)
    checks: dict[str, check.Check] = {}
    details: dict[str, Any] = {}
    if "prompts" in forms:
        save_prompts(out, params, description.model_dump(mode="json"), step)
        checks["prompts"] = _check_prompts(out, params)
    if set(forms) - {"prompts"}:
        onnx.check_installed("onnx" in forms)
        predictor = Predictor.from_checkpoint(path, which=cast(Any, _WHICH.value), clip=str(_CLIP.value))
        found, size = programs.program(predictor), int(_BATCH_SIZE.value or 0)
        details = {"batch": size or "any number", "size": found.image_size, "beside": _WEIGHTS.value == "beside"}
        readers: dict[str, Callable[[], check.Run]] = {}
        if "stablehlo" in forms:
            programs.save_stablehlo(
                out,
                found,
                batch_size=size,
                platforms=cast(list[str], _PLATFORMS.value),
                weights_inside=_WEIGHTS.value == "inside",
            )
            readers["stablehlo"] = lambda: programs.load_stablehlo(out)
        if "onnx" in forms:
            onnx.save_onnx(out, found, batch_size=size)
            readers["onnx"] = lambda: onnx.load_onnx(out)
        pixels = check.drawn_faces(size or _CHECKED, found.image_size)
        reference = _reference(found)
        for form, reader in readers.items():
            dtype = description.config["clip"]["dtype"]
            checks[form] = check.compare(reader(), reference, pixels, dtype=dtype, device=_device())
    card.write_card(
        out,
        description=description,
        step=step,
        results=_results(pathlib.Path(path), step),
        checks=checks,
        checksums={file.name: _sha256(file) for file in sorted(out.iterdir()) if file.name != card.CARD},
        program=details,
    )
    return checks


def without_paths(description: Description) -> Description:
    """The description without the folders of the machine that trained: they help nobody else, and say too much."""
    config = json.loads(json.dumps(description.config))
    for section, field in _PRIVATE:
        config[section][field] = ""
    return description.model_copy(update={"config": config})


def _check_prompts(out: pathlib.Path, params: Mapping[str, Any]) -> check.Check:
    again, _, _ = checkpoint.load(out, "best")
    if again.keys() != params.keys() or any(not np.array_equal(again[name], params[name]) for name in params):
        raise check.CheckError(f"the prompts in {out} are not the checkpoint's; the disk may be damaged")
    return check.Check(pictures=0)


def _reference(found: programs.Program) -> check.Run:
    """The predictor, compiled here."""
    call: Any = jax.jit(found.call)
    weights = jax.device_put(found.weights)

    def run(pixels: check.Pixels) -> dict[str, Any]:
        return {name: np.asarray(value) for name, value in call(weights, pixels).items()}

    return run


def _results(path: pathlib.Path, step: int) -> dict[str, Any] | None:
    """Of the workdir's summary, what was measured of this very checkpoint."""
    summary = path / "summary.json"
    if not summary.is_file():
        return None
    found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    for which in ("best", "last"):
        if which in found and found[which]["step"] == step:
            return {split: found[which][split] for split in ("validation", "test") if split in found[which]}
    return None


def _device() -> str:
    return str(cast(Any, jax.devices()[0]).device_kind)


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(argv: list[str]) -> None:
    """Exports and says what was written and how it compared."""
    if len(argv) != 2:
        raise app.UsageError(f"name one checkpoint, found {argv[1:]}")
    command.show_own_log_lines()
    out, forms = pathlib.Path(str(_OUT.value)), [form.strip() for form in _TO.value or []]
    try:
        if unknown := sorted(set(forms) - set(_FORMS)):
            raise UsageError(f"--to names {', '.join(unknown)}; the forms are {', '.join(_FORMS)}")
        command.import_libraries_without_torch()
        checks = export(argv[1], forms, out)
    except (UsageError, CheckpointError, ModuleNotFoundError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    except check.CheckError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    for form, found in checks.items():
        print(f"{form}: {found.sentence()}")
    for file in sorted(out.iterdir()):
        print(f"{file}  {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    app.run(main)
