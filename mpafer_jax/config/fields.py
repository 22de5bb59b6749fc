"""How a configuration is declared: frozen models, whose fields say what they mean and what depends on them.

A field is declared once, with all that is to be decided about it:

    num_ctx: PositiveCount = option(10, "paper")
    \"\"\"M, context vectors of a soft prompt.\"\"\"

The type bounds the value and, for texts, says whether it is a path (`Folder`, `NamedPath`, `HubName`) or not (`Text`).
`option` holds the default, its source and its role; the docstring is the description. `settings` reads them back:
`semantics` makes lists of them, `redaction` takes paths out, `reference` writes the documentation.
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
    """Marks a field of text whose value names something on the machine of a run; `redaction` takes that out.

    Attributes:
      keeps: what says something on another machine too: nothing, the last part of the path, or a name on the Hub;
        None: all of it, as the text is no path.
    """

    keeps: Literal["nothing", "last part", "hub name"] | None


NO_PATH = LocalPath(None)
Text = Annotated[str, NO_PATH]
Folder = Annotated[str, LocalPath("nothing")]
NamedPath = Annotated[str, LocalPath("last part")]
HubName = Annotated[str, LocalPath("hub name")]

Role = Literal["result", "training", "seed", "model", "content", "free"]
"""What depends on a field:

result    what a run trains or measures; it stays as it is while a run is resumed
training  the same, but never which images are held out, so that runs that differ in it stand in one table
seed      as training; a study sets it by the seed of each of its runs
model     as result; a checkpoint brings its own wherever it is used: prompts, head, normalisation of images
content   names a dataset or a CLIP, which a checkpoint knows by content; it may change when a run is resumed, and tells
          runs apart where no content is read
free      how a run is carried out, or what is measured beside it; it may change when a run is resumed
"""


def option(default: Any, source: str = "", *, role: Role | None = None, off_at_zero: bool = False) -> Any:
    """Declares a field of a section; the docstring below it is its description.

    Args:
      default: its value.
      source: of the default: 'paper' (MPA-FER, arXiv 2506.21017), 'relative' (what CoOp, MaPLe, PromptSRC, KgCoOp and
        VPT use where the paper is silent) or 'ours' (chosen here), and a remark.
      role: what depends on it; None: what the section's `role` says.
      off_at_zero: whether it switches a part of the model off at 0; a run with one of these at 0 is not MPA-FER.
    """
    return Field(default, json_schema_extra={"source": source, "role": role, "off_at_zero": off_at_zero})


class FrozenModel(pydantic.BaseModel):
    """A frozen record with typed fields; unknown ones are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    role: ClassVar[Role] = "result"
    listed_by: ClassVar[str] = "mpafer-jax config"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses a text of which nobody has said whether it is a path."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if re.search(r"\bstr\b", str(field.annotation)) and not any(
                isinstance(m, LocalPath) for m in field.metadata
            ):
                raise TypeError(f"{cls.__name__}.{name} holds text: annotate it as Text, or as a kind of path")

    @classmethod
    def from_config_dict(cls, config: config_dict.ConfigDict | Mapping[str, Any]) -> Self:
        """Checks a config from `configs/` and freezes it; what it lacks has its default.

        Raises:
          ConfigError: names every unknown or impossible field, what was found and what is expected.
        """
        try:
            return cls.model_validate(config if isinstance(config, Mapping) else config.to_dict())
        except OSError as error:  # a file that --config could not read is reported when its content is asked for
            raise ConfigError(f"--config: {error}") from error
        except pydantic.ValidationError as error:
            raise cls._refusal(list(_lines(error, cls))) from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote. Raises ConfigError as `from_config_dict` does, and where a field is missing."""
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
        # A rule over several fields says itself what was found.
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
    """A field as it is declared.

    Attributes:
      name: dotted, as in 'loss.beta'.
      default: its value where nobody says another.
      description, role, off_at_zero: see `option`.
      source: as there; '' for a default that a configuration gives instead of the section's.
      path: what it names on the machine of a run; None for what is no path.
    """

    name: str
    default: Any
    description: str
    source: str
    role: Role
    off_at_zero: bool
    path: LocalPath | None


@functools.cache
def settings(kind: type[FrozenModel]) -> Mapping[str, Setting]:
    """The fields of a configuration by dotted name, in the order in which they are declared."""
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
            path=path,
        )
