"""A video with its results drawn on every frame: boxes, tracks, expressions. Needs the extra `video`."""

from __future__ import annotations

import contextlib
import dataclasses
import fractions
import importlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image, ImageDraw, ImageFont

from mpafer_jax.inference import media
from mpafer_jax.inference.inputs import InputImage
from mpafer_jax.inference.results import UNCERTAIN
from mpafer_jax.runtime import files, progress, signals
from mpafer_jax.runtime.errors import InputError

_TICKS = 1000  # a second, of the written time stamps, as `Source.seconds` is rounded
_ENCODER, _OPTIONS = "libx264", {"crf": "20", "preset": "veryfast"}
_USUAL_RATE = 30  # frames a second, for the encoder's choices where the video does not say its own
# Light colours, on which black text has a contrast of at least 8 to 1; a track keeps its own.
_COLOURS = (
    *((255, 213, 0), (96, 207, 255), (255, 153, 85), (130, 232, 130), (255, 150, 205), (200, 175, 255)),
    *((255, 255, 255), (0, 222, 190)),
)
_DARK = (0, 0, 0)
_SMALLEST_TEXT = 7  # pixels
Values = Mapping[str, Any]  # a result's `to_dict`
Corners = tuple[float, float, float, float]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What is drawn for one face; `box` is None where the whole image was predicted on."""

    box: Corners | None
    track: int | None
    text: str


class Annotator:
    """Draws the results of one video on it."""

    def __init__(self, out: Path, inputs: Sequence[str], min_confidence: float = 0.0) -> None:
        """Checks what can be checked before anything is predicted.

        Args:
          out: the video to write, .mp4: H.264 with the time stamps of the original, upright.
          inputs: of the command; one video or animated image.
          min_confidence: below it, a face is marked as uncertain.

        Raises:
          InputError: the inputs are something else, or `out` is the video itself.
          ModuleNotFoundError: PyAV is not installed; names the extra to install.
        """
        first, *more = itertools.islice(media.find(inputs), 2)
        if more or first.kind not in ("video", "animation"):
            camera = media.CAMERA if first.kind == "camera" else ""
            what = "several inputs" if more else f"{camera}{first.path}, which is no video file"
            raise InputError(f"--annotate draws on one video, found {what}; give one video at a time")
        if out.exists() and out.samefile(first.path):
            raise InputError(f"--annotate={out} is the video itself, which would be lost; give another name")
        self._out, self._video, self._min_confidence = out, first, min_confidence
        try:
            self._av: Any = importlib.import_module("av")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "--annotate needs PyAV to write videos; install it with: pip install -e '.[video]'"
            ) from error

    def write(self, rows: Iterable[Values]) -> None:
        """Writes the annotated video; it appears when it is complete.

        Args:
          rows: `to_dict` of the video's results, in order, smoothed or not.

        Raises:
          signals.Preempted: between two frames.
          OSError: it cannot be written.
        """
        marks = _Marks(rows, self._min_confidence)
        total = media.count(iter([self._video]))
        images = media.images(iter([self._video]))
        with (
            contextlib.closing(images),
            progress.task("drawing on the video", total, "frames") as work,
            files.replacing(self._out) as temporary,
            contextlib.ExitStack() as stack,
        ):
            writer: _Writer | None = None
            for image in images:
                signals.check_alone()
                work.advance()
                source = image.source
                if not isinstance(image, InputImage) or source.frame is None or source.seconds is None:
                    continue  # cut short, or this frame is damaged: said in the results
                pixels = image.read().convert("RGB")
                draw(pixels, marks.at(source.frame, source.seconds))
                if writer is None:
                    writer = stack.enter_context(self._opened(temporary, pixels.size))
                writer.add(pixels, source.seconds)
            if writer is None:
                raise InputError(f"no frame of {self._video.path} can be decoded, so that nothing can be drawn on it")

    @contextlib.contextmanager
    def _opened(self, path: Path, size: tuple[int, int]) -> Generator[_Writer]:
        with contextlib.ExitStack() as stack:
            options = {"movflags": "faststart"}  # players begin before all of it is loaded
            container = stack.enter_context(self._av.open(str(path.absolute()), "w", format="mp4", options=options))
            rate, sound = _USUAL_RATE, None
            if self._video.kind == "video":
                # An open file: names are not all UTF-8, which PyAV expects.
                original = stack.enter_context(self._av.open(stack.enter_context(Path(self._video.path).open("rb"))))
                rate = original.streams.video[0].average_rate or rate
                sound = _Sound.of(original, container)
            stream = container.add_stream(_ENCODER, rate=rate, options=_OPTIONS)
            stream.width, stream.height = (side + side % 2 for side in size)
            stream.pix_fmt = "yuv420p"  # what all players decode
            stream.codec_context.time_base = fractions.Fraction(1, _TICKS)
            writer = _Writer(self._av, container, stream, sound, size)
            yield writer
            writer.finish()


class _Writer:
    """Encodes images at their times."""

    def __init__(self, av: Any, container: Any, stream: Any, sound: _Sound | None, size: tuple[int, int]) -> None:
        self._av, self._container, self._stream, self._sound, self._size = av, container, stream, sound, size
        self._ticks = -1

    def add(self, image: Image.Image, seconds: float) -> None:
        self._ticks = max(self._ticks + 1, round(seconds * _TICKS))
        if image.size != self._size:  # a stream may change its size
            image = image.resize(self._size)
        pixels = np.asarray(image)
        pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = self._ticks, fractions.Fraction(1, _TICKS)
        if self._sound is not None:
            self._container.mux(self._sound.until(seconds))
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._container.mux(self._sound.until(np.inf))


class _Sound:
    """The sound of the original, copied as it is."""

    def __init__(self, packets: Iterator[Any], stream: Any, start: float) -> None:
        self._packets, self._stream, self._start = packets, stream, start
        self._next: Any = next(packets, None)

    @classmethod
    def of(cls, original: Any, container: Any) -> _Sound | None:
        """Adds a stream for it to a container; None if the original has none, or one that MP4 cannot hold."""
        if not original.streams.audio:
            return None
        (audio, *_), (video, *_) = original.streams.audio, original.streams.video
        if audio.codec_context.codec.canonical_name not in container.supported_codecs:
            logging.warning("the sound (%s) is left out: MP4 does not hold it", audio.codec_context.codec.long_name)
            return None
        start = float((video.start_time or 0) * video.time_base)
        packets = (packet for packet in original.demux(audio) if packet.pts is not None)
        return cls(packets, container.add_stream_from_template(audio), start)

    def until(self, seconds: float) -> list[Any]:
        """The packets up to a time of the video's."""
        due = list[Any]()
        while self._next is not None:
            packet = self._next
            shift = round(self._start / packet.time_base)
            if (packet.pts - shift) * packet.time_base > seconds:
                break
            self._next = next(self._packets, None)
            if packet.pts >= shift:  # else it is from before the video begins
                packet.pts -= shift
                packet.dts = packet.pts if packet.dts is None else packet.dts - shift
                packet.stream = self._stream
                due.append(packet)
        return due


class _Marks:
    """The marks of every frame, from the results of some; asked for frames in order."""

    def __init__(self, rows: Iterable[Values], min_confidence: float) -> None:
        self._min_confidence = min_confidence
        predicted = (row for row in rows if row["frame"] is not None)
        groups = ((frame, list(group)) for frame, group in itertools.groupby(predicted, lambda row: row["frame"]))
        self._groups: Iterator[tuple[int, list[Values]]] = groups
        self._before: list[Values] = []
        self._after = next(groups, None)

    def at(self, frame: int, seconds: float) -> list[Mark]:
        """Between two frames with results, a face that both have moves on a straight line; others stay.

        So do all behind the last result, which is less than one stride before the video's end.
        """
        while self._after is not None and self._after[0] <= frame:
            self._before, self._after = self._after[1], next(self._groups, None)
        later = {row["track"]: row for row in (self._after or (0, []))[1] if row.get("face")}
        predicted = [row for row in self._before if "expression" in row]
        return [_mark(row, later.get(row["track"]), seconds, self._min_confidence) for row in predicted]


def _mark(row: Values, later: Values | None, seconds: float, min_confidence: float) -> Mark:
    box = _box(row)
    if box is not None and later is not None and row["track"] is not None:
        share = np.clip((seconds - row["seconds"]) / max(1e-6, later["seconds"] - row["seconds"]), 0, 1)
        box = tuple((np.array(box) + share * (np.array(_box(later)) - box)).tolist())
    smooth = "smooth_" if "smooth_expression" in row else ""
    confidence = row[f"{smooth}confidence"]
    answer = row[f"{smooth}expression"] if confidence >= min_confidence else UNCERTAIN
    text = f"{answer} {100 * confidence:.0f}%"
    return Mark(box, row["track"], text if row["track"] is None else f"#{row['track']} {text}")


def _box(row: Values) -> Corners | None:
    face: dict[str, float] | None = row["face"]
    if face is None:
        return None
    return face["left"], face["top"], face["left"] + face["width"], face["top"] + face["height"]


def draw(image: Image.Image, marks: Sequence[Mark]) -> None:
    """Draws marks on an RGB image: light on dark lines, labels inside the image that do not cover each other."""
    pen = ImageDraw.Draw(image)
    shorter = min(image.size)
    line = max(1, round(shorter / 240))
    colours = [_COLOURS[(mark.track or 0) % len(_COLOURS)] for mark in marks]
    for mark, colour in zip(marks, colours, strict=True):
        if mark.box is not None:
            left, top, right, bottom = (round(value) for value in mark.box)
            pen.rectangle((left - line, top - line, right + line, bottom + line), outline=_DARK, width=3 * line)
            pen.rectangle((left, top, right, bottom), outline=colour, width=line)
    taken = list[Corners]()
    for mark, colour in zip(marks, colours, strict=True):
        font, width, height = _fitting(mark.text, max(12, shorter / 26), image.width - 2 * line)
        gap = round(0.25 * height)
        place = _free_place(mark.box, (width + 2 * gap, height + 2 * gap), image.size, 2 * line, taken)
        taken.append(place)
        pen.rectangle(place, fill=colour, outline=_DARK, width=line)
        pen.text(((place[0] + place[2]) / 2, (place[1] + place[3]) / 2), mark.text, _DARK, font, anchor="mm")


def _fitting(text: str, size: float, width: int) -> tuple[ImageFont.FreeTypeFont, int, int]:
    """A font in which text is at most so wide, with the text's width and the height of its lines."""
    import matplotlib as mpl  # here, since only this needs it

    path = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")  # has Greek and Cyrillic too
    while True:
        font = ImageFont.truetype(path, round(size))
        ascent, descent = font.getmetrics()
        length = round(font.getlength(text))
        if length + 0.5 * (ascent + descent) <= width or size <= _SMALLEST_TEXT:
            return font, length, ascent + descent
        size -= 1


def _free_place(
    box: Corners | None, size: tuple[int, int], image: tuple[int, int], gap: int, taken: Sequence[Corners]
) -> Corners:
    """Where a label goes: above its face, below it, inside at its top or its bottom; the first that is free."""
    left, top, right, bottom = box or (0, 0, 0, 0)
    del right
    tops = (top - gap - size[1], bottom + gap, top + gap, bottom - gap - size[1])
    places = [(left - gap, y) for y in tops] if box else [(0.0, 0.0)]
    inside = [place for place in places if 0 <= place[1] <= image[1] - size[1]] or places
    fitted = list[Corners]()
    for x, y in inside:
        x, y = max(0, min(x, image[0] - size[0])), max(0, min(y, image[1] - size[1]))
        fitted.append((x, y, x + size[0] - 1, y + size[1] - 1))
    return next((place for place in fitted if not any(_overlap(place, other) for other in taken)), fitted[0])


def _overlap(a: Corners, b: Corners) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
