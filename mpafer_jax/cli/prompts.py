"""`mpafer-jax prompts`: the descriptions that hard prompts are made of."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from mpafer_jax.cli.parser import UsageError, at_least, several
from mpafer_jax.cli.runner import argument, command, number, path, refuse_idle
from mpafer_jax.runtime import signals

if TYPE_CHECKING:
    from mpafer_jax.method.hard_prompts.generation.backends import Backend

_OF_A_SERVER = ("--endpoint", "--key_variable", "--answer_format", "--timeout", "--retries")
_RETRY_LOGGER = "openai._base_client"  # says that a request is made again, and after how long


@command(
    "prompts generate",
    argument("--model", required=True, help="the model, as the server or the Hub calls it"),
    path("--out", required=True, help="JSON file to write"),
    argument("--overwrite", action="store_true", help="replace the file if it is there"),
    argument("--classes", type=several(), default=(), help="with commas between them (default: those of --config)"),
    argument("--granularities", type=several(), help="what to describe, with commas between them (default: all)"),
    number("--paraphrases", 1, default=3, help="texts of each class and granularity"),
    number("--corrections", 0, default=3, help="times an unusable answer is sent back"),
    argument("--clip", default="", help="whose tokens limit a text (default: that of --config, or tiny-face-clip)"),
    number(
        "--token_budget",
        0,
        default=0,
        help="most tokens of a templated text, start and end included (default: all that CLIP has)",
    ),
    argument(
        "--backend", choices=("openai", "transformers"), default="openai", help="ask a server, or run a model here"
    ),
    argument("--endpoint", default="", help="base URL of the server (default: the environment's OPENAI_BASE_URL)"),
    argument("--key_variable", default="OPENAI_API_KEY", help="environment variable that holds the API key"),
    argument(
        "--answer_format",
        choices=("json_schema", "json_object", "text"),
        default="json_schema",
        help="how to bind answers; a server that refuses gets the next",
    ),
    argument("--temperature", type=at_least(0, float), help="of sampling (default: the server's)"),
    argument("--seed", type=int, metavar="N", help="of sampling, where the server honours it"),
    number("--max_tokens", 1, help="length limit of an answer, in its own tokens"),
    argument(
        "--timeout", type=at_least(0.01, float), default=120.0, metavar="N", help="seconds to wait for the server"
    ),
    number("--retries", 0, default=5, help="times a request that failed is made again"),
    config="optional",
    loggers=(_RETRY_LOGGER,),
)
def generate(arguments: argparse.Namespace) -> int:
    """Has a language model write a bank of descriptions, for any classes.

        export OPENAI_API_KEY=...
        mpafer-jax prompts generate --classes=boredom,interest,confusion \\
            --endpoint=https://api.openai.com/v1 --model=NAME --out=my_bank.json

    --endpoint is the base URL of any server that speaks OpenAI's chat/completions protocol, also one on this machine
    (vLLM, llama.cpp, Ollama), which needs no key. `--backend=transformers --model=FOLDER_OR_REPOSITORY` runs a model
    here instead, where PyTorch is installed. `--config=configs/rafdb.py --config.data.dir=D` takes the classes of a
    dataset and the CLIP that they are to be read by.

    Each class is asked for once in each granularity, with the paper's question for the whole face and the same question
    for a part of it (`hard_prompts/generation/questions.py`). An answer that is not of the form asked for, names an
    expression, or is too long for CLIP is sent back with the reason, --corrections times at most. Usable answers are
    kept in OUT.partial.jsonl: after any stop, the same command asks only for the rest. The bank says who wrote it,
    when, and asked what. The API key is read from an environment variable, and neither logged nor written.

    Exit code 1: the bank is not complete, since the model did not answer, or not usably; the same command resumes. 2: a
    mistake in the flags, or the server refuses the request; nothing would change by repeating it.
    """
    if arguments.backend == "transformers":
        refuse_idle(arguments, dict.fromkeys(_OF_A_SERVER, "--backend=openai"))
    elif not (arguments.endpoint or os.environ.get("OPENAI_BASE_URL")):
        raise UsageError("name the server: --endpoint=http://localhost:8000/v1, or --backend=transformers for none")
    if arguments.config is None and not arguments.classes:
        raise UsageError("name the classes, --classes=happiness,sadness, or a dataset's --config")
    from absl import logging

    from mpafer_jax.config.schema import Config
    from mpafer_jax.method.hard_prompts.generation import answers
    from mpafer_jax.method.hard_prompts.generation import generate as bank
    from mpafer_jax.method.hard_prompts.generation.questions import QUESTIONS
    from mpafer_jax.runtime.errors import ConfigError, UnavailableError

    out = arguments.out
    go_on = f"usable answers are kept in {bank.partial_path(out)}; the same command asks only for the rest"
    bank.check_out(out, arguments.overwrite)
    config = None if arguments.config is None else Config.from_config_dict(arguments.config)
    classes = arguments.classes
    if config is not None and not classes:
        from mpafer_jax.data.registry import read_source
        from mpafer_jax.method.hard_prompts.templates import prompt_names

        classes = prompt_names(read_source(config.data).class_names, as_spelled=bool(config.data.class_names))
    granularities = tuple(QUESTIONS) if arguments.granularities is None else arguments.granularities
    wanted = bank.Wanted(classes, granularities, paraphrases=arguments.paraphrases, corrections=arguments.corrections)
    clip, tokens = arguments.clip or "tiny-face-clip", arguments.token_budget
    try:
        if config is not None and not arguments.clip:
            section = config.clip
            budget = answers.load_budget(section.name, tokens, revision=section.revision, cache_dir=section.cache_dir)
        else:
            budget = answers.load_budget(clip, tokens)
    except ValueError as error:
        raise ConfigError(f"--clip, --token_budget: {error}") from error
    try:
        with signals.advising(go_on):
            outcome = bank.generate(wanted, _backend(arguments), budget, out, overwrite=arguments.overwrite)
    except UnavailableError as error:
        error.add_note(go_on)
        raise
    if outcome.failures:
        logging.error("%s is not written:\n  %s\n%s", out, "\n  ".join(outcome.failures), go_on)
        return 1
    print(f"{out}: {len(wanted.class_names)} classes, {', '.join(wanted.granularities)}; read it before you use it")
    return 0


def _backend(arguments: argparse.Namespace) -> Backend:
    from mpafer_jax.method.hard_prompts.generation import chat, local_model
    from mpafer_jax.method.hard_prompts.generation.backends import Sampling

    sampling = Sampling(arguments.temperature, arguments.seed, arguments.max_tokens)
    if arguments.backend == "transformers":
        return local_model.LocalModel(arguments.model, sampling=sampling)
    variable = arguments.key_variable
    return chat.ChatEndpoint(
        arguments.endpoint or os.environ["OPENAI_BASE_URL"],
        arguments.model,
        key=chat.Key(os.environ.get(variable, "").strip(), variable),
        sampling=sampling,
        timeout=arguments.timeout,
        retries=arguments.retries,
        answer_format=arguments.answer_format,
    )


@command(
    "prompts report",
    path("--out", help="folder for the report and its images (default: none)"),
    argument("--split", choices=("validation", "test"), default="validation", help="whose images to measure on"),
    config=True,
)
def report(arguments: argparse.Namespace) -> None:
    """Reports on a configuration's hard prompts, before anything is trained with them.

        mpafer-jax prompts report --config=configs/quickstart.py --out=runs/prompts

    Prints zero-shot accuracy under the configured CLIP for every type and granularity that the configured banks have:
    each alone and all together, the first text of each class and the mean of all, and descriptions given to the wrong
    classes as a control. --out also gets `report.md` with token lengths, the cosines of the classes' features and the
    pairs that are hard to tell apart; images of these cosines; and the numbers behind them as CSV.

    Images are those of the validation split. A bank that is chosen by its accuracy on the test split can no longer be
    reported on it, so that is read only with --split=test.
    """
    from mpafer_jax.config.schema import Config
    from mpafer_jax.jobs.studies import prompt_report_text as text
    from mpafer_jax.jobs.studies.prompt_report import make_report
    from mpafer_jax.runtime import console

    found = make_report(Config.from_config_dict(arguments.config), arguments.split)
    if arguments.out:
        text.write(found, arguments.out)
    console.markdown(text.accuracy_table(found))
    console.line(f"Measured on the {found.split[1]} images of the {found.split[0]} split.")
    if arguments.out:
        print(f"{arguments.out}/report.md: lengths, cosines, classes that are hard to tell apart")
