"""Hard prompts: fixed texts that soft prompts are aligned with (MPA-FER section 3, three types)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import pydantic

from mpafer_jax.config.expressions import canonical_name
from mpafer_jax.config.schema import Combine, CtxSection, Granularity, HardPromptsSection, PromptGranularity
from mpafer_jax.method.hard_prompts.bank import Bank, load_banks, permuted
from mpafer_jax.runtime.errors import ConfigError

_PHOTO = "a photo of {}"
_FACE = "a photo of a person making a facial expression of {}"


class PromptGroup(pydantic.BaseModel):
    """Hard prompts of one alignment term.

    Attributes:
      name: granularities joined by '+'.
      texts: one or more for each of C classes.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str
    texts: tuple[tuple[str, ...], ...]


class HardPrompts(pydantic.BaseModel):
    """Hard prompts of C classes, in groups that are aligned separately."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    groups: tuple[PromptGroup, ...]

    @pydantic.model_validator(mode="after")
    def _every_group_has_every_class(self) -> Self:
        counts = {len(group.texts) for group in self.groups}
        if len(counts) != 1 or not all(texts for group in self.groups for texts in group.texts):
            raise ValueError("hard prompts need at least one group, and in each of them a text for every class")
        return self

    def of_class(self, index: int) -> tuple[str, ...]:
        """All texts of a class, in the order of the groups."""
        return tuple(text for group in self.groups for text in group.texts[index])

    def every_text(self) -> list[str]:
        """Distinct texts, in the order of groups and classes."""
        return list(dict.fromkeys(text for group in self.groups for texts in group.texts for text in texts))


def prompt_name(class_name: str) -> str:
    """A class name for use in a text: `happily_surprised` becomes 'happily surprised'."""
    return " ".join(class_name.replace("_", " ").split())


def prompt_names(class_names: Sequence[str], *, as_spelled: bool) -> tuple[str, ...]:
    """Class names as CLIP reads them, which may differ from those printed: "Happy" is read as 'happiness'.

    Args:
      class_names: C names as printed.
      as_spelled: whether they come from `data.class_names` and are read as spelled; a dataset's names are read by
        their canonical names.
    """
    return tuple(prompt_name(name) if as_spelled else canonical_name(name) for name in class_names)


def words_read(section: CtxSection, names: Sequence[str], hard_prompts: HardPrompts) -> tuple[str, ...]:
    """What the text tower reads for each of C classes after the context.

    Args:
      section: its `words` and `init_text` are read.
      names: as CLIP reads them, `prompt_names`.
      hard_prompts: of the same classes.

    Raises:
      ConfigError: a hard prompt that is to be read does not begin with `init_text`, which would stand there twice.
    """
    if section.words == "name":
        return tuple(names)
    first = [hard_prompts.of_class(index)[0] for index in range(len(names))]
    if not section.init_text:
        return tuple(first)
    begin = f"{section.init_text} "
    if other := next((text for text in first if not text.startswith(begin)), ""):
        raise ConfigError(
            f"config.ctx.words is hard_prompt and ctx.init_text {section.init_text!r}, but the hard prompt {other!r} "
            "does not begin with these words, so that the context would say something else before it; set ctx.words "
            "to name, ctx.init_text to its first words, or hard_prompts.type to 2 or 3"
        )
    return tuple(text.removeprefix(begin) for text in first)


def described(class_name: str, description: str) -> str:
    """The hard prompt of type 3: the template of type 2 with a description."""
    return f"{_FACE.format(prompt_name(class_name))}, with {description}"


def build_hard_prompts(
    class_names: Sequence[str],
    prompt_type: int,
    bank: Bank | None,
    *,
    granularities: Sequence[PromptGranularity] = ("holistic",),
    combine: Combine = "mean",
) -> HardPrompts:
    """Hard prompts of C classes.

    Args:
      class_names: C names.
      prompt_type: 1 `a photo of [class]`, 2 `a photo of a person making a facial expression of [class]`, 3 type 2 with
        a description from the bank, one text for each.
      bank: for type 3 only, as are the following.
      granularities: of the descriptions; 'template' is the plain text of type 2.
      combine: 'mean': one group with all texts; 'separate': one group for each granularity.
    """
    if prompt_type not in (1, 2, 3) or (prompt_type == 3 and bank is None):
        raise ValueError(
            "hard prompts are of type 1, 2 or 3, and type 3 needs a bank; "
            f"found type {prompt_type} and {'no bank' if bank is None else f'the bank {bank.name!r}'}"
        )
    if prompt_type != 3 or bank is None:
        template = _PHOTO if prompt_type == 1 else _FACE
        granularities = ("template",)
        groups = [[(template.format(prompt_name(name)),) for name in class_names]]
    else:
        bank.check(class_names, granularities)
        groups = [[_texts(bank, name, granularity) for name in class_names] for granularity in granularities]
    if combine == "separate":
        named = zip(granularities, groups, strict=True)
        return HardPrompts(groups=tuple(PromptGroup(name=name, texts=tuple(texts)) for name, texts in named))
    together = tuple(sum(texts, start=()) for texts in zip(*groups, strict=True))
    return HardPrompts(groups=(PromptGroup(name="+".join(granularities), texts=together),))


def _texts(bank: Bank, class_name: str, granularity: PromptGranularity) -> tuple[str, ...]:
    if granularity == "template":
        return (_FACE.format(prompt_name(class_name)),)
    return tuple(described(class_name, description.text) for description in bank.texts(class_name, granularity))


def configured_hard_prompts(
    section: HardPromptsSection, class_names: Sequence[str], *, permute_seed: int | None = None
) -> HardPrompts:
    """The configured hard prompts of C classes.

    Args:
      permute_seed: for type 3, give every class another one's descriptions, see `bank.permuted`.
    """
    if section.type != 3:
        return build_hard_prompts(class_names, section.type, None)
    bank = load_banks(section.bank, section.paraphrases)
    if permute_seed is not None:
        bank = permuted(bank, class_names, permute_seed)
    return build_hard_prompts(class_names, 3, bank, granularities=section.granularity, combine=section.combine)


def check_hard_prompts(section: HardPromptsSection, class_names: Sequence[str]) -> list[str]:
    """Checks the configured hard prompts, without loading a CLIP.

    Returns:
      Warnings about descriptions that a bank gives to several classes.
    """
    configured_hard_prompts(section, class_names)
    granularities: list[Granularity] = [granularity for granularity in section.granularity if granularity != "template"]
    if section.type != 3 or not granularities:
        return []
    bank = load_banks(section.bank, section.paraphrases)
    classes_by_text: dict[str, list[str]] = {}
    for name in class_names:
        texts = (text.text for granularity in granularities for text in bank.texts(name, granularity))
        for text in dict.fromkeys(text.lower() for text in texts):
            classes_by_text.setdefault(text, []).append(name)
    return [
        f"the description bank {bank.name!r} says {text!r} of {' and '.join(names)} alike: only their names differ"
        for text, names in classes_by_text.items()
        if len(names) > 1
    ]


def every_prompt(bank: Bank) -> list[str]:
    """All texts that hard prompts can have with a bank, of every type and granularity."""
    names = list(bank.classes)
    templates = [text for kind in (1, 2) for text in build_hard_prompts(names, kind, None).every_text()]
    return templates + [
        described(name, description.text) for name in names for _, description in bank.entry(name).items()
    ]
