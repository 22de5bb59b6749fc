"""Recognises what a folder holds, so that an error can say which config reads it, or how to convert it."""

from __future__ import annotations

import collections
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

_DEPTH, _FOLDERS, _FILES, _ENTRIES = 4, 24, 6, 4096  # levels; of each folder: subfolders, files of a suffix, all
_ANYONES = {"list", "folder"}  # datasets of no owner

# Pattern of a path in the folder, what it is, the datasets that read it, and what to do.
FORMS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    (
        r"EmoLabel/list_patition_label\.txt$|(^|/)(train|test)_\d{4,5}(_aligned)?\.jpg$",
        "RAF-DB",
        ("rafdb", "rafdb_compound"),
        "take --config=configs/rafdb.py, or rafdb_compound.py",
    ),
    (
        r"annotations/\d+_exp\.npy$|Manually_Annotated_Images/",
        "AffectNet",
        ("affectnet",),
        "take --config=configs/affectnet8.py, or affectnet7.py",
    ),
    (r"fer2013new\.csv$|FER2013(Train|Valid|Test)/", "FERPlus", ("ferplus",), "take --config=configs/ferplus.py"),
    (r"(fer2013|icml_face_data)\.csv$", "FER2013", ("fer2013", "ferplus"), "take --config=configs/fer2013.py"),
    (r"(Train|Val)_Aligned_Faces", "SFEW", ("sfew",), "take --config=configs/sfew.py"),
    (
        r"cohn-kanade-images/|ckextended\.csv$|/S\d{3}_\d{3}_\d{8}\.png$",
        "CK+",
        ("ckplus",),
        "take --config=configs/ckplus.py",
    ),
    (r"[A-Z]{2}\.(AN|DI|FE|HA|NE|SA|SU)\d\.\d+\.tiff?$", "JAFFE", ("jaffe",), "take --config=configs/jaffe.py"),
    (r"[AB][FM]\d\d(AF|AN|DI|HA|NE|SA|SU)(S|HL|HR|FL|FR)\.jpe?g$", "KDEF", ("kdef",), "take --config=configs/kdef.py"),
    (r"Rafd\d{3}_\d\d_\w+\.jpe?g$", "RaFD", ("rafd",), "take --config=configs/rafd.py"),
    (r"(^|/)label\.lst$", "ExpW", ("expw",), "take --config=configs/expw.py"),
    (r"EmoLabel_DataSplit/|jpg_256/|clip_224x224(_16f)?/", "DFEW", ("dfew",), "take --config=configs/dfew.py"),
    (r"2_ClipsforFaceCrop/|4_setups/", "FERV39k", ("ferv39k",), "take --config=configs/ferv39k.py"),
    (r"(^|/)split/single/", "MAFW", ("mafw",), "take --config=configs/mafw.py"),
    (r"\.parquet$", "Parquet files of the Hub", ("parquet",), "take --config=configs/parquet.py"),
    (r"(^|/)data\.ya?ml$", "images and labels of YOLO", ("folder",), "take --config=configs/folder.py"),
    (
        r"(^|/)(metadata\.(csv|jsonl)|(\w+_)?(labels?|list|train|test|val|valid|validation)(_\w+)?\.(csv|tsv|txt|jsonl))$",
        "images with label files",
        ("list",),
        "take --config=configs/list.py",
    ),
    (
        r"(^|/)(?!images/|labels/)[A-Za-z]{2,12}/[^/]+\.(jpe?g|png|bmp)$",
        "images in class folders",
        ("folder",),
        "take --config=configs/folder.py, if each folder is a class",
    ),
    (
        r"\.arrow$",
        "a dataset saved by the Hub's library as Arrow files",
        (),
        "write each split as Parquet, datasets.load_from_disk(DIR)['train'].to_parquet('train.parquet'), and take "
        "--config=configs/parquet.py",
    ),
    (r"\.(zip|tar|tgz|gz|rar|7z)$", "archives", (), "unpack them"),
    (
        r"\.(npz|mat|h5|hdf5|pkl|pickle|tfrecord|mdb|pt|pth)$",
        "arrays or records in one file",
        (),
        "write the images as files beside a list with the columns image,label and take --config=configs/list.py",
    ),
    (
        r"\.(mp4|avi|mov|mkv|webm)$",
        "videos",
        (),
        "write their frames as images, a folder for each video, and take --config=configs/clips.py",
    ),
)


def hint(directory: Path, dataset: str, layout: str) -> str:
    """A line for each form that a folder seems to have, with what to do; '' for none.

    Args:
      dataset: whose form, if it is here, is named where its `layout` does not show the folder that it is in; then, and
        with the form of another dataset, lists and class folders are not named.
    """
    if not directory.is_dir():
        return ""
    paths = "\n".join(_paths(directory, PurePath()))
    lines, is_known = list[str](), False
    for pattern, name, datasets, way in FORMS:
        match = re.search(pattern, paths, re.MULTILINE | re.IGNORECASE)
        if match is None or (is_known and _ANYONES & {*datasets}):
            continue
        is_known = is_known or bool(datasets)
        place = paths[paths.rfind("\n", 0, match.start()) + 1 : match.start()].strip("/")
        if dataset not in datasets:
            lines.append(f"What is in {directory} looks like {name}: {way}.\n")
        elif place and f"{place}/" not in layout and dataset not in _ANYONES:
            lines.append(f"{name} seems to be in {directory / place}; set config.data.dir to the folder as below.\n")
    return "".join(lines)


def _paths(directory: Path, at: PurePath) -> Iterator[str]:
    """Relative paths of some of the files, and of folders with a slash at the end."""
    try:
        with os.scandir(directory) as scan:
            entries = [entry for entry in itertools.islice(scan, _ENTRIES) if not entry.name.startswith(".")]
    except OSError:
        return
    suffixes = collections.Counter[str]()
    folders: list[str] = []
    for entry in entries:
        if entry.is_dir():
            folders.append(entry.name)
            continue
        suffix = PurePath(entry.name).suffix
        suffixes[suffix] += 1
        if suffixes[suffix] <= _FILES:
            yield (at / entry.name).as_posix()
    for name in sorted(folders)[:_FOLDERS]:
        yield f"{(at / name).as_posix()}/"
        if len(at.parts) + 1 < _DEPTH:
            yield from _paths(directory / name, at / name)
