"""Writes small datasets of noise images in the layouts of their owners."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mpafer_jax.config.data_section import AugmentSection, DataSection, SynthfaceSection
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES

FERPLUS = Path(
    os.environ.get("MPAFER_FERPLUS_DIR", Path(__file__).resolve().parents[3] / "shared" / "data" / "ferplus")
)


def image(seed: int, width: int = 12, height: int = 12, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": (3,), "L": ()}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels))
    return Image.fromarray(values.astype(np.uint8))


def save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_sfew(root: Path, images: Sequence[str], first_seed: int = 0) -> None:
    """One of SFEW's folders: `images` as "Angry/Airheads_000519240_00000005.png"."""
    for seed, name in enumerate(images, start=first_seed):
        save(root / name, image(seed, 143, 181))


def write_jaffe(root: Path, names: Sequence[str]) -> None:
    """JAFFE: names as "KA.AN1.39"."""
    for seed, name in enumerate(names):
        save(root / f"{name}.tiff", image(seed, 256, 256, "L"))


def write_ckplus_sequence(
    root: Path, person: str, sequence: str, frames: int, label: str = "", landmarks: bool = True, seed: int = 0
) -> None:
    """One sequence of CK+'s release, 64x48; `label` is the content of its file, empty for none."""
    names = [f"{person}_{sequence}_{number:08d}" for number in range(1, frames + 1)]
    for number, name in enumerate(names):
        place = Path(person) / sequence
        save(root / "cohn-kanade-images" / place / f"{name}.png", image(1000 * seed + number, 64, 48, "L"))
        if landmarks:
            (root / "Landmarks" / place).mkdir(parents=True, exist_ok=True)
            points = [(20, 10), (40, 10), (30, 30)]  # a face that is 20 pixels wide and high
            lines = "".join(f"   {x:.7e}   {y:.7e}\n" for x, y in points)
            (root / "Landmarks" / place / f"{name}_landmarks.txt").write_text(lines)
    (root / "Emotion" / person / sequence).mkdir(parents=True, exist_ok=True)
    if label:
        (root / "Emotion" / person / sequence / f"{names[-1]}_emotion.txt").write_text(label)


def write_rafdb(root: Path, labels: Mapping[str, int], final_newline: bool = True) -> None:
    """`labels`: name in the list ("train_00001.jpg") -> label 1 to 7."""
    lines = "\n".join(f"{name} {label}" for name, label in labels.items())
    (root / "EmoLabel").mkdir(parents=True, exist_ok=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text(lines + "\n" * final_newline)
    for seed, name in enumerate(labels):
        save(root / "Image" / "aligned" / f"{Path(name).stem}_aligned.jpg", image(seed, 100, 100))


def write_rafdb_folders(
    root: Path, labels: Mapping[str, int], splits: Sequence[str] = ("train", "test"), tables: bool = True
) -> None:
    """Kaggle's copy: numbered class folders in `root / "DATASET"`, and tables of labels; `labels` as in `write_rafdb`.

    `splits`: the folders of images that are called train_* and test_*.
    """
    for seed, (name, label) in enumerate(labels.items()):
        split = splits[name.startswith("test")]
        save(root / "DATASET" / split / str(label) / f"{Path(name).stem}_aligned.jpg", image(seed, 100, 100))
    for split in ("train", "test") if tables else ():
        rows = [f"{Path(name).stem}_aligned.jpg,{label}\n" for name, label in labels.items() if name.startswith(split)]
        (root / f"{split}_labels.csv").write_text("".join(["image,label\n", *rows]))


def write_rafdb_cub(place: Path, labels: Mapping[str, int]) -> None:
    """The three lists of CUB's form; `labels` as in `write_rafdb`."""
    place.mkdir(parents=True, exist_ok=True)
    columns = {
        "images.txt": list(labels),
        "image_class_labels.txt": list(labels.values()),
        "train_test_split.txt": [int(name.startswith("train")) for name in labels],
    }
    for name, column in columns.items():
        (place / name).write_text("".join(f"{number} {value}\n" for number, value in enumerate(column, start=1)))


# Five landmarks of a face of 20 pixels between the eyes, and gender, race and age.
RAFDB_POINTS = ((40.0, 30.0), (60.0, 30.0), (50.0, 42.0), (42.0, 54.0), (58.0, 54.0))


def write_rafdb_annotation(root: Path, name: str, kinds: Sequence[int], points: Any = RAFDB_POINTS) -> None:
    """The owners' `*_manu_attri.txt` of an image "train_00001.jpg", and the whole photograph, 120x90."""
    place = root / "Annotation" / "manual" / f"{Path(name).stem}_manu_attri.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join([*(f"{x:.3f}\t{y:.3f}\n" for x, y in points), *(f"{kind}\n" for kind in kinds)]))
    save(root / "Image" / "original" / name, image(zlib.crc32(name.encode()), 120, 90))


def write_kdef(root: Path, names: Sequence[str]) -> None:
    """KDEF: names as "AF01ANS", in the folder of the person and session; small in place of 562x762."""
    for seed, name in enumerate(names):
        save(root / "KDEF" / name[:4] / f"{name}.JPG", image(seed, 28, 38))


def write_rafd(root: Path, names: Sequence[str]) -> None:
    """RaFD: names as "Rafd090_01_Caucasian_female_angry_frontal"; small in place of 681x1024."""
    for seed, name in enumerate(names):
        save(root / f"{name}.jpg", image(seed, 34, 51))


def write_expw(root: Path, faces: Sequence[tuple[str, int, tuple[int, int, int, int], float, int]]) -> None:
    """ExpW: faces of (photograph, number, (top, left, right, bottom), confidence, label); photographs are 60x50."""
    lines = [f"{name} {face} {' '.join(map(str, box))} {sure} {label}\n" for name, face, box, sure, label in faces]
    for seed, name in enumerate(dict.fromkeys(name for name, *_ in faces)):
        save(root / "origin" / name, image(seed, 60, 50))
    (root / "label.lst").write_text("".join(lines))


def write_label_csv(folder: Path, votes: Mapping[str, Sequence[int]], first_seed: int = 0) -> None:
    """FERPlus' folder layout: `votes` name -> ten counts."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f'{name},"(0, 0, 48, 48)",{",".join(map(str, counts))}\n' for name, counts in votes.items()]
    (folder / "label.csv").write_text("".join(rows))
    for seed, name in enumerate(votes, start=first_seed):
        save(folder / name, image(seed, 48, 48, "L"))


def write_fer2013new(root: Path, rows: Sequence[tuple[str, str, Sequence[int]]]) -> None:
    """`fer2013new.csv`: rows of (usage, name, ten counts)."""
    names = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    lines = [f"{usage},{name},{','.join(map(str, counts))}" for usage, name, counts in rows]
    root.mkdir(parents=True, exist_ok=True)
    (root / "fer2013new.csv").write_text("\n".join([f"Usage,Image name,{names}", *lines]) + "\n")


def write_fer2013(root: Path, rows: Sequence[tuple[str, Image.Image]], quoted: bool = False) -> None:
    """`fer2013.csv`: rows of (usage, 48x48 grey image)."""
    quote = '"' if quoted else ""
    lines = ["emotion,pixels,Usage"]
    lines += [f"0,{quote}{numbers(image)}{quote},{usage}" for usage, image in rows]
    (root / "fer2013.csv").write_text("\n".join(lines) + "\n")


def numbers(image: Image.Image) -> str:
    """The pixels of a grey image, written out."""
    return " ".join(map(str, np.asarray(image).ravel()))


AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)


def write_affectnet_csv(
    root: Path, table: str, rows: Sequence[tuple[str, tuple[int, int, int, int], int]], header: bool
) -> None:
    """The csv release: rows of (file, face box, expression); images are 40x30."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / table).open("w", newline="") as file:
        writer = csv.writer(file)
        if header:
            file.write(AFFECTNET_HEADER + "\n")
        for seed, (name, box, expression) in enumerate(rows):
            writer.writerow([name, *box, "1;2;3;4", expression, 0.1, -0.2])
            save(root / "Manually_Annotated_Images" / name, image(seed, 40, 30))


def write_affectnet_npy(root: Path, folder: str, expressions: Mapping[int, int]) -> None:
    """The npy release; labels are string scalars, as in the owners' files."""
    (root / folder / "annotations").mkdir(parents=True, exist_ok=True)
    for number, expression in expressions.items():
        np.save(root / folder / "annotations" / f"{number}_exp.npy", np.array(str(expression)))
        np.save(root / folder / "annotations" / f"{number}_val.npy", np.array("0.5"))
        save(root / folder / "images" / f"{number}.jpg", image(number))


def write_folders(root: Path, counts: Mapping[str, int], first_seed: int = 0, suffix: str = ".png") -> None:
    """Class folders: `counts` folder -> number of images, all different."""
    seed = first_seed
    for name, number in counts.items():
        for position in range(number):
            save(root / name / f"{position:03d}{suffix}", image(seed))
            seed += 1


def write_frames(folder: Path, number: int, first_seed: int = 0, suffix: str = ".jpg") -> None:
    """The frames of a clip, "1.jpg" and so on, all different; without padding, the order of names is another."""
    for position in range(number):
        save(folder / f"{position + 1}{suffix}", image(first_seed + position))


def write_dfew(root: Path, clips: Sequence[tuple[int, int]], frames: str = "Clip/jpg_256") -> None:
    """DFEW: clips 1, 2, .. as (label 1 to 7, number of frames), dealt out to the folds 1 to 5 in turn."""
    rows = [(1 + index % 5, f"{index + 1},{label}") for index, (label, _) in enumerate(clips)]
    for fold in range(1, 6):
        parts = {"train": [row for of, row in rows if of != fold], "test": [row for of, row in rows if of == fold]}
        for split, lines in parts.items():
            path = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"set_{fold}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(["video_name,label", *lines]) + "\n")
    for index, (_, number) in enumerate(clips):
        write_frames(root / frames / f"{index + 1:05d}", number, 100 * index)


def write_ferv39k(root: Path, splits: Mapping[str, Sequence[str]], frames: int = 3) -> None:
    """FERV39k: split -> lines "Action/Happy/0015 Happy"."""
    (root / "4_setups" / "All_scenes").mkdir(parents=True)
    for split, lines in splits.items():
        (root / "4_setups" / "All_scenes" / f"{split}_All.csv").write_text("\n".join(lines) + "\n")
    for index, line in enumerate(line for lines in splits.values() for line in lines):
        write_frames(root / "2_ClipsforFaceCrop" / line.split(" ")[0], frames, 100 * index)


def write_mafw(root: Path, clips: Sequence[tuple[str, int]], frames: str = "data/frames") -> None:
    """MAFW: clips 1, 2, .. as (label, number of frames), dealt out to the folds 1 to 5 in turn."""
    rows = [(1 + index % 5, f"{index + 1:05d}.mp4 {label}") for index, (label, _) in enumerate(clips)]
    for fold in range(1, 6):
        folder = root / "split" / "single" / "no_caption" / f"set_{fold}"
        folder.mkdir(parents=True)
        (folder / "train.txt").write_text("".join(f"{row}\n" for of, row in rows if of != fold))
        (folder / "test.txt").write_text("".join(f"{row}\n" for of, row in rows if of == fold))
    for index, (_, number) in enumerate(clips):
        write_frames(root / frames / f"{index + 1:05d}", number, 100 * index, ".png")


def write_clip_list(
    root: Path, name: str, clips: Sequence[tuple[str, int, str]], prefix: str = "", frames: str = ""
) -> None:
    """A list of clips (folder, frames, label), the folders after `prefix`; the frames are in the folder `frames`."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{prefix}{folder} {number} {label}\n" for folder, number, label in clips))
    for folder, number, _ in clips:
        seed = int.from_bytes(folder.encode()[-3:], "big")
        if not (root / frames / folder).exists():
            write_frames(root / frames / folder, number, seed, ".png")


def write_drawn_clips(root: Path, clips: int, frames: int, size: int, expressions: Sequence[str]) -> None:
    """Clips of drawn faces that rise from neutral to an expression and fall again, in lists of two folds.

    Clip i shows expression i modulo their number; persons differ. The lists are fold_{fold}_train.txt and
    fold_{fold}_test.txt, the frames NNN/1.png and so on.
    """
    listed: list[tuple[str, int, str]] = []
    for number in range(clips):
        expression = expressions[number % len(expressions)]
        person = generate.IMAGES_PER_PERSON * number
        job = generate.face_of(0, "clips", person, STYLES["colour"], (expression,)).job
        for frame in range(frames):
            strength = math.sin(math.pi * (frame + 1) / (frames + 1))
            face = dataclasses.replace(job.face, units=(strength * job.face.units).astype(np.float32))
            pixels = dataclasses.replace(job, face=face).pixels(size)
            save(root / f"{number:03d}" / f"{frame + 1}.png", Image.fromarray(pixels))
        listed.append((f"{number:03d}", frames, expression))
    half = len(expressions) * (clips // len(expressions) // 2)
    for fold, (train, test) in enumerate([(listed[:half], listed[half:]), (listed[half:], listed[:half])], start=1):
        write_clip_list(root, f"fold_{fold}_train.txt", train)
        write_clip_list(root, f"fold_{fold}_test.txt", test)


def write_table(
    path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = (), delimiter: str = ",", mark: str = ""
) -> None:
    """A label file; `mark`: what stands before the first line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [delimiter.join(map(str, row)) for row in ([header, *rows] if header else rows)]
    path.write_text(mark + "\n".join([*lines, ""]), encoding="utf-8")


def write_images(root: Path, names: Sequence[str], first_seed: int = 0) -> None:
    """Images by their path in `root`, all different."""
    for seed, name in enumerate(names, start=first_seed):
        save(root / name, image(seed))


def write_json_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """JSON lines, as the Hub's metadata.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_parquet(
    path: Path,
    labels: Sequence[object],
    class_names: Sequence[str] = (),
    first_seed: int = 0,
    with_names: bool = True,
    rows_in_group: int = 4,
    **columns: Sequence[object],
) -> None:
    """A Parquet file as the Hub has them, of images that are all different."""
    images: list[tuple[bytes, str | None]] = []
    for seed in range(first_seed, first_seed + len(labels)):
        buffer = io.BytesIO()
        image(seed).save(buffer, "PNG")
        images.append((buffer.getvalue(), f"{seed:03d}.png" if with_names else None))
    write_parquet_of(path, images, labels, class_names, rows_in_group, **columns)


def write_parquet_of(
    path: Path,
    images: Sequence[tuple[bytes, str | None]],
    labels: Sequence[object],
    class_names: Sequence[str] = (),
    rows_in_group: int = 100,
    **columns: Sequence[object],
) -> None:
    """Images as struct{bytes, path}, labels, and the names of classes in the metadata, as the Hub's library writes."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    encoded = pa.array([{"bytes": data, "path": name} for data, name in images], kind)
    table = pa.table({"image": encoded, "label": pa.array(labels), **columns})
    if class_names:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(class_names)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_in_group)


def write_yolo(root: Path, images: Mapping[str, str], class_names: Sequence[str]) -> None:
    """YOLO's layout: `images` as "train/images/1.png" -> lines of its label file; class names in data.yaml."""
    for seed, (name, lines) in enumerate(images.items()):
        save(root / name, image(seed))
        labels = root / name.replace("images", "labels")
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.with_suffix(".txt").write_text(lines)
    (root / "data.yaml").write_text(f"train: ../train/images\nnc: {len(class_names)}\nnames: {list(class_names)}\n")


NO_AUGMENT: dict[str, Any] = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "erase": 0.0,
    "erase_scale": (0.02, 0.1),
}
STRONG_AUGMENT: dict[str, Any] = NO_AUGMENT | {
    "crop_scale": (0.3, 1.0),
    "crop_ratio": (0.75, 1.33),
    "flip": 0.5,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "erase": 0.5,
    "erase_scale": (0.1, 0.3),
}


SYNTHFACE: dict[str, Any] = {
    "style": "colour",
    "seed": 0,
    "train": 40,
    "validation": 12,
    "test": 20,
    "image_size": 32,
}


def section(dataset: str, directory: Path, augment: Mapping[str, Any] = NO_AUGMENT, **changes: Any) -> DataSection:
    values: dict[str, Any] = {
        "dataset": dataset,
        "dir": str(directory),
        "label_rule": "majority_labelcsv" if dataset == "ferplus" else "owner",
        "validation_fraction": 0.0,
        "test_split": "",
        "augment": AugmentSection(**augment),
        "synthface": SynthfaceSection(**SYNTHFACE),
    }
    return DataSection(**(values | changes))
