"""What commands import while somebody waits: nothing slow for --help, and for a prediction what it needs."""

import subprocess
import sys

import pytest

from mpafer_jax.inference.export.whole import export

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
    """Packages that a new process has imported after `code`."""
    code += "print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True, text=True)
    return set(ended.stdout.splitlines()[-1].split())


def test_help_imports_nothing_slow():
    assert imported(HELP) & NOT_FOR_HELP == set()


@pytest.mark.processes
def test_prediction_with_exported_prompts_imports_what_it_needs(finished, sample, tmp_path):
    export(finished[0], ("prompts",), tmp_path / "exported")
    (image, *_) = sorted((sample / "faces" / "test").glob("*/*.png"))
    packages = imported(PREDICT, tmp_path / "exported", image)
    assert packages & NOT_FOR_PREDICTION == set()
    assert packages >= {"jax", "flax", "tokenizers"}
