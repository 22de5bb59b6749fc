"""Declaration of configurations: frozen pydantic models whose fields carry their metadata.

    num_ctx: PositiveCount = option(10, "paper")
    \"\"\"M, context vectors of a soft prompt.\"\"\"

The type bounds the value and marks strings as paths (`Folder`, `NamedPath`, `HubName`) or not (`Text`). `option` has
the default, its source and its role; the docstring is the description. `settings` reads them back, for `semantics`,
`redaction` and `reference`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import pydantic
from ml_collections import config_dict
from pydantic import Field

from mpafer_jax.runtime.errors import ConfigError, did_you_mean

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Range = tuple[Positive, Positive]
Rgb = tuple[Positive, Positive, Positive]


@dataclasses.dataclass(frozen=True)
class LocalPath:
    """Marks a string field as a local path, for `redaction`.

    Attributes:
      keeps: what redaction keeps: nothing, the last part of the path, or a name on the Hub; None: not a path, kept
        whole.
    """

    keeps: Literal["nothing", "last part", "hub name"] | None


NO_PATH = LocalPath(None)
Text = Annotated[str, NO_PATH]
Folder = Annotated[str, LocalPath("nothing")]
NamedPath = Annotated[str, LocalPath("last part")]
HubName = Annotated[str, LocalPath("hub name")]

Role = Literal["result", "training", "seed", "model", "content", "rounding", "free"]
"""What depends on a field:

result    what a run trains or measures; must not change on resume
training  as result, but does not affect which images are held out: runs that differ in it are comparable in one table
seed      as training; studies set it to the seed of each run
model     as result; a checkpoint's value is used wherever it is loaded: prompts, head, normalisation of images
content   names a dataset or a CLIP, which checkpoints identify by content; may change on resume, and distinguishes runs
          where the content is not read
rounding  how a run is executed, which changes its numbers by rounding alone; may change on resume, for instance to fit
          other devices
free      how a run is executed, or what is measured beside it; may change on resume
"""


def option(
    default: Any, source: str = "", *, role: Role | None = None, off_at_zero: bool = False, traced: bool = False
) -> Any:
    """Declares a field of a section; the docstring below it is its description.

    Args:
      source: of the default: 'paper' (MPA-FER, arXiv 2506.21017), 'relative' (from CoOp, MaPLe, PromptSRC, KgCoOp or
        VPT, as the paper does not state it) or 'ours', and a remark.
      role: None for the section's `role`.
      off_at_zero: whether 0 disables a part of the method; a run with such a field at 0 is not MPA-FER.
      traced: whether the compiled training step takes a value other than 0 as an argument, so that runs that differ in
        it share the compiled step. What reads such a number must not branch on it, except that 0 stays a constant.
    """
    extra: dict[str, Any] = {"source": source, "role": role, "off_at_zero": off_at_zero, "traced": traced}
    return Field(default, json_schema_extra=extra)


class FrozenModel(pydantic.BaseModel):
    """A frozen record with typed fields; unknown fields are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    role: ClassVar[Role] = "result"
    listed_by: ClassVar[str] = "mpafer-jax config"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Requires string fields to be annotated as a path or as `Text`."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if re.search(r"\bstr\b", str(field.annotation)) and not any(
                isinstance(m, LocalPath) for m in field.metadata
            ):
                raise TypeError(f"{cls.__name__}.{name} holds text: annotate it as Text, or as a kind of path")

    @classmethod
    def from_config_dict(cls, config: config_dict.ConfigDict | Mapping[str, Any]) -> Self:
        """Validates a config from `configs/`; missing fields get their defaults.

        Raises:
          ConfigError: lists every unknown or invalid field.
        """
        try:
            return cls.model_validate(config if isinstance(config, Mapping) else config.to_dict())
        except OSError as error:  # ml_collections reports an unreadable --config file on first access
            raise ConfigError(f"--config: {error}") from error
        except pydantic.ValidationError as error:
            raise cls._refusal(list(_lines(error, cls))) from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads `to_json`'s text. Raises ConfigError as `from_config_dict`, and if a field is missing."""
        try:
            model = cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            raise cls._refusal(list(_lines(error, cls))) from error
        if missing := list(_unset(model, "config")):
            raise cls._refusal([f"{name}: Field required" for name in missing])
        return model

    def to_json(self) -> str:
        """The record as indented JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    @classmethod
    def _refusal(cls, lines: list[str]) -> ConfigError:
        listed = "".join(f"  {line}\n" for line in lines)
        return ConfigError(f"the configuration does not hold:\n{listed}every field and its unit: {cls.listed_by}")


def _lines(error: pydantic.ValidationError, kind: type[FrozenModel]) -> Iterator[str]:
    for item in error.errors():
        *sections, name = [str(part) for part in item["loc"]] or [""]
        near = ""
        if item["type"] == "extra_forbidden":
            section: Any = kind
            for part in sections:
                section = section.model_fields[part].annotation
            near = did_you_mean(name, section.model_fields)
        # Messages of rules over several fields include the values.
        found = "" if item["type"] in ("missing", "value_error") or not item["loc"] else f" (found {item['input']!r})"
        yield f"{'.'.join(['config', *sections, name]).rstrip('.')}: {item['msg']}{near}{found}"


def _unset(model: FrozenModel, name: str) -> Iterator[str]:
    for field in type(model).model_fields:
        value = getattr(model, field)
        if field not in model.model_fields_set:
            yield f"{name}.{field}"
        elif isinstance(value, FrozenModel):
            yield from _unset(value, f"{name}.{field}")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Declaration of a field; see `option`.

    Attributes:
      name: dotted, as in 'loss.beta'.
      source: '' if a configuration overrides the section's default.
      path: None if the field is no path.
    """

    name: str
    default: Any
    description: str
    source: str
    role: Role
    off_at_zero: bool
    traced: bool
    path: LocalPath | None


@functools.cache
def settings(kind: type[FrozenModel]) -> Mapping[str, Setting]:
    """Fields of a configuration by dotted name, in order of declaration."""
    return {setting.name: setting for setting in _settings(kind(), "")}


def _settings(model: FrozenModel, prefix: str) -> Iterator[Setting]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, FrozenModel):
            yield from _settings(value, f"{prefix}{name}.")
            continue
        said = cast(dict[str, Any], field.json_schema_extra)
        path = next((mark for mark in field.metadata if isinstance(mark, LocalPath) and mark.keeps), None)
        yield Setting(
            name=prefix + name,
            default=value,
            description=field.description or "",
            source=said["source"] if value == field.default else "",
            role=said["role"] or model.role,
            off_at_zero=said["off_at_zero"],
            traced=said["traced"],
            path=path,
        )
