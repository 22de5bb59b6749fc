"""Videos for tests: written with PyAV, with any time stamps, rotation flags and B-frames."""

import fractions

import numpy as np

from tests import needs

av = needs.module("av")
TICKS = fractions.Fraction(1, 1000)


def write(path, images, times, *, rotation=0, b_frames=2, sound=False, **options) -> None:
    """Images uint8[height, width, 3], shown at `times` in milliseconds; `rotation` is a flag, in degrees."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": str(b_frames), "crf": "12", **options})
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", TICKS
        stream.height, stream.width = images[0].shape[:2]
        if rotation:
            stream.set_display_rotation(rotation)
        if sound:
            add_sound(container, max(times) / 1000)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = time, TICKS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def add_sound(container, seconds) -> None:
    """A tone of 440 Hz."""
    stream = container.add_stream("aac", rate=16000, layout="mono")
    tone = np.sin(2 * np.pi * 440 * np.arange(round(16000 * seconds)) / 16000).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    container.mux([*stream.encode(frame), *stream.encode(None)])


def read(path):
    """Times in milliseconds, from the container, and images of a video."""
    with av.open(str(path)) as container:
        frames = [(round(1000 * frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [time for time, _ in frames], [image for _, image in frames]
