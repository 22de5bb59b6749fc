"""The model card of exported files: contents, origin, usage, limits."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.evaluation.protocol import TEST_SELECTED, method_name
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.faces import alignment
from mpafer_jax.inference.export.check import Check
from mpafer_jax.runtime import files, templates

CARD = "README.md"


def write_card(
    folder: pathlib.Path,
    *,
    folder_name: str,
    description: Description,
    step: int,
    confidence: Confidence | None,
    results: Mapping[str, Any] | None,
    unit: str,
    chosen_on_test: bool,
    checks: Mapping[str, Check],
    checksums: Mapping[str, str],
    program: Mapping[str, Any],
) -> None:
    """Writes README.md.

    Args:
      folder: of the exported files.
      folder_name: its final name.
      description: of the checkpoint.
      step: of the checkpoint.
      confidence: of the checkpoint.
      results: split -> its 'war', 'uar' and 'count', if known.
      unit: what those count, "images" or "clips".
      chosen_on_test: whether the test split chose the checkpoint.
      checks: form ("prompts", ..) -> its comparison with the checkpoint.
      checksums: file -> SHA-256.
      program: 'batch', 'size', 'beside' (whether the weights are in a separate file), and 'outputs', of
        `programs.outputs`.
    """
    scores = [
        [split, f"{100 * r['war']:.2f}", f"{100 * r['uar']:.2f}", str(r["count"])]
        for split, r in (results or {}).items()
    ]
    environment = templates.environment("mpafer_jax.inference.export", html=False)
    text = environment.get_template("card.md").render(
        folder_name=folder_name,
        method=method_name(flatten(description.config)),
        description=description,
        step=step,
        confidence=confidence,
        results=markdown(("split", "accuracy, %", "UAR, %", unit), scores) if scores else "",
        chosen_on_test=chosen_on_test,
        test_selected=TEST_SELECTED,
        checks=checks,
        checksums=checksums,
        program=program,
        crop=alignment.describe_targets(program["size"], description.trained_on.face_margin) if program else "",
    )
    files.write_text(folder / CARD, text)
