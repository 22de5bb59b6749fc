"""The page itself, with Gradio (extra `demo`): served to the own machine, and asking nothing of any other."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import jinja2

from mpafer_jax.data.preprocess import PictureError
from mpafer_jax.demo.answer import Answer, Answerer
from mpafer_jax.evaluation import overlay
from mpafer_jax.report.pictures import data_uri

_LARGEST_FILE = "32mb"
_KEPT = 60  # seconds after which Gradio deletes a picture that was shown
_FONT = ["system-ui", "sans-serif"]  # by default Gradio's themes ask Google for theirs
_REGIONS = {"holistic": "whole face"}
_ABOUT = """\
Drop a photo, paste one, or take one with the camera. It goes to the program that serves this page and no further, and
is deleted within minutes.

What is shown is which of the listed expressions a face resembles, as a model guesses it, not what a person feels.
"""
# Whatever Gradio's pages name, a browser asks this server alone.
_POLICY = (
    "default-src 'self' blob: data: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' blob: data: ws: wss:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)


def import_gradio() -> Any:
    """Gradio, told to send nothing.

    Raises:
      ModuleNotFoundError: it is not installed; says which extra brings it.
    """
    # Read when it is imported; what the user has set otherwise is overruled, since the page promises it.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if "GRADIO_TEMP_DIR" not in os.environ:  # where photos lie for a while
        os.environ["GRADIO_TEMP_DIR"] = folder = tempfile.mkdtemp(prefix="mpafer-demo-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        return importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"the page needs {error.name}; install it with: pip install -e '.[demo]'") from error


def build(answerer: Answerer, *, finds_faces: bool) -> Any:
    """The page as Gradio blocks.

    Args:
      answerer: answers.
      finds_faces: whether it looks for faces, so that one may ask it not to.
    """
    gr = import_gradio()

    def show(path: str | None, whole: bool) -> tuple[Any, ...]:
        if path is None:
            return None, "", ""
        try:
            answer = answerer.answer(Path(path), whole=whole)
        except PictureError as error:
            raise gr.Error(f"This is no picture that can be read: {error}", print_exception=False) from error
        note = f"**{answer.note}**" if answer.note else ""
        return answer.probabilities, note, explanation(answer)

    with gr.Blocks(title="MPA-FER", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        gr.Markdown(f"# Facial expressions\n\n{_ABOUT}")
        with gr.Row():
            with gr.Column():
                # The file as it came: reading it is our own decoder's matter, which refuses bombs and damage.
                picture = gr.Image(
                    label="Photo",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    buttons=[],
                    height=360,
                    elem_id="photo",
                )
                whole = gr.Checkbox(label="The picture is a face that fills it", value=False, visible=finds_faces)
            with gr.Column():
                note = gr.Markdown(elem_id="note")
                probabilities = gr.Label(
                    label="Probabilities", num_top_classes=len(answerer.class_names), elem_id="probabilities"
                )
        # Pictures too: Gradio's would have no alternative text, and leave files behind for a while.
        why = gr.HTML(elem_id="explanation")
        outputs = [probabilities, note, why]
        for event in (picture.change, whole.change):
            event(show, [picture, whole], outputs, api_visibility="private")
    return page


def explanation(answer: Answer) -> str:
    """The face, heat maps and phrases as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mpafer_jax.demo"), autoescape=True, undefined=jinja2.StrictUndefined
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


def serve(page: Any, *, host: str, port: int) -> str:
    """Begins to serve the page, in a thread.

    Args:
      page: what `build` gave.
      host: the address to listen on; 127.0.0.1 keeps it on this machine.
      port: of the address; 0 for the first free one from 7860 on.

    Returns:
      Its address.
    """
    gr = import_gradio()
    middleware: Any = importlib.import_module("starlette.middleware").Middleware
    found: tuple[Any, str, Any] = page.launch(
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
        theme=gr.themes.Default(font=_FONT, font_mono=_FONT),
        css_paths=[Path(__file__).parent / "templates" / "page.css"],
        app_kwargs={"middleware": [middleware(_Policy)], "docs_url": None, "redoc_url": None, "openapi_url": None},
        prevent_thread_lock=True,
    )
    return found[1]


class _Policy:
    """ASGI middleware: every answer tells the browser to ask no other server."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = cast(list[tuple[bytes, bytes]], message.setdefault("headers", []))
                headers.append((b"content-security-policy", _POLICY.encode("ascii")))
                headers.append((b"referrer-policy", b"no-referrer"))
            await send(message)

        await self._app(scope, receive, with_policy if scope["type"] == "http" else send)
