"""A checkpoint of ours beside packages that ship an expression classifier, on photographs: FERPlus' PublicTest.

Each package runs as it ships, in an environment of its own with pinned versions, made in a temporary folder from the
package's registry. It gets the 3,191 images that FERPlus' majority rule keeps as they are: cropped faces of 48x48 grey
pixels. What it answers is matched to FERPlus' eight classes by name; none of them knows contempt, which is a recall of
0 in their UAR.

- `fer`: `FER()` and its TFLite model, given each image as the rectangle of the face; as it is, and with the border that
  the package adds to rectangles by default: 10 pixels on each side whatever the size of the face, here of one grey, the
  mean of the image's last two rows. Its own detection finds no face here: it looks for those of 50 pixels and more.
- `@vladmandic/face-api`: `faceExpressionNet.predictExpressions`, given each image as a face. (It is a fork
  of `face-api.js`, whose npm package, 0.22.2, has no weights.)
- `@vladmandic/human`: by `human.detect`, which detects the face in the image; and its expression model given each image
  as a face, for which the package has no call.

Both of npm's run on TensorFlow.js' WebAssembly backend; the native one (`@tensorflow/tfjs-node`) downloads a library
when it is installed.

Not run, because the package of the registry ships no weights and downloads them from elsewhere at first use: `deepface`
0.0.103 (GitHub, the Hugging Face Hub), `hsemotion` 0.3.0, `hsemotion-onnx` 0.3.1 and `emotiefflib` 1.1.1 (GitHub),
`pypaz` 0.2.5 (GitHub), `uniface` 4.2.1 (GitHub, the Hub), `rmn` 3.3.0, `py-feat` 2.1.5 and `facetorch` 0.6.2 (the Hub),
`libreface` 0.2.0 (Google Drive). `mediapipe` has blendshapes and no classes of expressions.
"""

from __future__ import annotations

if __name__ == "__main__":  # before slow imports
    from mpafer_jax.runtime import signals

    signals.listen()

import argparse
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpafer_jax.cli.runner import CHECKPOINT, argument, command, number, path
from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.evaluation import metrics
from mpafer_jax.evaluation.table import markdown
from mpafer_jax.runtime import files, progress, workers
from mpafer_jax.runtime.errors import UserError
from tests.bench import ferplus
from tests.data.layouts import FERPLUS

_PROGRAMS = Path(__file__).parent / "peers"
_NONE = "no answer"
# `fer` is installed without what it asks for: an OpenCV with windows, and a PyTorch for its other face detector.
_FER = "fer==25.10.3"
_FER_NEEDS = (
    *("tensorflow-cpu==2.20.0", "keras==3.15.1", "opencv-contrib-python-headless==4.12.0.88", "numpy==2.2.6"),
    *("pandas==3.1.1", "pillow==13.0.0", "requests==2.34.2", "tqdm==4.70.1", "setuptools==80.9.0"),
)
_NPM = (
    *("@vladmandic/face-api@1.7.15", "@vladmandic/human@3.3.6"),
    *("@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0"),
)


@dataclasses.dataclass(frozen=True)
class Package:
    """A row of the table: its title, the program in tests/bench/peers, and that program's argument."""

    title: str
    program: str
    argument: str = ""


PACKAGES = {  # by name for --package
    "fer": Package("fer, offsets=(0, 0)", "fer_answers.py", "0"),
    "fer-border": Package("fer, its border of 10 pixels", "fer_answers.py", "10"),
    "face-api": Package("@vladmandic/face-api", "face_api.cjs"),
    "human": Package("@vladmandic/human, its expression model", "human.cjs", "crops"),
    "human-detect": Package("@vladmandic/human, face detected", "human.cjs", "detect"),
}


class PackageError(UserError):
    """A package that cannot be installed, or whose program failed."""

    exit_code = 1


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a program writes, see `tests.bench.peers`; `whole` is the seconds of its process, from start to end."""

    answers: Sequence[str | None]
    seconds: float
    timed: int
    parameters: int
    versions: Mapping[str, str]
    whole: float


class Environments:
    """Environments of the packages in a folder, each made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def words(self, program: str) -> list[str]:
        """The command line of a program in tests/bench/peers.

        Raises:
          PackageError: a package cannot be installed.
        """
        if program.endswith(".cjs"):
            return [*self._node, str(self._folder / "node" / program)]
        return [*self._python, str(_PROGRAMS / program)]

    @functools.cached_property
    def _python(self) -> list[str]:
        folder = self._folder / "python"
        python = folder / "bin" / "python"
        with progress.task(f"installing {_FER}"):
            _install(sys.executable, "-m", "venv", folder)
            _install(python, "-m", "pip", "install", *_FER_NEEDS)
            _install(python, "-m", "pip", "install", "--no-deps", _FER)
        return [str(python), "-I"]

    @functools.cached_property
    def _node(self) -> list[str]:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise PackageError("node and npm are missing; install Node 20 or later, or choose others with --package")
        folder = self._folder / "node"
        folder.mkdir()
        for program in _PROGRAMS.glob("*.cjs"):  # Node looks for packages beside the program
            shutil.copy(program, folder)
        with progress.task(f"installing {', '.join(_NPM)}"):
            _install(npm, "install", "--prefix", folder, "--no-audit", "--no-fund", *_NPM)
        return [node]


def _install(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackageError(f"{' '.join(map(str, words))} failed:\n{done.stderr.strip()[-2000:]}")


def run(words: Sequence[str], argument: str, images: npt.NDArray[np.uint8], folder: Path) -> Answers:
    """Runs a program on images uint8[n, 48, 48]; its files are in the folder.

    Raises:
      PackageError: it failed.
    """
    images.tofile(folder / "images")
    out = folder / "answers.json"
    started = time.perf_counter()
    done = subprocess.run(
        [*words, str(folder / "images"), str(out), argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    whole = time.perf_counter() - started
    if done.returncode:
        raise PackageError(f"{' '.join(words)} ended with exit code {done.returncode}:\n{done.stdout.strip()[-2000:]}")
    answers = Answers(**json.loads(out.read_text(encoding="utf-8")), whole=whole)
    out.unlink()
    return answers


def measure(answers: Sequence[str | None], labels: npt.NDArray[np.int64]) -> metrics.ClassificationMetrics:
    """Metrics in FERPlus' classes; an image without an answer is a mistake, counted in a ninth column.

    Raises:
      ValueError: an answer is none of the classes, or there are not as many as labels.
    """
    columns = {name: column for column, name in enumerate((*ferplus.CLASS_NAMES, _NONE))}
    names = [_NONE if answer is None else canonical_name(answer) for answer in answers]
    if unknown := sorted(set(names) - set(columns)):
        raise ValueError(f"found the answers {', '.join(unknown)}, expected {', '.join(ferplus.CLASS_NAMES)}")
    confusion = np.zeros((len(columns), len(columns)), np.int64)
    for label, name in zip(labels, names, strict=True):
        confusion[label, columns[name]] += 1
    return metrics.from_confusion(confusion, 0.0, tuple(columns))


def described(result: Answers, labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """A row of peers.json."""
    measured = measure(result.answers, labels)
    return {
        "versions": dict(result.versions),
        "parameters": result.parameters,
        "war": measured.war,
        "uar": measured.uar,
        "recall": {name: measured.recall[name] for name in ferplus.CLASS_NAMES},
        "answered": sum(answer is not None for answer in result.answers),
        "confusion": measured.confusion[: len(ferplus.CLASS_NAMES)],
        "images_per_second": result.timed / result.seconds,
        "seconds": result.whole,
    }


def render(rows: Mapping[str, Mapping[str, Any]], images: int) -> str:
    """Markdown: a table of the packages on so many images, and their versions."""
    header = ["", "accuracy (WAR), %", "UAR, %", *ferplus.CLASS_NAMES, "images/s", "seconds", "parameters"]
    lines = [
        [
            title,
            *(f"{100 * row[name]:.2f}" for name in ("war", "uar")),
            *("" if recall is None else f"{100 * recall:.1f}" for recall in row["recall"].values()),
            *(f"{row['images_per_second']:.1f}", f"{row['seconds']:.1f}", f"{row['parameters']:,}"),
        ]
        for title, row in rows.items()
    ]
    notes = [
        f"Measured on {images:,} images with {workers.usable_cores()} CPU cores: recall of each class in %, images a "
        "second after the start, seconds of the whole command with its start."
    ]
    for title, row in rows.items():
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        faces = f"; {row['answered']:,} images with a face, the others are mistakes" if row["answered"] < images else ""
        notes.append(f"{title}: {versions}{faces}.")
    return markdown(header, lines) + "\n" + "\n".join(f"- {note}" for note in notes) + "\n"


@command(
    "expression_packages",
    path("--ferplus", default=FERPLUS, help="folder with FERPlus; default: MPAFER_FERPLUS_DIR"),
    path("--out", required=True, help="folder for peers.md and peers.json"),
    CHECKPOINT,
    argument("--package", choices=tuple(PACKAGES), action="append", help="what is measured (default: all)"),
    number("--images", 1, help="only the first ones, for a trial"),
    called="python -m tests.bench.expression_packages",
)
def expression_packages(arguments: argparse.Namespace) -> None:
    """Accuracy and speed of packages that ship an expression classifier, on the photographs of FERPlus.

        python -m tests.bench.expression_packages --ferplus=FERPLUS --out=packages

    Installs the packages into a temporary folder (2 GB) from PyPI and npm, which needs Node 20 or later, and runs them
    one after the other. On a machine that others use do not look at the speeds.
    """
    faces, labels = ferplus.public_test(arguments.ferplus)
    faces, labels = faces[: arguments.images], labels[: arguments.images]
    rows: dict[str, dict[str, Any]] = {}

    def add(title: str, words: Sequence[str], argument: str) -> None:
        with progress.task(title):
            rows[title] = described(run(words, argument, faces, folder), labels)
        files.write_json(arguments.out / "peers.json", {"images": len(faces), "rows": rows})
        files.write_text(arguments.out / "peers.md", render(rows, len(faces)))

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environments = Environments(folder)
        add("ours", [sys.executable, "-m", "tests.bench.peers.ours"], arguments.checkpoint)
        for name in arguments.package or PACKAGES:
            package = PACKAGES[name]
            add(package.title, environments.words(package.program), package.argument)
    print(render(rows, len(faces)))


if __name__ == "__main__":
    expression_packages.start()
