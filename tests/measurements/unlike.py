"""How many images of each kind a run of the quickstart takes for unlike its training images, and how sure it is.

    python -m tests.measurements.unlike RUN FERPLUS

RUN is a workdir of configs/quickstart.py, FERPLUS holds images.npz of FERPlus' faces. Prints a row for each kind:
images, share unlike the training images, median of `Prediction.unlike`, share with a calibrated confidence of 90%, and
the area under the ROC curve of `unlike` between them and held-out drawn faces (0.5: no difference).
"""

import io
import pathlib
import sys

import numpy as np
from PIL import Image
from scipy import stats

from mpafer_jax.artifacts import checkpoints
from mpafer_jax.config.data_section import SynthfaceSection
from mpafer_jax.data.readers import synthface
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.inference import Predictor

_IMAGES = 1000
_SIDE = 96


def drawn(section: SynthfaceSection, split: str = "test"):
    """A drawn dataset's images."""
    records = synthface.read(section, ()).splits[split][:_IMAGES]
    return [Image.open(io.BytesIO(record.image.read())) for record in records]


def kinds(run: pathlib.Path, ferplus: pathlib.Path):
    """Images by what they are."""
    _, description, _ = checkpoints.load(run, "best")
    section = SynthfaceSection.model_validate(description.config["data"]["synthface"])
    rng = np.random.default_rng(0)
    yield f"held-out drawn faces ({section.style})", drawn(section)
    for style in STYLES:
        if style != section.style:
            yield f"drawn faces, {style}", drawn(with_style(section, style))
    stored = dict(np.load(ferplus / "images.npz", allow_pickle=False))
    faces = stored["images"][stored["usage"] == "PublicTest"]
    yield "real faces (FERPlus)", list(faces[rng.permutation(len(faces))[:_IMAGES]])
    yield "uniform noise", list(rng.integers(0, 256, (_IMAGES, _SIDE, _SIDE, 3), np.uint8))
    yield "grey images of one value", [np.full((_SIDE, _SIDE, 3), value, np.uint8) for value in range(1, 255)]
    yield "black images", [np.zeros((_SIDE, _SIDE, 3), np.uint8)] * 8


def with_style(section: SynthfaceSection, style: str) -> SynthfaceSection:
    """The section with another style."""
    return section.model_copy(update={"style": style, "train": 0, "validation": 0, "test": _IMAGES})


def main(run: str, ferplus: str) -> None:
    """Prints a Markdown table."""
    predictor = Predictor.from_checkpoint(run, batch_sizes=(50,), calibrated=True)
    print("| images | number | unlike, % | median | confident, % | AUROC |\n|---|---:|---:|---:|---:|---:|")
    reference = None
    for name, images in kinds(pathlib.Path(run), pathlib.Path(ferplus)):
        images = [image if getattr(image, "ndim", 3) == 3 else np.stack([image] * 3, axis=-1) for image in images]
        found = list(predictor.stream(images))
        unlike = np.array([prediction.unlike for prediction in found])
        confident = np.mean([prediction.confidence >= 0.9 for prediction in found])
        reference = unlike if reference is None else reference
        area = stats.mannwhitneyu(unlike, reference).statistic / len(unlike) / len(reference)
        shares = f"{100 * np.mean(unlike > 1):.1f} | {np.median(unlike):.2f} | {100 * confident:.1f} | {area:.3f}"
        print(f"| {name} | {len(found):,} | {shares} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
