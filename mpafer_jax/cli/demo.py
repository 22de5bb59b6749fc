"""`mpafer-jax demo`: a page in the browser."""

from __future__ import annotations

import argparse
import contextlib

from mpafer_jax.cli.parser import several
from mpafer_jax.cli.runner import CHECKPOINT, CLIP, WHICH, argument, command, number, refuse_idle
from mpafer_jax.runtime import signals


@command(
    "demo",
    CHECKPOINT,
    WHICH,
    CLIP,
    argument("--bank", default="expressions", help="descriptions that are ranked (name or path; none: none are)"),
    argument("--faces", choices=("detect", "none"), default="detect", help="none: every image is a face"),
    argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets everybody on the network in"),
    argument(
        "--allowed_hosts",
        type=several(),
        default=(),
        metavar="NAMES",
        help="names under which browsers reach it, besides the host's own, with commas (behind another server, say)",
    ),
    number("--port", 0, default=0, help="of the address; 0: the first free one from 7860 on (default)"),
)
def demo(arguments: argparse.Namespace) -> None:
    """A page for trying a model: drop a photo or use the camera.

        mpafer-jax demo
        mpafer-jax demo --checkpoint=runs/rafdb

    Needs the extra `demo`. Without --checkpoint the model is one that ships with the package, for photographs. The page
    is served to this machine alone (127.0.0.1) unless --host says otherwise, loads nothing from anywhere, and reports
    to nobody. Ctrl-C ends it.
    """
    from mpafer_jax.artifacts import checkpoints, shipped
    from mpafer_jax.faces.detect import Detector
    from mpafer_jax.faces.finder import FaceFinder
    from mpafer_jax.inference import Predictor
    from mpafer_jax.inference.demo import page
    from mpafer_jax.inference.demo.answer import BATCH_SIZES, MOST_FACES, Answerer
    from mpafer_jax.method.hard_prompts.bank import bank_of_option
    from mpafer_jax.runtime import compilation_cache

    compilation_cache.enable()
    if checkpoints.holds_one(arguments.checkpoint):
        refuse_idle(arguments, {"--which": checkpoints.SEVERAL})
    page.import_gradio()  # before a model is loaded for nothing
    page.check_address(arguments.host, arguments.port)
    bank = bank_of_option(arguments.bank)
    detector = Detector() if arguments.faces == "detect" else None
    predictor = Predictor.from_checkpoint(
        arguments.checkpoint, which=arguments.which, clip=arguments.clip, batch_sizes=BATCH_SIZES, calibrated=None
    )
    faces = detector and FaceFinder(detector, which=MOST_FACES + 1, margin=predictor.trained_on.face_margin)
    answerer = Answerer(predictor, bank, faces)
    answerer.warm_up()
    model = shipped.in_words(arguments.checkpoint) if arguments.checkpoint in shipped.PROMPTS else ""
    blocks = page.build(
        answerer,
        finds_faces=faces is not None,
        trained_on=predictor.trained_on,
        model=model,
        patch_maps=shipped.PATCH_MAPS.get(arguments.checkpoint, ""),
    )
    with (
        contextlib.suppress(signals.Preempted),
        signals.listening(),
        signals.orderly(on_end=page.forget),
    ):
        url = page.serve(blocks, host=arguments.host, port=arguments.port, allowed_hosts=arguments.allowed_hosts)
        print(f"{url} (Ctrl-C ends it)", flush=True)
        signals.wait()
    blocks.close()
