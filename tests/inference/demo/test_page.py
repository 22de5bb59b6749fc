"""The page in a real browser, served by the command: what it shows, and that it asks nobody else.

Chromium: see tests/browser.py.
"""

import contextlib
import json
import subprocess
import sys
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.data.synthface.generate import face_of
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.faces.finder import FaceFinder
from mpafer_jax.inference import Predictor
from mpafer_jax.inference.demo import page as page_lib
from tests import browser
from tests.jobs import runs

# Writes down every address that the server's process asks for or listens on.
PROGRAM = """
import json, runpy, sys
log = open(sys.argv.pop(1), "a")
def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.bind", "socket.getaddrinfo"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = address[0] if isinstance(address, tuple) else address
        log.write(json.dumps([event, str(host)]) + "\\n")
        log.flush()
sys.addaudithook(hook)
sys.argv = sys.argv[:]
sys.argv.insert(1, "demo")
runpy.run_module("mpafer_jax.cli", run_name="__main__", alter_sys=True)
"""

# Buttons that a screen reader could say nothing of.
WITHOUT_A_NAME = """[...document.querySelectorAll('button')].filter(button => button.checkVisibility() &&
  !(button.ariaLabel || button.title || button.textContent.trim())).map(button => button.outerHTML)"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A face that does not fill its image, in the middle of nothing."""
    face = face_of(0, "demo", 10, STYLES["colour"]).job.pixels(224)
    image = Image.new("RGB", (480, 360), (200, 210, 220))
    image.paste(Image.fromarray(face), (130, 70))
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    image.save(path)
    return path


@contextlib.contextmanager
def served(checkpoint, log):
    """Serves the page until the block ends; then nothing of what was shown may be left."""
    arguments = [sys.executable, "-c", PROGRAM, str(log), str(checkpoint)]
    temporary = log.with_suffix(".tmp")
    temporary.mkdir()
    # The analytics are what a user may have set.
    environment = runs.environment(GRADIO_ANALYTICS_ENABLED="True", TMPDIR=str(temporary))
    with subprocess.Popen(
        arguments, env=environment, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            if not line.startswith("http://127.0.0.1:"):
                process.kill()
                pytest.fail(f"the page was not served: {line} {process.stderr.read()}")
            yield line.split()[0]
            assert list(temporary.rglob("*.png"))  # the photo, as long as it is shown
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=60)  # which keeps the pipes open while it ends
    assert process.returncode == 0, errors
    assert list(temporary.iterdir()) == []


@pytest.mark.browser
@pytest.mark.processes
def test_a_photo_is_explained_and_nothing_leaves_the_machine(finished, photo, tmp_path):
    predictor = Predictor.from_checkpoint(finished[0], batch_sizes=(1,))
    clip = predictor.trained_on.clip  # a folder, which is nobody's business
    (expected,) = predictor.stream([photo], faces=FaceFinder(), batch_size=1)
    log = tmp_path / "addresses.jsonl"
    with served(finished[0], log) as url, browser.page(url) as (page, seen):
        page.set_default_timeout(60_000)
        upload = page.locator("#photo input[type=file]")
        upload.set_input_files(photo)
        page.locator("#explanation .maps img").first.wait_for()
        shown = page.locator("#probabilities").inner_text()
        for name, probability in zip(expected.class_names, expected.probabilities, strict=True):
            assert f"{name} {100 * probability:.0f}%" in " ".join(shown.split())
        faces = page.locator("#explanation .faces img")
        assert [faces.nth(i).get_attribute("alt") for i in range(2)] == [
            "The photo, with a frame around the face that was found",
            "The face as the model saw it",
        ]
        assert faces.first.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [480, 360]
        assert page.evaluate(WITHOUT_A_NAME) == []
        assert page.locator("#model").inner_text() == f"The model: {predictor.trained_on}.".replace(clip, "clip")
        maps = page.locator("#explanation .maps img")
        order = [expected.class_names[i] for i in np.argsort(-expected.probabilities, kind="stable")]
        names = [maps.nth(i).get_attribute("alt") for i in range(maps.count())]
        assert names == [f"Heat map of {name}" for name in order]
        assert page.locator("#explanation .phrases li").count() == 8
        assert page.locator("#note").inner_text().strip() == ""

        page.get_by_label("The image is a face that fills it").check()
        whole = predictor.predict(photo)
        top = f"{whole.expression} {100 * whole.confidence:.0f}%"
        page.wait_for_function(
            "top => document.querySelector('#probabilities').innerText.replace(/\\s+/g, ' ').includes(top)", arg=top
        )

        blank = tmp_path / "blank.png"
        Image.new("RGB", (64, 64), (90, 90, 90)).save(blank)
        page.get_by_label("The image is a face that fills it").uncheck()
        page.get_by_label("Clear").or_(page.get_by_label("Remove Image")).first.click()
        upload.set_input_files(blank)
        page.get_by_text("No face was found, so the whole image was taken for one.").wait_for()

        for headers in ({"Host": "rebound.example"}, {"Origin": "http://other.example"}):
            request = urllib.request.Request(f"{url}config", headers=headers)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request, timeout=60)

        answer = page.request.get(url)
        assert "connect-src 'self'" in answer.headers["content-security-policy"]
        seen.check_only((url, "blob:", "data:"))

        blank.write_bytes(b"no image")
        page.get_by_label("Clear").or_(page.get_by_label("Remove Image")).first.click()
        upload.set_input_files(blank)
        page.get_by_text("This is no image that can be read").wait_for()
        assert "mpafer-demo" not in page.locator("body").inner_text()  # where it lies
    addresses = [json.loads(line) for line in log.read_text().splitlines()]
    assert ["socket.bind", "127.0.0.1"] in addresses
    assert {host for _, host in addresses} <= {"127.0.0.1", "localhost", "::1"}


def test_what_the_model_has_seen_is_said():
    line = page_lib.model_line(TrainedOn("synthface", 2800, "/home/alice/clip"))
    assert "trained on 2,800 drawn faces of synthface; CLIP clip." in line
    assert "**It knows drawn faces only and cannot read photographs" in line
    assert "alice" not in line
    assert "**" not in page_lib.model_line(TrainedOn("rafdb", 12271, "openai/clip-vit-base-patch16"))


def test_what_is_missing_is_said(capsys, tmp_path, monkeypatch):
    from mpafer_jax.cli import demo

    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))  # seconds to import, and not used here
    assert demo.demo([str(tmp_path)]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert demo.demo([str(tmp_path)]) == 2
    assert "pip install -e '.[demo]'" in capsys.readouterr().err
