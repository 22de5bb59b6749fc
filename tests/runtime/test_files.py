"""Names of files and folders: which are of this machine, which in a bucket, and which are refused."""

import errno
import importlib.util
import pathlib

import pytest

from mpafer_jax.cli import main
from mpafer_jax.cli.parser import path_argument
from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import ConfigError, DataError
from tests.jobs import runs

CONFIG = f"--config={runs.ROOT / 'configs' / 'sample.py'}"
URL = "gs://bucket/name.csv"


def test_plain_names_are_of_this_machine(tmp_path):
    assert files.any_path("runs/a", "--workdir") == files.local_path("runs/a", "--workdir") == pathlib.Path("runs/a")
    assert not files.in_bucket(tmp_path)
    with files.local_copy(tmp_path / "a") as same:
        assert same == tmp_path / "a"


@pytest.mark.parametrize(("url", "package", "extra"), [("gs://b/x", "gcsfs", "gcs"), ("s3://b/x", "s3fs", "s3")])
def test_a_bucket_without_its_package_is_refused(url, package, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = rf"--workdir is '{url}', for which {package} is not installed: pip install -e '\.\[{extra}\]'"
    with pytest.raises(ValueError, match=message):
        files.any_path(url, "--workdir")


@pytest.mark.parametrize("find", [files.any_path, files.local_path])
def test_slips_of_the_shell_are_no_folders_of_this_machine(find):
    with pytest.raises(ConfigError, match="--workdir is empty: expected a path"):
        find("", "--workdir")
    for slip in ("gs:/bucket/x", "s3:bucket/x", "gs:"):
        with pytest.raises(ConfigError, match=f"--workdir is '{slip}': a bucket is {slip[:2]}://BUCKET/NAME"):
            find(slip, "--workdir")
    for fine in (".", "./gs:/bucket/x", "gs/x", "gsa:/x"):
        assert find(fine, "--workdir") == pathlib.Path(fine)


def test_folders_are_renamed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    files.rename_folder(tmp_path / "a", "c")
    assert [path.name for path in tmp_path.rglob("*")] == ["c", "b"]


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for find in (files.any_path, files.local_path, lambda name, flag: path_argument(flag)(name)):
        assert find("~/runs/a", "--workdir") == tmp_path / "runs" / "a"
        assert find("~", "--workdir") == tmp_path
        assert find("runs/~", "--workdir") == pathlib.Path("runs/~")
        assert find("~nobody of that name", "--workdir") == pathlib.Path("~nobody of that name")


def test_what_is_there_by_its_name_is_no_pattern(tmp_path):
    for name in ("run[v2]/seed_0", "run[v2]/seed_1", "runv/seed_0", "what?"):
        (tmp_path / name).mkdir(parents=True)
    odd = tmp_path / "run[v2]"
    assert not files.is_pattern(odd)
    assert not files.is_pattern(tmp_path / "what?")
    assert not files.is_pattern(tmp_path / "absent")
    assert files.is_pattern(odd / "seed_*")
    assert files.matching(odd / "seed_*") == [odd / "seed_0", odd / "seed_1"]
    assert files.matching(tmp_path / "run[v]/seed_*") == [tmp_path / "runv/seed_0"]
    assert files.matching(tmp_path / "**/seed_1") == [odd / "seed_1"]
    assert files.matching(tmp_path / "none_*") == []


EXPECTED = f"{URL!r}: expected a file or folder of this machine, where a bucket can be mounted"


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "faces", f"--out={URL}"],
        ["predict", "faces", f"--heatmaps={URL}"],
        ["export", "run", f"--out={URL}"],
        ["report", "run", "other", f"--out={URL}"],
        ["data sheet", CONFIG, f"--out={URL}"],
        ["data sample", f"--out={URL}"],
        ["data features", CONFIG, f"--out={URL}"],
        ["prompts generate", "--model=m", f"--out={URL}"],
        ["prompts report", CONFIG, f"--out={URL}"],
        ["clip pretrain", f"--config={runs.ROOT}/configs/pretrain_tiny_clip.py", f"--workdir={URL}"],
        ["study faithfulness", CONFIG, "--checkpoint=run", f"--curves={URL}"],
        ["study motion-prior", CONFIG, f"--out={URL}"],
        ["study tables", URL],
        ["study sweep", "--sweep=configs/sweeps/seeds.py:sample", "--dry_run", f"--workdir={URL}"],
        ["study sweep", "--sweep=configs/sweeps/seeds.py:sample", "--workdir=runs/x", f"--reuse={URL}"],
    ],
    ids=lambda words: f"{words[0]} {words[-1].partition('=')[0]}",
)
def test_commands_refuse_to_write_into_a_bucket(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main.COMMANDS[words[0]](words[1:])
    assert EXPECTED in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_utf8_with_or_without_a_byte_order_mark(mark, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(mark + "é\r\nb\n".encode())
    assert files.read_text(path) == "é\nb\n"
    with files.open_text(path, newline="") as text:
        assert list(text) == ["é\r\n", "b\n"]
    path.write_bytes(mark)
    assert files.read_text(path) == ""


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("a.png".encode("utf-16"), "its first bytes are ff fe, the mark of UTF-16"),
        (b"\xfe\xff\0a", "its first bytes are fe ff, the mark of UTF-16"),
        ("a.png".encode("utf-32"), "its first bytes are ff fe 00 00, the mark of UTF-32"),
        ("a.png".encode("utf-16-le"), r"it begins with b'a\\x00.\\x00p\\x00n\\x00g\\x00', as UTF-16 without a mark"),
        ("1.png\ncafé.png\n".encode("latin-1"), r"it holds b'1.png\\ncaf\\xe9.png\\n'"),
        (b"\xef\xbb\xbf" + b"a" * 100_000 + b"\xff", r"it holds b'a{20}\\xff'"),  # not in the first block
    ],
)
def test_text_of_another_encoding_is_refused_with_what_was_found(data, found, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"list\.txt is not UTF-8: {found}.*save it as UTF-8"):
        files.read_text(path)


def test_containers_with_equal_process_ids_write_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "getpid", lambda: 1)
    with files.replacing(tmp_path / "a") as one, files.replacing(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"  # the block that ended last
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("before")

    def write():
        with files.replacing(path) as temporary, temporary.open("w") as stream:
            stream.write("half")
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write raises it: without a name

    with pytest.raises(OSError, match=r"No space left on device: '.*table\.csv'"):
        write()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("table.csv", "before")]
    files.write_text(path, "caf\udce9")  # a file's name that is no UTF-8
    assert path.read_text(encoding="utf-8") == "caf\\udce9"
