"""`mpafer-jax export`: a checkpoint for elsewhere."""

from __future__ import annotations

import argparse

from mpafer_jax.cli.parser import UsageError, several
from mpafer_jax.cli.runner import ANY_CHECKPOINT, CLIP, WHICH, argument, command, number, path, refuse_idle

_FORMS = ("prompts", "stablehlo", "onnx")


@command(
    "export",
    argument("checkpoint", help=ANY_CHECKPOINT),
    argument(
        "--to",
        type=several(_FORMS),
        default=("prompts",),
        metavar="FORMS",
        help=f"of {', '.join(_FORMS)}; with commas",
    ),
    path(
        "--out",
        required=True,
        metavar="DIR",
        help="folder for the files, new or empty",
    ),
    WHICH,
    CLIP,
    number("--batch_size", 0, default=0, help="images of one call of a program; 0: any number (default)"),
    argument(
        "--platforms",
        type=several(("cpu", "cuda", "rocm", "tpu")),
        default=("cpu", "cuda", "tpu"),
        help="what StableHLO is to run on",
    ),
    argument(
        "--weights",
        choices=("beside", "inside"),
        default="beside",
        help="of StableHLO: in a file of their own (default), or in the program's",
    ),
)
def export(arguments: argparse.Namespace) -> None:
    """Exports a checkpoint: its prompts alone, or the whole predictor as a program.

        mpafer-jax export runs/rafdb --to=prompts --out=exported
        mpafer-jax export runs/rafdb --to=prompts,stablehlo,onnx --out=exported_all

        prompts    one safetensors file of some hundred kilobytes, which is read wherever a workdir is
        stablehlo  images in, probabilities out, for any program that has JAX: neither Flax nor this package is needed
        onnx       the same for ONNX Runtime; needs the package jax2onnx (docs/export.md)

    Every form is read back, compared with the checkpoint on drawn faces, and timed; beside them lies a card (README.md)
    that says what they are, with checksums.

    Exit code 1: a form does not give the checkpoint's numbers, and nothing was written.
    """
    from mpafer_jax.artifacts import checkpoints
    from mpafer_jax.inference.export.programs import default_platform
    from mpafer_jax.inference.export.whole import export
    from mpafer_jax.runtime import console, progress

    idle: dict[str, str] = {"--which": checkpoints.SEVERAL} if checkpoints.holds_one(arguments.checkpoint) else {}
    if "stablehlo" not in arguments.to:
        idle |= dict.fromkeys(("--platforms", "--weights"), "--to=stablehlo")
        if "onnx" not in arguments.to:
            idle["--batch_size"] = "--to=stablehlo or --to=onnx"
    refuse_idle(arguments, idle)
    if "stablehlo" in arguments.to and (here := default_platform()) not in arguments.platforms:
        raise UsageError(
            f"--platforms={','.join(arguments.platforms)}: what is exported is read back and compared on this machine; "
            f"add {here}"
        )
    with progress.task("exporting"):
        checks = export(
            arguments.checkpoint,
            arguments.to,
            arguments.out,
            which=arguments.which,
            clip=arguments.clip,
            batch_size=arguments.batch_size,
            platforms=arguments.platforms,
            weights_inside=arguments.weights == "inside",
        )
    for form, found in checks.items():
        console.line(f"{form}: {found.sentence()}")
    for file in sorted(arguments.out.iterdir()):
        console.line(f"{file}  {file.stat().st_size:,} bytes")
