"""Commands' help, and how they end where they are called wrongly: exit code and the first line of the message."""

import shutil

import pytest
from PIL import Image

from tests.golden import store
from tests.golden.commands import without_versions
from tests.golden.conftest import RUN
from tests.golden.store import EXPORTED, RUN_V1

MAIN, PREDICT = "mpafer_jax.main", "mpafer_jax.predict"
QUICK, RAFDB, FOLDER = (f"--config=configs/{name}.py" for name in ("quickstart", "rafdb", "folder"))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the mistakes are made with: {NAME} in an argument."""
    tmp = tmp_path_factory.mktemp("mistakes")
    empty, broken, damaged = tmp / "empty", tmp / "broken", tmp / "damaged"
    empty.mkdir()
    for kind in ("train/anger", "train/fear", "test/anger", "test/fear"):
        (broken / kind).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), (10 * number, 90, 30)).save(broken / kind / f"{number}.png")
    (broken / "train" / "fear" / "1.png").write_bytes(b"no image")
    shutil.copytree(EXPORTED, damaged)
    prompts = damaged / "prompts.safetensors"
    prompts.write_bytes(prompts.read_bytes()[:-4] + b"\0\0\0\0")
    unreadable = shutil.copytree(RUN_V1 / "checkpoints", tmp / "unreadable" / "checkpoints")
    description = unreadable / "step_20" / "description" / "metadata"
    description.write_text(description.read_text().replace("surprise", "suprise"))
    (tmp / "file").write_text("")
    return {
        "RUN_V1": RUN_V1,
        "EXPORTED": EXPORTED,
        "EMPTY": empty,
        "BROKEN": broken,
        "DAMAGED": damaged,
        "UNREADABLE": tmp / "unreadable",
        "FILE": tmp / "file",
        "WORKDIR": tmp / "workdir",
        "TMP": tmp,
    }


@pytest.mark.parametrize("called", [MAIN, PREDICT, "mpafer_jax.cli", "mpafer_jax.cli export"])
def test_help(commands, called):
    done = commands.run(*called.split(), "--help", places={})
    assert (done.code, done.err) == (0, "")
    store.check(f"commands_help/{called}", done.out.splitlines()[: None if called == "mpafer_jax.cli" else 15])


def test_version(commands):
    done = commands.run(MAIN, "--version", places={})
    assert done.code == 0
    store.check("commands_help/version", without_versions(done.out.replace("JAX", "jax")).partition(", Python")[0])


TRAIN = ("--workdir={WORKDIR}",)
EVAL = ("--mode=eval", "--workdir={WORKDIR}")
OF_RUN_V1 = ("--config.eval.checkpoint={RUN_V1}",)
FACE = "{BROKEN}/train/anger/0.png"
MISTAKES = {
    # The command line.
    "no config": (MAIN, *TRAIN),
    "no workdir": (MAIN, QUICK),
    "unknown config file": (MAIN, "--config=configs/rafdbb.py", *TRAIN),
    "a folder as config": (MAIN, "--config=configs", *TRAIN),
    "unknown flag": (MAIN, QUICK, "--wrkdir={WORKDIR}"),
    "unknown mode": (MAIN, QUICK, *TRAIN, "--mode=evaluate"),
    "a word too many": (MAIN, QUICK, *TRAIN, "train"),
    "unknown argument of the config": (MAIN, f"{RAFDB}:vit_l15", *TRAIN),
    "two CLIPs": (MAIN, f"{RAFDB}:vit_l14,vit_b32", *TRAIN),
    # Fields.
    "misspelt field": (MAIN, QUICK, *TRAIN, "--config.train.batchsize=8"),
    "unknown section": (MAIN, QUICK, *TRAIN, "--config.trainer.batch_size=8"),
    "wrong type": (MAIN, QUICK, *TRAIN, "--config.train.batch_size=many"),
    "out of bounds": (MAIN, QUICK, *TRAIN, "--config.loss.temperature=-1.0"),
    "none of the choices": (MAIN, QUICK, *TRAIN, "--config.loss.prompt_distance=l2"),
    "steps and epochs": (MAIN, QUICK, *TRAIN, "--config.train.num_epochs=3.0"),
    "more patches than there are": (MAIN, QUICK, *TRAIN, "--config.head.top_k=65"),
    "unknown baseline": (MAIN, QUICK, *TRAIN, "--config.eval.baselines=('zero_shot',)"),
    "unknown bank": (MAIN, QUICK, *TRAIN, "--config.hard_prompts.bank=('poems',)"),
    # Data.
    "no data root": (MAIN, RAFDB, *TRAIN),
    "data root that is not there": (MAIN, f"{RAFDB}:tiny_clip", *TRAIN, "--config.data.dir=/no/such/folder"),
    "no images": (MAIN, f"{FOLDER}:tiny_clip", *TRAIN, "--config.data.dir={EMPTY}"),
    "a bad image": (MAIN, f"{FOLDER}:tiny_clip", *TRAIN, "--config.data.dir={BROKEN}", "--config.train.batch_size=2"),
    "unknown class": (MAIN, *RUN, *TRAIN, "--config.data.class_names=('happiness','nostalgia')"),
    # Workdirs and checkpoints.
    "workdir is a file": (MAIN, QUICK, "--workdir={FILE}"),
    "workdir of another run": (MAIN, QUICK, "--workdir={RUN_V1}"),
    "nothing to evaluate": (MAIN, QUICK, *EVAL),
    "a CLIP that is not there": (
        MAIN,
        QUICK,
        *EVAL,
        "--config.eval.checkpoint={RUN_V1}",
        "--config.clip.name=/no/clip",
    ),
    "damaged checkpoint": (MAIN, *RUN, *EVAL, "--config.eval.checkpoint={UNREADABLE}"),
    # Prediction.
    "no inputs": (PREDICT, "--checkpoint={RUN_V1}"),
    "inputs that are not there": (PREDICT, "--checkpoint={RUN_V1}", "/no/such.jpg"),
    "an empty folder": (PREDICT, "--checkpoint={RUN_V1}", "{EMPTY}"),
    "no checkpoint": (PREDICT, "--checkpoint={EMPTY}", FACE),
    "damaged prompts": (PREDICT, "--checkpoint={DAMAGED}", FACE),
    "unknown option": (PREDICT, "--checkpoint={RUN_V1}", FACE, "--outt=x.csv"),
    "unknown table": (PREDICT, "--checkpoint={RUN_V1}", FACE, "--out=x.xlsx"),
    "not a number": (PREDICT, "--checkpoint={RUN_V1}", FACE, "--stride=0"),
    "one class twice": (PREDICT, FACE, "--zero_shot", "--clip=tiny-face-clip", "--class_names=joy,happy"),
    "an idle option": (PREDICT, "--checkpoint={EXPORTED}", FACE, "--which=last"),
    "a bad image alone": (PREDICT, "--checkpoint={RUN_V1}", "{BROKEN}/train/fear/1.png"),
    "a run in the place of an image": (PREDICT, "{RUN_V1}", FACE),
    "prompts in the place of an image": (PREDICT, "{EXPORTED}", FACE),
    "shipped prompts in the place of an image": (PREDICT, "ferplus-prompts", FACE),
    "a misspelt name of shipped prompts": (PREDICT, "--checkpoint=ferplus-promts", FACE),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(commands, places, mistake):
    module, *arguments = MISTAKES[mistake]
    arguments = [argument.format_map(places) for argument in arguments]
    done = commands.run(module, *arguments, places=places)
    store.check(f"commands_mistakes/{mistake}", {"code": done.code, "message": done.error.splitlines()})
    assert done.out == ""
    assert "Traceback" not in done.err
