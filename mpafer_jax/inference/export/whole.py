"""Exports a checkpoint atomically and compares each form with it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from mpafer_jax.artifacts import checkpoints, run_dir
from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.prompt_file import save_prompts
from mpafer_jax.config import redaction
from mpafer_jax.evaluation import protocol
from mpafer_jax.inference.export import card, check, onnx, programs
from mpafer_jax.inference.predictor import Predictor
from mpafer_jax.runtime import locks
from mpafer_jax.runtime.errors import ExportError

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
    """Writes the forms and the model card; returns the comparison of each form with the checkpoint.

    Args:
      path: of the checkpoint, see `checkpoints.load`.
      forms: of "prompts", "stablehlo" and "onnx".
      out: folder for the files, new or empty.
      which: of several checkpoints.
      clip: the checkpoint's CLIP, if it has moved; '' for its recorded name.
      batch_size: images of one call of a program; 0 for any number.
      platforms: of StableHLO.
      weights_inside: whether StableHLO contains the weights.

    Raises:
      CheckpointError: the checkpoint or its CLIP is missing.
      ExportError: the run's summary is damaged, JAX has no CPU to compare ONNX on, or a form does not reproduce the
        checkpoint's numbers.
      FileExistsError: the folder is not empty.
      LockedError: another process exports there.
      ModuleNotFoundError: the converter to ONNX is not installed.
    """
    if "onnx" in forms:
        onnx.import_packages()  # fails before anything is written, as does the next
        onnx.device()
    checks: dict[str, check.Check] = {}
    details: dict[str, Any] = {}
    with _whole(out) as folder:
        params, description, step = checkpoints.load(path, which)
        loaded = checkpoints.folder(path, step)  # a run that still trains may have another best or last one later
        description, confidence = redacted(description), Confidence.load(loaded, params)
        if "prompts" in forms:
            last = checkpoints.is_last(path, which, description)
            save_prompts(folder, params, description.model_dump(mode="json"), step, last_step=last)
            if confidence is not None:
                confidence.save(folder, params)
            checks["prompts"] = _check_prompts(folder, params)
        if set(forms) - {"prompts"}:
            found = programs.program(Predictor.from_checkpoint(loaded, clip=clip))
            details = {
                "batch": batch_size or "any number",
                "size": found.image_size,
                "beside": not weights_inside,
                "outputs": programs.outputs(found),
            }
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
            dtype = description.config["clip"]["dtype"]
            reference = functools.cache(functools.partial(_compiled, found))  # by device, which forms may share
            for form, reader in readers.items():
                device: Any = onnx.device() if form == "onnx" else cast(Any, jax.devices()[0])
                checks[form] = check.compare(
                    reader(), reference(device), pixels, dtype=dtype, device=device.device_kind
                )
        summary = _summary(checkpoints.place(path), step)
        card.write_card(
            folder,
            folder_name=out.resolve().name,  # "." and ".." name nothing
            description=description,
            step=step,
            confidence=confidence,
            results=_results(summary, step),
            unit=protocol.unit(summary),
            chosen_on_test=checkpoints.chosen_on_test(path, which, description),
            checks=checks,
            checksums={file.name: _sha256(file) for file in sorted(folder.iterdir())},
            program=details,
        )
    return checks


@contextlib.contextmanager
def _whole(out: Path) -> Generator[Path]:
    """Yields a folder in `out`, whose files move to `out` if the block succeeds, and are deleted if not."""
    out = out.absolute()  # "." has no name
    with locks.hold(out.with_name(f"{out.name}.lock"), out), contextlib.ExitStack() as stack:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FileExistsError(f"{out} exists already; an export goes into a new or empty folder only")
        if not out.exists():
            out.mkdir(parents=True)
            stack.callback(_remove_if_empty, out)
        with tempfile.TemporaryDirectory(prefix=".incomplete-", dir=out) as folder:
            yield Path(folder)
            for file in Path(folder).iterdir():
                file.rename(out / file.name)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def redacted(description: Description) -> Description:
    """The description with local paths redacted."""
    return description.model_copy(
        update={
            "config": redaction.redact(description.config),
            "clip_name": redaction.redact_value("clip.name", description.clip_name),
        }
    )


def _check_prompts(out: Path, params: Mapping[str, Any]) -> check.Check:
    again, _, _ = checkpoints.load(out, "best")
    if again.keys() != params.keys() or any(not np.array_equal(again[name], params[name]) for name in params):
        raise ExportError(f"the prompts in {out} are not the checkpoint's; the disk may be damaged")
    return check.Check(images=0)


def _compiled(found: programs.Program, device: Any) -> check.Run:
    """The predictor's function, with its weights on the device, which is where it runs."""
    call: Any = jax.jit(found.call)
    weights = jax.device_put(found.weights, device)

    def run(pixels: check.Pixels) -> dict[str, Any]:
        return {name: np.asarray(value) for name, value in call(weights, pixels).items()}

    return run


def _summary(path: Path, step: int) -> dict[str, Any]:
    """The workdir's summary; empty if there is none."""
    summary = path / run_dir.SUMMARY
    if not summary.is_file():
        return {}
    try:
        return json.loads(summary.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(
            f"{summary}, whose results the model card shows, is not JSON ({error}); put it back, or name the "
            f"checkpoint itself ({run_dir.CHECKPOINTS}/{run_dir.STEP}_{step}), which is exported without results"
        ) from error


def _results(summary: Mapping[str, Any], step: int) -> dict[str, Any] | None:
    """The results of this checkpoint in the summary."""
    for which in ("best", "last"):
        if which in summary and summary[which]["step"] == step:
            return {split: summary[which][split] for split in ("validation", "test") if split in summary[which]}
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
