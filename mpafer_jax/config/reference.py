"""Generates the documentation of a configuration's fields from their declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mpafer_jax.config.fields import FrozenModel, Setting, settings


def to_markdown(kind: type[FrozenModel]) -> str:
    """Markdown tables of all fields, one for each section."""
    tables: list[str] = []
    for name, section in _sections(kind()):
        rows = [s for s in settings(kind).values() if s.name.rpartition(".")[0] == name]
        if not rows:
            continue
        heading = f"### {name}\n\n{_summary(section)}\n\n" if name else ""
        lines = ["| field | default | meaning |", "| --- | --- | --- |", *map(_row, rows)]
        tables.append(heading + "\n".join(lines) + "\n")
    return "\n".join(tables)


def to_text(fields: Mapping[str, Setting]) -> str:
    """Fields with their defaults and, below each, its meaning."""
    return "\n".join(f"{name} = {field.default!r}\n    {_meaning(field)}" for name, field in fields.items())


def matching(kind: type[FrozenModel], name: str) -> dict[str, Setting]:
    """The field with this dotted name, or all fields of the section with this name; '' for all."""
    return {
        known: s for known, s in settings(kind).items() if not name or known == name or known.startswith(f"{name}.")
    }


def _sections(model: FrozenModel, name: str = "") -> Iterator[tuple[str, FrozenModel]]:
    yield name, model
    for field, value in model:
        if isinstance(value, FrozenModel):
            yield from _sections(value, f"{name}.{field}".lstrip("."))


def _summary(section: FrozenModel) -> str:
    return " ".join((type(section).__doc__ or "").split())


def _meaning(field: Setting) -> str:
    return " ".join(field.description.split()) + (f" [{field.source}]" if field.source else "")


def _row(field: Setting) -> str:
    meaning = _meaning(field).replace("|", r"\|").replace("<", r"\<").replace("*", r"\*")
    return f"| `{field.name}` | `{field.default!r}` | {meaning} |"
