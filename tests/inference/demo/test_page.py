"""The page in a real browser, served by the command: what it shows, and that it asks nobody else.

Chromium: see tests/browser.py.
"""

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


def on_grey(path, *faces):
    """Saves an image of drawn faces in the middle of nothing; each is its number, left, top and side in pixels."""
    image = Image.new("RGB", (480, 360), (200, 210, 220))
    for number, left, top, side in faces:
        face = Image.fromarray(face_of(0, "demo", number, STYLES["colour"]).job.pixels(224))
        image.paste(face.resize((side, side)), (left, top))
    image.save(path)
    return path


def upload(page, path):
    """Sends an image in place of the one that is shown, if any, and waits until nothing of that is left."""
    if page.locator("#verdict").count():
        page.get_by_label("Clear").or_(page.get_by_label("Remove Image")).first.click()
        page.locator("#verdict").wait_for(state="detached")
    page.locator("#photo input[type=file]").set_input_files(path)


def in_one_line(locator):
    """The text of an element."""
    return " ".join(locator.inner_text().split())


def check_explained(page, expected, title):
    """Waits until the explanation is of a prediction."""
    page.wait_for_function("title => document.querySelector('#verdict')?.innerText.startsWith(title)", arg=title)
    order = [expected.class_names[i] for i in np.argsort(-expected.probabilities, kind="stable")]
    shares = dict(zip(expected.class_names, expected.probabilities, strict=True))
    rows = page.locator("#explanation tr").all()
    assert [in_one_line(row) for row in rows] == [f"{name} {100 * shares[name]:.0f}%" for name in order]
    maps = page.locator("#explanation .maps img").all()
    assert [image.get_attribute("alt") for image in maps] == [f"Heat map of {name}" for name in order]


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    """Serves the page while the tests run: its address and its folder. Then nothing of what was shown may be left."""
    folder = tmp_path_factory.mktemp("server")
    temporary, log = folder / "temporary", folder / "addresses.jsonl"
    temporary.mkdir()
    # The analytics are what a user may have set.
    environment = runs.environment(GRADIO_ANALYTICS_ENABLED="True", TMPDIR=str(temporary))
    arguments = [sys.executable, "-c", PROGRAM, str(log), f"--checkpoint={finished[0]}"]
    with subprocess.Popen(
        arguments, env=environment, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            if not line.startswith("http://127.0.0.1:"):
                process.kill()
                pytest.fail(f"the page was not served: {line} {process.stderr.read()}")
            yield line.split()[0], temporary
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=60)  # which keeps the pipes open while it ends
    assert process.returncode == 0, errors
    assert list(temporary.iterdir()) == []
    addresses = [json.loads(line) for line in log.read_text().splitlines()]
    assert ["socket.bind", "127.0.0.1"] in addresses
    assert {host for _, host in addresses} <= {"127.0.0.1", "localhost", "::1"}


@pytest.fixture(scope="module")
def predictor(finished):
    return Predictor.from_checkpoint(finished[0], batch_sizes=(1, 8), calibrated=None)


@pytest.mark.browser
@pytest.mark.processes
def test_a_photo_is_explained_and_nothing_leaves_the_machine(server, predictor, tmp_path):
    url, temporary = server
    photo = on_grey(tmp_path / "photo.png", (10, 130, 70, 224))
    clip = predictor.trained_on.clip  # a folder, which is nobody's business
    (expected,) = predictor.stream([photo], faces=FaceFinder())
    with browser.page(url) as (page, seen):
        page.set_default_timeout(60_000)
        upload(page, photo)
        check_explained(page, expected, "")
        assert list(temporary.rglob("*.png"))  # as long as it is shown
        shown = page.locator("#faces img")
        assert shown.get_attribute("alt") == "The photo, with a frame around each face that was found"
        assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [480, 360]
        frame, image = page.locator("#faces .box").bounding_box(), shown.bounding_box()
        scale = image["width"] / 480
        assert frame["x"] - image["x"] == pytest.approx(scale * expected.face.left, abs=1)
        assert frame["y"] - image["y"] == pytest.approx(scale * expected.face.top, abs=1)
        assert frame["width"] == pytest.approx(scale * expected.face.width, abs=1)
        assert page.locator("#faces input").count() == 0  # nothing to choose
        assert page.evaluate(WITHOUT_A_NAME) == []
        assert page.locator("#model").inner_text() == f"The model: {predictor.trained_on}.".replace(clip, "clip")
        assert page.locator("#explanation figure img").get_attribute("alt") == "The face as the model saw it"
        assert page.locator("#explanation .phrases li").count() == 8
        assert page.locator("#faces .note").count() == 0

        page.get_by_label("The image is a face that fills it").check()
        page.locator("#faces .box").wait_for(state="detached")
        check_explained(page, predictor.predict(photo), "")

        page.get_by_label("The image is a face that fills it").uncheck()
        page.locator("#faces .box").wait_for()
        blank = on_grey(tmp_path / "blank.png")
        upload(page, blank)
        page.get_by_text("No face was found, so the whole image was taken for one.").wait_for()
        check_explained(page, predictor.predict(blank), "")

        for headers in ({"Host": "rebound.example"}, {"Origin": "http://other.example"}):
            request = urllib.request.Request(f"{url}config", headers=headers)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request, timeout=60)

        answer = page.request.get(url)
        assert "connect-src 'self'" in answer.headers["content-security-policy"]
        seen.check_only((url, "blob:", "data:"))

        blank.write_bytes(b"no image")
        upload(page, blank)
        page.get_by_text("This is no image that can be read").wait_for()
        assert "mpafer-demo" not in page.locator("body").inner_text()  # where it lies


@pytest.mark.browser
@pytest.mark.processes
def test_another_face_is_chosen_by_keyboard_and_in_the_photo(server, predictor, tmp_path):
    url, temporary = server
    photo = on_grey(tmp_path / "photo.png", (7, 20, 120, 150), (10, 210, 60, 224))
    left, right = predictor.stream([photo], faces=FaceFinder(which="all"))
    with browser.page(url, viewport={"width": 390, "height": 844}) as (page, seen):
        page.set_default_timeout(60_000)
        upload(page, photo)
        check_explained(page, right, "Face 2")  # the largest
        for number, prediction in enumerate((left, right), 1):
            name = f"Face {number}: {prediction.expression} {100 * prediction.confidence:.0f}%"
            assert page.get_by_role("radio", name=name).count() == 1
            assert page.get_by_alt_text(f"Face {number}").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # no scrolling to the side
        assert page.locator("#faces li label").last.bounding_box()["height"] > 44  # for a thumb
        for path in temporary.rglob("*.png"):
            path.unlink()  # the choice does not need it

        page.get_by_role("radio", checked=True).focus()
        page.keyboard.press("ArrowLeft")
        check_explained(page, left, "Face 1")
        chosen = page.locator("#faces .chosen")
        assert [label.get_attribute("for") for label in chosen.all()] == ["face-1", None]
        assert chosen.last.evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
        page.locator("#faces .box[for=face-2]").click()
        check_explained(page, right, "Face 2")

        page.keyboard.press("ArrowLeft")
        check_explained(page, left, "Face 1")
        upload(page, on_grey(tmp_path / "another.png", (7, 10, 120, 150), (10, 200, 60, 224)))
        page.wait_for_function("document.querySelector('#verdict')?.innerText.startsWith('Face 2')")
        assert page.get_by_role("radio", checked=True).get_attribute("value") == "2"  # the largest again
        seen.check_only((url, "blob:", "data:"))


def test_what_the_model_has_seen_is_said():
    line = page_lib.model_line(TrainedOn("synthface", 2800, "/home/alice/clip"))
    assert "trained on 2,800 drawn faces of synthface; CLIP clip." in line
    assert "**It knows drawn faces only and cannot read photographs" in line
    assert "alice" not in line
    assert "**" not in page_lib.model_line(TrainedOn("rafdb", 12271, "openai/clip-vit-base-patch16"))
    shipped = page_lib.model_line(TrainedOn("ferplus", 25045, "small-face-clip"), "ferplus-prompts (ships)")
    first, terms = shipped.split("\n\n")
    assert first.startswith("The model: ferplus-prompts (ships), trained on 25,045 images of ferplus; CLIP")
    assert terms.startswith("The CLIP small-face-clip is for research use, as it was trained on photographs of FERPlus")


def test_what_is_missing_is_said(capsys, tmp_path, monkeypatch):
    from mpafer_jax.cli import demo

    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))  # seconds to import, and not used here
    assert demo.demo([f"--checkpoint={tmp_path}"]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert demo.demo([f"--checkpoint={tmp_path}"]) == 2
    assert "pip install -e '.[demo]'" in capsys.readouterr().err
