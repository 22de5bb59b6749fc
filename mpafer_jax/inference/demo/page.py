"""The page itself, with Gradio (extra `demo`): served to the own machine, and asking nothing of any other."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import functools
import importlib
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.config import redaction
from mpafer_jax.evaluation import overlay
from mpafer_jax.evaluation.report.images import data_uri
from mpafer_jax.inference.demo.answer import Answer, Answerer
from mpafer_jax.inference.demo.guard import Guard, Hosts
from mpafer_jax.runtime.errors import ImageError

_LARGEST_FILE = "32mb"
_PHOTO_SECONDS = 60  # seconds after which a photo is deleted
# Parameters of malloc.h, and what they are set to.
_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 20  # bytes from which on a block is the system's own
_M_ARENA_MAX, _HEAPS = -8, 2
_SESSIONS = 16  # whose state Gradio keeps; the page has none
_FONT = ["system-ui", "sans-serif"]  # by default Gradio's themes ask Google for theirs
_REGIONS = {"holistic": "whole face"}
_ABOUT = """\
Drop a photo, paste one, or take one with the camera. It goes to the program that serves this page and no further, and
is deleted within minutes.

What is shown is which of the listed expressions a face resembles, as a model guesses it, not what a person feels.
"""


def import_gradio() -> Any:
    """Gradio, told to send nothing."""
    # Read when it is imported; what the user has set otherwise is overruled, since the page promises it.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(_folder())
    try:
        return importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the page needs {error.name}; install it with: pip install -e '.[demo]'") from error


@functools.cache
def _folder() -> Path:
    """Where photos lie for a while: a folder of its own, in what GRADIO_TEMP_DIR names, which others may use too."""
    parent = os.environ.get("GRADIO_TEMP_DIR") or None
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="mpafer-demo-", dir=parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def forget() -> None:
    """Deletes what of the visitors' photos lies on the disk."""
    shutil.rmtree(_folder(), ignore_errors=True)


def build(answerer: Answerer, *, finds_faces: bool, trained_on: TrainedOn | None = None) -> Any:
    """The page as Gradio blocks.

    Args:
      answerer: answers.
      finds_faces: whether it looks for faces, so that one may ask it not to.
      trained_on: what the model has seen; None to say nothing of it.
    """
    gr = import_gradio()

    def show(path: str | None, whole: bool) -> tuple[Any, ...]:
        if path is None:
            return None, "", ""
        if not Path(path).exists():
            raise gr.Error("The photo was deleted already; send it again.", print_exception=False)
        try:
            answer = answerer.answer(Path(path), whole=whole)
        except ImageError as error:
            raise gr.Error(f"This is no image that can be read: {error}", print_exception=False) from error
        note = f"**{answer.note}**" if answer.note else ""
        return answer.probabilities, note, explanation(answer)

    with gr.Blocks(title="MPA-FER", analytics_enabled=False) as page:
        gr.Markdown(f"# Facial expressions\n\n{_ABOUT}")
        if trained_on is not None:
            gr.Markdown(model_line(trained_on), elem_id="model")
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    label="Photo",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    buttons=[],
                    height=360,
                    elem_id="photo",
                )
                # The file as it came: reading it is our own decoder's matter, which refuses bombs and damage. Gradio's
                # would read it too, and show where it lies to whoever sent what is no image.
                image.preprocess = _path
                whole = gr.Checkbox(label="The image is a face that fills it", value=False, visible=finds_faces)
            with gr.Column():
                note = gr.Markdown(elem_id="note")
                probabilities = gr.Label(
                    label="Probabilities", num_top_classes=len(answerer.class_names), elem_id="probabilities"
                )
        # Images too: Gradio's would have no alternative text, and leave files behind for a while.
        why = gr.HTML(elem_id="explanation")
        outputs = [probabilities, note, why]
        for event in (image.change, whole.change):
            event(show, [image, whole], outputs, api_visibility="private")
    return page


def _path(sent: Any) -> str | None:
    return sent.path if sent else None


def explanation(answer: Answer) -> str:
    """The face, heat maps and phrases as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mpafer_jax.inference.demo"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    maps = [
        (data_uri(image, overlay.TILE), name, answer.probabilities[name]) for name, image in answer.heat_maps.items()
    ]
    phrases = [(text, name, _REGIONS.get(region, region), score) for text, name, region, score in answer.phrases]
    return environment.get_template("explanation.html").render(
        photo=data_uri(answer.photo, None),
        found=answer.face is not None,
        seen=data_uri(answer.seen, None),
        heat_maps=maps,
        phrases=phrases,
    )


def model_line(trained_on: TrainedOn) -> str:
    """What the model has seen, and what is out of its reach, as Markdown; a CLIP in a folder without its place."""
    told = dataclasses.replace(trained_on, clip=redaction.without_place("clip.name", trained_on.clip))
    warning = trained_on.warning
    return f"The model: {told}." + (f"\n\n**{warning[0].upper()}{warning[1:]}.**" if warning else "")


def serve(page: Any, *, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> str:
    """Begins to serve the page, in a thread, and to delete photos, in another.

    Args:
      page: what `build` gave.
      host: the address to listen on; 127.0.0.1 keeps it on this machine.
      port: of the address; 0 for the first free one from 7860 on.
      allowed_hosts: names, besides the host's own, under which browsers may reach it.

    Returns:
      Its address.
    """
    gr = import_gradio()
    middleware: Any = importlib.import_module("starlette.middleware").Middleware
    guard = middleware(Guard, hosts=Hosts(host, allowed_hosts))
    return_large_blocks()
    delete_in_time(_folder(), _PHOTO_SECONDS)
    launched: tuple[Any, str, Any] = page.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        inbrowser=False,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=_LARGEST_FILE,
        state_session_capacity=_SESSIONS,
        theme=gr.themes.Default(font=_FONT, font_mono=_FONT),
        css_paths=[Path(__file__).parent / "templates" / "page.css"],
        app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None, "openapi_url": None},
        prevent_thread_lock=True,
    )
    return launched[1]


def delete_in_time(folder: Path, seconds: float) -> None:
    """Starts a thread that deletes a folder's files, unfinished uploads too, when they are older than `seconds`."""

    def run() -> None:
        while True:
            time.sleep(seconds / 2)
            delete_older(folder, seconds)

    threading.Thread(target=run, name="photos", daemon=True).start()


def delete_older(folder: Path, seconds: float) -> None:
    """Deletes the files under a folder that were last written to so long ago, and the folders that are left empty."""
    limit = time.time() - seconds
    for root, _, names in os.walk(folder, topdown=False):
        for path in (Path(root, name) for name in names):
            with contextlib.suppress(OSError):  # gone already, or being moved
                if path.lstat().st_ctime < limit:
                    path.unlink()
        with contextlib.suppress(OSError):  # holds something
            if Path(root) != folder and os.lstat(root).st_ctime < limit:
                Path(root).rmdir()


def return_large_blocks() -> None:
    """Has the C library give a large block back to the system as soon as it is freed.

    glibc does so at first, but once a block of up to 32 MB was freed it keeps blocks of that size, in as many heaps as
    threads have asked for some: with photos of a dozen megapixels, decoded by one thread or another, the process grows
    to gigabytes of which nothing is in use. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_ARENA_MAX, _HEAPS)
