"""What arguments name: files, folders, patterns, videos with their times, cameras."""

import io
import os
import pathlib
import shutil
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from mpafer_jax.inference import containers, media
from mpafer_jax.inference.inputs import InputImage, as_input
from mpafer_jax.inference.media import Medium
from mpafer_jax.inference.results import Failure
from mpafer_jax.runtime.errors import ImageError, InputError

FRAMES, RATE = 12, 10  # a second


def touch(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


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
        touch(tmp_path / name, b"content")
    names = [
        ("image", "a.PNG"),
        ("image", "b.jpg"),
        ("image", "aa/e.webp"),
        ("image", "aa/f.gif"),
        ("video", "sub/c.mp4"),
    ]
    assert found(tmp_path) == [(kind, str(tmp_path / name)) for kind, name in names]


def test_what_a_folder_holds_besides_is_counted_by_suffix_and_images_that_are_not_read_are_rows(tmp_path):
    for name in ("a.jpg", "notes.txt", "sub/more.TXT", "Thumbs.db", "LICENSE", ".hidden", "app.ts", "photo.HEIC"):
        touch(tmp_path / name, b"text")
    left_out = media.LeftOut()
    assert [medium.path for medium in media.find([str(tmp_path)], left_out=left_out)] == [
        str(tmp_path / "a.jpg"),
        str(tmp_path / "photo.HEIC"),
    ]
    *_, heic = media.images(media.find([str(tmp_path)]))
    touch(tmp_path / "photo.HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match="HEIC, in which phones keep images, is not read: save it as JPEG"):
        heic.read()
    assert left_out == {".txt": 2, ".db": 1, "no suffix": 1, ".ts": 1}
    assert str(left_out) == "5 files (.txt 2, no suffix 1, .db 1, .ts 1)"
    with pytest.raises(InputError, match=r"nothing to predict on: .*sub \(holds 1 file \(\.txt 1\)\); expected"):
        media.find([str(tmp_path / "sub")])


@pytest.mark.parametrize("name", ["photo.dng", "photo.NEF"])
def test_a_raw_file_is_not_read_as_the_preview_that_it_begins_with(tmp_path, name):
    Image.new("RGB", (16, 16)).save(tmp_path / name, "TIFF")
    for argument in (tmp_path, tmp_path / name):
        (failure,) = media.images(media.find([str(argument)]))
        assert isinstance(failure, Failure)
        assert failure.source.file == str(tmp_path / name)
        assert failure.reason == "a camera's raw file is not read: save it as JPEG or PNG"
    with pytest.raises(ImageError, match="a camera's raw file is not read"):  # a path given from Python
        as_input(tmp_path / name, 0).read()


def test_a_folder_that_is_written_to_is_passed_over(tmp_path):
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "maps" / "000000_a.png")
    assert [m.path for m in media.find([str(tmp_path)], but=[tmp_path / "maps"])] == [str(tmp_path / "a.jpg")]


def test_a_folder_that_vanishes_is_said(tmp_path):
    for name in ("a.jpg", "sub/b.jpg"):
        touch(tmp_path / name)
    listed = media.find([str(tmp_path)])
    next(listed)
    shutil.rmtree(tmp_path / "sub")
    (failure,) = media.images(listed)
    assert (failure.source.file, failure.reason) == (
        str(tmp_path / "sub"),
        "the folder cannot be listed (No such file or directory)",
    )


def test_links_to_folders_are_followed_and_end(tmp_path):
    for name in ("faces/a.jpg", "faces/sub/b.jpg", "elsewhere/c.jpg"):
        touch(tmp_path / name)
    faces = tmp_path / "faces"
    (faces / "linked").symlink_to(tmp_path / "elsewhere")
    (faces / "sub" / "back").symlink_to(faces)
    (tmp_path / "elsewhere" / "itself").symlink_to(tmp_path / "elsewhere")
    assert found(faces) == [("image", str(faces / name)) for name in ("a.jpg", "linked/c.jpg", "sub/b.jpg")]


def test_files_patterns_and_cameras(tmp_path, monkeypatch):
    for name in ("x1.jpg", "x2.jpg", "[odd].jpg", "face.dat", "sub/x3.jpg"):
        touch(tmp_path / name)
    # A file that is named is taken whatever its name, and a name that looks like a pattern is a name first.
    assert found(tmp_path / "face.dat") == [("image", str(tmp_path / "face.dat"))]
    assert found(tmp_path / "[odd].jpg") == [("image", str(tmp_path / "[odd].jpg"))]
    assert found(tmp_path / "x?.jpg") == [("image", str(tmp_path / f"x{i}.jpg")) for i in (1, 2)]
    assert found(tmp_path / "**/x*.jpg") == [
        ("image", str(tmp_path / name)) for name in ("sub/x3.jpg", "x1.jpg", "x2.jpg")
    ]
    assert len(found(tmp_path / "**")) == 5
    assert found(tmp_path / "su*") == [("image", str(tmp_path / "sub" / "x3.jpg"))]
    assert found("camera:1") == [("camera", "1")]
    touch(tmp_path / "set [1]" / "y.jpg")
    assert found(tmp_path / "set [1]" / "*.jpg") == [("image", str(tmp_path / "set [1]" / "y.jpg"))]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found("~/x?.jpg") == found(tmp_path / "x?.jpg")


def test_arguments_that_name_nothing_are_all_listed_before_anything_is_done(tmp_path):
    touch(tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing to predict on: .*empty, .*\*\.bmp, camera:x; expected a file"):
        media.find([str(tmp_path / "a.jpg"), str(tmp_path / "empty"), str(tmp_path / "*.bmp"), "camera:x"])


@pytest.mark.parametrize("stride", [1, 5])
def test_a_video_is_its_frames_with_their_times_in_red_green_blue(tmp_path, stride):
    write_video(tmp_path / "a.avi")
    touch(tmp_path / "b.jpg")
    images = list(media.images(media.find([str(tmp_path)]), stride=stride))
    assert all(isinstance(image, InputImage) for image in images)
    assert len(images) == media.count(media.find([str(tmp_path)]), stride=stride) == -(-FRAMES // stride) + 1
    numbers = [*range(0, FRAMES, stride)]
    assert [image.source.frame for image in images] == [*numbers, None]
    assert [image.source.index for image in images] == [*range(len(numbers) + 1)]
    for image in images[:-1]:
        assert image.source.seconds == pytest.approx(image.source.frame / RATE, abs=0.011)
        red, green, blue = np.asarray(image.read()).mean(axis=(0, 1))
        assert red == pytest.approx(20 * image.source.frame, abs=6)
        assert max(green, blue) < 10


def test_what_is_no_video_or_ends_early_is_a_failure_in_its_place(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    write_video(tmp_path / "b.avi", 40)
    data = (tmp_path / "b.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(data[: len(data) // 2])
    (tmp_path / "c.jpg").write_bytes(b"")
    first, *frames, ended, last = media.images(media.find([str(tmp_path)]))
    assert isinstance(first, Failure)
    assert first.reason == "OpenCV cannot open it as a video"
    assert 0 < len(frames) < 40
    assert isinstance(ended, Failure)
    missing = len(data) - len(data) // 2
    assert ended.reason == (
        f"it is cut short: {len(frames)} frames could be read, and the last {missing:,} bytes of the file are missing"
    )
    assert last.source.index == len(frames) + 2


def element(name, data):
    """Of Matroska."""
    return bytes.fromhex(name) + struct.pack(">Q", len(data) | 1 << 56) + data


def matroska(times, duration):
    """Still images as a video of variable rate: JPEG in Matroska, shown at `times` in milliseconds."""
    tags = element("4286", b"\1") + element("42F7", b"\1") + element("42F2", b"\4") + element("42F3", b"\x08")
    tags += element("4282", b"matroska") + element("4287", b"\4") + element("4285", b"\2")
    info = element("2AD7B1", b"\x0f\x42\x40") + element("4489", struct.pack(">d", duration))
    size = element("B0", b"\x40") + element("BA", b"\x40")
    track = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1") + element("86", b"V_MJPEG")
    track += element("23E383", (40_000_000).to_bytes(4, "big")) + element("E0", size)
    image = io.BytesIO()
    Image.new("RGB", (64, 64)).save(image, "JPEG")
    blocks = [element("A3", b"\x81" + struct.pack(">h", time) + b"\x80" + image.getvalue()) for time in times]
    cluster = element("1F43B675", element("E7", b"\0") + b"".join(blocks))
    return element("1A45DFA3", tags) + element(
        "18538067", element("1549A966", info) + element("1654AE6B", element("AE", track)) + cluster
    )


@pytest.mark.parametrize(
    ("times", "duration"),
    [([0, 100, 200, 900, 1000, 3000], 4000.0), ([40 * i for i in range(6)], 3000.0)],
    ids=["variable rate", "longer sound"],
)
def test_a_whole_video_of_which_opencv_announces_more_frames_is_whole(tmp_path, times, duration):
    path = tmp_path / "a.mkv"
    path.write_bytes(matroska(times, duration))
    assert media.count(media.find([str(path)])) > len(times)
    frames = list(media.images(media.find([str(path)])))
    assert [frame.source.seconds for frame in frames] == [time / 1000 for time in times]
    path.write_bytes(path.read_bytes()[:-100])
    *_, failure = media.images(media.find([str(path)]))
    assert "the last 100 bytes of the file are missing" in failure.reason


def write_noise(path, codec, frames):
    """A video that cannot be compressed much, so that each frame has its part of the file."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), RATE, (64, 48))
    assert writer.isOpened()
    noise = np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), np.uint8)
    for image in noise:
        writer.write(image)
    writer.release()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG")])
def test_a_video_that_is_damaged_in_the_middle_is_read_behind_it_and_said_to_be(tmp_path, name, codec):
    path = tmp_path / name
    write_noise(path, codec, 60)
    assert len(list(media.images(media.find([str(path)])))) == 60
    data = bytearray(path.read_bytes())
    start, stop = len(data) * 5 // 12, len(data) * 7 // 12
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    found = list(media.images(media.find([str(path)])))
    assert [image.source.index for image in found] == [*range(len(found))]
    frames = [image.source for image in found if isinstance(image, InputImage)]
    (failure,) = [image for image in found if isinstance(image, Failure)]
    assert 40 < len(frames) < 60
    if name == "a.mp4":  # the container says where each frame lies, so that those behind are at their place
        lost = 60 - len(frames)
        assert failure.reason == f"the video is damaged about here: {lost} frames or more cannot be decoded"
        assert failure.source.frame == found.index(failure)
        assert 0 < failure.source.seconds < 5
        assert (frames[-1].frame, frames[-1].seconds) == (59, 5.9)
    else:  # the frames that are missing move those behind to the front
        assert failure is found[-1]
        assert failure.reason == (
            f"the video is damaged: {len(frames)} frames could be read, the last at {frames[-1].seconds:.1f} s, though "
            "it goes on to 5.8 s"
        )


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "mp4v"), ("a.mkv", "mp4v"), ("a.webm", "VP80")]
)
def test_a_whole_video_is_not_said_to_be_damaged(tmp_path, name, codec):
    write_noise(tmp_path / name, codec, 30)
    frames = list(media.images(media.find([str(tmp_path / name)])))
    assert [frame.source.frame for frame in frames if isinstance(frame, InputImage)] == [*range(30)]
    assert len(frames) == 30


def test_minutes_of_sound_between_frames_are_neither_damage_nor_the_end(tmp_path):
    from tests.inference import videos

    images = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), np.uint8)
    times = [*range(0, 800, 100), 300_000]  # in milliseconds; the sound is written first
    videos.write(tmp_path / "a.mp4", images, times, b_frames=3, sound=True)
    frames = list(media.images(media.find([str(tmp_path / "a.mp4")])))
    assert [frame.source.seconds for frame in frames] == [time / 1000 for time in times]


def test_containers_say_how_long_their_files_are(tmp_path):
    path = tmp_path / "a"
    boxes = struct.pack(">I4s8x", 16, b"ftyp") + struct.pack(">I4sQ", 1, b"mdat", 32) + bytes(16)
    for content, missing in (
        (boxes, 0),
        (boxes[:-6], 6),
        (boxes + b"\0\0\0\0mdat", 0),  # to the end of the file, however long that is
        (boxes + b"\x7f\xff\xff\xffjunk", 0),
        (b"RIFF" + struct.pack("<I", 4) + b"AVI " + b"RIFF" + struct.pack("<I", 9) + b"AVIX", 5),
        (b"\x1a\x45\xdf\xa3\x81\0\x18\x53\x80\x67\xff", 0),  # written as a stream, without a length
        (b"\x1a\x45\xdf\xa3\x81\0\x18\x53\x80\x67\x40\x05ab", 3),
        (b"GIF89a", 0),
        (b"", 0),
    ):
        path.write_bytes(content)
        assert containers.missing_bytes(path) == missing, content
    assert containers.missing_bytes(tmp_path / "absent") == 0


def test_a_file_with_an_unknown_suffix_is_what_it_begins_like(tmp_path):
    write_video(tmp_path / "film.avi")
    (tmp_path / "film.avi").rename(tmp_path / "film.bin")
    packets = (b"G" + bytes(187)) * 3
    for name, content, kind in (
        ("film.bin", None, "video"),
        ("a.dat", b"\0\0\0\x18ftypmp42", "video"),
        ("b.dat", b"\0\0\0\x18ftypavif", "image"),
        ("c.dat", packets, "video"),
        ("d.ts", packets, "video"),
        ("e.dat", b"GGGG", "image"),
        ("f.jpg", packets, "image"),
        ("g", b"OggS", "video"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert found(tmp_path / name) == [(kind, str(tmp_path / name))]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "unknown"])
def test_an_animated_image_is_its_frames_with_their_times(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    kind = pathlib.Path(name).suffix[1:].upper() or "GIF"
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(
        tmp_path / name, kind, save_all=True, append_images=frames[1:], duration=[100, 250, 40, 70], **options
    )
    assert media.count(media.find([str(tmp_path / name)]), stride=2) == 2
    images = list(media.images(media.find([str(tmp_path / name)])))
    assert [(p.source.frame, p.source.seconds) for p in images] == [(0, 0.0), (1, 0.1), (2, 0.35), (3, 0.39)]
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_allclose(np.asarray(image.read()), np.asarray(frame), atol=3)
    strided = media.images(media.find([str(tmp_path / name)]), stride=3)
    assert [p.source.frame for p in strided] == [0, 3]
    frames[0].save(tmp_path / name, kind)
    assert found(tmp_path / name) == [("image", str(tmp_path / name))]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_a_frame_that_is_shown_for_no_time_counts_as_a_tenth_of_a_second(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=[0, 10, 20, 0])
    images = list(media.images(media.find([str(tmp_path / name)])))
    assert [image.source.seconds for image in images] == [0.0, 0.1, 0.2, 0.22]


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_frames_of_an_animated_image_are_upright(tmp_path, name, mode):
    upright = Image.new("RGB", (32, 16), (0, 0, 200))
    upright.paste((200, 0, 0), (0, 0, 16, 16))
    shown = [upright, Image.blend(upright, Image.new("RGB", upright.size), 0.3)]
    first, second = (image.convert(mode).transpose(Image.Transpose.ROTATE_90) for image in shown)
    if mode == "RGBA":  # composited over white, which keeps no EXIF data
        first.putpixel((0, 0), (255, 255, 255, 0))
        second.putpixel((0, 0), (255, 255, 255, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    options = {"lossless": True} if name == "a.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], duration=100, exif=exif, **options)
    frames = [np.asarray(image.read()) for image in media.images(media.find([str(tmp_path / name)]))]
    for frame, image in zip(frames, shown, strict=True):
        np.testing.assert_allclose(frame[1:], np.asarray(image)[1:], atol=3)


def test_names_that_opencv_stumbles_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.avi", 2)
    for name in ("12:30.avi", "file:a.avi", "-a.avi", "two words\n.avi", "%03d.avi", os.fsdecode(b"caf\xe9.avi")):
        os.link("plain.avi", name)
        assert media.count(media.find([name])) == 2
        assert [frame.source.file for frame in media.images(media.find([name]))] == [name] * 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: os.mkfifo(path), "expected a file, found a folder, a device or a pipe"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
        (touch, "the file is empty"),
    ],
    ids=["pipe", "broken link", "empty"],
)
def test_no_video_that_would_be_waited_for(tmp_path, make, reason):
    make(tmp_path / "a.mp4")
    (failure,) = media.images(media.find([str(tmp_path)]))
    assert failure.reason == reason
    (tmp_path / "a.mp4").rename(tmp_path / "a.unknown")
    (image,) = media.images(media.find([str(tmp_path / "a.unknown")]))
    with pytest.raises(ImageError, match=reason):
        image.read()


def test_frames_are_decoded_when_they_are_asked_for_and_the_video_is_let_go(tmp_path):
    write_video(tmp_path / "a.avi")
    frames = media.images(media.find([str(tmp_path / "a.avi")]))
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
    assert media.count(iter([Medium("image", "a"), Medium("camera", "99")])) is None
    (failure,) = media.images(iter([Medium("camera", "99")]))
    assert isinstance(failure, Failure)
    assert failure.source.file == "camera:99"
    assert failure.reason == "there is no such camera, or it is in use"
