"""Jinja templates of this package's pages and texts."""

from __future__ import annotations

import jinja2


def environment(package: str, *, html: bool = True) -> jinja2.Environment:
    """The templates in a package's folder `templates`; a name without a value is an error.

    Args:
      package: such as "mpafer_jax.evaluation.report".
      html: whether values are escaped; other texts keep their last line's end instead.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
