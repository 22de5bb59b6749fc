"""The command as a user runs it; in this process, except once."""

import csv
import dataclasses
import json
import os
import shutil
import sys
import sysconfig

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from mpafer_jax.artifacts.description import TrainedOn
from mpafer_jax.cli.predict import predict
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.faces.finder import FaceFinder
from mpafer_jax.inference import Predictor, media, predict_files
from tests.inference.test_media import FRAMES, write_video
from tests.jobs import runs


def run(trained, *arguments) -> int:
    words = (f"--checkpoint={trained}", "--faces=none", *arguments, "--batch_size=8")
    return predict([str(word) for word in words])


@pytest.fixture
def album(faces, tmp_path):
    """Two images, a file that only looks like one, and a video."""
    folder = tmp_path / "album"
    folder.mkdir()
    for path in faces[:2]:
        (folder / path.name.replace("000", path.parent.name)).write_bytes(path.read_bytes())
    (folder / "z_broken.jpg").write_bytes(b"GIF89a but not really")
    write_video(folder / "film.avi")
    return folder


def test_every_format_says_the_same_and_a_broken_file_is_counted(trained, predictor, album, tmp_path, capsys):
    for suffix in ("csv", "jsonl", "parquet"):
        assert run(trained, album, f"--out={tmp_path / 'out'}.{suffix}", "--stride=4") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "z_broken.jpg: not an image in a format" in said.err
    assert "5 predicted, 0 without a face, 1 that could not be read; written to" in said.err
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == len(lines) == len(table) == 2 + FRAMES // 4 + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "out.csv", "out.jsonl", "out.parquet"]
    for row, line, parquet in zip(rows, lines, table, strict=True):
        for name in ("file", "status", "expression"):
            assert row[name] == (line.get(name) or "") == (parquet[name] or "")
        if line["status"] == "ok":
            for name in predictor.class_names:
                assert float(row[f"p_{name}"]) == line["probabilities"][name] == parquet[f"p_{name}"]
    assert [line["frame"] for line in lines if line["file"].endswith("film.avi")] == [0, 4, 8]
    expected = predictor.predict(lines[0]["file"])
    assert lines[0]["expression"] == expected.expression
    assert lines[0]["confidence"] == pytest.approx(expected.confidence, rel=1e-4)


def test_without_a_file_a_line_each_is_shown(trained, faces, tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")  # a name that is no UTF-8
    odd.write_bytes(faces[1].read_bytes())
    assert run(trained, faces[0], odd) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{faces[0]}\t")
    assert r"caf\xe9.png" in second
    assert second.endswith("%")
    with pytest.MonkeyPatch.context() as patch:  # somebody looks at it: columns
        patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        patch.setenv("TERM", "xterm")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "60")
        assert run(trained, faces[0], odd) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split() for line in shown] == [first.split("\t"), second.split("\t")]
    assert len({len(line) for line in shown}) == 1
    assert run(trained, odd, f"--out={tmp_path / 'out.parquet'}") == 0
    name = str(tmp_path / r"caf\xe9.png")  # in files that are UTF-8, whatever the names are
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["file"].to_pylist() == [name]


def test_detected_faces_have_boxes_and_a_landscape_has_no_expression(trained, tmp_path, capsys):
    face = Image.fromarray(generate.face_of(7, "photos", 0, STYLES["colour"]).job.pixels(224))
    group = Image.new("RGB", (700, 300), (120, 130, 140))
    group.paste(face, (40, 40))
    group.paste(face, (420, 40))
    group.save(tmp_path / "a_group.png")
    Image.fromarray(np.linspace(0, 255, 90_000).astype(np.uint8).reshape(300, 300)).save(tmp_path / "b_sky.png")
    out = tmp_path / "out.jsonl"
    assert run(trained, tmp_path, f"--out={out}", "--faces=detect", "--which_faces=all") == 0
    left, right, sky = (json.loads(line) for line in out.read_text().splitlines())
    assert left["face"]["left"] < 300 < right["face"]["left"]
    assert left["index"] == right["index"] == 0
    assert sky["status"] == "no_face"
    assert "expression" not in sky
    hint = "1 without a face (if the images are crops of faces: --faces=none), 0 that"
    assert f"2 predicted, {hint}" in capsys.readouterr().err


def test_faces_are_cropped_as_the_training_images_are():
    image = Image.fromarray(generate.face_of(7, "photos", 0, STYLES["colour"]).job.pixels(224))
    trained_on = TrainedOn("ferplus", 25045, "openai/clip-vit-base-patch16", face_margin=-0.12)
    request = predict_files.Request(["image.png"])
    detector = request.detector()
    (expected,) = FaceFinder(detector, margin=-0.12)(image)
    (crop,) = request.cropper(detector, trained_on)(image)
    np.testing.assert_array_equal(crop.image, expected.image)
    (wide,) = dataclasses.replace(request, margin=0.0).cropper(detector, trained_on)(image)
    assert wide.image.width == pytest.approx(crop.image.width / 0.76, abs=1)
    assert predict_files.Request(["image.png"], faces="none").detector() is None
    assert request.cropper(None, trained_on) is None


def test_heat_maps_are_written_for_each_face(trained, predictor, album, tmp_path):
    assert run(trained, album, f"--heatmaps={tmp_path / 'maps'}", f"--out={tmp_path / 'out.csv'}", "--stride=12") == 1
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert len(names) == 2 * 3  # two images and one frame; nothing for the broken file
    assert names[0].startswith("000000_")
    values = json.loads((tmp_path / "maps" / names[0]).read_text())
    assert np.shape(values["class_maps"][values["expression"]]) == (8, 8)
    assert values["phrases"][0]["score"] >= values["phrases"][-1]["score"]
    with Image.open(tmp_path / "maps" / names[1]) as sheet:
        assert sheet.width > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/at/all.jpg"], "InputError: nothing to predict on: /nowhere/at/all.jpg"),
        (["{face}", "--clip=/no/clip"], "its CLIP, '/no/clip', cannot be loaded"),
        (["{face}", "--heatmaps={face}"], "FileExistsError: "),
    ],
)
def test_mistakes_end_with_a_message(trained, faces, arguments, message, capsys):
    assert run(trained, *(argument.format(face=faces[0]) for argument in arguments)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--margin=9", "argument --margin: a margin is a fraction"),
        ("--margin=wide", "argument --margin: could not convert"),
        ("--class_names=joy,,fear", "argument --class_names: the names between commas: '' is no name of a class"),
        ("--class_names=joy", "found 'joy', expected at least 2"),
        ("--annotate=out.avi", "annotated videos are written to .mp4"),
        ("--smooth=-1", "expected seconds from 0 to 60, found -1"),
        ("--smooth=nan", "expected seconds from 0 to 60, found nan"),
    ],
)
def test_wrong_values_of_options_are_refused(argument, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        predict(["input", argument])
    assert message in capsys.readouterr().err


def test_zero_shot_needs_no_checkpoint(sample, faces, capsys):
    words = [str(faces[0]), "--zero_shot", "--faces=none", "--class_names=Joy,anger", "--batch_size=1"]
    assert predict([*words, f"--clip={sample / 'clip'}"]) == 0
    said = capsys.readouterr()
    assert said.out.split("\t")[1] in ("Joy", "anger")
    assert f" {sample / 'clip'}: not trained (zero-shot); CLIP" in said.err
    assert predict([*words, f"--clip={faces[0].parent}"]) == 2
    assert "expected a CLIP in the layout of the Hub" in capsys.readouterr().err


def test_options_of_videos_are_said_to_do_nothing_for_images(trained, faces, tmp_path, capsys):
    nothing = "did nothing: no input was a frame of a video, an animation or a camera"
    assert run(trained, faces[0], "--smooth=1", "--stride=2") == 0
    assert f"--smooth and --stride {nothing}" in capsys.readouterr().err
    write_video(tmp_path / "a.avi", 2)
    assert run(trained, faces[0], tmp_path / "a.avi", "--smooth=1", "--stride=2") == 0
    assert nothing not in capsys.readouterr().err


def test_zero_shot_of_classes_that_no_bank_describes_goes_by_their_names(sample, faces, tmp_path, capsys):
    words = [str(faces[0]), "--zero_shot", "--faces=none", f"--clip={sample / 'clip'}", "--batch_size=1"]
    words.append("--class_names=boredom,confusion")
    assert predict(words) == 2
    said = capsys.readouterr().err
    assert "--zero_shot with --bank=expressions: it does not describe 'boredom', 'confusion' (holistic), only " in said
    assert "--bank=none to classify by the names alone" in said
    assert predict([*words, "--bank=absent"]) == 2
    assert "--bank 'absent' is neither a file nor a bank that ships with the package" in capsys.readouterr().err
    assert predict([*words, "--bank=none", f"--heatmaps={tmp_path / 'maps'}"]) == 0
    answer = capsys.readouterr().out.split("\t")
    expected = Predictor.zero_shot(str(sample / "clip"), ["boredom", "confusion"], bank=None).predict(faces[0])
    assert answer[1:] == [expected.expression, f"{100 * expected.confidence:.1f}%\n"]
    (numbers,) = (tmp_path / "maps").glob("*.json")
    assert json.loads(numbers.read_text())["phrases"] == []


@pytest.fixture
def ending(monkeypatch):
    """Makes the images end with an error."""
    real = media.images

    def end_with(error):
        def images(*arguments, **options):
            yield from real(*arguments, **options)
            raise error

        monkeypatch.setattr(media, "images", images)

    return end_with


def test_what_was_done_before_an_interruption_is_kept_and_gone_on_with(
    trained, faces, tmp_path, ending, monkeypatch, capsys
):
    files = faces * 2  # more than are taken ahead of the results
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    ending(KeyboardInterrupt())
    assert run(trained, *files, f"--out={out}") == 130
    monkeypatch.undo()
    before = predicted(out)
    assert 1 < len(before) < len(files)
    assert "the same command resumes with what is missing" in capsys.readouterr().err
    assert run(trained, *files[:-1], f"--out={out}") == 2
    assert "results of another command: inputs there [" in capsys.readouterr().err
    with (tmp_path / "out.csv.unfinished").open("a") as file:
        file.write('{"torn": ')  # by a kill

    assert run(trained, *files, f"--out={out}") == 0
    assert f"{len(before) - 1} results are there from before" in capsys.readouterr().err
    assert run(trained, *files, f"--out={whole}") == 0
    assert predicted(out) == predicted(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, whole.name]


def predicted(table):
    return [(row["file"], row["index"], row["expression"]) for row in csv.DictReader(table.read_text().splitlines())]


def test_an_error_in_the_middle_keeps_what_was_done_and_names_it(trained, faces, tmp_path, ending, capsys):
    ending(OSError(28, "No space left on device"))
    out = tmp_path / "out.csv"
    assert run(trained, *faces * 2, f"--out={out}") == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert f"what was done until then is in {out}.unfinished; the same command resumes with it" in said
    assert len((tmp_path / "out.csv.unfinished").read_text().splitlines()) > 2
    assert not out.exists()


def test_a_camera_that_is_not_there_ends_with_a_message(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "SILENT")
    assert run(trained, "camera:99", f"--out={tmp_path / 'out.csv'}") == 1
    said = capfd.readouterr().err
    assert "camera:99: there is no such camera, or it is in use" in said
    assert "0 predicted, 0 without a face, 1 that could not be read" in said
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (row["file"], row["status"]) == ("camera:99", "error")


@pytest.mark.processes
def test_in_a_process_of_its_own(trained, faces):
    """As it is installed; as a module: tests/golden."""
    installed = shutil.which("mpafer-predict", path=sysconfig.get_path("scripts"))
    program = [installed] if installed else [sys.executable, "-m", "mpafer_jax.predict"]
    done = runs.run([*program, str(faces[0]), f"--checkpoint={trained}", "--faces=none"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{faces[0]}\t")
    assert "1 predicted, 0 without a face, 0 that could not be read" in done.stderr
