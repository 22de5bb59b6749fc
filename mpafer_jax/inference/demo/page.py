"""The demo's web page with Gradio (extra `demo`): local by default, no requests to other servers."""

from __future__ import annotations

import atexit
import base64
import contextlib
import ctypes
import dataclasses
import functools
import importlib
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.config import redaction
from mpafer_jax.evaluation import overlay
from mpafer_jax.evaluation.report.images import data_uri
from mpafer_jax.inference.attribution import Explanation
from mpafer_jax.inference.attribution_sheet import PHRASES, class_tiles
from mpafer_jax.inference.demo.answer import Answer, Answerer, is_sure
from mpafer_jax.inference.demo.guard import Guard, Hosts
from mpafer_jax.inference.results import Prediction
from mpafer_jax.runtime import templates
from mpafer_jax.runtime.errors import ConfigError, ImageError

_LARGEST_FILE = "32mb"
_PHOTO_SECONDS = 60  # seconds after which a photo is deleted
# Parameters of malloc.h, and their values.
_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 20  # bytes from which blocks are allocated by mmap
_M_ARENA_MAX, _HEAPS = -8, 2
_SESSIONS = 16  # whose state Gradio keeps; the page has none
_FONT = ["system-ui", "sans-serif"]  # Gradio's default fonts are loaded from Google
# Gradio reuses a page's elements for the next photo, where a radio button would stay as the visitor left it.
_ON_CHOICE = """
const mark = () => element.querySelectorAll("input").forEach(radio => {
  radio.labels.forEach(label => label.classList.toggle("chosen", radio.checked));
  const item = radio.closest("li"), list = item.parentElement;
  if (radio.checked) list.scrollLeft = item.offsetLeft - (list.clientWidth - item.clientWidth) / 2;
});
const reset = () => {
  element.querySelectorAll("input").forEach(radio => { radio.checked = radio.defaultChecked; });
  mark();
};
new MutationObserver(reset).observe(element, {subtree: true, childList: true, attributeFilter: ["src"]});
element.addEventListener("change", () => { mark(); trigger("select"); });
"""
_CHOSEN = """() => {
  const radio = document.querySelector("#faces input:checked");
  return [{number: radio.value, crop: radio.nextElementSibling.src.split(",")[1]}];
}"""
_REGIONS = {"holistic": "whole face"}
_ABOUT = """\
Drop a photo, paste one, or take one with the camera. It goes to the program that serves this page and no further, and
is deleted within minutes.

What is shown is which of the listed expressions a face resembles, as a model guesses it, not what a person feels.
"""


def import_gradio() -> Any:
    """Imports Gradio with telemetry disabled."""
    # Read on import. Overrides the user's settings, since the page promises privacy.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(_folder())
    try:
        return importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the page needs {error.name}; install it with: pip install -e '.[demo]'") from error


@functools.cache
def _folder() -> Path:
    """Temporary folder of photos, in GRADIO_TEMP_DIR, which other programs may use too."""
    parent = os.environ.get("GRADIO_TEMP_DIR") or None
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="mpafer-demo-", dir=parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def forget() -> None:
    """Deletes visitors' photos."""
    shutil.rmtree(_folder(), ignore_errors=True)


def build(
    answerer: Answerer,
    *,
    finds_faces: bool,
    trained_on: TrainedOn | None = None,
    model: str = "",
    patch_maps: str = "",
) -> Any:
    """The page as Gradio blocks.

    Args:
      answerer: of the model.
      finds_faces: whether to offer to skip detection.
      trained_on: to be shown, if given.
      model: the checkpoint, if visitors may know it.
      patch_maps: what is measured of its heat maps, to be said beside them, if it is known.
    """
    gr = import_gradio()

    def show(path: str | None, whole: bool) -> tuple[str, str]:
        if path is None:
            return "", ""
        if not Path(path).exists():
            raise gr.Error("The photo was deleted already; send it again.", print_exception=False)
        try:
            answer = answerer.answer(Path(path), whole=whole)
        except ImageError as error:
            raise gr.Error(f"This is no image that can be read: {error}", print_exception=False) from error
        number = answer.chosen + 1 if len(answer.predictions) > 1 else 0
        return faces(answer), explanation(answer.explanation, number, patch_maps)

    def choose(chosen: dict[str, str]) -> str:
        return explanation(answerer.explain(base64.b64decode(chosen["crop"])), int(chosen["number"]), patch_maps)

    with gr.Blocks(title="MPA-FER", analytics_enabled=False) as page:
        gr.Markdown(f"# Facial expressions\n\n{_ABOUT}")
        if trained_on is not None:
            gr.Markdown(model_line(trained_on, model), elem_id="model")
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
                # Pass the file through to our decoder, which refuses decompression bombs and damaged files. Gradio's
                # would decode it too, and show its path in errors.
                image.preprocess = _path
                whole = gr.Checkbox(label="The image is a face that fills it", value=False, visible=finds_faces)
            with gr.Column():
                choice = gr.HTML(elem_id="faces", js_on_load=_ON_CHOICE)
        # HTML for images too: Gradio's have no alternative text and leave temporary files.
        why = gr.HTML(elem_id="explanation")
        options = {"api_visibility": "private", "concurrency_id": "model", "trigger_mode": "always_last"}
        for event in (image.change, whole.change):
            event(show, [image, whole], [choice, why], **options)
        choice.select(choose, choice, why, js=_CHOSEN, **options)
    return page


def _path(sent: Any) -> str | None:
    return sent.path if sent else None


def faces(answer: Answer) -> str:
    """The photo with its faces, and a choice among them, as HTML."""
    return _render(
        "faces.html",
        photo=data_uri(answer.photo, None),
        note=answer.note,
        chosen=answer.chosen + 1,
        faces=[_face(number, prediction, answer) for number, prediction in enumerate(answer.predictions, 1)],
    )


def _face(number: int, prediction: Prediction, answer: Answer) -> dict[str, Any]:
    assert prediction.pixels is not None
    box, face = {}, prediction.face
    if face is not None:
        x, y = (100 * answer.scale / side for side in answer.photo.size)  # percent of the photo per pixel
        box = {"left": x * face.left, "top": y * face.top, "width": x * face.width, "height": y * face.height}
    percent, sure = f"{100 * prediction.confidence:.0f}%", is_sure(prediction)
    return {
        "number": number,
        "name": prediction.expression + ("" if sure else "?"),
        "percent": percent,
        "text": f"{prediction.expression} {percent}{'' if sure else ', not sure'}",
        "box": "; ".join(f"{name}: {value:.2f}%" for name, value in box.items()),
        "area": box["width"] * box["height"] if box else 0.0,
        "at_the_end": bool(box) and box["left"] > 70,  # where a label would go beyond the photo
        # The model's input to the pixel: choosing a face sends it back, and nothing is kept here.
        "crop": data_uri(Image.fromarray(prediction.pixels), None, "png"),
    }


def explanation(explained: Explanation, number: int, patch_maps: str = "") -> str:
    """Probabilities, heat maps and descriptions as HTML.

    Args:
      explained: the face.
      number: of the face, 0 if it is the only one.
      patch_maps: as for `build`.
    """
    prediction = explained.prediction
    assert prediction.seen is not None  # it was explained
    order: list[int] = np.argsort(-prediction.probabilities, kind="stable").tolist()
    probabilities = {prediction.class_names[index]: float(prediction.probabilities[index]) for index in order}
    return _render(
        "explanation.html",
        number=number,
        prediction=prediction,
        sure=is_sure(prediction),
        seen=data_uri(Image.fromarray(prediction.seen), overlay.TILE),
        probabilities=probabilities,
        heat_maps=[(data_uri(tile, None), name, probabilities[name]) for name, tile in class_tiles(explained).items()],
        patch_maps=patch_maps and _sentence(patch_maps),
        phrases=[
            (phrase.text, phrase.class_name, _REGIONS.get(phrase.granularity, phrase.granularity), score)
            for phrase, score in explained.phrases[:PHRASES]
        ],
    )


def _render(template: str, **values: Any) -> str:
    environment = templates.environment("mpafer_jax.inference.demo")
    environment.filters["percent"] = "{:.0%}".format
    return environment.get_template(template).render(**values)


def model_line(trained_on: TrainedOn, model: str = "") -> str:
    """The model, if it is named, its training data and limits as Markdown; the path of a local CLIP is redacted."""
    told = dataclasses.replace(trained_on, clip=redaction.redact_value("clip.name", trained_on.clip))
    lines = [f"The model: {model and f'{model}, '}{told}."]
    if trained_on.warning:
        lines.append(f"**{_sentence(trained_on.warning)}**")
    if trained_on.terms:
        lines.append(_sentence(trained_on.terms))
    return "\n\n".join(lines)


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def check_address(host: str, port: int) -> None:
    """Refuses an address that cannot be listened on, before a model is loaded for nothing.

    Raises:
      ConfigError: the host is an IPv6 address, which Gradio cannot serve; or the port is taken, or not allowed.
    """
    if ":" in host:
        raise ConfigError(f"--host={host}: Gradio serves no IPv6 address; give a name or an IPv4 address")
    if port:
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((host, port))
            except OSError as error:
                raise ConfigError(
                    f"--port={port}: {host} cannot be listened on there ({error.strerror or error}); give another "
                    "port, or leave it out for the first free one"
                ) from error


def serve(page: Any, *, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> str:
    """Serves the page and deletes old photos, in background threads; returns its address.

    Args:
      page: from `build`.
      host: address to listen on; 127.0.0.1 for this machine only.
      port: 0 for the first free one from 7860.
      allowed_hosts: further names under which browsers may reach it.
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
    """Deletes files under a folder that were not changed for `seconds`, and folders left empty."""
    limit = time.time() - seconds
    for root, _, names in os.walk(folder, topdown=False):
        for path in (Path(root, name) for name in names):
            with contextlib.suppress(OSError):  # gone already, or being moved
                if path.lstat().st_ctime < limit:
                    path.unlink()
        with contextlib.suppress(OSError):  # not empty
            if Path(root) != folder and os.lstat(root).st_ctime < limit:
                Path(root).rmdir()


def return_large_blocks() -> None:
    """Makes glibc return large freed blocks to the system at once; other C libraries stay as they are.

    By default glibc keeps freed blocks of up to 32 MB in per-thread heaps: decoding large photos in several threads
    grows the process to gigabytes.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_ARENA_MAX, _HEAPS)
