"""What makes a function a command: its flags, the processes that it joins, what it shows, and how it ends.

    @command("data sheet", path("--out", required=True, help="PNG file"))
    def sheet(arguments):
        '''Writes an image that shows what is in a dataset. [the whole docstring is its --help]'''

Exit codes, of all commands (docs/commands.md):

    0    done
    1    failed: an unexpected error, with its traceback; or a part of the work, which the message names
    2    a mistake that the user can mend, or a full disk; the message says how
    75   stopped in good order (SIGTERM, or Ctrl-C in training): the same command resumes
    130  ended by Ctrl-C

In a run of many processes one also ends with 134 (SIGABRT), by JAX, when another has died.

Modules of commands import at their top only what --help needs; what takes seconds is imported in the function.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mpafer_jax.artifacts import shipped
from mpafer_jax.cli.parser import Parser, UsageError, at_least, checked, path_argument, refuse, without_log_flags
from mpafer_jax.runtime import files, signals, without_torch
from mpafer_jax.runtime.errors import ConfigError, UserError

_FAILED = 1
# What the system says of a place that the user named; its other errors have a traceback.
_OF_PLACES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)

COMMANDS: dict[str, Command] = {}  # of `mpafer-jax`, by name


class Argument(NamedTuple):
    """What `ArgumentParser.add_argument` is given."""

    names: tuple[str, ...]
    options: dict[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    """An argument or flag of a command, as for `ArgumentParser.add_argument`."""
    return Argument(names, options)


def path(name: str, **options: Any) -> Argument:
    """A file or folder of this machine."""
    return argument(name, type=path_argument(name), **options)


def number(name: str, smallest: int, **options: Any) -> Argument:
    """A whole number from `smallest` on."""
    return argument(name, type=at_least(smallest), **{"metavar": "N", **options})


WORKDIR = argument(
    "--workdir",
    type=path_argument("--workdir", files.any_path),
    required=True,
    metavar="FOLDER",
    help="folder of the run: checkpoints, metrics, results",
)
_FORMS = "a run's workdir, its checkpoints folder, one step_N folder, or exported prompts"
CHECKPOINT = argument(
    "--checkpoint",
    default=shipped.DEFAULT,
    metavar="RUN",
    help=f"{_FORMS} (default: {shipped.DEFAULT}, which ship with the package)",
)
ANY_CHECKPOINT = f"{_FORMS} ({shipped.DEFAULT} ship with the package)"  # the help where one must be given
WHICH = argument("--which", choices=("best", "last"), default="best", help="of a run's checkpoints")
CLIP = argument("--clip", default="", help="where the checkpoint's CLIP is now, if not where it was")


def _margin(text: str) -> float:
    from mpafer_jax.faces.alignment import check_margin

    return check_margin(float(text))


MARGIN = checked(_margin)  # type of an argument: around a face's crop, as a fraction of its side
FACE_MODEL = path("--face_model", help="another file of the face detector YuNet (default: the one that is shipped)")
_CONFIG = argument(
    "--config", metavar="FILE[:ARGUMENTS]", help="a file of configs/, with optional arguments: configs/rafdb.py:vit_l14"
)
_FIELD = argument(
    "--config.FIELD", metavar="VALUE", default=argparse.SUPPRESS, help="sets any field; `mpafer-jax config` lists them"
)
_PROCESSES = (
    argument(
        "--distributed",
        choices=("auto", "on", "off"),
        default="auto",
        help="several processes: as flags and environment say, as JAX detects it (and fail without), or just this one",
    ),
    argument("--coordinator_address", metavar="ADDRESS", help="host:port of process 0; with the next two"),
    argument("--num_processes", type=int, metavar="N", help="how many processes the run has"),
    argument("--process_id", type=int, metavar="N", help="which of them this is, from 0"),
    argument(
        "--initialization_timeout", type=int, default=300, metavar="N", help="seconds to wait for the other processes"
    ),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command; called with its words it runs in this process and returns the exit code.

    Attributes:
      name: as after `mpafer-jax`.
      main: the work; returns an exit code or None for 0. Its docstring is the text of --help.
      arguments: its own.
      config: whether it takes --config; "optional" where it can do without. Then `arguments.config` is the
        configuration (or None), and `arguments.fields` what --config.field=value has set.
      processes: whether it may be one of many, which find each other before `main`.
      passes_on: whether words that it does not know are passed on, as `arguments.rest`.
      called: how it is called, where not as `mpafer-jax <name>`.
      loggers: names of libraries' loggers whose routine lines are shown too.
    """

    name: str
    main: Callable[[argparse.Namespace], int | None]
    arguments: tuple[Argument, ...] = ()
    config: bool | str = False
    processes: bool = False
    passes_on: bool = False
    called: str = ""
    loggers: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of its description."""
        return " ".join((self.main.__doc__ or "").partition("\n\n")[0].split())

    def parser(self) -> Parser:
        """Its command line."""
        parser = Parser(self.called or f"mpafer-jax {self.name}", self.main.__doc__ or "")
        if self.config:
            parser.add(*_CONFIG.names, required=self.config != "optional", **_CONFIG.options)
            parser.add(*_FIELD.names, **_FIELD.options)
        for names, options in self.arguments:
            parser.add(*names, **options)
        if self.processes:
            group = parser.add_argument_group("several processes")
            for names, options in _PROCESSES:
                group.add_argument(*names, **options)
        return parser

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Reads the words; ends the process with exit code 2 where they are wrong, and with 0 after --help."""
        parser = self.parser()
        config, fields, others = None, dict[str, Any](), list(words)
        asks = any(word in ("-h", "--help", "--version") for word in words)
        if self.config and not asks and any(word.partition("=")[0] == "--config" for word in words):
            from mpafer_jax.config.flags import take_config

            try:
                config, fields, rest = take_config(words)
            except ConfigError as error:
                refuse(str(error))
            others = ["--config=", *rest]
        arguments, rest = parser.parse_known_args(others)
        arguments.words, arguments.rest = without_log_flags(words), rest
        arguments.given = parser.options_given(others)
        parser.check(arguments.given, () if self.passes_on else rest)
        if self.config:
            arguments.config, arguments.fields = config, fields
        return arguments

    def __call__(self, words: Sequence[str]) -> int:
        """Runs it in this process.

        Returns:
          The exit code.

        Raises:
          SystemExit: as `parse`; and with the exit code in a process that is one of many and has failed.
          Exception: what is no mistake of the user's, in a process that is alone.
        """
        arguments = self.parse(words)
        from mpafer_jax.runtime import console

        with console.Console(log=arguments.log, verbosity=arguments.verbosity, others=self.loggers):
            return self._run(arguments)

    def start(self, words: Sequence[str] | None = None) -> None:
        """Runs it as this process, and ends it."""
        signals.listen()
        without_torch.prefer()
        sys.unraisablehook = _log_unraisable
        with signals.ending():
            sys.exit(self(sys.argv[1:] if words is None else words))

    def _run(self, arguments: argparse.Namespace) -> int:
        from absl import logging

        from mpafer_jax.runtime import distributed

        try:
            if self.processes:
                _join(arguments)
            code = self.main(arguments) or 0
            if self.processes:  # a process that has ended waits a minute for those that still write, and then fails
                distributed.wait_for_all("the command has ended")
            return code
        except UsageError as error:
            refuse(str(error))
        except Exception as error:
            code, message = _explained(error)
            if message:
                logging.error("%s", message)
                logging.debug("where that was:", exc_info=error)
            elif not distributed.is_one_of_many():
                raise
            else:
                logging.exception("this process ends: %s", error)
            if distributed.is_one_of_many():
                distributed.leave(code)
            return code


def command(name: str, *arguments: Argument, **options: Any) -> Callable[[Callable[..., int | None]], Command]:
    """Makes a command of the function that follows; the options are as in `Command`."""

    def make(main: Callable[..., int | None]) -> Command:
        made = Command(name, main, arguments, **options)
        if main.__module__.startswith("mpafer_jax."):  # a command from outside starts by itself
            COMMANDS[name] = made
        return made

    return make


def _explained(error: Exception) -> tuple[int, str]:
    """The exit code for an error, and its message where that says all there is to say: a traceback would bury it."""
    code, message = UserError.exit_code, f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and files.is_full_disk(error):
        message = f"{error}; make room there and run the same command again"
    elif isinstance(error, UserError):
        code = error.exit_code
    elif not isinstance(error, (*_OF_PLACES, ModuleNotFoundError)) and not (
        isinstance(error, OSError) and files.is_not_writable(error)
    ):
        return _FAILED, ""
    return code, "\n".join((message, *getattr(error, "__notes__", ())))


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Details for debugging of an error that nothing can catch.

    A thread of TensorStore that still reads when a restore has failed would print a traceback beside our message.
    """
    from absl import logging

    logging.debug("in a library's callback: %r", unraisable.exc_value)


def _join(arguments: argparse.Namespace) -> None:
    """Joins the run's other processes, if flags or environment say that there are any, and logs who runs.

    Raises:
      ClusterError: see `distributed.find_cluster` and `distributed.start`.
    """
    import jax
    from absl import logging

    from mpafer_jax.runtime import devices, distributed, progress

    cluster = distributed.find_cluster(
        os.environ,
        mode=arguments.distributed,
        coordinator_address=arguments.coordinator_address,
        num_processes=arguments.num_processes,
        process_id=arguments.process_id,
        tpu_machine=distributed.has_tpu_chips(os.environ),
    )
    distributed.start(cluster, timeout_seconds=arguments.initialization_timeout)
    processes = f" in {jax.process_count()} processes ({cluster.source})" if cluster else ""
    kind = "" if jax.default_backend() == "cpu" else f" ({devices.kind()})"
    progress.fact("devices", f"{jax.device_count()} x {jax.default_backend()}{kind}{processes}")
    if devices.matmul_precision() == "default":
        logging.info(
            "products of float32 numbers are rounded as JAX does by default here; JAX_DEFAULT_MATMUL_PRECISION=float32 "
            "keeps all digits, as a CPU does"
        )


def refuse_idle(arguments: argparse.Namespace, needs: Mapping[str, str]) -> None:
    """Refuses options that would do nothing beside the others, so that nobody believes that they did something.

    Args:
      arguments: of the command.
      needs: of each option that does nothing here ("--margin"), what it needs ("--faces=detect").

    Raises:
      UsageError: one is given.
    """
    if idle := [option for option in needs if option in arguments.given]:
        raise UsageError("; ".join(f"{option} does nothing without {needs[option]}" for option in idle))
