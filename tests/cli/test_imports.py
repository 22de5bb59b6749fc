"""What commands import while somebody waits: nothing slow for --help, and for a prediction what it needs."""

import subprocess
import sys

import pytest
from PIL import Image

from mpafer_jax.data.synthface import generate
from mpafer_jax.data.synthface.styles import STYLES
from tests.faces import scenes

DATASETS = {"grain", "tensorflow_datasets"}
NOT_FOR_PREDICTION = {*DATASETS, "matplotlib", "orbax", "optax", "scipy", "sklearn", "torch", "transformers"}
NOT_FOR_HELP = {*NOT_FOR_PREDICTION, "flax", "jax", "numpy", "PIL", "pydantic", "rich", "tokenizers"}

HELP = """
import sys
from mpafer_jax.cli import main
for command in main.COMMANDS.values():
    command.parser().format_help()
main.listing([*main.COMMANDS.values()], "")
"""
PREDICT = """
import sys
from mpafer_jax.cli.predict import predict
assert predict(sys.argv[1:]) == 0
"""


def imported(code, *words):
    """Packages that a new process has imported after `code`, and what `code` has printed."""
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    *printed, packages = ended.stdout.splitlines()
    return set(packages.split()), printed


def test_help_imports_nothing_slow():
    assert imported(HELP)[0] & NOT_FOR_HELP == set()


@pytest.mark.processes
def test_prediction_with_exported_prompts_imports_what_it_needs(tmp_path):
    face = Image.fromarray(generate.face_of(0, "photos", 0, STYLES["poster"]).job.pixels(224))
    scenes.pasted(face, seed=0).image.save(tmp_path / "photo.png")
    packages, printed = imported(PREDICT, tmp_path / "photo.png")
    assert printed[0].endswith("%")  # a face was found
    assert packages & NOT_FOR_PREDICTION == set()
    assert packages >= {"jax", "flax", "tokenizers"}
