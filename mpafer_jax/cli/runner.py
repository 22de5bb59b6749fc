"""What the package's commands share: flags, readable logs, a start without PyTorch, and ends with an exit code."""

from __future__ import annotations

import functools
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
from absl import app, flags, logging

from mpafer_jax.backbones.hub_library import import_transformers
from mpafer_jax.cli import usage
from mpafer_jax.config.flags import config_error, config_file, config_words
from mpafer_jax.runtime import console, devices, distributed, files, preemption, progress
from mpafer_jax.runtime.errors import ClusterError, ConfigError, NonFiniteError

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Exit codes, beside 0 and `preemption.EXIT_CODE`.
_FAILED, _MISTAKE = 1, usage.MISTAKE
_DISTRIBUTED = ("distributed", "coordinator_address", "num_processes", "process_id", "initialization_timeout")


def workdir(*, local: bool = False) -> pathlib.Path:
    """The folder that --workdir names, of this machine or in a bucket.

    Args:
      local: whether it has to be of this machine.

    Raises:
      ConfigError: it names none, or a kind of bucket for which a package is missing.
    """
    return folder(str(define_workdir().value), "--workdir", local=local)


def folder(text: str, flag: str, *, local: bool = True) -> pathlib.Path:
    """The folder that a flag names, of this machine or (not `local`) in a bucket.

    Raises:
      ConfigError: it names none, or a kind of bucket for which a package is missing.
    """
    find = files.local_path if local else files.any_path
    try:
        return find(text, flag)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@functools.cache
def define_workdir() -> flags.FlagHolder[Any]:
    """Defines --workdir."""
    return cast(Any, flags).DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, results.")


class DistributedFlags(NamedTuple):
    """Flags of a run of several processes, see `distributed.find_cluster`."""

    mode: flags.FlagHolder[Any]
    coordinator_address: flags.FlagHolder[Any]
    num_processes: flags.FlagHolder[Any]
    process_id: flags.FlagHolder[Any]
    timeout: flags.FlagHolder[Any]


@functools.cache
def define_distributed() -> DistributedFlags:
    """Defines the flags of a run of several processes; a scheduler's variables make them unnecessary."""
    typed = cast(Any, flags)
    return DistributedFlags(
        typed.DEFINE_enum(
            "distributed",
            "auto",
            ["auto", "on", "off"],
            "Several processes: as flags and environment say, as JAX detects it (and fail without), or just this one.",
        ),
        typed.DEFINE_string("coordinator_address", None, "host:port of process 0; with the next two."),
        typed.DEFINE_integer("num_processes", None, "How many processes the run has."),
        typed.DEFINE_integer("process_id", None, "Which of them this is, from 0."),
        typed.DEFINE_integer("initialization_timeout", 300, "Seconds to wait for the other processes."),
    )


def start_processes() -> None:
    """Joins the run's other processes, if flags or environment say that there are any, and logs who runs.

    Raises:
      ClusterError: see `distributed.find_cluster` and `distributed.start`.
    """
    values = define_distributed()
    cluster = distributed.find_cluster(
        os.environ,
        mode=values.mode.value,
        coordinator_address=values.coordinator_address.value,
        num_processes=values.num_processes.value,
        process_id=values.process_id.value,
        tpu_machine=distributed.has_tpu_chips(os.environ),
    )
    distributed.start(cluster, timeout_seconds=values.timeout.value)
    processes = f" in {jax.process_count()} processes ({cluster.source})" if cluster else ""
    kind = "" if jax.default_backend() == "cpu" else f" ({devices.kind()})"
    progress.fact("devices", f"{jax.device_count()} x {jax.default_backend()}{kind}{processes}")
    if devices.matmul_precision() == "default":
        logging.info(
            "products of float32 numbers are rounded as JAX does by default here; JAX_DEFAULT_MATMUL_PRECISION=float32 "
            "keeps all digits, as a CPU does"
        )


def start(main: Callable[[Sequence[str]], None], required: Sequence[str] = (), others: Sequence[str] = ()) -> None:
    """Parses the flags and runs a command's `main`; mistakes in them end with a message and exit code 2.

    Args:
      main: takes what is left of the command line after its flags.
      required: flags that have to be given.
      others: names of libraries' loggers whose routine lines are shown too.
    """
    module = sys.modules[main.__module__]
    log = define_log()

    def shown(argv: Sequence[str]) -> None:
        verbosity = int(cast(Any, flags.FLAGS).verbosity)
        with console.Console(log=log.value, verbosity=verbosity, others=tuple(others)):
            try:
                main(argv)
            except NonFiniteError as error:
                logging.error("%s", error)
                sys.exit(_MISTAKE)
            except OSError as error:
                if not _explains_full_disk(error):
                    raise
                sys.exit(_MISTAKE)

    def parse(argv: Sequence[str]) -> Sequence[str]:
        return _parse_flags(argv, module.__doc__ or "", required)

    with preemption.ending():
        app.run(shown, flags_parser=parse)


@functools.cache
def define_log() -> flags.FlagHolder[Any]:
    """Defines --log."""
    return cast(Any, flags).DEFINE_enum("log", "auto", ["auto", "plain"], f"{usage.LOG}.")


def _parse_flags(argv: Sequence[str], description: str, required: Sequence[str]) -> Sequence[str]:
    words = ["--verbosity=1" if word == "-v" else _home_expanded(word) for word in argv[1:]]
    usage.answer_help(words, description, _flag_groups(required), required)
    config, fields = config_words(words)
    if config and (wrong := config_file(config)):
        usage.refuse(wrong)
    try:
        rest = cast(Any, flags.FLAGS)([argv[0], *words])
    # The others are of config files, and of fields that they have not.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        usage.refuse(config_error(config, fields, error) if config else str(error).removeprefix("flag "))
    for name in required:
        flag = cast(Any, flags.FLAGS)[name]
        if flag.value is None and not (name == "config" and config):
            usage.refuse(f"--{name} is missing: {flag.help}")
    return rest


def _home_expanded(word: str) -> str:
    """--config=~/FILE as a shell would give it, which leaves a tilde behind an equals sign alone."""
    flag, _, value = word.partition("=")
    return f"{flag}={files.local_path(value, flag)}" if flag == "--config" and value.startswith("~") else word


def _flag_groups(required: Sequence[str]) -> dict[str, list[str]]:
    """Names of the running command's flags under the headings of its --help."""
    known = cast(Any, flags.FLAGS)
    first = [name for name in ("config", "workdir") if name in known]
    own: list[str] = [flag.name for flag in known.get_flags_for_module(sys.argv[0])]
    return {
        "flags": list(dict.fromkeys([*first, *required, *own])),
        "several processes": [name for name in _DISTRIBUTED if name in known],
        usage.SHOWN: ["log", "verbosity"],
    }


def run(job: Callable[[], None], mistakes: tuple[type[Exception], ...]) -> None:
    """Runs a command's work, alone or as one of many processes, and ends the process if it fails.

    Exit codes: 0 done; `preemption.EXIT_CODE` stopped in good order, run again to go on; 130 ended by Ctrl-C where
    there was nothing to save; 2 a mistake of the user's or a full disk, which the message explains; 1 anything else,
    with a traceback. In a run of many a process also ends with 134 (SIGABRT), by JAX, when another has died.

    Args:
      job: the work; the processes find each other before it.
      mistakes: errors whose message says all there is to say, which a traceback would bury; `NonFiniteError` is one
        everywhere.
    """
    try:
        with preemption.ending():
            start_processes()
            job()
    except (*mistakes, ClusterError, NonFiniteError) as error:
        logging.error("%s: %s", type(error).__name__, error)
        distributed.leave(_MISTAKE)
    except OSError as error:
        if not _explains_full_disk(error):
            _fail(error)
        distributed.leave(_MISTAKE)
    except Exception as error:
        _fail(error)


def _explains_full_disk(error: OSError) -> bool:
    """Whether it is one, of which the user is then told."""
    full = files.is_full_disk(error)
    if full:
        logging.error("%s; make room there and run the same command again", error)
    return full


def _fail(error: Exception) -> None:
    if not distributed.is_one_of_many():
        raise error
    logging.exception("process %d of %d ends: %s", jax.process_index(), jax.process_count(), error)
    distributed.leave(_FAILED)


def whole_numbers(flag: str, values: Sequence[str]) -> list[int]:
    """The numbers of a flag that takes several, with commas between them.

    Raises:
      ConfigError: there is none, or one is no whole number from 0.
    """
    if not values or not all(value.strip().isdigit() for value in values):
        raise ConfigError(f"--{flag} takes whole numbers from 0 with commas between them, found {','.join(values)!r}")
    return [int(value) for value in values]


def refuse_arguments(argv: Sequence[str]) -> None:
    """Refuses what is left of a command line after its flags."""
    if len(argv) > 1:
        usage.refuse(f"unknown arguments: {' '.join(argv[1:])}")


def import_libraries_without_torch() -> None:
    """Imports those of our libraries that import PyTorch wherever it is installed, and makes them take it for absent.

    They do it for features that we do not use, and it costs seconds and hundreds of megabytes. For a process that is
    ours alone, as a command is: a program that imports this package may want those features. PyTorch itself can still
    be imported afterwards (pytorch_model.bin needs it).
    """
    modules = cast(dict[str, Any], sys.modules)
    if "torch" in modules:
        return
    modules["torch"] = None  # Python's own mark of a module that cannot be imported
    try:
        importlib.import_module("tensorboardX")
        transformers = import_transformers()
        _ = transformers.CLIPConfig, transformers.CLIPTokenizer  # imported when looked up
    finally:
        del modules["torch"]
