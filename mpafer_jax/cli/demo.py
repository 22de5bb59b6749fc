"""A page for trying a model: drop a photo or use the camera.

    python -m mpafer_jax.cli.demo runs/rafdb

Needs the extras `demo` and, to find faces, `faces`. The page is served to this machine alone (127.0.0.1) unless --host
says otherwise, loads nothing from anywhere, and reports to nobody. Exit status 2: it was not served, the message says
why.
"""

# argparse, as the command for images: the checkpoint is an argument here.

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import argparse
import contextlib
import sys
from collections.abc import Sequence

from absl import logging

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.cli import options, runner, usage
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.demo import page
from mpafer_jax.inference.demo.answer import Answerer
from mpafer_jax.inference.faces import FaceFinder
from mpafer_jax.runtime import preemption
from mpafer_jax.runtime.errors import CheckpointError, PromptError

_USER_ERRORS = (CheckpointError, PromptError, PromptError, ModuleNotFoundError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until SIGINT or SIGTERM; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if checkpoints.holds_one(arguments.checkpoint):
        options.refuse_idle(parser, argv, {"--which": checkpoints.SEVERAL})
    with parser.console(arguments):
        return _serve(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    try:
        page.import_gradio()  # before a model is loaded for nothing
        faces = FaceFinder() if arguments.faces == "detect" else None
        predictor = Predictor.from_checkpoint(
            arguments.checkpoint, which=arguments.which, clip=arguments.clip, batch_sizes=(1,)
        )
        answerer = Answerer(predictor, arguments.bank, faces)
        answerer.warm_up()
        blocks = page.build(answerer, finds_faces=faces is not None, trained_on=predictor.trained_on)
        with (
            contextlib.suppress(preemption.Preempted),
            preemption.listening(),
            preemption.orderly(at_once=page.forget),
        ):
            url = page.serve(blocks, host=arguments.host, port=arguments.port, allowed_hosts=arguments.allowed_hosts)
            print(f"{url} (Ctrl-C ends it)", flush=True)
            preemption.wait()
        blocks.close()
    # Mistakes of the user's: the message says all there is to say, a traceback would bury it.
    except _USER_ERRORS as error:
        logging.error("%s: %s", type(error).__name__, error)
        return usage.MISTAKE
    return 0


def _parser() -> usage.Parser:
    parser = usage.Parser(prog="python -m mpafer_jax.cli.demo", description=__doc__ or "")
    add = parser.add_argument
    add("checkpoint", help="a run's workdir, its checkpoints folder, one step_N folder, or exported prompts")
    add("--which", choices=("best", "last"), default="best", help="of a run's checkpoints")
    add("--clip", default="", help="where the checkpoint's CLIP is now, if not where it was")
    add("--bank", default="expressions", help="descriptions that are ranked (name or path)")
    add("--faces", choices=("detect", "none"), default="detect", help="none: every image is a face")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets everybody on the network in")
    add(
        "--allowed_hosts",
        type=lambda text: tuple(name.strip() for name in text.split(",") if name.strip()),
        default=(),
        metavar="NAMES",
        help="names under which browsers reach it, besides the host's own, with commas (behind another server, say)",
    )
    add("--port", type=int, default=0, help="of the address; 0: the first free one from 7860 on (default)")
    return parser


if __name__ == "__main__":
    runner.import_libraries_without_torch()
    with preemption.ending():
        sys.exit(main())
