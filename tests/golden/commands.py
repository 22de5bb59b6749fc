"""Commands as a user runs them, `python -m ...`, without the seconds that each start takes.

One process imports the libraries and forks a child for every command, before any device is looked for.
"""

import dataclasses
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import tempfile

from tests.jobs import runs

ROOT = runs.ROOT
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
_VERSION = re.compile(r"\b(jax|flax|optax|orbax-checkpoint|transformers|numpy) \d[\w.]*")


@dataclasses.dataclass
class Done:
    """How a command ended; places of this machine are masked."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The first line of its error message, and the next where the first ends in a colon."""
        lines = [_TIME.sub("", line) for line in self.err.splitlines()]
        starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        if not starts:
            return ""
        first = lines[starts[0]]
        return "\n".join(lines[starts[0] :][:2]) if first.endswith(":") else first


class Commands:
    """The process; to be used as a context."""

    def __init__(self, cache: pathlib.Path):
        """Takes the folder where commands keep drawn faces."""
        self.cache = cache

    def __enter__(self) -> "Commands":
        environment = {
            **runs.environment(),
            "XDG_CACHE_HOME": str(self.cache),
            "COLUMNS": "100",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def run(self, module: str, *arguments: object, places: dict[str, object]) -> Done:
        """Runs a command in the root of the repository.

        Args:
          module: its name.
          arguments: of the command line.
          places: paths that are shown by their names.
        """
        names = {"CACHE": str(self.cache), **{name: str(place) for name, place in places.items()}}
        with tempfile.TemporaryDirectory() as folder:
            request = {"module": module, "arguments": [str(word) for word in arguments], "folder": folder}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            out, err = (
                masked((pathlib.Path(folder) / name).read_text(encoding="utf-8"), names) for name in ("out", "err")
            )
        return Done(code, out, err)


def masked(text: str, places: dict[str, object]) -> str:
    """A text without places of this machine."""
    for name, place in sorted({**places, "ROOT": ROOT}.items(), key=lambda item: -len(str(item[1]))):
        text = text.replace(str(place), name)
    return text


def without_versions(text: str) -> str:
    """A text without the numbers of other packages' versions."""
    return _VERSION.sub(r"\1 VERSION", text)


def _serve() -> None:
    from mpafer_jax.backbones.hub_library import import_transformers
    from mpafer_jax.runtime import without_torch

    without_torch.prefer()
    import_transformers()
    import mpafer_jax.inference.predict_files  # imported once for every forked command
    import mpafer_jax.jobs.predict
    import mpafer_jax.jobs.train  # noqa: F401

    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(request)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict) -> None:
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(pathlib.Path(request["folder"]) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.argv = ["", *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
