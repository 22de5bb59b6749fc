"""Annotated videos: every frame, upright, at the container's times, with legible labels inside the image."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.cli.predict import predict
from mpafer_jax.inference import annotate, media
from mpafer_jax.inference.annotate import Annotator, Mark
from mpafer_jax.runtime.errors import InputError
from tests.faces import crossing
from tests.inference import videos

TIMES = [0, 40, 80, 200, 230, 400, 900, 940, 1000, 1600]  # milliseconds: no constant rate
GREY = (118, 118, 118)


def stripes(width=96, height=64):
    """Grey images with a red bar at the top; its left half is blue in the upright image."""
    image = np.full((height, width, 3), 118, np.uint8)
    image[: height // 4] = (230, 30, 30)
    image[: height // 4, : width // 2] = (30, 30, 230)
    return [image] * len(TIMES)


def row(frame, seconds, box=None, track=None, **others):
    face = None if box is None else dict(zip(("left", "top", "width", "height"), box, strict=True))
    about = {"frame": frame, "seconds": seconds, "face": face, "track": track}
    return {**about, "expression": "fear", "confidence": 0.5, **others}


def run(trained, *arguments) -> int:
    # Small batches: results come long before a video ends.
    words = (f"--checkpoint={trained}", "--faces=none", *arguments, "--batch_size=2")
    return predict([str(word) for word in words])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_time_stamps_and_rotation_of_the_container_hold_in_rows_and_in_the_annotated_video(
    tmp_path, rotation, b_frames
):
    upright = stripes(64, 96) if rotation % 180 else stripes()
    stored = [np.rot90(image, -rotation // 90) for image in upright]  # the flag turns counterclockwise
    videos.write(tmp_path / "a.mp4", stored, TIMES, rotation=rotation, b_frames=b_frames)
    images = list(media.images(media.find([str(tmp_path / "a.mp4")])))
    assert [round(1000 * image.source.seconds) for image in images] == TIMES
    for image in images:
        np.testing.assert_allclose(np.asarray(image.read()), upright[0], atol=60)
    Annotator(tmp_path / "out.mp4", [str(tmp_path / "a.mp4")]).write(iter([]))
    times, written = videos.read(tmp_path / "out.mp4")
    assert times == TIMES
    for image in written:
        np.testing.assert_allclose(image, upright[0], atol=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "out.mp4"]


def test_between_results_a_box_moves_with_its_track_and_a_lost_face_stays():
    rows = [
        row(0, 0.0, (10, 20, 40, 40), 0),
        row(0, 0.0, (200, 20, 40, 40), 1),
        {"frame": 2, "seconds": 0.4, "status": "no_face"},
        row(4, 0.8, (10, 20, 40, 40), 0),
        row(8, 1.6, (50, 60, 60, 40), 0, smooth_expression="anger", smooth_confidence=0.25),
    ]
    marks = annotate._Marks(rows, 0.3)
    assert marks.at(1, 0.2) == [Mark((10, 20, 50, 60), 0, "#0 fear 50%"), Mark((200, 20, 240, 60), 1, "#1 fear 50%")]
    assert marks.at(3, 0.6) == []
    assert marks.at(5, 1.0) == [Mark((20, 30, 65, 70), 0, "#0 fear 50%")]
    assert marks.at(8, 1.6) == [Mark((50, 60, 110, 100), 0, "#0 uncertain 25%")]
    assert marks.at(9, 9.0) == [Mark((50, 60, 110, 100), 0, "#0 uncertain 25%")]


@pytest.mark.parametrize("size", [(64, 48), (96, 200), (320, 240), (1920, 1080)])
@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (255, 213, 0), GREY])
def test_labels_are_inside_the_image_apart_and_legible_on_any_background(size, ground):
    width, height = size
    image = Image.new("RGB", size, ground)
    boxes = [
        (-9, -9, width // 2, height // 2),
        (0, 0, width // 2, height // 2),
        (width - 20, height - 20, width + 9, height + 9),
    ]
    marks = [Mark(box, track, f"#{track} happiness 100%") for track, box in enumerate(boxes)]
    annotate.draw(image, [*marks, Mark(None, None, "neutral 38%")])
    pixels = np.asarray(image).reshape(-1, 3)
    for colour in annotate._COLOURS[:3]:
        assert (pixels == colour).all(axis=1).sum() > 20  # the label's ground, and the box
        assert contrast(colour, (0, 0, 0)) > 7  # WCAG's AAA, of its text
    if size[0] > 300:
        places = list[annotate.Corners]()
        for mark in marks:
            places.append(annotate._free_place(mark.box, (120, 20), size, 4, places))
        assert all(0 <= p[0] <= p[2] < width and 0 <= p[1] <= p[3] < height for p in places)
        assert not any(annotate._overlap(a, b) for a in places for b in places if a is not b)


def contrast(first, second):
    def luminance(colour):
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in np.array(colour) / 255]
        return np.dot((0.2126, 0.7152, 0.0722), linear)

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_an_odd_size_an_animation_and_the_sound(tmp_path):
    frames = [Image.new("RGB", (33, 21), (60 * i, 0, 0)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 250, 40, 70])
    Annotator(tmp_path / "gif.mp4", [str(tmp_path / "a.gif")]).write(iter([]))
    times, images = videos.read(tmp_path / "gif.mp4")
    assert (times, images[0].shape) == ([0, 100, 350, 390], (22, 34, 3))
    videos.write(tmp_path / "a.mp4", stripes(), TIMES, sound=True)
    Annotator(tmp_path / "out.mp4", [str(tmp_path / "a.mp4")]).write(iter([]))
    assert videos.read(tmp_path / "out.mp4")[0] == TIMES
    packets = []
    for name in ("a.mp4", "out.mp4"):
        with videos.av.open(str(tmp_path / name)) as container:
            packets.append([(packet.pts, bytes(packet)) for packet in container.demux(audio=0) if packet.size])
    assert len(packets[0]) > 20
    assert packets[0][1:] == packets[1]  # the first one is from before the video begins


def test_of_a_video_that_is_cut_short_what_there_is_is_drawn_on(trained, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3), np.uint8)
    videos.write(tmp_path / "a.mkv", noise, range(0, 1600, 40))
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) // 2])
    arguments = (tmp_path / "a.mkv", f"--annotate={tmp_path / 'out.mp4'}", f"--out={tmp_path / 'out.csv'}")
    assert run(trained, *arguments) == 1
    assert "it is cut short" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    times, _ = videos.read(tmp_path / "out.mp4")
    assert times == [round(1000 * float(row["seconds"])) for row in rows if row["status"] == "ok"]
    assert 0 < len(times) < 40


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Two people who cross, 3 s at 5 frames a second."""
    path = tmp_path_factory.mktemp("walk") / "walk.mp4"
    frames = list(crossing.frames(3.0, 5.0, crossings=1, height=200, style="colour"))
    videos.write(path, [frame.pixels for frame in frames], [round(1000 * frame.seconds) for frame in frames])
    return path


DETECT = ("--faces=detect", "--which_faces=all")


def test_a_command_that_was_stopped_gives_the_same_tracks_smooth_columns_and_video(
    trained, walk, tmp_path, monkeypatch, capsys
):
    real = media.images

    def stopped(*arguments, **options):
        for image in real(*arguments, **options):
            if image.source.frame == 12:
                raise KeyboardInterrupt
            yield image

    def arguments(name):
        return (walk, *DETECT, "--smooth=0.8", f"--out={tmp_path / name}.jsonl", f"--annotate={tmp_path / name}.mp4")

    with monkeypatch.context() as patch:
        patch.setattr(media, "images", stopped)
        assert run(trained, *arguments("parts")) == 130
    assert not (tmp_path / "parts.mp4").exists()
    assert (tmp_path / "parts.jsonl.unfinished").exists()
    assert run(trained, *arguments("parts")) == 0
    assert "results are there from before" in capsys.readouterr().err
    assert run(trained, *arguments("whole")) == 0
    parts, whole = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("parts", "whole")
    )
    assert {row["track"] for row in whole if row["status"] == "ok"} == {0, 1}
    for part, row in zip(parts, whole, strict=True):
        for name in ("frame", "seconds", "status", "track", "face", "smooth_expression"):
            assert part.get(name) == row.get(name)
        if row["status"] == "ok":
            assert part["smooth_probabilities"] == pytest.approx(row["smooth_probabilities"], abs=1e-4)
    assert videos.read(tmp_path / "parts.mp4")[0] == videos.read(tmp_path / "whole.mp4")[0]
    names = ["parts.jsonl", "parts.mp4", "whole.jsonl", "whole.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_annotated_without_a_table_and_with_a_stride_every_frame_is_there(trained, walk, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    assert run(trained, walk, "--stride=4", f"--annotate={out}", *DETECT) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"written to {out}" in said.err
    times, images = videos.read(out)
    assert times == [200 * i for i in range(15)]
    original = videos.read(walk)[1]
    changed = [np.abs(a.astype(int) - b).max() for a, b in zip(images, original, strict=True)]
    assert min(changed) > 100
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_stop_while_drawing_leaves_no_video_and_the_same_command_draws_it(trained, walk, tmp_path, monkeypatch):
    out, real, drawn = tmp_path / "out.mp4", annotate.draw, []

    def stop(*arguments):
        drawn.append(real(*arguments))
        if len(drawn) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(annotate, "draw", stop)
        assert run(trained, walk, "--stride=5", f"--annotate={out}", *DETECT) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4.unfinished"]
    assert run(trained, walk, "--stride=5", f"--annotate={out}", *DETECT) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(videos.read(out)[0]) == 15


def test_lines_on_the_screen_have_the_track_and_the_smooth_class(trained, walk, capsys):
    assert run(trained, walk, "--stride=7", "--smooth=30", *DETECT) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name.removeprefix(f"{walk} ") for name, *_ in lines][:2] == ["frame 0 #0", "frame 0 #1"]
    assert len({tuple(answer) for name, *answer in lines if name.endswith("#0")}) == 1


def test_with_smoothing_lines_counts_and_table_agree_on_what_is_uncertain(trained, walk, tmp_path, capsys):
    def table(name, *options):
        assert run(trained, walk, "--stride=2", "--smooth=30", f"--out={tmp_path / name}", *options, *DETECT) == 0
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        return [row for row in rows if "expression" in row]

    raw, smooth = max(
        ((row["confidence"], row["smooth_confidence"]) for row in table("all.jsonl")),
        key=lambda pair: abs(pair[0] - pair[1]),
    )
    least = f"--min_confidence={(raw + smooth) / 2}"
    capsys.readouterr()
    rows = table("some.jsonl", least)
    counted = capsys.readouterr().err
    uncertain = [row["smooth_confidence"] < (raw + smooth) / 2 for row in rows]
    assert uncertain != [row["confidence"] < (raw + smooth) / 2 for row in rows]
    assert [row["status"] == "uncertain" for row in rows] == uncertain
    said = f"{len(rows) - sum(uncertain)} predicted, {sum(uncertain)} uncertain"
    assert said in counted
    assert run(trained, walk, "--stride=2", "--smooth=30", least, *DETECT) == 0
    shown = capsys.readouterr()
    assert said in shown.err
    assert [line.split("\t")[1] == "uncertain" for line in shown.out.splitlines() if "#" in line] == uncertain


def test_what_cannot_be_annotated_is_refused_before_anything_is_done(tmp_path):
    videos.write(tmp_path / "a.mp4", stripes(), TIMES)
    video, out = str(tmp_path / "a.mp4"), tmp_path / "out.mp4"
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    for inputs, message in (
        ([video, video], "found several inputs"),
        ([str(tmp_path)], "found several inputs"),
        ([str(tmp_path / "b.png")], r"found .*b\.png, which is no video file"),
        (["camera:0"], "found camera:0, which is no video file"),
    ):
        with pytest.raises(InputError, match=f"--annotate draws on one video, {message}"):
            Annotator(out, inputs)
    (tmp_path / "link.mp4").symlink_to(video)
    with pytest.raises(InputError, match="is the video itself, which would be lost"):
        Annotator(tmp_path / "link.mp4", [video])
