"""Description of a checkpoint: all that is needed to use it without its run."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Collection, Generator, Iterable
from typing import Any, ClassVar

import jax
import pydantic

import mpafer_jax
from mpafer_jax.artifacts.run_dir import flatten
from mpafer_jax.backbones.files import SHIPPED
from mpafer_jax.config.fields import FrozenModel
from mpafer_jax.config.schema import Config, HardPromptsSection, ModelSections
from mpafer_jax.config.semantics import MODEL_SECTIONS, NORMALIZATION
from mpafer_jax.method.hard_prompts.templates import HardPrompts, prompt_names, words_read
from mpafer_jax.runtime import devices, distributed
from mpafer_jax.runtime.errors import CheckpointError, ConfigError

_DRAWN = "synthface"
_ON_PHOTOGRAPHS = (
    "the quickstart's checkpoint is right on 20.5% of FERPlus' photographs (PublicTest), where always saying neutral "
    "is right on 37.0%"
)
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """Training data of a model, shown wherever it predicts.

    Attributes:
      dataset: `config.data.dataset`; '' for a zero-shot CLIP.
      images: number of training images; 0 if unknown or untrained.
      clip: the CLIP's name or folder.
      face_margin: of an aligned copy, else `config.data.face_margin`, with which detected faces look like its training
        images.
    """

    dataset: str
    images: int
    clip: str
    face_margin: float = 0.0

    def __str__(self) -> str:
        """ "trained on 12,271 images of rafdb; CLIP openai/clip-vit-base-patch16"."""
        kind = "drawn faces" if self.dataset == _DRAWN else "images"
        number = f"{self.images:,} {kind}" if self.images else kind
        what = f"trained on {number} of {self.dataset}" if self.dataset else "not trained (zero-shot)"
        return f"{what}; CLIP {self.clip}"

    @property
    def warning(self) -> str:
        """Warning if the model knows drawn faces only; '' otherwise."""
        if self.dataset == _DRAWN:
            return f"it knows drawn faces only and cannot read photographs: {_ON_PHOTOGRAPHS}"
        if self.clip in SHIPPED and SHIPPED[self.clip].drawn_only:
            return f"the CLIP {self.clip} knows drawn faces only and is of no use for photographs"
        return ""

    @property
    def terms(self) -> str:
        """What the training data of a shipped CLIP allow, where they limit its use; '' otherwise."""
        terms = SHIPPED[self.clip].terms if self.clip in SHIPPED else ""
        return terms and f"the CLIP {self.clip} is {terms}"


class Described(pydantic.BaseModel, abc.ABC):
    """Base class of checkpoint descriptions, whatever was trained.

    Attributes:
      config_kind: what `config` is of.
      config: the run's whole configuration.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    config_kind: ClassVar[type[FrozenModel]]
    config: dict[str, Any]

    @abc.abstractmethod
    def unchanged(self) -> dict[str, Any]:
        """Name -> value of everything that must be the same on resume."""

    def check_same(self) -> None:
        """Refuses a run whose processes have different contents or packages; all must call it.

        Raises:
          ConfigError: names what differs.
        """
        if lines := distributed.differences({**self.unchanged(), "the packages' versions": package_versions()}):
            raise ConfigError(
                "the processes of this run would train different models:\n  " + "\n  ".join(lines) + "\n"
                "give all hosts the same files and packages, and start again"
            )


class Description(Described):
    """Description of a checkpoint of prompts.

    Attributes:
      class_names: C names, in the order of the logits, as printed.
      clip_name: the CLIP that the prompts were trained on, a Hub name or a folder.
      clip_hash: hash of its content; prompts do not fit another CLIP.
      hard_prompts: the fixed texts of each class.
      data: the training data: dataset name, label rule, splits and counts.
      versions: of the packages that made it.
      patch_weights: of the local scores, C times N (`motion_prior`); None for equal ones.
      last_step: of exported prompts, whether they are their run's last step, not the chosen one; kept beside the
        description (`prompt_file.Header`).
    """

    config_kind: ClassVar[type[FrozenModel]] = Config

    class_names: tuple[str, ...]
    clip_name: str
    clip_hash: str
    hard_prompts: HardPrompts
    data: dict[str, Any]
    versions: dict[str, str]
    patch_weights: tuple[tuple[float, ...], ...] | None = None
    last_step: bool = pydantic.Field(default=False, exclude=True)

    @property
    def prompt_names(self) -> tuple[str, ...]:
        """The class names as CLIP's prompts spell them."""
        return prompt_names(self.class_names, as_spelled=bool(self.config["data"].get("class_names")))

    @property
    def words_read(self) -> tuple[str, ...]:
        """What CLIP reads for each class after the context."""
        return words_read(self.model_sections().ctx, self.prompt_names, self.hard_prompts)

    def unchanged(self) -> dict[str, Any]:
        """CLIP's content hash, the training data, and the hard prompts of each class, whose bank may have changed."""
        texts = {f"hard prompts of {name}": self.hard_prompts.of_class(i) for i, name in enumerate(self.class_names)}
        return {"CLIP's content hash": self.clip_hash, "the training data": self.data, **texts}

    @property
    def trained_on(self) -> TrainedOn:
        """Summary of the training data."""
        images, of_config = sum(self.data["counts"]["train"]), self.config["data"].get("face_margin", 0.0)
        return TrainedOn(self.data["dataset"], images, self.clip_name, self.data.get("face_margin", of_config))

    def applied_to(self, config: Config) -> Config:
        """The configuration with this checkpoint's model sections and image normalisation; all else stays the caller's.

        Raises:
          CheckpointError: the fields of those sections differ from this version's.
        """
        with self._naming_the_versions():
            values = {**config.model_dump(mode="json"), **self._sections(MODEL_SECTIONS)}
            return Config.from_json(json.dumps({**values, "data": {**values["data"], **self.normalization()}}))

    def refuse_others(self, config: Config, given: Collection[str]) -> None:
        """Refuses values for what a checkpoint determines, as they would change nothing.

        Args:
          config: of the caller.
          given: fields that were set by name; those of the others that differ are a configuration's usual ones.

        Raises:
          ConfigError: names the first such field.
          CheckpointError: as `applied_to`.
        """
        activation = {"activation": self.model_sections().clip.activation}
        own = self.applied_to(config.model_copy(update={"clip": config.clip.model_copy(update=activation)}))
        here, there = (flatten(each.model_dump()) for each in (config, own))
        there |= flatten({"hard_prompts": self.hard_prompts_section().model_dump()})
        # The words of classes that it was not trained on.
        used = {"hard_prompts.bank"} if config.eval.classes == "dataset" else set[str]()
        for name in given:
            if here.get(name) != there.get(name) and name not in used:
                raise ConfigError(
                    f"config.{name} is {here.get(name)!r}, but the checkpoint's {there.get(name)!r} is used, as it was "
                    "trained so; leave it out, or train with it"
                )

    def normalization(self) -> dict[str, Any]:
        """The data section's fields of normalisation: 'mean' and 'std', three numbers each, and 'grayscale'."""
        data = {"grayscale": False, **self.config["data"]}  # absent in earlier versions
        return {name: data[name] for name in NORMALIZATION}

    def model_sections(self) -> ModelSections:
        """The configuration sections that prediction needs; the others may be another version's.

        Raises:
          CheckpointError: the fields of those sections differ from this version's.
        """
        with self._naming_the_versions():
            return ModelSections.from_json(json.dumps(self._sections(ModelSections.model_fields)))

    def hard_prompts_section(self) -> HardPromptsSection:
        """How its hard prompts were configured. Raises CheckpointError as `model_sections` does."""
        with self._naming_the_versions():
            return HardPromptsSection.from_json(json.dumps(self.config["hard_prompts"]))

    def check_clip(self, name: str, content_hash: str) -> None:
        """Refuses a CLIP other than the one the prompts were trained on.

        Raises:
          CheckpointError: its hash differs.
        """
        if content_hash != self.clip_hash:
            raise CheckpointError(
                f"the checkpoint was trained on {self.clip_name}, hash {self.clip_hash[:16]}, but {name}, hash "
                f"{content_hash[:16]}, was loaded; prompts fit no other CLIP"
            )

    def _sections(self, names: Iterable[str]) -> dict[str, Any]:
        # A field that is newer than the checkpoint has its default, which is chosen to change nothing.
        newest = Config().model_dump(mode="json")
        return {
            name: {**newest[name], **self.config.get(name, {})}
            if isinstance(newest[name], dict)
            else self.config.get(name, newest[name])
            for name in names
        }

    @contextlib.contextmanager
    def _naming_the_versions(self) -> Generator[None]:
        try:
            yield
        except ConfigError as error:
            raise CheckpointError(
                f"the checkpoint was made by mpafer-jax {self.versions['mpafer-jax']}, and this is "
                f"{mpafer_jax.__version__}, which reads its configuration differently: {error}"
            ) from error


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    others = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"mpafer-jax": mpafer_jax.__version__, **others}


def circumstances() -> dict[str, Any]:
    """How and when a result was made: 'versions', 'devices' (kind, number), 'matmul_precision', 'bfloat16_unit' (see
    `devices`), 'settings' (see `devices.unusual_settings`), 'finished' (UTC).
    """
    return {
        "versions": package_versions(),
        "devices": [devices.kind(), jax.device_count()],
        "matmul_precision": devices.matmul_precision(),
        "bfloat16_unit": devices.bfloat16_unit(),
        "settings": devices.unusual_settings(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
