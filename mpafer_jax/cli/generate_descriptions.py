"""Has a language model write a bank of descriptions, for any classes.

    export OPENAI_API_KEY=...
    python -m mpafer_jax.cli.generate_descriptions --classes=boredom,interest,confusion \\
        --endpoint=https://api.openai.com/v1 --model=NAME --out=my_bank.json

--endpoint is the base URL of any server that speaks OpenAI's chat/completions protocol, also one on this machine
(vLLM, llama.cpp, Ollama), which needs no key. `--backend=transformers --model=FOLDER_OR_REPOSITORY` runs a model here
instead, where PyTorch is installed. `--config=configs/rafdb.py --config.data.dir=D` takes the classes of a dataset and
the CLIP that they are to be read by.

Each class is asked for once in each granularity, with the paper's question for the whole face and the same question for
a part of it (`hard_prompts/generation/questions.py`). An answer that is not of the form asked for, names an expression,
or is too long for CLIP is sent back with the reason, --corrections times at most. Usable answers are kept in
OUT.partial.jsonl: after any stop, the same command asks only for the rest. The bank says who wrote it, when, and asked
what. The API key is read from an environment variable, and neither logged nor written.

Exit code 0: the bank is written. 1: it is not complete, since the model did not answer, or not usably; the same command
goes on. 2: a mistake in the flags, or the server refuses the request; nothing would change by repeating it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before what takes seconds to import
    from mpafer_jax.runtime import preemption

    preemption.listen()

import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from absl import flags, logging

from mpafer_jax.cli import runner
from mpafer_jax.config.flags import define_config
from mpafer_jax.config.schema import Config
from mpafer_jax.method.hard_prompts.generation import chat
from mpafer_jax.method.hard_prompts.generation.answers import TokenBudget, load_budget
from mpafer_jax.method.hard_prompts.generation.backends import Backend, Sampling
from mpafer_jax.method.hard_prompts.generation.generate import Wanted, check_out, generate, partial_path
from mpafer_jax.method.hard_prompts.generation.local_model import LocalModel
from mpafer_jax.method.hard_prompts.generation.questions import QUESTIONS
from mpafer_jax.method.hard_prompts.provenance import AnswerFormat
from mpafer_jax.method.hard_prompts.templates import prompt_names
from mpafer_jax.runtime import preemption
from mpafer_jax.runtime.errors import ConfigError, DataError, GenerationError, PromptError, UnavailableError

_CONFIG = define_config()
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the file if it is there.")
_CLASSES = flags.DEFINE_list("classes", [], "Classes, with commas between them; none: those of --config.")
_GRANULARITIES = flags.DEFINE_list("granularities", list(QUESTIONS), "What to describe, with commas between them.")
_PARAPHRASES = flags.DEFINE_integer("paraphrases", 3, "Texts of each class in each granularity.", lower_bound=1)
_CORRECTIONS = flags.DEFINE_integer("corrections", 3, "How often an unusable answer is sent back.", lower_bound=0)
_CLIP = flags.DEFINE_string("clip", "", "CLIP whose tokens limit a text; empty: that of --config, or tiny-face-clip.")
_TOKENS = flags.DEFINE_integer(
    "token_budget", 0, "Most tokens of a templated text, start and end included; 0: all that CLIP has.", lower_bound=0
)
_BACKEND = flags.DEFINE_enum("backend", "openai", ["openai", "transformers"], "Ask a server, or run a model here.")
_MODEL = flags.DEFINE_string("model", None, "The model, as the server or the Hub calls it.")
_ENDPOINT = flags.DEFINE_string("endpoint", "", "Base URL of the server; empty: the environment's OPENAI_BASE_URL.")
_KEY_VARIABLE = flags.DEFINE_string("key_variable", "OPENAI_API_KEY", "Environment variable that holds the API key.")
_ANSWER_FORMAT = flags.DEFINE_enum(
    "answer_format", chat.FORMATS[0], list(chat.FORMATS), "How to bind answers; a server that refuses gets the next."
)
_TEMPERATURE = flags.DEFINE_float("temperature", None, "Of sampling; none: the server's default.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", None, "Of sampling, where the server honours it.")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Length limit of an answer, in its own tokens.", lower_bound=1)
_TIMEOUT = flags.DEFINE_float("timeout", 120.0, "Seconds to wait for the server.", lower_bound=0.01)
_RETRIES = flags.DEFINE_integer("retries", 5, "How often a request that failed is made again.", lower_bound=0)

# The message says all there is to say, a traceback would bury it.
_MISTAKES = (PromptError, ConfigError, DataError, GenerationError, ModuleNotFoundError, OSError, GenerationError)


def _backend() -> Backend:
    model = str(_MODEL.value)
    sampling = Sampling(_TEMPERATURE.value, _SEED.value, _MAX_TOKENS.value)
    if _BACKEND.value == "transformers":
        of_a_server = (_ENDPOINT, _KEY_VARIABLE, _ANSWER_FORMAT, _TIMEOUT, _RETRIES)
        if idle := [f"--{flag.name}" for flag in of_a_server if flag.present]:
            raise GenerationError(f"{', '.join(idle)} would do nothing: --backend=transformers asks no server")
        return LocalModel(model, sampling=sampling)
    endpoint = _ENDPOINT.value or os.environ.get("OPENAI_BASE_URL", "")
    if not endpoint:
        raise GenerationError(
            "name the server: --endpoint=http://localhost:8000/v1, or --backend=transformers for none"
        )
    variable = str(_KEY_VARIABLE.value)
    return chat.ChatEndpoint(
        endpoint,
        model,
        key=chat.Key(os.environ.get(variable, "").strip(), variable),
        sampling=sampling,
        timeout=float(_TIMEOUT.value or 0),
        retries=int(_RETRIES.value or 0),
        answer_format=cast(AnswerFormat, _ANSWER_FORMAT.value),
    )


def _classes(config: Config | None) -> tuple[str, ...]:
    if _CLASSES.value:
        return tuple(_CLASSES.value)
    if config is None:
        raise GenerationError("name the classes, --classes=happiness,sadness, or a dataset's --config")
    from mpafer_jax.data.registry import read_source  # slow to import, and needed for datasets only

    return prompt_names(read_source(config.data).class_names, as_spelled=bool(config.data.class_names))


def _budget(config: Config | None) -> TokenBudget:
    tokens = int(_TOKENS.value or 0)
    try:
        if config is not None and not _CLIP.value:
            clip = config.clip
            return load_budget(clip.name, tokens, revision=clip.revision, cache_dir=clip.cache_dir)
        return load_budget(_CLIP.value or "tiny-face-clip", tokens)
    except ValueError as error:
        raise GenerationError(f"--clip, --token_budget: {error}") from error


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    runner.refuse_arguments(argv)
    try:
        out = runner.folder(str(_OUT.value), "--out")
    except ConfigError as error:
        logging.error("%s", error)
        sys.exit(2)
    go_on = f"usable answers are kept in {partial_path(out)}; the same command asks only for the rest"
    try:
        check_out(out, bool(_OVERWRITE.value))
        config: Any = Config.from_config_dict(_CONFIG.value) if _CONFIG.value is not None else None
        wanted = Wanted(
            _classes(config),
            tuple(_GRANULARITIES.value or ()),
            paraphrases=int(_PARAPHRASES.value or 0),
            corrections=int(_CORRECTIONS.value or 0),
        )
        with preemption.advising(go_on):
            outcome = generate(wanted, _backend(), _budget(config), out, overwrite=bool(_OVERWRITE.value))
    except UnavailableError as error:
        logging.error("%s\n%s", error, go_on)
        sys.exit(1)
    except _MISTAKES as error:
        logging.error("%s: %s", type(error).__name__, error)
        sys.exit(2)
    if outcome.failures:
        logging.error("%s is not written:\n  %s\n%s", out, "\n  ".join(outcome.failures), go_on)
        sys.exit(1)
    print(f"{out}: {len(wanted.class_names)} classes, {', '.join(wanted.granularities)}; read it before you use it")


if __name__ == "__main__":
    runner.start(main, required=["model", "out"], others=(chat.RETRY_LOGGER,))
