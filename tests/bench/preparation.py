"""Preparation of a large dataset against a plain copy of its files, and the start of a later run on it."""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import io
import json
import os
import pstats
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from PIL import Image

from mpafer_jax.cli.runner import argument, command, number, path
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.runtime import files, progress
from mpafer_jax.runtime import workers as workers_lib

_HERE = Path(__file__).resolve().parents[2]
_STEPS = Path(__file__).with_name("preparation_steps.py")
_SIDE, _QUALITY = 100, 90  # of RAF-DB's aligned faces: about 4 KB each
_FACES = 64  # drawn ones; every image is one of them with a number in its pixels
_BLOCK, _LEVELS = 8, 4
_CLASS_SIZES = (1290, 281, 717, 4772, 1982, 705, 2524)  # of RAF-DB's train split, labels 1 to 7
_EVERY_SECONDS = 0.25  # between two looks at the memory


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a command took.

    Attributes:
      seconds: from its start to its end.
      processor: seconds of all cores, with its children.
      memory: (seconds since the start, MiB of the process and its children, shared pages counted once) over time.
      ends: seconds since the start at the end of each of its stages.
      profile: the functions with most time of their own, if asked for.
    """

    seconds: float
    processor: float
    memory: list[tuple[float, float]] = dataclasses.field(default_factory=list[tuple[float, float]])
    ends: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    profile: str = ""

    def memory_at(self, share: float) -> float:
        """MiB when this share of the time had passed."""
        return min(self.memory, key=lambda sample: abs(sample[0] - share * self.seconds), default=(0.0, 0.0))[1]

    @property
    def peak(self) -> float:
        """The most MiB that were seen."""
        return max((memory for _, memory in self.memory), default=0.0)


def numbered(face: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """The face with a number from 0 to 4^12 - 1 as grey blocks in its last rows, which outlasts JPEG."""
    marked, digits = face.copy(), _SIDE // _BLOCK
    levels = [count // _LEVELS**digit % _LEVELS * (255 // (_LEVELS - 1)) for digit in range(digits)]
    marked[-_BLOCK:, : digits * _BLOCK] = np.repeat(np.array(levels, np.uint8), _BLOCK)[None, :, None]
    return marked


def write_dataset(folder: Path, images: int) -> None:
    """Writes so many different faces in RAF-DB's layout, with its shares of classes and of the test split."""
    aligned, lists = folder / "basic" / "Image" / "aligned", folder / "basic" / "EmoLabel"
    for place in (aligned, lists):
        place.mkdir(parents=True)
    drawn = [generate.face_of(0, "train", index, STYLES["colour"]).job for index in range(min(_FACES, images))]
    faces = list(generate.render_all(drawn, _SIDE))
    labels = _labels(images)
    for count, name in enumerate(progress.track(labels, "writing images", images)):
        buffer = io.BytesIO()
        Image.fromarray(numbered(faces[count % len(faces)], count)).save(buffer, "JPEG", quality=_QUALITY)
        (aligned / f"{Path(name).stem}_aligned.jpg").write_bytes(buffer.getvalue())
    _write_list(lists, labels)


def link_dataset(folder: Path, other: Path, images: int) -> None:
    """A dataset of so many images in the same layout, whose files are links to those of another."""
    aligned, lists = folder / "basic" / "Image" / "aligned", folder / "basic" / "EmoLabel"
    for place in (aligned, lists):
        place.mkdir(parents=True)
    sources = [entry.path for entry in os.scandir(other / "basic" / "Image" / "aligned")]
    labels = _labels(images)
    for count, name in enumerate(labels):
        os.link(sources[count % len(sources)], aligned / f"{Path(name).stem}_aligned.jpg")
    _write_list(lists, labels)


def _labels(images: int) -> dict[str, int]:
    """Names and labels, as in RAF-DB's list."""
    shares = np.cumsum(_CLASS_SIZES) / np.sum(_CLASS_SIZES)
    drawn = np.searchsorted(shares, np.random.default_rng(0).random(images), side="right") + 1
    train = images - images // 5
    names = [f"train_{count:06d}.jpg" for count in range(train)]
    names += [f"test_{count:06d}.jpg" for count in range(images - train)]
    return dict(zip(names, drawn.tolist(), strict=True))


def _write_list(place: Path, labels: Mapping[str, int]) -> None:
    lines = "".join(f"{name} {label}\n" for name, label in labels.items())
    (place / "list_patition_label.txt").write_text(lines)


def run(words: Sequence[str], checkout: Path | None = None) -> tuple[Taken, str]:
    """Runs a command, with the packages of a checkout if one is given; returns also its output.

    Raises:
      subprocess.CalledProcessError: it failed.
    """
    environment = os.environ if checkout is None else {**os.environ, "PYTHONPATH": str(checkout)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    memory: list[tuple[float, float]] = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(words, env=environment, stdout=output)
        while True:
            try:
                process.wait(_EVERY_SECONDS)
            except subprocess.TimeoutExpired:
                memory.append((time.perf_counter() - start, _memory(process.pid)))
            else:
                break
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(words), text)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(seconds, processor, memory), text


def _memory(pid: int) -> float:
    """MiB of a process and its children; a page that several share counts once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:  # one has just ended
        pass
    return total / 2**20


def start(which: str, folder: Path, checkout: Path, *, profiled: bool = False) -> Taken:
    """Measures `prepare` or `start` of preparation_steps.py, or profiles it, which slows it down."""
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch, "profile")
        flags = [f"--profile={profile}"] if profiled else []
        # -P: without this script's folder on the path.
        taken, text = run([sys.executable, "-P", str(_STEPS), which, str(folder), *flags], checkout)
        ends = json.loads(text.splitlines()[-1])
        return dataclasses.replace(taken, ends=ends, profile=_top(profile) if profiled else "")


def _top(profile: Path) -> str:
    text = io.StringIO()
    pstats.Stats(str(profile), stream=text).strip_dirs().sort_stats("tottime").print_stats(25)
    return text.getvalue()


def warm(folder: Path) -> None:
    """Reads all files of a folder, since the system may have dropped them from its cache meanwhile."""
    for place, _, names in os.walk(folder):
        for name in names:
            Path(place, name).read_bytes()


def measure(
    scratch: Path, checkouts: Mapping[str, Path], images: int, records: int, repeats: int, *, profiled: bool
) -> dict[str, list[Taken]]:
    """All measurements by name, each with its files in the system's cache."""
    source, later = scratch / "images", scratch / "records"
    write_dataset(source, images)
    link_dataset(later, source, records)
    found: dict[str, list[Taken]] = {}

    def prepare(name: str, *, profiled: bool = False) -> Taken:
        warm(source)
        taken = start("prepare", source, checkouts[name], profiled=profiled)
        shutil.rmtree(source / "mpafer_tfds")
        return taken

    def start_later(name: str, *, profiled: bool = False) -> Taken:
        start("prepare", later, checkouts[name])  # unless it is; another checkout's may do
        warm(later)
        return start("start", later, checkouts[name], profiled=profiled)

    for _ in range(repeats):
        warm(source)
        found.setdefault("copy", []).append(run(["cp", "-r", str(source), str(scratch / "copy")])[0])
        shutil.rmtree(scratch / "copy")
        for name in reversed([*checkouts]):  # this one first, which prepares the many records faster
            found.setdefault(f"prepare, {name}", []).append(prepare(name))
            found.setdefault(f"start, {name}", []).append(start_later(name))
    for name in checkouts if profiled else ():
        found[f"profile of prepare, {name}"] = [prepare(name, profiled=True)]
        found[f"profile of start, {name}"] = [start_later(name, profiled=True)]
    return found


def render(found: Mapping[str, Sequence[Taken]], images: int, records: int, num_bytes: int) -> str:
    """The results as Markdown."""
    rows: list[list[str]] = []
    copied = min(taken.seconds for taken in found["copy"])
    for name, several in found.items():
        if name == "copy" or name.startswith("prepare"):
            best = min(several, key=lambda taken: taken.seconds)
            rows.append(
                [
                    name,
                    f"{best.seconds:.1f}",
                    f"{best.processor:.1f}",
                    f"{images / best.seconds:,.0f}",
                    f"{num_bytes / best.seconds / 1e6:.1f}",
                    f"{copied / best.seconds:.2f}",
                    *(f"{best.memory_at(share):.0f}" for share in (0.5, 0.75, 0.95)),
                    f"{best.peak:.0f}",
                ]
            )
    header = ["", "seconds", "processor s", "files/s", "MB/s", "of the copy's rate"]
    header += [f"MiB at {share}" for share in ("50%", "75%", "95%")] + ["peak"]
    lines = [f"{images:,} images of {num_bytes / images:,.0f} bytes, in the system's cache", "", markdown(header, rows)]
    lines += ["", f"A later start on {records:,} prepared records, seconds since its start:", ""]
    starts = {name: several for name, several in found.items() if name.startswith("start")}
    stages = list(dict.fromkeys(stage for several in starts.values() for taken in several for stage in taken.ends))
    rows = []
    for name, several in starts.items():
        best = min(several, key=lambda taken: taken.ends[stages[-1]])
        rows.append(
            [name, *(f"{best.ends[stage]:.2f}" for stage in stages), f"{best.processor:.1f}", f"{best.peak:.0f}"]
        )
    lines += [markdown(["", *stages, "processor s", "peak MiB"], rows), ""]
    for name, several in found.items():
        lines += [f"{name}:", "", *several[0].profile.splitlines(), ""] if several[0].profile else []
    return "\n".join(lines) + f"\n{workers_lib.usable_cores()} cores; least of {len(found['copy'])}.\n"


@command(
    "preparation",
    path("--out", required=True, help="folder for preparation.md and preparation.json"),
    path("--scratch", help="folder of the disk that is measured (default: that of temporary files)"),
    path("--before", help="another checkout of this repository, to compare with"),
    number("--images", 10, default=100_000, help="images to prepare"),
    number("--records", 10, default=300_000, help="records of the later start; their files are links to the images"),
    number("--repeats", 1, default=1, help="turns, each of one measurement of everything"),
    argument("--profile", action="store_true", help="also profile, in further runs"),
    called="python -m tests.bench.preparation",
)
def preparation(arguments: argparse.Namespace) -> None:
    """Measures the preparation of a dataset against `cp -r` of its files, and the start of a later run on it.

        python -m tests.bench.preparation --images=100000 --out=preparation

    The images are drawn, in RAF-DB's size and layout. Each start is a process of its own, from the start of Python on.
    Files are in the system's cache: all are read just before. Nothing waits until the disk has written.
    """
    checkouts = {**({"before": arguments.before.resolve()} if arguments.before else {}), "now": _HERE}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        found = measure(
            Path(folder), checkouts, arguments.images, arguments.records, arguments.repeats, profiled=arguments.profile
        )
        entries = os.scandir(Path(folder, "images", "basic", "Image", "aligned"))
        num_bytes = sum(entry.stat().st_size for entry in entries)
    text = render(found, arguments.images, arguments.records, num_bytes)
    files.write_text(arguments.out / "preparation.md", text)
    files.write_json(arguments.out / "preparation.json", json.loads(json.dumps(found, default=dataclasses.asdict)))
    print(text)


if __name__ == "__main__":
    preparation.start()
