"""Commands: their names, their --help, how they end; options that do nothing beside the others."""

import errno
import os
import re
import subprocess
import sys

import pytest

from mpafer_jax.cli import main
from mpafer_jax.cli.main import COMMANDS
from mpafer_jax.cli.parser import UsageError, several
from mpafer_jax.cli.runner import Command, argument, number
from mpafer_jax.jobs.studies import base_to_new, cross_dataset
from mpafer_jax.method.hard_prompts.generation import generate
from mpafer_jax.runtime import locks
from mpafer_jax.runtime.errors import ConfigError, ExportError, LockedError, NonFiniteError, UserError
from tests.jobs import runs

NAMES = list(COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "chek"], "data has no command 'chek'; did you mean data check?"),
        (["dta", "check"], "there is no command 'dta check'; did you mean data check?"),
        (["studdy"], "there is no command 'studdy'; did you mean study?"),
        (["--flag"], "there is no command '--flag'"),
        (
            ["data", "sheet", "--config=configs/sample.py", "--per_clas=2"],
            "unknown arguments: --per_clas=2; did you mean",
        ),
        (["data", "sheet", "--per_class=2"], "--config is missing: a file of configs/"),
        (["data", "sheet", "--config=configs/sample.py"], "--out is missing: PNG file to write"),
    ],
)
def test_a_wrong_name_gets_the_near_one(words, message, monkeypatch, capsys):
    monkeypatch.chdir(runs.ROOT)
    with pytest.raises(SystemExit, match="2"):
        main.main(words)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second == "--help says how this command is called"


def test_groups_list_their_commands(capsys):
    for words, names in (([], NAMES), (["--help"], NAMES), (["data"], [n for n in NAMES if n.startswith("data ")])):
        with pytest.raises(SystemExit, match="0"):
            main.main(words)
        shown = capsys.readouterr().out
        assert [line[2:22].strip() for line in shown.splitlines() if line.startswith("  ")] == names
        for name in names:
            assert COMMANDS[name].summary in shown


@pytest.mark.parametrize("name", ["predict", "demo", "export", "study faithfulness"])
def test_every_help_says_that_a_checkpoint_may_be_one_that_ships(name):
    said = " ".join(COMMANDS[name].parser().format_help().split())
    assert re.search(r"one step_N folder, or exported prompts \([^)]*ferplus-\s?prompts", said)


def test_every_help_is_whole_and_imports_no_jax():
    program = (
        "import sys\n"
        "from mpafer_jax.cli.main import COMMANDS\n"
        "for command in COMMANDS.values(): print(command.parser().format_help())\n"
        "heavy = {'jax', 'numpy', 'flax', 'transformers', 'torch', 'ml_collections', 'rich', 'pydantic'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=runs.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  --noown_datasets  " in done.stdout
    for name in NAMES:
        called = COMMANDS[name].called or f"mpafer-jax {name}"
        assert f"usage: {called} " in done.stdout
        assert f"    {called}" in done.stdout  # an example


def ends_with(error):
    def main(arguments):
        raise error

    return Command("x", main)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("mend it"), 2, "ConfigError: mend it"),
        (NonFiniteError("a loss"), 2, "NonFiniteError: a loss"),
        (ExportError("differs"), 1, "ExportError: differs"),
        (ModuleNotFoundError("pip install it"), 2, "ModuleNotFoundError: pip install it"),
        (FileExistsError("x exists"), 2, "FileExistsError: x exists"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "Read-only file system: '/x'"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, "make room there and run the same command again"),
    ],
)
def test_what_a_user_can_mend_ends_with_its_message(error, code, message, capsys):
    error.add_note("and a note")
    assert ends_with(error)([]) == code
    said = capsys.readouterr().err
    assert message in said
    assert "and a note" in said
    assert "Traceback" not in said
    assert ends_with(error)(["-v"]) == code
    assert "Traceback" in capsys.readouterr().err  # for whoever wants it


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error", "/x"), KeyError("x")])
def test_anything_else_is_raised(error):
    with pytest.raises(type(error)):
        ends_with(error)([])


def test_exit_codes_of_commands_are_theirs(capsys):
    assert Command("x", lambda arguments: 1)([]) == 1
    assert Command("x", lambda arguments: None)([]) == 0
    with pytest.raises(SystemExit, match="2"):
        ends_with(UsageError("called wrongly"))([])
    assert capsys.readouterr().err == "error: called wrongly\n--help says how this command is called\n"


def test_words_become_arguments(capsys):
    found = {}
    command = Command(
        "x",
        lambda arguments: found.update(vars(arguments)),
        (
            argument("files", nargs="*"),
            number("--size", 2, default=4),
            argument("--of", type=several(("a", "b"))),
            argument("--each", action="append", default=[]),
            argument("--all", action="store_true"),
        ),
        passes_on=True,
    )
    command(["one", "two", "--of=a, b", "--each=1", "--each=2", "--config.seed=3"])
    assert (found["files"], found["size"], found["of"]) == (["one", "two"], 4, ("a", "b"))
    assert (found["each"], found["all"]) == (["1", "2"], False)
    assert (found["given"], found["rest"]) == ({"--of", "--each"}, ["--config.seed=3"])
    for words, message in (
        (["--size=1"], "argument --size: expected a number from 2 on, found '1'"),
        (["--of=c"], "argument --of: 'c' is none of a, b"),
    ):
        with pytest.raises(SystemExit, match="2"):
            command(words)
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_configuration_may_stand_anywhere(monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    found = {}
    command = Command("x", lambda arguments: found.update(vars(arguments)), (argument("name"),), config=True)
    command(["--config", "configs/sample.py", "--noconfig.ctx.class_specific", "me", "--config.loss.beta", "0.25"])
    assert found["name"] == "me"
    assert (found["config"].loss.beta, found["config"].ctx.class_specific) == (0.25, False)
    assert found["fields"] == {"loss.beta": 0.25, "ctx.class_specific": False}


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("predict", ["in", "--faces=none", "--margin=0.2"], "--margin does nothing without --faces=detect"),
        ("predict", ["in", "--faces=none", "--no_align"], "--no_align does nothing without --faces=detect"),
        ("predict", ["in", "--class_names=a,b"], "--class_names does nothing without --zero_shot"),
        ("predict", ["in", "--bank=x"], "--bank does nothing without --heatmaps or --zero_shot"),
        ("predict", ["in", "--zero_shot", "--clip=x", "--which=best"], "--which does nothing without a checkpoint"),
        ("predict", ["in", "--zero_shot", "--clip=x", "--checkpoint=r"], "--checkpoint does nothing without a checkpo"),
        ("predict", ["in", "--zero_shot"], "--zero_shot needs --clip, the CLIP to classify with"),
        ("predict", ["in", "--which=last"], "--which does nothing without a folder of several checkpoints"),
        ("export", ["run", "--out=o", "--weights=inside"], "--weights does nothing without --to=stablehlo"),
        ("export", ["run", "--out=o", "--to=onnx", "--platforms=cpu"], "--platforms does nothing without"),
        ("export", ["run", "--out=o", "--batch_size=0"], "--batch_size does nothing without --to=stablehlo or"),
        ("predict", ["in", "--checkpoint=step_5", "--which=last"], "--which does nothing without a folder of several"),
        ("export", ["step_5", "--out=o", "--which=last"], "--which does nothing without a folder of several"),
        (
            "demo",
            ["--checkpoint=step_5", "--which=last"],
            "--which does nothing without a folder of several checkpoints",
        ),
        ("report", ["a", "b", "--noimages"], "--noimages is of one run's report"),
        ("study sweep", ["--sweep=s", "--workdir=w", "--sbatch=-x"], "--sbatch does nothing without --slurm"),
        ("study sweep", ["--sweep=s", "--workdir=w", "--slurm", "--gpus=0"], "--gpus does nothing without"),
        (
            "prompts generate",
            ["--model=m", "--out=o", "--backend=transformers", "--retries=1"],
            "--retries does nothing without --backend=openai",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(command, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step_5").mkdir()
    with pytest.raises(SystemExit, match="2"):
        COMMANDS[command](arguments)
    assert message in capsys.readouterr().err


def test_one_command_at_a_time_writes_an_export(finished, tmp_path, capsys):
    out = tmp_path / "exported"
    with locks.hold(tmp_path / "exported.lock", out):
        assert COMMANDS["export"]([str(finished[0]), f"--out={out}"]) == 2
        assert "is in use by process" in capsys.readouterr().err
    assert COMMANDS["export"]([str(tmp_path / "nothing"), f"--out={out}"]) == 2
    assert not list(tmp_path.iterdir())
    assert COMMANDS["export"]([str(finished[0]), f"--out={out}"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_every_error_of_the_users_is_one():
    kinds = [
        kind
        for kind in vars(sys.modules[UserError.__module__]).values()
        if isinstance(kind, type) and kind.__module__ == UserError.__module__
    ]
    assert all(issubclass(kind, UserError) for kind in kinds)


def test_the_installed_command_loads_sweep_and_config_files(tmp_path):
    # As the installed script, -P leaves the current folder off the import path.
    command = [sys.executable, "-P", "-m", "mpafer_jax.cli", "study", "sweep", f"--workdir={tmp_path / 'sweep'}"]
    words = ["--sweep=configs/sweeps/top_k.py:quickstart", "--dry_run"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, *words], cwd=runs.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--config.head.top_k=") == 15, done.stdout

    # As do sweep files elsewhere.
    own = "from configs.sweeps.top_k import get_sweep\n"
    (tmp_path / "own.py").write_text(own)
    words[0] = f"--sweep={tmp_path / 'own.py'}:quickstart"
    again = subprocess.run(
        [*command, *words], cwd=runs.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr


@pytest.mark.parametrize(
    ("lock", "work"),
    [
        (locks.RUN, lambda folder, sample: base_to_new.measure(runs.config(sample), folder, [0])),
        (locks.RUN, lambda folder, sample: cross_dataset.measure([], [], folder, "common")),
        ("bank.json.lock", lambda folder, sample: generate.generate(None, None, None, folder / "bank.json")),
    ],
    ids=["base-to-new", "cross-dataset", "generate"],
)
def test_one_process_at_a_time_works_on_a_folder(lock, work, sample, tmp_path):
    with locks.hold(tmp_path / lock, tmp_path), pytest.raises(LockedError, match="is in use by process"):
        work(tmp_path, sample)
    assert not list(tmp_path.iterdir())
