"""The prompts that ship with the package: read by name wherever a checkpoint is, with the CLIP that ships, too."""

import json
import pathlib
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.artifacts import checkpoints, shipped
from mpafer_jax.artifacts.confidence import Confidence
from mpafer_jax.artifacts.prompt_file import CHECKSUM, PROMPTS
from mpafer_jax.backbones.files import SHIPPED
from mpafer_jax.backbones.registry import local_content_hash
from mpafer_jax.cli.predict import predict
from mpafer_jax.data.synthface.generate import face_of
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.inference import Predictor
from tests.jobs import runs

NAME = shipped.DEFAULT


@pytest.fixture
def photo(tmp_path):
    """A drawn face in the middle of nothing, and a second image without a face."""
    image = Image.new("RGB", (400, 320), (120, 130, 140))
    image.paste(Image.fromarray(face_of(7, "photos", 0, STYLES["colour"]).job.pixels(224)), (88, 48))
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_it_is_whole_and_of_the_clip_that_ships():
    folder = shipped.PROMPTS[NAME]
    assert {path.name for path in folder.iterdir()} == {PROMPTS, CHECKSUM, "confidence.npz", "README.md"}
    params, description, step = checkpoints.load(NAME, "best")
    assert description.clip_name == "small-face-clip"
    installed = local_content_hash("small-face-clip", revision="main", cache_dir="", activation="")
    assert description.clip_hash == installed
    assert checkpoints.folder(NAME, step) == folder
    confidence = Confidence.load(folder, params)
    assert confidence is not None
    assert (confidence.split, confidence.step) == ("validation", step)


def test_photographs_in_colour_are_read_as_the_grey_ones_that_it_knows():
    names = ("happiness", "sadness")
    models = {name: Predictor.zero_shot(name, names) for name in ("small-face-clip", "tiny-face-clip")}
    for name, predictor in {NAME: Predictor.from_checkpoint(NAME), **models}.items():
        faces = [face_of(7, "photos", number, STYLES["colour"]).job for number in range(3)]
        coloured = np.stack([face.pixels(predictor.image_size) for face in faces])
        grey = np.stack([np.asarray(Image.fromarray(image).convert("L").convert("RGB")) for image in coloured])
        difference = np.abs(predictor.logits(coloured) - predictor.logits(grey)).max()
        # tiny-face-clip has seen drawings in colour, and no photograph.
        assert difference > 0.1 if name == "tiny-face-clip" else difference < 1e-4
        (kept,) = predictor.stream([coloured[0]], keep_pixels=True)
        np.testing.assert_array_equal(kept.pixels, (coloured if name == "tiny-face-clip" else grey)[0])


def test_it_tells_nothing_of_the_machine_that_trained_it():
    description = checkpoints.load(NAME, "best")[1]
    assert description.data["dataset"] == "ferplus"
    assert description.config["data"]["dir"] == ""
    assert "/tmp" not in description.model_dump_json()


def test_a_name_comes_before_a_folder_and_a_path_does_not(tmp_path, monkeypatch):
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert checkpoints.place(NAME) == shipped.PROMPTS[NAME]
    for path in (f"./{NAME}", pathlib.Path(NAME)):
        assert checkpoints.place(path) == pathlib.Path(NAME)


def test_it_is_what_predicts_where_nothing_is_named(photo, no_network, capsys):
    """And says what it is, what it has seen, and what that allows."""
    assert predict([str(photo), "--batch_size=1"]) == 0
    said = capsys.readouterr()
    by_default = Predictor.from_checkpoint(batch_sizes=(1,))
    assert said.out.split("\t")[1] in by_default.class_names
    images = sum(checkpoints.load(NAME, "best")[1].data["counts"]["train"])
    model = f"{NAME} (ships with the package): trained on {images:,} images of ferplus; CLIP small-face-clip"
    assert model in said.err
    assert f"{by_default.trained_on.terms}\n" in said.err
    assert "for research use, as it was trained on photographs of FERPlus" in by_default.trained_on.terms
    named = Predictor.from_checkpoint(NAME, batch_sizes=(1,))
    np.testing.assert_array_equal(named.text_features, by_default.text_features)


def test_it_is_explained_and_exported(photo, no_network, tmp_path, capsys):
    assert predict([str(photo), f"--heatmaps={tmp_path / 'maps'}", "--batch_size=1"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"heat maps of {NAME}: of 500 photographs the patch maps were no better than a random order" in said
    (explained,) = (tmp_path / "maps").glob("*.json")
    assert json.loads(explained.read_text())["expression"] in Predictor.from_checkpoint().class_names
    done = runs.call("export", NAME, "--to=prompts,stablehlo", "--platforms=cpu", f"--out={tmp_path / 'out'}")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / PROMPTS).read_bytes() == (shipped.PROMPTS[NAME] / PROMPTS).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The CLIP small-face-clip is for research use" in card
    assert "making them grey and normalisation are part of the program" in card


@pytest.mark.processes
def test_an_installed_package_has_all_that_ships(tmp_path):
    done = runs.run([sys.executable, "setup.py", "--quiet", "build_py", f"--build-lib={tmp_path}"], cwd=runs.ROOT)
    assert done.returncode == 0, done.stderr
    folders = [*shipped.PROMPTS.values(), *(clip.folder for clip in SHIPPED.values())]
    for folder in folders:
        packed = tmp_path / folder.relative_to(runs.ROOT)
        assert {path.name for path in packed.iterdir()} == {path.name for path in folder.iterdir()}
