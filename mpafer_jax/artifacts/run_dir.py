"""Layout of a run directory.

config.json      the configuration; another one is refused
metrics.jsonl    one JSON object a line: step, and every metric of an interval or an evaluation
tensorboard/     the same for TensorBoard
checkpoints/     see `run_checkpoints`
results.md       a table of the baselines and this run
summary.json     the result; exists if and only if the run has ended
diverged.txt     what was not finite, if the last training stopped at that
predictions.npz  predictions of the reported checkpoint on every held-out image (`evaluation.predictions`)
evaluation.json, evaluation_predictions.npz   the same of --mode=eval
report.html      the report
examples/        one test image of each class, if the faces are drawn ones
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import secrets
import tempfile
import time
from collections.abc import Collection, Generator, Mapping
from typing import Any, Literal, cast

import jax
import numpy as np
from flax import traverse_util

from mpafer_jax.backbones.registry import local_content_hash
from mpafer_jax.config.fields import FrozenModel
from mpafer_jax.config.schema import ClipSection
from mpafer_jax.config.semantics import free_fields, unrecorded_fields
from mpafer_jax.runtime import distributed, files, locks
from mpafer_jax.runtime.errors import ConfigError, NonFiniteError

CONFIG = "config.json"
CHECKPOINTS, STEP = "checkpoints", "step"  # checkpoints/step_N
SUMMARY = "summary.json"
EVALUATION = "evaluation.json"
_DIVERGED = "diverged.txt"
REPORT = "report.html"
EXAMPLES = "examples"
TRAINING_PREDICTIONS = "predictions.npz"
EVALUATION_PREDICTIONS = "evaluation_predictions.npz"
# Until a file is visible on other hosts: network file systems cache, NFS by default for up to a minute.
VISIBLE_SECONDS = 90
ABSENT = "(no such field)"  # in place of the value of a field that a configuration of another version has not

Which = Literal["best", "last"]  # of a run's checkpoints


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    return cast(Any, traverse_util).flatten_dict(tree, sep=".")


def step_of(folder: pathlib.Path) -> int | None:
    """N of a checkpoint's folder `step_N`; None of any other, such as one that is being written or was set aside."""
    prefix, _, number = folder.name.partition("_")
    return int(number) if prefix == STEP and number.isdecimal() else None


def check(workdir: pathlib.Path, config: FrozenModel, *, but: Collection[str] = ()) -> None:
    """Refuses a folder that belongs to another run, or where checkpoints cannot be written.

    `but` are dotted names of fields that must be equal even if `free_fields` has them.

    Raises:
      ConfigError: it is a file, its config.json is damaged, its run has another configuration (the message lists the
        differences), its path has glob characters, or its bucket cannot be reached.
    """
    # Orbax globs for what it has written, without escaping the path.
    if signs := sorted(set("*?[").intersection(str(workdir if files.in_bucket(workdir) else workdir.resolve()))):
        raise ConfigError(
            f"--workdir={workdir}: its name, or that of a folder above it, holds {' and '.join(signs)}; checkpoints "
            "written there could not be read again. Give another --workdir"
        )
    with files.reaching(workdir, "--workdir"):
        is_other = workdir.exists() and not workdir.is_dir()
    if is_other:
        raise ConfigError(f"--workdir={workdir} is a file, expected a folder or a name that is free")
    path = workdir / CONFIG
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); put the run's own back, or give another --workdir") from error
    if differing := differences(type(config), before, json.loads(config.to_json()), but=but):
        raise ConfigError(other_configuration(f"{workdir} holds a run", differing))


def other_configuration(what: str, differing: Mapping[str, tuple[str, str]]) -> str:
    """Error message for a run or checkpoint, `what`, of another configuration; `differing` is from `differences`."""
    lines = [f"  config.{name}: there {there}, here {here}" for name, (there, here) in differing.items()]
    return (
        f"{what} with another configuration:\n" + "\n".join(lines) + "\n"
        "give another --workdir, or the same configuration to resume that run"
    )


def check_writable(workdir: pathlib.Path) -> None:
    """Refuses a folder of this machine where nothing can be written; makes none that is missing. Process 0 only.

    Raises:
      ConfigError: the folder, or the one in which it would be made, is not writable.
    """
    if files.in_bucket(workdir) or not distributed.is_first():
        return
    place = workdir.resolve()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=place):
            pass
    except OSError as error:
        if not files.is_not_writable(error) and not isinstance(error, NotADirectoryError):
            raise
        raise ConfigError(
            f"--workdir={workdir} cannot be written: {place}: {error.strerror}; give a folder that can"
        ) from error


def by_field(kind: type[FrozenModel], config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON has it, nested or by dotted name, by dotted name.

    A field that is newer than the configuration has its default, which is chosen to change nothing.
    """
    return flatten(json.loads(kind().to_json())) | flatten(config)


def differences(
    kind: type[FrozenModel], one: Mapping[str, Any], other: Mapping[str, Any], *, but: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """Fields that differ between two configurations as JSON has them, and both values as text.

    Args:
      kind: of the configurations.
      one, other: as for `by_field`.
      but: fields to be compared even if they are free (`free_fields`).
    """
    first, second = by_field(kind, one), by_field(kind, other)
    return {
        name: (repr(first.get(name, ABSENT)), repr(second.get(name, ABSENT)))
        for name in sorted((first.keys() | second.keys()) - free_fields(kind) | {*but})
        if first.get(name, ABSENT) != second.get(name, ABSENT)
    }


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file of a run that has ended.

    Raises:
      ConfigError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}: {error}); put it back, or remove the folder {path.parent} "
            "and run the same command again, which makes this run anew"
        ) from error


def check_clip(workdir: pathlib.Path, clip: ClipSection) -> None:
    """Refuses the result of a run on another CLIP, whose name `check` leaves free. If names differ, compares contents.

    Raises:
      ConfigError: it is another CLIP, or is not on this machine and cannot be compared.
    """
    before = read_json(workdir / CONFIG)["clip"]
    names = (clip.name, clip.revision, clip.activation)
    if (before["name"], before["revision"], before.get("activation", "")) == names:  # absent in earlier versions
        return
    stored_hash = read_json(workdir / SUMMARY)["clip"]["hash"]
    try:
        local_hash = local_content_hash(
            clip.name, revision=clip.revision, cache_dir=clip.cache_dir, activation=clip.activation
        )
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise ConfigError(f"config.clip.name is {clip.name!r}: {error}") from error
    if local_hash == stored_hash:
        return
    stored = f"{before['name']!r}, revision {before['revision']!r}, hash {stored_hash[:16]}"
    configured = f"{clip.name!r}, revision {clip.revision!r}"
    if local_hash is None:
        raise ConfigError(
            f"{workdir} holds the result of a run on the CLIP {stored}. Whether config.clip, now {configured}, "
            "is the same cannot be told, as it is not on this machine; download it first, name the CLIP as it was, or "
            "give another --workdir"
        )
    raise ConfigError(
        f"{workdir} holds the result of a run on another CLIP: there {stored}, here {configured}, hash "
        f"{local_hash[:16]}; give another --workdir, or the CLIP of that run"
    )


def check_shared(workdir: pathlib.Path) -> None:
    """Refuses a run of several processes that do not share the workdir: saves would wait forever.

    Raises:
      ConfigError: a process does not see a file of process 0.
    """
    if jax.process_count() == 1:
        return
    token = distributed.broadcast(np.frombuffer(secrets.token_bytes(8), np.uint8))
    path = workdir / f".shared-{bytes(token).hex()}"
    if distributed.is_first():
        files.write_text(path, "")
    distributed.wait_for_all("workdir probe written")
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    seen = path.exists()
    shared = distributed.all_agree(seen)
    if distributed.is_first():
        path.unlink()
    if not shared:
        raise ConfigError(
            f"--workdir={workdir} is not one folder for all processes of this run: a file that process 0 wrote there "
            f"{'is seen here but not by another process' if seen else 'is not seen here'}; give a folder on a disk "
            "that all hosts share"
        )


def check_same(config: FrozenModel) -> None:
    """Refuses a run whose processes have different configurations; all must call it.

    Each process would apply the gradient of all to prompts of its own. Where the dataset and the CLIP lie may differ,
    as their contents are compared; what changes numbers by rounding may not, as all compile one program.

    Raises:
      ConfigError: names the fields.
    """
    ignored = unrecorded_fields(type(config))
    values = flatten(json.loads(config.to_json()))
    if lines := distributed.differences({f"config.{name}": values[name] for name in values if name not in ignored}):
        raise ConfigError(
            "the processes of this run have different configurations:\n  " + "\n  ".join(lines) + "\n"
            "start all of them from the same checkout with the same command"
        )


@contextlib.contextmanager
def hold(workdir: pathlib.Path, config: FrozenModel) -> Generator[None]:
    """Holds the folder for a run inside the block; all its processes must call it.

    Raises:
      ConfigError: as `check`, since another run may have claimed the folder after that.
      LockedError: another run is at work there.
    """
    with locks.hold_for_run(workdir / locks.RUN, workdir):
        check(workdir, config)
        yield


def claim(workdir: pathlib.Path, config: FrozenModel) -> None:
    """Writes config.json if missing, which makes the folder this run's, and forgets how it diverged before."""
    if not (workdir / CONFIG).is_file():
        files.write_text(workdir / CONFIG, config.to_json())
    if has_diverged(workdir):
        (workdir / _DIVERGED).unlink()


def record_divergence(workdir: pathlib.Path, failure: NonFiniteError) -> None:
    """Records that training stopped at numbers that are not finite."""
    files.write_text(workdir / _DIVERGED, f"{failure}\n")


def is_unfinished(workdir: pathlib.Path) -> bool:
    """Whether a run has begun there and not ended."""
    return (workdir / CONFIG).is_file() and not (workdir / SUMMARY).is_file()


def has_diverged(workdir: pathlib.Path) -> bool:
    """Whether the last training of a run stopped at numbers that are not finite."""
    return (workdir / _DIVERGED).is_file()
