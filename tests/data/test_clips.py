"""Video clips: their readers, their frames in batches and in evaluation, and their preparation."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpafer_jax.config.data_section import ClipsSection, DataSection
from mpafer_jax.data import check, pipeline, splits
from mpafer_jax.data.clips import read_clip
from mpafer_jax.data.contact_sheet import contact_sheet
from mpafer_jax.data.readers import clips, dfew, ferv39k, mafw
from mpafer_jax.data.records import SourceIndex
from mpafer_jax.data.splits import Grouping, Split, load_dataset
from mpafer_jax.runtime.errors import DataError, ImageError
from tests.data import layouts

DFEW = [(1 + index % 7, 4 + index) for index in range(21)]  # 4 to 24 frames


def names(index: SourceIndex) -> dict[str, list[tuple[str, str]]]:
    return {
        split: [(record.name, index.class_names[record.label]) for record in records]
        for split, records in index.splits.items()
    }


def section(dataset: str, directory: Path, frames: int = 4, fold: int = 1, **changes: Any) -> DataSection:
    of_clips = ClipsSection(frames=frames, fold=fold)
    return layouts.section(dataset, directory, **{"clips": of_clips, "test_split": "test", **changes})


def test_dfew_is_five_folds(tmp_path: Path) -> None:
    layouts.write_dfew(tmp_path, DFEW)
    index = dfew.read(tmp_path, ClipsSection(fold=2))
    assert list(index.splits) == [f"fold_{fold}" for fold in range(1, 6)]
    assert index.joined == {"train": ("fold_1", "fold_3", "fold_4", "fold_5"), "test": ("fold_2",)}
    assert names(index)["fold_2"] == [
        ("00002", "sadness"),
        ("00007", "fear"),
        ("00012", "surprise"),
        ("00017", "neutral"),
    ]
    assert index.source_labels == tuple("1234567")
    # The twelfth clip has fifteen frames: 10.jpg comes after 9.jpg.
    frames = index.splits["fold_2"][2].frames
    assert [Path(frame.place).name for frame in frames] == [f"{number}.jpg" for number in range(1, 16)]
    assert frames[0].place == str(tmp_path / "Clip" / "jpg_256" / "00012" / "1.jpg")


def test_frames_of_the_same_number_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    names_of_one = [f"{'0' * (5 * zeros % 12)}1.jpg" for zeros in range(12)]
    layouts.write_images(tmp_path, ["2.jpg", *names_of_one])
    clip = read_clip(tmp_path)
    assert clip is not None
    assert clip.names == (*sorted(names_of_one), "2.jpg")


@pytest.mark.parametrize("frames", ["Clip/clip_224x224_16f", "clip_224x224", "Clip/jpg_256/jpg_256"])
def test_dfew_in_other_folders(tmp_path: Path, frames: str) -> None:
    layouts.write_dfew(tmp_path / "DFEW-part2", DFEW[:5], frames)
    index = dfew.read(tmp_path, ClipsSection())
    assert Path(index.splits["fold_1"][0].frames[0].place).parent == tmp_path / "DFEW-part2" / frames / "00001"


def test_dfew_with_two_folders_of_frames_asks_which(tmp_path: Path) -> None:
    layouts.write_dfew(tmp_path, DFEW[:5])
    layouts.write_dfew(tmp_path, DFEW[:5], "Clip/clip_224x224_16f")
    with pytest.raises(
        DataError, match=r"both hold frames; choose one with --config\.data\.clips\.folder=Clip/jpg_256"
    ):
        dfew.read(tmp_path, ClipsSection())
    index = dfew.read(tmp_path, ClipsSection(folder="Clip/clip_224x224_16f"))
    assert "clip_224x224_16f" in index.splits["fold_1"][0].frames[0].place


def test_dfew_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Clip/jpg_256 is not there\.\nExpected under config\.data\.dir:\n  EmoLabel"):
        dfew.read(tmp_path, ClipsSection())
    layouts.write_dfew(tmp_path, DFEW[:5])
    with pytest.raises(DataError, match=r"clips\.fold is 6; the lists here are of fold 1, 2, 3, 4, 5$"):
        dfew.read(tmp_path, ClipsSection(fold=6))
    lists = tmp_path / "EmoLabel_DataSplit"
    path = lists / "train(single-labeled)" / "set_3.csv"
    whole = path.read_text()
    path.write_text(whole + "7,8\n")
    with pytest.raises(
        DataError, match=r"set_3\.csv line 6: found '7,8', expected NAME,LABEL with a label from 1 to 7"
    ):
        dfew.read(tmp_path, ClipsSection())
    path.write_text(whole.replace("1,1", "1,2"))
    with pytest.raises(DataError, match=r"set_3\.csv line 2: 00001 has another label than in .*set_1\.csv line 2"):
        dfew.read(tmp_path, ClipsSection())
    path.write_text(whole + "1,1\n")
    with pytest.raises(DataError, match=r"set_3\.csv line 6: 00001 was there already \(.*set_3\.csv line 2\)"):
        dfew.read(tmp_path, ClipsSection())
    path.write_text("1,1\n")
    with pytest.raises(DataError, match=r"set_3\.csv line 1: found '1,1', expected 'video_name,label'"):
        dfew.read(tmp_path, ClipsSection())


def test_lists_that_are_no_cross_validation_are_read_as_they_are(tmp_path: Path) -> None:
    layouts.write_dfew(tmp_path, DFEW[:6])
    path = tmp_path / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_3.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("1,")) + "\n")
    index = dfew.read(tmp_path, ClipsSection(fold=3))
    assert index.joined == {}
    assert [name for name, _ in names(index)["train"]] == ["00002", "00004", "00005", "00006"]
    assert [name for name, _ in names(index)["test"]] == ["00003"]


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    layouts.write_dfew(tmp_path, DFEW[:5])
    shutil.rmtree(tmp_path / "Clip" / "jpg_256" / "00002")
    for frame in (tmp_path / "Clip" / "jpg_256" / "00004").iterdir():
        frame.rename(frame.with_suffix(".txt"))
    with pytest.raises(DataError, match="2 of the 5 listed clips have no frames: ") as caught:
        dfew.read(tmp_path, ClipsSection())
    first, second = str(caught.value).splitlines()[1:]
    assert first.startswith(f"  {tmp_path}/Clip/jpg_256/00002 (")
    assert second.startswith(f"  {tmp_path}/Clip/jpg_256/00004 (")
    assert second.endswith("set_4.csv line 2)")


def test_ferv39k(tmp_path: Path) -> None:
    lines = {"train": ["Action/Happy/0001 Happy", "Crime/Angry/0002 Angry"], "test": ["Action/Sad/0001 Sad"]}
    layouts.write_ferv39k(tmp_path / "FERV39k", lines)
    index = ferv39k.read(tmp_path, ClipsSection())
    assert names(index) == {
        "train": [("Action/Happy/0001", "happiness"), ("Crime/Angry/0002", "anger")],
        "test": [("Action/Sad/0001", "sadness")],
    }
    with pytest.raises(DataError, match=r"clips\.fold is 2; the lists here are of fold 1: they divide the clips once"):
        ferv39k.read(tmp_path, ClipsSection(fold=2))
    path = tmp_path / "FERV39k" / "4_setups" / "All_scenes" / "train_All.csv"
    path.write_text("Action/Happy/0001 Joyous\n")
    with pytest.raises(DataError, match=r"train_All\.csv line 1: found 'Action/Happy/0001 Joyous', expected SCENE/"):
        ferv39k.read(tmp_path, ClipsSection())
    path.write_text("Action/Happy/0001 Sad\n")
    with pytest.raises(DataError, match=r"1 of 2 labels contradict the folder .* sadness in Action/Happy/0001"):
        ferv39k.read(tmp_path, ClipsSection())


def test_mafw(tmp_path: Path) -> None:
    layouts.write_mafw(tmp_path, [("anger", 2), ("anxiety", 3), ("disappointment", 2), ("neutral", 2), ("fear", 1)])
    index = mafw.read(tmp_path, ClipsSection(fold=2))
    assert names(index)["fold_2"] == [("00002", "anxiety")]
    assert len(index.class_names) == 11
    (tmp_path / "split").rename(tmp_path / "Train & Test Set")  # as in the owners' archive
    assert names(mafw.read(tmp_path, ClipsSection(fold=2))) == names(index)
    (tmp_path / "data" / "frames").rename(tmp_path / "data" / "elsewhere")
    assert mafw.read(tmp_path, ClipsSection(folder="data/elsewhere")).joined["test"] == ("fold_1",)
    (tmp_path / "data" / "clips").mkdir()
    with pytest.raises(
        DataError, match=r"data/clips holds videos, and the frames are read from .*data/frames.*\n.*ffmpeg"
    ):
        mafw.read(tmp_path, ClipsSection())


def test_mafw_names_a_bad_line(tmp_path: Path) -> None:
    layouts.write_mafw(tmp_path, [("anger", 2)] * 5)
    with (tmp_path / "split" / "single" / "no_caption" / "set_2" / "test.txt").open("a") as file:
        file.write("\n00009.mp4 anger_fear\n")
    with pytest.raises(DataError, match=r"test\.txt line 3: found '00009.mp4 anger_fear', expected NAME\.mp4 LABEL"):
        mafw.read(tmp_path, ClipsSection())


LISTED = [("a/1", 3, "0"), ("a/2", 2, "10"), ("b/1", 4, "2")]


@pytest.mark.parametrize("prefix", ["", "/data/of/others/", "C:\\films\\"])
def test_lists_of_clips(tmp_path: Path, prefix: str) -> None:
    layouts.write_clip_list(tmp_path, "train.txt", LISTED, prefix, "frames")
    layouts.write_clip_list(tmp_path, "test.txt", [("c d/1", 2, "10")], prefix, "frames")
    index = clips.read(tmp_path, ClipsSection(folder="frames"))
    assert index.source_labels == index.class_names == ("0", "2", "10")
    assert names(index) == {"train": [("a/1", "0"), ("a/2", "10"), ("b/1", "2")], "test": [("c d/1", "10")]}
    assert [len(record.frames) for record in index.splits["train"]] == [3, 2, 4]
    (warning,) = index.warnings
    assert "labels 0, 2, 10 are numbers" in warning
    assert clips.read(tmp_path, ClipsSection(folder="frames"), ("sad=0", "fear=2", "joy=10")).warnings == ()
    with pytest.raises(DataError, match=r"none of the 4 listed folders is below .*set config\.data\.clips\.folder"):
        clips.read(tmp_path / "frames" / "..", ClipsSection())


def test_folders_with_another_number_of_frames_than_listed(tmp_path: Path) -> None:
    layouts.write_clip_list(tmp_path, "train.txt", [("1", 5, "sad"), ("2", 5, "sad"), ("3", 5, "joy")])
    layouts.write_clip_list(tmp_path, "test.txt", [("4", 2, "joy")])
    (tmp_path / "1" / "5.png").unlink()
    (tmp_path / "3" / "2.png").unlink()
    (tmp_path / "3" / "4.png").unlink()
    layouts.write_frames(tmp_path / "2", 7, 50, ".png")
    index = clips.read(tmp_path, ClipsSection())
    assert [len(record.frames) for record in index.splits["train"]] == [4, 5, 3]
    (warning,) = index.warnings
    assert warning.startswith(
        "train: 2 of 3 clips have fewer frames than their list says, 3 in all, and are read as they"
    )
    assert f"the first is {tmp_path}/1 (" in warning


def test_a_clip_of_both_lists_is_an_error(tmp_path: Path) -> None:
    layouts.write_clip_list(tmp_path, "train.txt", [("1", 3, "sad"), ("2", 3, "joy")])
    layouts.write_clip_list(tmp_path, "test.txt", [("3", 3, "sad"), ("2", 2, "joy")])
    with pytest.raises(DataError, match=r"test\.txt line 2: 2 was there already \(.*train\.txt line 2\); keep one"):
        clips.read(tmp_path, ClipsSection())


def test_lists_of_folds(tmp_path: Path) -> None:
    rows = [(str(number), 2, "joy" if number % 2 else "fear") for number in range(6)]
    for fold in (1, 2):
        layouts.write_clip_list(tmp_path, f"lists/set_{fold}_train.txt", rows[3:] if fold == 1 else rows[:3])
        layouts.write_clip_list(tmp_path, f"lists/set_{fold}_test.txt", rows[:3] if fold == 1 else rows[3:])
    of_clips = ClipsSection(fold=2, train_list="lists/set_{fold}_train.txt", test_list="lists/set_{fold}_test.txt")
    # The folders of frames were written beside the lists' root.
    index = clips.read(tmp_path, of_clips)
    assert index.joined == {"train": ("fold_1",), "test": ("fold_2",)}
    with pytest.raises(DataError, match=r"put \{fold\} into both names, or into neither"):
        clips.read(tmp_path, ClipsSection(train_list="lists/set_{fold}_train.txt"))
    with pytest.raises(DataError, match=r"train\.txt is not there"):
        clips.read(tmp_path, ClipsSection())
    (tmp_path / "lists" / "set_1_test.txt").write_text("0 two joy\n")
    with pytest.raises(DataError, match=r"set_1_test\.txt line 1: found '0 two joy', expected DIR N_FRAMES LABEL"):
        clips.read(tmp_path, of_clips)


@pytest.fixture(scope="module")
def dfew_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dfew")
    layouts.write_dfew(root, DFEW)
    return root


def pixels(split: Split, index: int, frame: int = 0) -> np.ndarray[Any, Any]:
    return np.asarray(split.source.image(index, frame))


def frame_file(root: Path, clip: str, number: int) -> np.ndarray[Any, Any]:
    with Image.open(root / "Clip" / "jpg_256" / clip / f"{number + 1}.jpg") as image:
        return np.asarray(image)


def test_folds_share_one_preparation_and_counts_are_clips(dfew_folder: Path) -> None:
    found = [load_dataset(section("dfew", dfew_folder, fold=fold, validation_fraction=0.1)) for fold in (1, 4)]
    prepared = [path for path in (dfew_folder / "mpafer_tfds").iterdir() if path.is_dir()]
    assert len(prepared) == 1
    for dataset in found:
        assert dataset.test is not None
        assert dataset.validation is not None
        everything = [dataset.train, dataset.validation, dataset.test]
        assert sum(len(split) for split in everything) == 21
        clip_names = [set(split.names.tolist()) for split in everything]
        assert sum(map(len, clip_names)) == len(set().union(*clip_names)) == 21
    assert found[0].test.names.tolist() == ["00001", "00006", "00011", "00016", "00021"]
    assert found[1].test.names.tolist() == ["00004", "00009", "00014", "00019"]
    assert "fold_2 + fold_3 + fold_4 + fold_5" in found[0].description
    assert f"examples are clips, {sum(number for _, number in DFEW)} frames in all; 4 of each" in found[0].description
    assert repr(found[0].test) == "<Split test: 5 clips of 7 classes>"
    one, other = (load_dataset(section("dfew", dfew_folder, frames=frames)) for frames in (4, 5))
    assert one.test.fingerprint != other.test.fingerprint


def test_a_fold_that_validates_is_left_out_of_train(dfew_folder: Path) -> None:
    data = section("dfew", dfew_folder, validation_split="fold_2")
    dataset = load_dataset(data)
    assert dataset.validation is not None
    assert dataset.validation.names.tolist() == ["00002", "00007", "00012", "00017"]
    assert dataset.train.names.tolist() == [f"{number:05d}" for fold in (3, 4, 5) for number in range(fold, 22, 5)]
    assert {"  train: fold_3 + fold_4 + fold_5", "  validation: fold_2"} <= set(dataset.description.splitlines())
    without = load_dataset(data, without="validation")
    assert without.train.fingerprint == dataset.train.fingerprint
    assert without.validation is None
    report = check.check(data)
    assert "  train is fold_3 + fold_4 + fold_5\n  validation is fold_2\n  test is fold_1\n" in "\n".join(report.lines)
    assert report.attention == ()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"train_splits": ("fold_1", "fold_2")},
            "'fold_1' is in train and in test: train_splits ('fold_1', 'fold_2') is fold_1 + fold_2, test_split 'test' "
            "is fold_1; name others",
        ),
        ({"test_split": "fold_2"}, "'fold_2' is in train and in test: train_splits ('train',) is fold_2 + fold_3 + "),
        (
            {"validation_split": "fold_1"},
            "'fold_1' is in validation and in test: validation_split 'fold_1' is fold_1, test_split 'test' is fold_1; "
            "the test split would select the checkpoint; leave validation_split empty",
        ),
        (
            {"train_splits": ("train", "train")},
            "'fold_2' is in train twice: train_splits ('train', 'train') is fold_2 + fold_3 + fold_4 + fold_5 + "
            "fold_2 + fold_3 + fold_4 + fold_5; name each split once; 'test' is the fold of config.data.clips.fold, ",
        ),
        ({"train_splits": ("train", "fold_3")}, "'fold_3' is in train twice: train_splits ('train', 'fold_3') is "),
        (
            {"train_splits": ("fold_1", "fold_2"), "validation_split": "test", "test_split": "fold_4"},
            "'fold_1' is in train and in validation: train_splits ('fold_1', 'fold_2') is fold_1 + fold_2, "
            "validation_split 'test' is fold_1; name others, or leave validation_split empty",
        ),
    ],
)
def test_a_clip_has_one_purpose(dfew_folder: Path, changes: dict[str, Any], found: str) -> None:
    data = section("dfew", dfew_folder, **changes)
    with pytest.raises(DataError, match=re.escape(f"config.data: the split {found}")) as caught:
        load_dataset(data)
    assert check.check(data).attention == (str(caught.value),)


def test_of_two_folds_none_is_left_to_validate(tmp_path: Path) -> None:
    rows = [(str(number), 2, ("joy", "fear")[number % 2]) for number in range(8)]
    for fold, (train, test) in {1: (rows[4:], rows[:4]), 2: (rows[:4], rows[4:])}.items():
        layouts.write_clip_list(tmp_path, f"{fold}_train.txt", train)
        layouts.write_clip_list(tmp_path, f"{fold}_test.txt", test)
    of_clips = ClipsSection(frames=2, train_list="{fold}_train.txt", test_list="{fold}_test.txt")
    data = section("clips", tmp_path, clips=of_clips, validation_split="fold_2")
    with pytest.raises(DataError, match=r"'fold_2' is in train and in validation: .* leave validation_split empty"):
        load_dataset(data)


def test_frames_for_evaluation_are_the_middles_of_segments(dfew_folder: Path) -> None:
    test = load_dataset(section("dfew", dfew_folder, frames=6, fold=2)).test
    assert test.source.num_frames.tolist() == [5, 10, 15, 20]
    images, grouping = test.frames()
    # Five frames are fewer than six segments; of ten, segments end at 1.67, 3.33, 5, ..
    expected = [[0, 1, 2, 3, 4], [0, 2, 4, 5, 7, 9], [1, 3, 6, 8, 11, 13], [1, 5, 8, 11, 15, 18]]
    assert grouping.starts.tolist() == [0, 5, 11, 17]
    assert grouping.counts.tolist() == [5, 6, 6, 6]
    assert grouping.middle().tolist() == [2, 8, 14, 20]
    row = 0
    for clip, numbers in enumerate(expected):
        for number in numbers:
            np.testing.assert_array_equal(pixels(images, row), frame_file(dfew_folder, test.names[clip], number))
            assert images.names[row] == test.names[clip]
            assert images.labels[row] == test.labels[clip]
            row += 1
    assert len(images) == row
    assert len(set(images.pixel_hashes.tolist())) == row
    # Of images nothing changes.
    again, of_images = images.frames()
    assert again is images
    values = np.arange(2.0 * row).reshape(row, 2)
    assert of_images.mean(values) is values
    means = grouping.mean(values.astype(np.float32))
    assert means.dtype == np.float32
    np.testing.assert_array_equal(means, [[4, 5], [15, 16], [27, 28], [39, 40]])


def test_frames_of_several_folds_keep_the_hashes_of_their_pixels(dfew_folder: Path) -> None:
    """Stored features are found by them."""

    def hashes(split: Split) -> dict[str, list[str]]:
        images, _ = split.frames()
        return {name: images.pixel_hashes[images.names == name].tolist() for name in split.names.tolist()}

    folds = {fold: load_dataset(section("dfew", dfew_folder, frames=6, fold=fold)) for fold in range(1, 6)}
    alone = {fold: hashes(dataset.test) for fold, dataset in folds.items()}
    assert hashes(folds[2].train) == {**alone[1], **alone[3], **alone[4], **alone[5]}
    every = [one for of_fold in alone.values() for of_clip in of_fold.values() for one in of_clip]
    assert len(set(every)) == len(every)


def test_means_by_hand() -> None:
    grouping = Grouping(np.array([0, 1, 4]), 6)
    logits = np.array([[1, 0], [3, 0], [0, 3], [0, 0], [2, 5], [4, 1]], np.float32)
    np.testing.assert_array_equal(grouping.mean(logits), [[1, 0], [1, 1], [3, 3]])


def batches(split: Split, data: DataSection, steps: int, start: int = 0, **options: Any) -> list[pipeline.Batch]:
    values: dict[str, Any] = {"image_size": 12, "batch_size": 6, "seed": 3, "start_step": start, "num_steps": steps}
    return list(pipeline.train_batches(split, section=data, **{**values, **options}))


def test_an_epoch_has_a_random_frame_of_each_segment(dfew_folder: Path) -> None:
    data = section("dfew", dfew_folder, frames=6, fold=2)
    split = load_dataset(data).train
    assert len(split) == 17
    assert split.images_per_epoch == 17 * 6
    stream = batches(split, data, 3 * 17)
    seen: list[list[tuple[int, int]]] = [[] for _ in range(3)]
    known = {
        frame_file(dfew_folder, name, number).tobytes(): (clip, number)
        for clip, name in enumerate(split.names.tolist())
        for number in range(int(split.source.num_frames[clip]))
    }
    for step, batch in enumerate(stream):
        np.testing.assert_array_equal(batch["label"], split.labels[batch["index"]])
        for place, (index, image) in enumerate(zip(batch["index"].tolist(), batch["image"], strict=True)):
            clip, number = known[image.tobytes()]
            assert clip == index
            position = 6 * step + place
            order = np.random.default_rng((0, 3, position // 102)).permutation(102)
            segment, frames = order[position % 102] % 6, int(split.source.num_frames[clip])
            low, high = segment * frames // 6, (segment + 1) * frames // 6
            assert number == np.random.default_rng((3, 3, position)).integers(low, max(low + 1, high))
            seen[step // 17].append((clip, number))
    for epoch in seen:
        for clip in range(17):
            frames = int(split.source.num_frames[clip])
            drawn = sorted(number for of, number in epoch if of == clip)
            assert len(drawn) == 6
            for segment, number in enumerate(drawn):
                assert segment * frames // 6 <= number <= max(segment * frames // 6, (segment + 1) * frames // 6 - 1)
    assert len({tuple(epoch) for epoch in seen}) == 3
    assert len({number for epoch in seen for clip, number in epoch if clip == 16}) > 6


def test_clips_resume_and_are_shared_by_processes(dfew_folder: Path) -> None:
    for sampler in ("shuffle", "class_balanced"):
        data = section("dfew", dfew_folder, frames=6, augment=layouts.STRONG_AUGMENT, sampler=sampler)
        split = load_dataset(data).train
        whole = batches(split, data, 6)
        parts = [batches(split, data, 6, 4, process_index=process, process_count=2) for process in range(2)]
        for step, batch in enumerate(whole[4:]):
            for name, value in batch.items():
                np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), value)
    decoded = data.model_copy(update={"cache_decoded": True})
    for one, other in zip(whole, batches(load_dataset(decoded).train, decoded, 6), strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_clips_are_not_evaluated_as_images(dfew_folder: Path) -> None:
    data = section("dfew", dfew_folder)
    with pytest.raises(ValueError, match=r"<Split test: 5 clips of 7 classes> is evaluated by its frames"):
        pipeline.eval_batches(load_dataset(data).test, section=data, image_size=12, batch_size=4)


def test_unreadable_frames(tmp_path: Path) -> None:
    layouts.write_dfew(tmp_path, DFEW[:10])
    frames = tmp_path / "Clip" / "jpg_256"
    (frames / "00002" / "3.jpg").write_bytes(b"no image")
    for path in (frames / "00004").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"00002/3\.jpg: cannot be read"):
        load_dataset(section("dfew", tmp_path))
    dataset = load_dataset(section("dfew", tmp_path, on_bad_image="skip", train_splits=(), test_split="all"))
    assert dataset.test.names.tolist() == [f"{number:05d}" for number in (1, 6, 2, 7, 3, 8, 9, 5, 10)]
    assert dataset.test.source.num_frames.tolist() == [4, 9, 4, 10, 6, 11, 12, 8, 13]
    second = [pixels(dataset.test, 2, frame) for frame in range(4)]
    for image, number in zip(second, (0, 1, 3, 4), strict=True):
        np.testing.assert_array_equal(image, frame_file(tmp_path, "00002", number))
    assert sum(map(len, dataset.summary.skipped.values())) == 1 + 7
    report = check.check(section("dfew", tmp_path))
    assert "unreadable images: 8" in report.lines


def test_check_counts_clips(tmp_path: Path) -> None:
    layouts.write_dfew(tmp_path, DFEW)
    frames = tmp_path / "Clip" / "jpg_256"
    shutil.copytree(frames / "00001", frames / "00008", dirs_exist_ok=True)
    for number in range(5, 12):
        (frames / "00008" / f"{number}.jpg").unlink()
    report = check.check(section("dfew", tmp_path))
    text = "\n".join(report.lines)
    assert "labels: index, class, the owner's label; clips per split" in text
    assert "  train is fold_2 + fold_3 + fold_4 + fold_5\n  test is fold_1\n" in text
    assert text.count(" 12x12: ") == 5
    assert "fold_1: 12x12: 5" in text
    assert "fold_3 clips that are also in fold_1: 1 (fold_3/00008)" in text
    assert report.attention == ("1 clip of fold_3 also in fold_1",)


def test_a_sheet_shows_the_middle_frames(dfew_folder: Path) -> None:
    sheet = contact_sheet(section("dfew", dfew_folder, fold=3), "train", per_class=2, tile=12)
    assert sheet.height == 7 * 12
    with pytest.raises(DataError, match="no split 'valid' to show; dfew has fold_1, "):
        contact_sheet(section("dfew", dfew_folder), "valid", per_class=2)


def test_a_part_of_the_test_clips(dfew_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "part.txt").write_text("00011\n00006\n")
    data = section("dfew", dfew_folder, test_subset=str(tmp_path / "part.txt"))
    assert load_dataset(data).test.names.tolist() == ["00006", "00011"]
    assert dataclasses.is_dataclass(splits.Dataset)
