"""Aligned copies of datasets: nothing of a record is lost, the original is not touched, what is stopped goes on."""

import csv
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.config.data_section import ClipsSection, ColumnsSection, DataSection, SynthfaceSection
from mpafer_jax.data import aligned, splits
from mpafer_jax.data.check import check
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.data.registry import read_source
from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from mpafer_jax.faces import alignment
from mpafer_jax.faces.detect import Detector, Face
from mpafer_jax.faces.finder import overlapping
from mpafer_jax.jobs import align
from mpafer_jax.jobs.align import Options
from mpafer_jax.runtime.errors import DataError, InputError
from tests.data import layouts
from tests.jobs import runs

SMALL = Options(size=64)
GREY = (120, 130, 140)


def face(person: int, size: int = 120) -> Image.Image:
    return Image.fromarray(generate.face_of(7, "photos", person, STYLES["colour"]).job.pixels(size))


def scene(*faces: tuple[int, int, int, int], size: tuple[int, int] = (281, 381)) -> Image.Image:
    """A grey wall with faces: person, left, top, side."""
    image = Image.new("RGB", size, GREY)
    for person, left, top, side in faces:
        image.paste(face(person, side), (left, top))
    return image


def write_kdef(root: Path, names: tuple[str, ...] = ("AF01ANS", "AF01HAS", "BM02SUHL", "AM02NES")) -> None:
    for person, name in enumerate(names):
        layouts.save(
            root / "KDEF" / name[:4] / f"{name}.JPG", scene((generate.IMAGES_PER_PERSON * person, 70, 90, 140))
        )


def align_it(data: DataSection, out: Path, options: Options = SMALL) -> aligned.AlignedCopy:
    return align.align_dataset(data, out, options, "the command")


def told(index: SourceIndex) -> dict[str, Any]:
    """All that an index tells, but where its images are and how they were cropped."""
    return {
        "classes": (index.class_names, index.source_labels, index.label_rule, index.dataset, index.version),
        "joined": index.joined,
        "absent": list(index.absent),
        "dropped": index.dropped,
        "records": {
            split: [
                (r.name, r.label, r.label_distribution, r.person, dict(r.attributes), len(r.frames)) for r in records
            ]
            for split, records in index.splits.items()
        },
    }


def tree(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def log(out: Path) -> dict[str, Mapping[str, str]]:
    return {row["image"]: row for row in csv.DictReader(io.StringIO((out / aligned.LOG).read_text()))}


def test_photographs_become_a_dataset_of_upright_faces(tmp_path: Path) -> None:
    root, out = tmp_path / "kdef", tmp_path / "aligned"
    write_kdef(root)
    turned = root / "KDEF" / "AM02" / "AM02NES.JPG"
    Image.open(turned).rotate(-25, Image.Resampling.BICUBIC, fillcolor=GREY).save(turned, quality=95)
    before = tree(root)
    original = layouts.section("kdef", root)
    copy = align_it(original, out, Options(size=160, margin=0.1))
    assert tree(root) == before
    assert (copy.complete, copy.command, copy.counts) == (True, "", {"aligned": 4})
    data = original.model_copy(update={"dir": str(out)})
    assert told(read_source(data)) == told(read_source(original))
    assert read_source(data).splits["train"][0].person == "F01"
    assert (out / "train" / "anger" / "AF01ANS.jpg").is_file()
    rows = log(out)
    assert 12 < float(rows["train/AM02NES.JPG"]["tilt"]) < 38  # that face holds its head askew besides
    assert {row["file"] for row in rows.values()} == {path for path in tree(out) if path.endswith(".jpg")}
    for row in rows.values():
        image = Image.open(out / row["file"])
        assert (image.format, image.size) == ("JPEG", (160, 160))
        (found,) = Detector()(image.convert("RGB"))
        expected = 160 * (np.array(alignment.TEMPLATE) + 0.1) / 1.2
        assert np.abs(np.array(found.landmarks) - expected).mean() < 5
    assert read_source(data).face_margin == splits.load_dataset(data).face_margin == 0.1
    # Whoever reads the copy is told how it was cropped, and a choice of images goes on working.
    crop = read_source(data).crop
    assert crop.startswith(alignment.describe_crop(160, 0.1))
    assert f"faces cropped: {crop}" in check(data).lines
    straight = data.model_copy(update={"where": ("angle=straight",)})
    assert f"faces cropped: {crop}" in splits.load_dataset(straight).description
    assert len(read_source(straight).splits["train"]) == 3


def test_votes_survive_and_images_without_a_face_are_kept(tmp_path: Path) -> None:
    root, out, without = tmp_path / "ferplus", tmp_path / "aligned", tmp_path / "without"
    votes = {f"fer000000{i}.png": [6 - i, i, 0, 4, 0, 0, 0, 0, 0, 0] for i in range(3)}
    votes["fer0000003.png"] = [0] * 9 + [10]  # no face, say the voters
    layouts.write_label_csv(root / "FER2013Train", votes)
    layouts.write_label_csv(root / "FER2013Valid", {"fer0000000.png": [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]}, 9)
    layouts.save(root / "FER2013Train" / "fer0000001.png", face(0, 48).convert("L"))
    original = layouts.section("ferplus", root, label_rule="distribution")
    copy = align_it(original, out)
    assert copy.counts == {"aligned": 1, "not_found_kept": 3}
    data = original.model_copy(update={"dir": str(out)})
    found = read_source(data)
    assert told(found) == told(read_source(original))
    assert found.splits["train"][0].label_distribution is not None
    assert found.dropped["train"]
    whole = Image.open(root / "FER2013Train" / "fer0000000.png").resize((64, 64), Image.Resampling.BICUBIC)
    kept = Image.open(out / "train" / "neutral" / "fer0000000.jpg")
    assert kept.mode == "L"
    assert np.abs(np.asarray(kept, int) - np.asarray(whole, int)).mean() < 5
    assert "of 1 images, 3 without a face are whole, resized" in found.crop
    # As class folders, by anyone; or as these with all that is told.
    assert told(read_source(layouts.section("folder", out)))["records"] == told(found)["records"]
    with pytest.raises(DataError, match=r"with config.data.label_rule 'distribution', and here it is 'majority_lab"):
        read_source(layouts.section("ferplus", out))
    with pytest.raises(DataError, match=r"is an aligned copy of ferplus, and config.data.dataset is 'kdef'"):
        read_source(layouts.section("kdef", out))
    # Left out instead, and counted.
    dropping = align_it(original, without, Options(size=64, on_missing="drop"))
    assert dropping.counts == {"aligned": 1, "not_found_dropped": 3}
    fewer = read_source(data.model_copy(update={"dir": str(without)}))
    assert [record.name for record in fewer.splits["train"]] == ["fer0000001.png"]
    assert fewer.dropped["train"]["no face found"] == 2
    assert fewer.dropped["validation"]["no face found"] == 1


def test_of_several_faces_the_one_of_the_owners_box_is_taken(tmp_path: Path) -> None:
    root, out = tmp_path / "mine", tmp_path / "aligned"
    layouts.save(root / "two.png", scene((0, 20, 60, 100), (8, 200, 40, 160), size=(400, 240)))
    boxes = [("two.png", "anger", 20, 60, 100, 100), ("two.png", "fear", 200, 40, 160, 160)]
    boxes.append(("two.png", "sadness", 140, 0, 50, 50))  # of nobody
    layouts.write_table(root / "labels.csv", boxes, ("image", "label", "x", "y", "w", "h"))
    columns = ColumnsSection(box=("x", "y", "w", "h"))
    original = layouts.section("list", root, columns=columns)
    align_it(original, out)
    rows = log(out)
    assert [row["status"] for row in rows.values()] == ["aligned", "aligned", "not_found_kept"]
    left, right, _ = rows.values()
    assert 20 < int(left["left"]) < int(left["left"]) + int(left["width"]) < 120
    assert 200 < int(right["left"]) < int(right["left"]) + int(right["width"]) < 360
    assert (right["faces"], right["chosen"]) == ("2", "2")
    assert told(read_source(original.model_copy(update={"dir": str(out)}))) == told(read_source(original))
    # Of a whole image it is the larger one.
    layouts.save(tmp_path / "images" / "two.png", Image.open(root / "two.png"))
    align.align_images(tmp_path / "images", tmp_path / "of_images", SMALL, "")
    assert log(tmp_path / "of_images")["two.png"]["chosen"] == "2"


def test_fields_that_the_copy_was_not_made_with_are_refused(tmp_path: Path) -> None:
    root, out = tmp_path / "mine", tmp_path / "aligned"
    layouts.write_images(root, ["a.png", "b.png"])
    rows = [("a.png", "happy", "sad", "p1"), ("b.png", "sad", "happy", "p2")]
    layouts.write_table(root / "labels.csv", rows, ("image", "first", "second", "who"))
    columns = ColumnsSection(label="first", attributes=("who",))
    original = layouts.section("list", root, columns=columns)
    align_it(original, out)
    data = original.model_copy(update={"dir": str(out)})
    assert told(read_source(data)) == told(read_source(original))
    changes = {"columns": {"label": "second"}, "list": {"file": "labels.csv"}}
    for section, change in changes.items():
        other = data.model_copy(update={section: getattr(data, section).model_copy(update=change)})
        (field,) = change
        with pytest.raises(DataError, match=rf"copy of list with config.data.{section}.{field} '\w*', and here it is"):
            read_source(other)
    # A copy of an earlier version does not say them.
    description = json.loads((out / aligned.DESCRIPTION).read_text())
    assert description["original"].pop("fields")["columns.attributes"] == ["who"]
    (out / aligned.DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"config.data.columns.label is 'first', which is not read from .*; leave it"):
        read_source(data)
    assert told(read_source(layouts.section("list", out))) == told(read_source(original))
    # Nor has another dataset's copy these columns.
    description["original"]["dataset"] = "kdef"
    (out / aligned.DESCRIPTION).write_text(json.dumps(description))
    assert len(read_source(layouts.section("folder", out)).splits["train"]) == 2
    with pytest.raises(DataError, match=r"which is not read from .*, an aligned copy of kdef; leave it out"):
        read_source(data)


def test_a_copy_of_drawn_faces_is_of_one_style(tmp_path: Path) -> None:
    original = DataSection(dataset="synthface", synthface=SynthfaceSection(**layouts.SYNTHFACE))
    align_it(original, tmp_path / "aligned", Options(size=32))
    data = original.model_copy(update={"dir": str(tmp_path / "aligned")})
    assert len(read_source(data).splits["train"]) == 40
    with pytest.raises(DataError, match=r"config.data.synthface.style 'colour', and here it is 'sketch'"):
        read_source(DataSection(dataset="synthface", dir=data.dir))


def test_overlap_by_hand() -> None:
    points = ((0.0, 0.0),) * 5
    faces = [Face(0, 0, 10, 10, points, 1.0), Face(5, 0, 10, 10, points, 1.0), Face(100, 100, 50, 50, points, 1.0)]
    assert overlapping(faces, (4, 0, 10, 10), covers_center=False) == (1, 90 / 110)
    assert overlapping(faces, (100, 100, 10, 10), covers_center=True) == (2, 100 / 2500)
    assert overlapping(faces, (60, 60, 50, 50), covers_center=True) is None
    assert overlapping([], (0, 0, 1, 1), covers_center=False) is None


def test_what_was_stopped_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    root, once, stopped = tmp_path / "kdef", tmp_path / "once", tmp_path / "stopped"
    write_kdef(root)
    data = layouts.section("kdef", root)
    align_it(data, once)
    damaged = root / "KDEF" / "BM02" / "BM02SUHL.JPG"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:2000])
    copy = align_it(data, stopped)
    assert (copy.complete, copy.counts) == (False, {"aligned": 3, "unreadable": 1})
    row = log(stopped)["train/BM02SUHL.JPG"]
    assert row["status"] == "unreadable"
    assert "BM02SUHL.JPG: cut short or damaged" in row["error"]
    with pytest.raises(DataError, match="not complete; finish it with the command that began it:\n  the command"):
        read_source(data.model_copy(update={"dir": str(stopped)}))
    # As a kill leaves it: a line of the journal cut short, an image half-written.
    damaged.write_bytes(whole)
    journal = stopped / "alignment.part.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:30])
    (stopped / "train" / "anger" / "AF01ANS.jpg.77.tmp").write_bytes(b"half")
    untouched = (stopped / json.loads(lines[0])[0]).stat().st_mtime_ns
    assert align_it(data, stopped).complete
    assert tree(stopped) == tree(once)
    assert (stopped / json.loads(lines[0])[0]).stat().st_mtime_ns == untouched
    assert align_it(data, stopped).counts == {"aligned": 4}  # nothing is left to do
    damaged.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="images of the original have changed"):
        align_it(data, stopped)


def test_an_unreadable_image_is_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    root, out = tmp_path / "kdef", tmp_path / "aligned"
    write_kdef(root, ("AF01ANS", "AF01HAS"))
    (root / "KDEF" / "AF01" / "AF01HAS.JPG").write_bytes(b"")
    words = [f"--config={runs.ROOT / 'configs' / 'kdef.py'}", f"--config.data.dir={root}", f"--out={out}"]
    done = runs.call("data align", *words)
    assert done.code == 1
    assert f"{out}: 1 aligned, 1 unreadable" in done.out
    assert "not complete" in done.out
    with pytest.raises(DataError, match=rf"mpafer-jax data align .*--config.data.dir={root}"):
        read_source(layouts.section("kdef", out))
    done = runs.call("data align", *words, "--config.data.on_bad_image=skip")
    assert done.code == 1
    assert "not complete" not in done.out
    found = read_source(layouts.section("kdef", out))
    assert [record.name for record in found.splits["train"]] == ["AF01ANS.JPG"]
    assert found.dropped == {"train": {"cannot be read": 1}}


def test_another_command_in_the_folder_is_refused(tmp_path: Path) -> None:
    root, out = tmp_path / "kdef", tmp_path / "aligned"
    write_kdef(root, ("AF01ANS",))
    data = layouts.section("kdef", root)
    align_it(data, out)
    with pytest.raises(InputError, match=r"made otherwise; give another --out\n  crop: there '64x64.*here '80x80"):
        align_it(data, out, Options(size=80))
    with pytest.raises(InputError, match=r"on_missing: there 'keep', here 'drop'"):
        align_it(data, out, Options(size=64, on_missing="drop"))
    with pytest.raises(InputError, match=r"lies in .*kdef, which is not written to"):
        align_it(data, root / "KDEF" / "aligned")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"holds other files \(thesis.tex\)"):
        align_it(data, tmp_path / "full")
    (out / aligned.DESCRIPTION).write_text("{}")
    with pytest.raises(DataError, match=r"alignment.json is not the description of an aligned copy"):
        read_source(layouts.section("kdef", out))


def test_clips_are_aligned_frame_by_frame(tmp_path: Path) -> None:
    root, out = tmp_path / "clips", tmp_path / "aligned"
    layouts.write_drawn_clips(root, 4, 2, 96, ("anger", "fear"))
    section = ClipsSection(train_list="fold_{fold}_train.txt", test_list="fold_{fold}_test.txt", frames=2)
    original = layouts.section("clips", root, clips=section, test_split="test")
    assert sum(align_it(original, out).counts.values()) == 8
    for fold in (1, 2):
        clips = section.model_copy(update={"fold": fold})
        one, other = (original.model_copy(update={"dir": str(place), "clips": clips}) for place in (root, out))
        assert told(read_source(other)) == told(read_source(one))
    frames = [Path(frame.place) for frame in read_source(other).splits["fold_1"][0].frames]
    assert [frame.name for frame in frames] == ["1.jpg", "2.jpg"]
    assert all(frame.is_file() for frame in frames)
    with pytest.raises(DataError, match=r"fold is 3, and .* has no fold_3"):
        read_source(other.model_copy(update={"clips": section.model_copy(update={"fold": 3})}))


def test_a_folder_of_images_keeps_its_folders(tmp_path: Path) -> None:
    root, out = tmp_path / "mine", tmp_path / "aligned"
    for name in ("a/x.png", "a/x.bmp", "b/c/y.png"):
        layouts.save(root / name, face(0, 96))
    (root / "a" / "notes.txt").write_text("")
    (root / "a" / "broken.png").write_bytes(b"no image")
    done = runs.call("data align", f"--images={root}", f"--out={out}", "--size=64")
    assert (done.code, done.out) == (1, f"{out}: 3 aligned, 1 unreadable\n")
    assert {path for path in tree(out) if path.endswith(".jpg")} == {"a/x.jpg", "a/x.png.jpg", "b/c/y.jpg"}
    assert "left out, no images by their names: 1 file (.txt 1)" in done.err
    before = (out / "a" / "x.jpg").stat().st_mtime_ns
    again = runs.call("data align", f"--images={root}", f"--out={out}", "--size=64")
    assert (again.code, again.out) == (1, done.out)
    layouts.save(root / "a" / "broken.png", face(1, 96))
    mended = runs.call("data align", f"--images={root}", f"--out={out}", "--size=64")
    assert (mended.code, mended.out) == (0, f"{out}: 4 aligned\n")
    assert (out / "a" / "broken.jpg").is_file()
    assert (out / "a" / "x.jpg").stat().st_mtime_ns == before
    assert {path for path in tree(out) if not path.endswith(".jpg")} == {"alignment.csv", "alignment.json"}
    for words, message in (
        ((), "give a dataset, --config=FILE, or a folder of images"),
        ((f"--images={tmp_path / 'none'}",), "there is no such folder"),
        ((f"--images={root / 'b'}", "--margin=9"), "a margin is a fraction of the crop's side"),
    ):
        done = runs.call("data align", *words, f"--out={tmp_path / 'other'}")
        assert done.code == 2
        assert message in done.err


def test_images_of_a_folder_are_read_with_their_crop(tmp_path: Path) -> None:
    for name in ("anger/x.png", "fear/y.png"):
        layouts.save(tmp_path / "mine" / name, face(0, 96))
    align.align_images(tmp_path / "mine", tmp_path / "copies" / "aligned", SMALL, "")
    # An archive of it unpacks into a folder in a folder.
    assert read_source(layouts.section("folder", tmp_path / "copies")).crop.startswith("64x64 pixels")


def test_names_that_meet_get_files_of_their_own(tmp_path: Path) -> None:
    root, out = tmp_path / "mine", tmp_path / "aligned"
    names = ("p1/0001.png", "p2/0001.png", "p2/0001.bmp", "p3/a:b.png")
    for name in names:
        layouts.save(root / name, layouts.image(1))
    rows = list(zip(names, ("happy/glad", "happy/glad", "happy/glad", "angry"), strict=True))
    layouts.write_table(root / "labels.csv", rows, ("image", "label"))
    original = layouts.section("list", root)
    align_it(original, out)
    assert [row["file"] for row in log(out).values()] == [
        "train/happy_glad/0001.jpg",
        "train/happy_glad/p2_0001.jpg",
        "train/happy_glad/p2_0001_2.jpg",
        "train/angry/a_b.jpg",
    ]
    found = read_source(original.model_copy(update={"dir": str(out)}))
    assert told(found) == told(read_source(original))


@pytest.mark.processes
def test_sigterm_stops_in_good_order_and_the_same_command_does_the_rest(tmp_path: Path) -> None:
    root, out, once = tmp_path / "kdef", tmp_path / "aligned", tmp_path / "once"
    write_kdef(root, tuple(f"AF{number:02d}ANS" for number in range(1, 41)))
    words = [f"--config={runs.ROOT / 'configs' / 'kdef.py'}", f"--config.data.dir={root}", "--log=plain"]
    command = [sys.executable, "-m", "mpafer_jax.cli", "data", "align", *words, f"--out={out}", "--size=64"]
    process = subprocess.Popen(command, env=runs.environment(), stderr=subprocess.PIPE, text=True, cwd=runs.ROOT)
    journal = out / "alignment.part.jsonl"
    while process.poll() is None and not (journal.is_file() and journal.read_text().count("\n") > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "the same command does the rest" in err
    assert 2 < journal.read_text().count("\n") < 40
    data = layouts.section("kdef", root)
    align_it(data, out)
    align_it(data, once)
    assert tree(out) == tree(once)
