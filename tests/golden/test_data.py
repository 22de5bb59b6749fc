"""Batches and splits of every layout of a dataset, as SHA-256.

Images are uint8 and augmentation is NumPy's and Pillow's, in whole numbers or float64 rounded to them, so bytes are
the same on every processor. Layouts with JPEG images depend on Pillow's libjpeg: after a new Pillow, a difference in
their images alone is no change of ours.
"""

import functools
import hashlib

import numpy as np
import pytest

from mpafer_jax.data import pipeline
from mpafer_jax.data.splits import load_dataset
from tests.data import layouts
from tests.golden import store

BATCHES, BATCH_SIZE, IMAGE_SIZE = 64, 8, 16
POSES = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
# neutral happiness surprise sadness anger disgust fear contempt unknown NF
VOTES = [
    (1, 8, 0, 0, 0, 0, 0, 0, 1, 0),
    (9, 0, 1, 0, 0, 0, 0, 0, 0, 0),
    (2, 0, 0, 6, 2, 0, 0, 0, 0, 0),
    (5, 5, 0, 0, 0, 0, 0, 0, 0, 0),
    (2, 0, 0, 0, 0, 0, 0, 0, 8, 0),
    (0, 0, 0, 0, 7, 3, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 10),
]


def folder(root):
    layouts.write_folders(root / "train", {"angry": 5, "happy": 12, "sad": 7})
    layouts.write_folders(root / "val", {"angry": 2, "happy": 3, "sad": 1}, first_seed=100)
    layouts.write_folders(root / "test", {"angry": 2, "happy": 2, "sad": 4}, first_seed=200)


def one_folder(root):
    layouts.write_folders(root, {"angry": 10, "happy": 15, "sad": 5})


def rafdb(root):
    labels = {f"train_{number:05d}.jpg": 1 + number % 7 for number in range(30)}
    layouts.write_rafdb(root, labels | {f"test_{number:04d}.jpg": 1 + number % 5 for number in range(10)})
    (root / "part.txt").write_text("test_0007_aligned 1 1\ntest_0002_aligned 1 3\n")


def rafdb_compound(root):
    labels = {f"train_{number:05d}.jpg": 1 + number % 11 for number in range(33)}
    layouts.write_rafdb(root / "compound", labels | {"test_0001.jpg": 8, "test_0002.jpg": 11})


def ferplus_folders(root):
    for first, split in ((0, "FER2013Train"), (1000, "FER2013Valid"), (2000, "FER2013Test")):
        votes = {f"fer{first + number:07d}.png": VOTES[number % 7] for number in range(21)}
        layouts.write_label_csv(root / split, votes, first_seed=first)


def ferplus_csv(root):
    root.mkdir(parents=True)
    usages = ["Training"] * 21 + ["PublicTest"] * 7 + ["PrivateTest"] * 7
    images = [(usage, layouts.image(number, 48, 48, "L")) for number, usage in enumerate(usages)]
    layouts.write_fer2013(root, images)
    layouts.write_fer2013new(
        root, [(usage, f"fer{number:07d}.png", VOTES[number % 7]) for number, usage in enumerate(usages)]
    )


def fer2013(root):
    usages = ["Training"] * 20 + ["PublicTest"] * 5 + ["PrivateTest"] * 5
    lines = [
        f"{number % 7},{layouts.numbers(layouts.image(number, 48, 48, 'L'))},{usage}"
        for number, usage in enumerate(usages)
    ]
    root.mkdir(parents=True)
    (root / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *lines]) + "\n")


def affectnet_csv(root):
    def rows(split, count):
        return [(f"{split}/{number}.jpg", (5, 4, 20 + number % 9, 24), number % 11) for number in range(count)]

    layouts.write_affectnet_csv(root, "training.csv", rows(1, 33), header=True)
    layouts.write_affectnet_csv(root, "validation.csv", rows(2, 11), header=False)


def affectnet_npy(root):
    layouts.write_affectnet_npy(root, "train_set", {number: number % 8 for number in range(24)})
    layouts.write_affectnet_npy(root, "val_set", {number + 50: number % 8 for number in range(8)})


def sfew(root):
    names = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    for first, split in ((0, "Train_Aligned_Faces"), (50, "Val_Aligned_Faces")):
        images = [f"{names[i % 7]}/Film_{first + i:09d}_{i:08d}.png" for i in range(14)]
        layouts.write_sfew(root / split, images, first_seed=first)


def jaffe(root):
    persons = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
    layouts.write_jaffe(root, [f"{person}.{pose}1.{i}" for person in persons for i, pose in enumerate(POSES)])


def ckplus(root):
    for seed in range(10):
        label = f"   {1 + seed % 7}.0000000e+00\n" if seed != 4 else ""
        layouts.write_ckplus_sequence(root, f"S{seed // 2:03d}", f"{seed:03d}", 3, label, seed != 7, seed=seed)


def rafdb_originals(root):
    rafdb(root)
    for number in range(30):
        layouts.write_rafdb_annotation(root, f"train_{number:05d}.jpg", (number % 3, number % 2, number % 5))
    for number in range(10):
        layouts.write_rafdb_annotation(root, f"test_{number:04d}.jpg", (number % 3, 2, 4))


def kdef(root):
    poses = ("AF", "AN", "DI", "HA", "NE", "SA", "SU")
    layouts.write_kdef(root, [f"AF{person:02d}{pose}S" for person in range(1, 11) for pose in poses])


def rafd(root):
    poses = ("angry", "contemptuous", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
    layouts.write_rafd(
        root, [f"Rafd090_{person:02d}_Caucasian_male_{pose}_left" for person in range(1, 11) for pose in poses]
    )


def expw(root):
    layouts.write_expw(root, [(f"{i // 2}.jpg", i % 2, (2, 3 + i % 5, 30, 40), 50 + i, i % 7) for i in range(42)])


def dfew(root):
    layouts.write_dfew(root, [(1 + i % 7, 3 + 2 * i) for i in range(21)])


def listed(root):
    labels = ("angry", "happy", "sad", "happy")
    names = [f"images/{number:02d}.png" for number in range(40)]
    layouts.write_images(root, names)
    rows = [
        (name, labels[at % 4], ("Training", "PublicTest")[at % 5 == 0], f"p{at // 3}") for at, name in enumerate(names)
    ]
    layouts.write_table(root / "labels.csv", rows, ("image", "label", "usage", "person"), ";")


def nothing(root):
    pass


THREE = {"validation_split": "validation", "test_split": "test"}
CARVED = {"validation_fraction": 0.2, "test_fraction": 0.2}
TWO = {"validation_fraction": 0.2, "test_split": "test"}
# Name -> dataset, what writes it, changes of the data section.
CASES = {
    "folder": ("folder", folder, THREE),
    "folder, carved": ("folder", one_folder, CARVED),
    "folder, no test": ("folder", one_folder, TWO),
    "folder, carved with another seed": ("folder", one_folder, CARVED | {"split_seed": 1}),
    "folder, class balanced": ("folder", folder, THREE | {"sampler": "class_balanced"}),
    "folder, decoded": ("folder", folder, THREE | {"cache_decoded": True}),
    "folder, few": ("folder", folder, THREE | {"train_per_class": 4, "few_shot_seed": 2, "eval_per_class": 2}),
    "folder, noise": ("folder", folder, THREE | {"label_noise": 0.3, "label_noise_seed": 5}),
    "folder, some classes": ("folder", folder, THREE | {"class_names": ("sadness", "anger")}),
    "folder, all": ("folder", folder, {"train_splits": (), "test_split": "all"}),
    "rafdb": ("rafdb", rafdb, TWO),
    "rafdb, part of the test": ("rafdb", rafdb, TWO | {"test_subset": "part.txt"}),
    "rafdb, by landmarks": ("rafdb", rafdb_originals, TWO | {"align": "landmarks", "where": ("gender=male|female",)}),
    "rafdb_compound": ("rafdb_compound", rafdb_compound, TWO),
    "ferplus, folders": ("ferplus", ferplus_folders, THREE),
    "ferplus, csv": ("ferplus", ferplus_csv, THREE | {"label_rule": "majority_csv"}),
    "ferplus, argmax": ("ferplus", ferplus_csv, THREE | {"label_rule": "argmax"}),
    "ferplus, distribution": ("ferplus", ferplus_folders, THREE | {"label_rule": "distribution"}),
    "fer2013": ("fer2013", fer2013, THREE),
    "affectnet, csv": ("affectnet", affectnet_csv, TWO),
    "affectnet, npy": ("affectnet", affectnet_npy, TWO),
    "sfew": ("sfew", sfew, TWO),
    "jaffe": ("jaffe", jaffe, CARVED),
    "ckplus": ("ckplus", ckplus, CARVED),
    "kdef": ("kdef", kdef, CARVED),
    "rafd": ("rafd", rafd, CARVED),
    "expw": ("expw", expw, CARVED | {"where": ("confidence>=55",)}),
    "list": ("list", listed, CARVED),
    "synthface": ("synthface", nothing, THREE),
    "dfew": ("dfew", dfew, TWO),
}


def sha256(*arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def describe(section) -> dict:
    dataset = load_dataset(section)
    found = {"classes": list(dataset.class_names), "dropped": dataset.summary.dropped}
    for split in (dataset.train, *dataset.held_out):
        if len(split):
            found[split.name] = {
                "fingerprint": split.fingerprint,
                "images of each class": split.class_counts().tolist(),
                "names": sha256(np.array("\n".join(split.names.tolist()))),
            }
    if len(dataset.train):
        batches = pipeline.train_batches(
            dataset.train,
            section=section,
            image_size=IMAGE_SIZE,
            batch_size=BATCH_SIZE,
            seed=7,
            start_step=0,
            num_steps=BATCHES,
        )
        found["batches"] = hashes(batches)
    for split in dataset.held_out:
        images, _ = split.frames()
        batches = pipeline.eval_batches(images, section=section, image_size=IMAGE_SIZE, batch_size=BATCH_SIZE)
        found[f"batches of {split.name}"] = hashes(batches)
    return found


def hashes(batches) -> dict:
    batches = list(batches)
    return {"count": len(batches), **{name: sha256(*(batch[name] for batch in batches)) for name in sorted(batches[0])}}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Where a layout is written, once: what differs in the configuration alone shares its preparation."""

    @functools.cache
    def write_once(write):
        root = tmp_path_factory.mktemp("layout") / "data"
        write(root)
        return root

    return write_once


@pytest.mark.parametrize("name", CASES)
def test_batches_and_splits(name, folder_of):
    dataset, write, changes = CASES[name]
    root = folder_of(write)
    if "test_subset" in changes:
        changes = changes | {"test_subset": str(root / changes["test_subset"])}
    prepared = {"prepared_dir": str(root.parent / "prepared")}
    section = layouts.section(dataset, root, layouts.STRONG_AUGMENT, **prepared, **changes)
    store.check(f"data/{name}", describe(section))
