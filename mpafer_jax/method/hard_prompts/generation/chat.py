"""Client of servers with OpenAI's chat/completions protocol: OpenAI, vLLM, llama.cpp, Ollama and others.

The `openai` client retries timeouts, failed connections, 408, 409, 429 and 5xx, after 0.5 to 8 s, doubling, or after
the server's Retry-After of at most two minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast, get_args

from absl import logging

from mpafer_jax.method.hard_prompts.generation.backends import Reply, Sampling
from mpafer_jax.method.hard_prompts.generation.questions import Answer, Message
from mpafer_jax.method.hard_prompts.provenance import AnswerFormat, BackendKind
from mpafer_jax.runtime.errors import GenerationError, UnavailableError

if TYPE_CHECKING:
    import openai

FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)  # strictest first

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NOT_THE_PROTOCOL = "not with what chat/completions answers; does the endpoint's address lack /v1 at its end?"


@dataclasses.dataclass(frozen=True)
class Key:
    """An API key; its value is never shown or written.

    Attributes:
      value: '' for servers without keys.
      variable: environment variable that it was read from.
    """

    value: str = dataclasses.field(repr=False)
    variable: str

    def removed_from(self, text: str) -> str:
        """Removes the key from a server's text."""
        return text.replace(self.value, f"[{self.variable}]") if self.value else text


class ChatEndpoint:
    """A model behind an endpoint (a `Backend`).

    Requests answers with a JSON schema; if the server refuses, any JSON; if it refuses that, free text.
    """

    kind: BackendKind = "openai"

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        key: Key,
        sampling: Sampling,
        timeout: float = 120.0,
        retries: int = 5,
        answer_format: AnswerFormat = "json_schema",
    ) -> None:
        """Creates the client, without connecting.

        Args:
          endpoint: base URL, for most servers ending with /v1.
          model: the server's name for it.
          key: sent with each request.
          timeout: seconds, for each of connect, read and write.
          retries: of a request.
          answer_format: the first to request.
        """
        _check_endpoint(endpoint, key)
        try:
            import openai
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "asking an endpoint needs the openai client: pip install -e '.[generate]'"
            ) from error
        self.endpoint = endpoint
        self.model = model
        self.sampling = sampling
        self._key = key
        self._timeout = timeout
        self._retries = retries
        self._format: AnswerFormat = answer_format
        self._limit_name = "max_tokens"
        self._openai = openai
        self._headers: Any = {} if key.value else {"Authorization": openai.Omit()}
        self._client = openai.OpenAI(
            base_url=endpoint,
            # Not '', for which the client would read a key from the environment.
            api_key=key.value or "none",
            timeout=timeout,
            max_retries=retries,
        )

    def reply(self, messages: Sequence[Message]) -> Reply:
        """See `Backend.reply`."""
        openai = self._openai
        first: openai.APIStatusError | None = None
        for answer_format in FORMATS[FORMATS.index(self._format) :]:
            try:
                reply = self._ask(messages, answer_format)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                first = first or error
                continue
            except openai.APIError as error:
                # Not chained: the library's error holds the request with the key.
                raise self._explained(error) from None
            except ValueError:  # invalid JSON, not caught by the client
                raise GenerationError(f"{self.endpoint} answered, but {_NOT_THE_PROTOCOL}") from None
            if first is not None:
                logging.warning(
                    "%s refuses answers of the form %s (%s); asking for %s from now on",
                    self.endpoint,
                    self._format,
                    self._message(first),
                    answer_format,
                )
                self._format = answer_format
            return reply
        raise GenerationError(f"{self.endpoint} refuses the request for model {self.model!r}: {self._message(first)}")

    def _ask(self, messages: Sequence[Message], answer_format: AnswerFormat) -> Reply:
        try:
            completion = self._complete(messages, answer_format)
        except self._openai.BadRequestError as error:
            # OpenAI's newer models use another name for the limit, which many servers do not support.
            if self.sampling.max_tokens is None or "max_completion_tokens" not in str(error):
                raise
            self._limit_name = "max_completion_tokens"
            completion = self._complete(messages, answer_format)
        choices = getattr(completion, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise ValueError
        message = choices[0].message
        return Reply(
            text=self._key.removed_from(message.content or ""),
            model=self._key.removed_from(str(completion.model)),
            answer_format=answer_format,
            cut_off=choices[0].finish_reason == "length",
            refusal=self._key.removed_from(getattr(message, "refusal", None) or ""),
        )

    def _complete(self, messages: Sequence[Message], answer_format: AnswerFormat) -> Any:
        # Not the client's `parse`, which drops the text of invalid answers; they are sent back to the model.
        schema = {"name": "descriptions", "strict": True, "schema": Answer.model_json_schema()}
        options: dict[str, Any] = {
            "response_format": {
                "json_schema": {"type": "json_schema", "json_schema": schema},
                "json_object": {"type": "json_object"},
                "text": None,
            }[answer_format],
            "temperature": self.sampling.temperature,
            "seed": self.sampling.seed,
            self._limit_name: self.sampling.max_tokens,
        }
        return cast(Any, self._client.chat.completions.create)(
            model=self.model,
            messages=list(messages),
            extra_headers=self._headers,
            **{name: value for name, value in options.items() if value is not None},
        )

    def _message(self, error: openai.APIError | None) -> str:
        """The server's message, on one line of at most 300 characters."""
        text = " ".join(self._key.removed_from(str(error)).split())
        return text if len(text) <= 300 else f"{text[:300]}..."

    def _explained(self, error: openai.APIError) -> GenerationError | UnavailableError:
        openai = self._openai
        message = f"{self.endpoint}: {self._message(error)}"
        tries = f"asked {self._retries + 1} times at most (--retries)"
        if isinstance(error, openai.APITimeoutError):
            return UnavailableError(f"{self.endpoint}: no answer within {self._timeout:g} s (--timeout), {tries}")
        if isinstance(error, openai.APIConnectionError):
            cause = self._key.removed_from(str(error.__cause__ or error))
            return UnavailableError(
                f"{self.endpoint} cannot be reached: {cause}; {tries}. Is the server running, and the address right?"
            )
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            key = (
                f"the key in the environment variable {self._key.variable} was sent"
                if self._key.value
                else f"no key was sent, since the environment variable {self._key.variable} is not set"
            )
            return GenerationError(f"{message}; {key} (--key_variable names another)")
        if isinstance(error, openai.NotFoundError):
            return GenerationError(f"{message}; {self._known_models()}")
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status >= 500 or status in (408, 409, 429):
                wait = error.response.headers.get("retry-after")
                return UnavailableError(f"{message}; {tries}" + (f"; to be asked again in {wait} s" if wait else ""))
            return GenerationError(message)
        return GenerationError(f"{message}: answered, but {_NOT_THE_PROTOCOL}")

    def _known_models(self) -> str:
        try:
            models = self._client.with_options(max_retries=0).models.list(extra_headers=self._headers)
            names = sorted(str(model.id) for model in models)
        except (self._openai.APIError, ValueError, TypeError, AttributeError):
            return "it lists no models either; does the endpoint's address lack /v1 at its end?"
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        return f"--model is {self.model!r}, the models there are {self._key.removed_from(shown) or 'none'}"


def _check_endpoint(endpoint: str, key: Key) -> None:
    parts = urllib.parse.urlsplit("")
    with contextlib.suppress(ValueError):  # brackets without an address, or a port that is no number
        found = urllib.parse.urlsplit(endpoint)
        parts = found if found.port != 0 else parts
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise GenerationError(
            f"--endpoint is {key.removed_from(endpoint)!r}, expected an address such as http://localhost:8000/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        # It would be written into the bank.
        raise GenerationError(
            "--endpoint holds a user, a password, a query or a fragment; expected a plain address such as "
            "https://host/v1, and the key in an environment variable (--key_variable)"
        )
    if not (key.value.isascii() and key.value.isprintable()):
        raise GenerationError(
            f"the environment variable {key.variable} holds characters that no key has; copy it again"
        )
    if key.value and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        logging.warning("the key in %s is sent to %s without encryption", key.variable, parts.hostname)
