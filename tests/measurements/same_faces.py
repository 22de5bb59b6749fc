"""The faces of FERPlus in four forms, class folders, a list, Parquet and the owners' layout: are the numbers the same?

    python -m tests.measurements.same_faces --ferplus=DIR --out=WORK [--limit=2000] [--steps=20]

DIR holds images.npz and unpack.py, which writes the owners' layout. One model is trained for a few steps on that, with
tiny-face-clip, and evaluated on PublicTest in each form. Prints for each form the images of each class, a
digest of pixels and classes, accuracy, mean recall and loss; ends with code 1 if they differ.
"""

import argparse
import hashlib
import pathlib
import runpy
import sys

from mpafer_jax.data.readers import ferplus
from mpafer_jax.data.splits import Split, load_dataset
from mpafer_jax.jobs import evaluate, train
from tests.data import layouts
from tests.golden import cases

FORMS = ("ferplus", "folder", "list", "parquet")


def write_forms(source: pathlib.Path, out: pathlib.Path, limit: int) -> None:
    """Writes `out`/<form> for each of `FORMS`, with at most `limit` images of each split (0: all)."""
    arguments = sys.argv
    sys.argv = ["unpack.py", str(out / "ferplus"), f"--limit={limit}"]
    try:
        runpy.run_path(str(source / "unpack.py"), run_name="__main__")
    finally:
        sys.argv = arguments
    index = ferplus.read(out / "ferplus", "majority_labelcsv")
    listed = []
    for split, records in index.splits.items():
        named = [(record.name, record.image.read(), index.class_names[record.label]) for record in records]
        for name, data, label in named:
            for path in (out / "folder" / split / label / name, out / "list" / "images" / split / name):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            listed.append((f"{split}/{name}", label, split))
        path, names = out / "parquet" / "data" / f"{split}-00000-of-00001.parquet", sorted(index.class_names)
        labels = [names.index(label) for *_, label in named]  # in another order than FERPlus'
        layouts.write_parquet_of(path, [(data, name) for name, data, _ in named], labels, names)
    layouts.write_table(out / "list" / "labels.csv", listed, ("image", "label", "split"))


def configuration(form: str, out: pathlib.Path, **changes: object):
    """The configuration of one form: `ferplus.py`'s, its classes in the same order."""
    values = {
        "data.dir": str(out / form),
        "data.dataset": form,
        "data.label_rule": "majority_labelcsv" if form == "ferplus" else "owner",
        "data.class_names": ferplus.CLASS_NAMES,
        "data.train_per_class": 0,
        "data.eval_per_class": 0,
        "data.test_split": "",
        "eval.report": "none",
    }
    return cases.build("ferplus", "tiny_clip,runlocal", **values, **changes)


def digest(split: Split) -> str:
    """Of pixels and classes, in any order of the images."""
    pairs = zip(split.pixel_hashes.tolist(), split.labels.tolist(), strict=True)
    return hashlib.sha256(
        repr(sorted((pixels, split.class_names[label]) for pixels, label in pairs)).encode()
    ).hexdigest()


def measure(out: pathlib.Path, steps: int) -> dict[str, dict[str, object]]:
    """What each form gives, after training for so many steps."""
    changes = {f"train.{name}": steps for name in ("num_steps", "eval_every", "checkpoint_every")}
    train.train_and_evaluate(configuration("ferplus", out, **changes, **{"optimizer.warmup_steps": 0}), out / "run")
    found: dict[str, dict[str, object]] = {}
    for form in FORMS:
        config = configuration(form, out, **{"eval.checkpoint": str(out / "run")})
        result = evaluate.evaluate_checkpoint(config, out / f"evaluation_{form}")["validation"]
        dataset = load_dataset(config.data)
        splits = (dataset.train, *dataset.held_out)
        found[form] = {
            "images": [split.class_counts().tolist() for split in splits],
            "pixels and classes": [digest(split)[:16] for split in splits],
            **{name: result[name] for name in ("count", "war", "uar", "macro_f1", "confusion")},
            # Class folders have another order of images, so sums differ in their last bits.
            "cross_entropy": round(result["cross_entropy"], 5),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ferplus", type=pathlib.Path, default=layouts.FERPLUS)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    write_forms(arguments.ferplus, arguments.out, arguments.limit)
    found = measure(arguments.out, arguments.steps)
    for form, values in found.items():
        print(form, *(f"{name}: {value}" for name, value in values.items()), sep="\n  ")
    same = [form for form in FORMS if found[form] == found["ferplus"]]
    print(f"equal to the owners' layout: {', '.join(same)}")
    sys.exit(len(same) < len(FORMS))


if __name__ == "__main__":
    main()
