"""The model card of exported files: contents, origin, usage, limits."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mpafer_jax.artifacts.description import Description
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.evaluation.protocol import TEST_SELECTED, method_name
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.inference.export.check import Check
from mpafer_jax.runtime import files

CARD = "README.md"

_USE = {
    "prompts": """\
```python
from mpafer_jax.inference import Predictor

predictor = Predictor.from_checkpoint("{folder}")  # clip="..." where the CLIP lies elsewhere now
print(predictor.predict("face.jpg").to_dict())
```

`--mode=eval --config.eval.checkpoint={folder}` evaluates them, `--config.train.warm_start={folder}` starts from them.
""",
    "stablehlo": """\
Needs the packages jax, flatbuffers and safetensors.

```python
import pathlib

import jax.export
import safetensors.numpy

program = jax.export.deserialize(bytearray(pathlib.Path("predictor.stablehlo").read_bytes()))
{call}
```

{images}
""",
    "onnx": """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("predictor.onnx")
logits, probabilities = session.run(["logits", "probabilities"], {{"pixels": pixels}})
```

{images}
""",
}
_IMAGES = """\
Images are uint8[{batch}, {size}, {size}, 3], RGB, faces that fill them, resized to {size} x {size} (bicubic,
antialiased); normalisation is part of the program."""
_CALLS = {
    True: """\
weights = safetensors.numpy.load_file("weights.safetensors")
outputs = program.call(weights, pixels)""",
    False: "outputs = program.call(pixels)",
}
_LIMITS = """\
These are guesses at which of the listed expressions a face shows, not at what a person feels, thinks or intends: faces
move for many reasons. They were learnt from the data named above, with its labels' errors and its share of ages, skins
and lights, and are wrong most often where people differ from it. Do not use them to judge people; in some places, at
work and in schools among them, the law forbids it.
"""


def write_card(
    folder: pathlib.Path,
    *,
    folder_name: str,
    description: Description,
    step: int,
    results: Mapping[str, Any] | None,
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
      results: split -> its 'war', 'uar' and 'count', if known.
      chosen_on_test: whether the test split chose the checkpoint.
      checks: form ("prompts", ..) -> its comparison with the checkpoint.
      checksums: file -> SHA-256.
      program: 'batch', 'size' and 'beside' (whether the weights are in a separate file).
    """
    names = ", ".join(description.class_names)
    method = method_name(flatten(description.config))
    title = f"# Facial expressions by {method}: {len(description.class_names)} classes\n"
    lines = [title, f"Classes, in this order: {names}.\n"]
    facts = [
        ["CLIP", f"{description.clip_name}, content hash {description.clip_hash}"],
        ["what it has seen", str(description.trained_on)],
        ["label rule", description.data["label_rule"]],
        ["checkpoint", f"step {step}"],
        ["made with", ", ".join(f"{name} {version}" for name, version in description.versions.items())],
    ]
    lines.append(_table(("", ""), facts))
    if warning := description.trained_on.warning:
        lines.append(f"**{warning[0].upper()}{warning[1:]}.**\n")
    if results:
        scores = [
            [split, f"{100 * r['war']:.2f}", f"{100 * r['uar']:.2f}", str(r["count"])] for split, r in results.items()
        ]
        lines += ["## Results\n", markdown(("split", "accuracy, %", "UAR, %", "images"), scores)]
    if chosen_on_test:
        lines.append(f"**{TEST_SELECTED}**\n")
    for form, check in checks.items():
        images = _IMAGES.format(**program) if form != "prompts" else ""
        use = _USE[form].format(folder=folder_name, call=_CALLS[bool(program.get("beside"))], images=images)
        lines += [f"## {_TITLES[form]}\n", use, f"{check.sentence()}\n"]
    lines += ["## Hard prompts\n", "The texts that the soft prompts were pulled towards.\n"]
    for index, name in enumerate(description.class_names):
        lines += [f"- {name}: " + " / ".join(description.hard_prompts.of_class(index))]
    lines += ["\n## What it is not for\n", _LIMITS, "## Files\n"]
    lines += [_table(("file", "SHA-256"), [[name, f"`{value}`"] for name, value in checksums.items()])]
    files.write_text(folder / CARD, "\n".join(lines))


_TITLES = {"prompts": "Prompts", "stablehlo": "Program (StableHLO)", "onnx": "Program (ONNX)"}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned left."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
