"""Local text-generation model with transformers and PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import jinja2
from absl import logging

from mpafer_jax.backbones.hub_library import import_transformers
from mpafer_jax.method.hard_prompts.generation.backends import Reply, Sampling
from mpafer_jax.method.hard_prompts.generation.questions import Message
from mpafer_jax.method.hard_prompts.provenance import BackendKind
from mpafer_jax.runtime.errors import GenerationError

_DEFAULT_MAX_TOKENS = 1024


class LocalModel:
    """A text-generation model from the Hub or a folder (a `Backend`), without constrained decoding."""

    kind: BackendKind = "transformers"
    endpoint = ""

    def __init__(self, model: str, *, sampling: Sampling) -> None:
        """Loads the model, from safetensors only and without remote code.

        Args:
          model: a folder or a Hub repository.
          sampling: greedy for a temperature of None or 0.
        """
        try:
            import torch
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("--backend=transformers needs PyTorch: pip install torch") from error
        transformers = import_transformers()
        self.model = model
        self.sampling = sampling
        self._torch = cast(Any, torch)
        self._set_seed = transformers.set_seed
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            if not self._tokenizer.chat_template:
                raise ValueError(
                    "it has no chat template, so it was not trained to answer; name an instruction-tuned one"
                )
            loaded = transformers.AutoModelForCausalLM.from_pretrained(model, use_safetensors=True, dtype="auto")
        except (OSError, ValueError, KeyError) as error:
            raise GenerationError(f"--model={model} cannot be asked: {error}") from error
        self._model = loaded.to(self._device).eval()
        commit = getattr(loaded.config, "_commit_hash", None)
        self._reported = f"{model}@{commit}" if commit else model
        logging.info("%s answers on %s", model, self._device)

    def reply(self, messages: Sequence[Message]) -> Reply:
        """See `Backend.reply`.

        Raises:
          GenerationError: the model's chat template refuses the messages; many know no role "system".
        """
        try:
            prompt = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self._device)
        except jinja2.TemplateError as error:
            roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
            raise GenerationError(
                f"--model={self.model} cannot be asked: its chat template refuses messages of the roles {roles} "
                f"({error}); name a model whose template takes them"
            ) from error
        limit = self.sampling.max_tokens or _DEFAULT_MAX_TOKENS
        choice: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.sampling.temperature:
            choice = {"do_sample": True, "temperature": self.sampling.temperature}
        if self.sampling.seed is not None:
            self._set_seed(self.sampling.seed)
        with self._torch.inference_mode():
            output = self._model.generate(
                **prompt, max_new_tokens=limit, pad_token_id=self._tokenizer.eos_token_id, **choice
            )
        new = output[0, prompt["input_ids"].shape[1] :]
        text = str(self._tokenizer.decode(new, skip_special_tokens=True))
        return Reply(text=text, model=self._reported, answer_format="text", cut_off=len(new) >= limit)
