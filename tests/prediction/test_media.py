"""What arguments name: files, folders, patterns, videos with their times, cameras."""

import os
import pathlib

import numpy as np
import pytest

from mpafer_jax.prediction import media
from mpafer_jax.prediction.inputs import Picture
from mpafer_jax.prediction.media import InputError, Medium
from mpafer_jax.prediction.results import Failure

cv2 = pytest.importorskip("cv2", reason="the extra `faces` is not installed")
FRAMES, RATE = 12, 10  # a second


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def write_video(path, frames=FRAMES):
    """Frame i is red with the level 20 i, and lossless enough to read it back."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (64, 48))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * index), np.uint8))  # OpenCV's order: blue, green, red
    writer.release()


def found(*arguments):
    return [(medium.kind, medium.path) for medium in media.find([str(argument) for argument in arguments])]


def test_folders_are_listed_in_order_with_what_is_inside(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.mp4", ".cache/d.jpg", "aa/e.webp", "aa/f.gif"):
        touch(tmp_path / name)
    names = [
        ("picture", "a.PNG"),
        ("picture", "b.jpg"),
        ("picture", "aa/e.webp"),
        ("picture", "aa/f.gif"),
        ("video", "sub/c.mp4"),
    ]
    assert found(tmp_path) == [(kind, str(tmp_path / name)) for kind, name in names]


def test_links_to_folders_are_followed_and_end(tmp_path):
    for name in ("faces/a.jpg", "faces/sub/b.jpg", "elsewhere/c.jpg"):
        touch(tmp_path / name)
    faces = tmp_path / "faces"
    (faces / "linked").symlink_to(tmp_path / "elsewhere")
    (faces / "sub" / "back").symlink_to(faces)
    (tmp_path / "elsewhere" / "itself").symlink_to(tmp_path / "elsewhere")
    assert found(faces) == [("picture", str(faces / name)) for name in ("a.jpg", "linked/c.jpg", "sub/b.jpg")]


def test_files_patterns_and_cameras(tmp_path):
    for name in ("x1.jpg", "x2.jpg", "[odd].jpg", "face.dat", "sub/x3.jpg"):
        touch(tmp_path / name)
    # A file that is named is taken whatever its name, and a name that looks like a pattern is a name first.
    assert found(tmp_path / "face.dat") == [("picture", str(tmp_path / "face.dat"))]
    assert found(tmp_path / "[odd].jpg") == [("picture", str(tmp_path / "[odd].jpg"))]
    assert found(tmp_path / "x?.jpg") == [("picture", str(tmp_path / f"x{i}.jpg")) for i in (1, 2)]
    assert found(tmp_path / "**/x*.jpg") == [
        ("picture", str(tmp_path / name)) for name in ("sub/x3.jpg", "x1.jpg", "x2.jpg")
    ]
    assert len(found(tmp_path / "**")) == 5
    assert found(tmp_path / "su*") == [("picture", str(tmp_path / "sub" / "x3.jpg"))]
    assert found("camera:1") == [("camera", "1")]


def test_arguments_that_name_nothing_are_all_listed_before_anything_is_done(tmp_path):
    touch(tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing to predict on: .*empty, .*\*\.bmp, camera:x; expected a file"):
        media.find([str(tmp_path / "a.jpg"), str(tmp_path / "empty"), str(tmp_path / "*.bmp"), "camera:x"])


@pytest.mark.parametrize("stride", [1, 5])
def test_a_video_is_its_frames_with_their_times_in_red_green_blue(tmp_path, stride):
    write_video(tmp_path / "a.avi")
    touch(tmp_path / "b.jpg")
    pictures = list(media.pictures(media.find([str(tmp_path)]), stride=stride))
    assert all(isinstance(picture, Picture) for picture in pictures)
    assert len(pictures) == media.count(media.find([str(tmp_path)]), stride=stride) == -(-FRAMES // stride) + 1
    numbers = [*range(0, FRAMES, stride)]
    assert [picture.source.frame for picture in pictures] == [*numbers, None]
    assert [picture.source.index for picture in pictures] == [*range(len(numbers) + 1)]
    for picture in pictures[:-1]:
        assert picture.source.seconds == pytest.approx(picture.source.frame / RATE, abs=0.011)
        red, green, blue = np.asarray(picture.read()).mean(axis=(0, 1))
        assert red == pytest.approx(20 * picture.source.frame, abs=6)
        assert max(green, blue) < 10


def test_what_is_no_video_or_ends_early_is_a_failure_in_its_place(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    write_video(tmp_path / "b.avi", 40)
    data = (tmp_path / "b.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(data[: len(data) // 2])
    touch(tmp_path / "c.jpg")
    first, *frames, ended, last = media.pictures(media.find([str(tmp_path)]))
    assert isinstance(first, Failure)
    assert first.reason == "OpenCV cannot open it as a video"
    assert 0 < len(frames) < 40
    assert isinstance(ended, Failure)
    assert ended.reason == f"it ended after {len(frames)} of 40 frames"
    assert last.source.index == len(frames) + 2


def test_frames_are_decoded_when_they_are_asked_for_and_the_video_is_let_go(tmp_path):
    write_video(tmp_path / "a.avi")
    frames = media.pictures(media.find([str(tmp_path / "a.avi")]))
    next(frames)
    assert opened(tmp_path / "a.avi")
    frames.close()
    assert not opened(tmp_path / "a.avi")


def opened(path) -> bool:
    listing = pathlib.Path("/proc/self/fd")
    if not listing.is_dir():
        pytest.skip("open files are not listed on this system")
    return any(os.path.realpath(link) == str(path) for link in listing.iterdir())


def test_a_camera_that_is_not_there(monkeypatch):
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "SILENT")
    assert media.count(iter([Medium("picture", "a"), Medium("camera", "99")])) is None
    (failure,) = media.pictures(iter([Medium("camera", "99")]))
    assert isinstance(failure, Failure)
    assert failure.source.file == "camera:99"
    assert failure.reason == "there is no such camera, or it is in use"
