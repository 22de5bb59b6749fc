"""Exported prompts: one small, self-contained safetensors file, which executes no code when read.

    prompts.safetensors          parameters by name (such as 'ctx'), and in the header the description as JSON
    prompts.safetensors.sha256   its checksum, in the format of `sha256sum --check`

`checkpoints.load` takes the folder in place of a workdir, and so do prediction, evaluation and warm starts. `shipped`
names the ones that ship with the package.
"""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import numpy as np
import pydantic

from mpafer_jax.runtime import files
from mpafer_jax.runtime.errors import CheckpointError
from mpafer_jax.runtime.finite import not_finite

PROMPTS = "prompts.safetensors"
CHECKSUM = f"{PROMPTS}.sha256"
_FORMAT = "mpafer-prompts-1"

Params = dict[str, Any]


class Header(pydantic.BaseModel):
    """The file's metadata.

    Attributes:
      format: `_FORMAT`.
      step: of the checkpoint.
      description: a `description.Description` as a dictionary.
      last_step: whether it was exported as its run's last step, not as the chosen one; absent in earlier versions.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    format: str
    step: int
    description: dict[str, Any]
    last_step: bool = False


def save_prompts(
    folder: pathlib.Path, params: Params, description: dict[str, Any], step: int, *, last_step: bool = False
) -> pathlib.Path:
    """Writes the two files and returns the first; arguments as in `Header`."""
    import safetensors.numpy

    header = Header(format=_FORMAT, step=step, description=description, last_step=last_step)
    tensors = {name: np.ascontiguousarray(value) for name, value in params.items()}
    data = safetensors.numpy.save(tensors, metadata={"mpafer": header.model_dump_json(exclude_defaults=True)})
    path = folder / PROMPTS
    with files.replacing(path) as temporary:
        temporary.write_bytes(data)
    files.write_text(folder / CHECKSUM, f"{hashlib.sha256(data).hexdigest()}  {PROMPTS}\n")
    return path


def _metadata(path: pathlib.Path) -> dict[str, str]:
    import safetensors

    opener: Any = safetensors.safe_open  # the only way to the header
    with files.local_copy(path) as local, opener(local, "np") as opened:
        return opened.metadata() or {}


def load_prompts(folder: pathlib.Path) -> tuple[Params, Header]:
    """Reads `save_prompts`'s files, verifying the checksum if that file exists.

    Raises:
      CheckpointError: the file is damaged, does not match the checksum, was not written by `save_prompts`, or holds
        numbers that are not finite.
    """
    import safetensors
    import safetensors.numpy

    path, checksum = folder / PROMPTS, folder / CHECKSUM
    data = path.read_bytes()
    if checksum.is_file():
        expected, digest = checksum.read_text(encoding="utf-8").split()[:1], hashlib.sha256(data).hexdigest()
        if expected != [digest]:
            raise CheckpointError(
                f"{path} has the SHA-256 {digest}, but {CHECKSUM} beside it says {''.join(expected) or 'nothing'}; "
                "copy both again from where they came"
            )
    try:
        params = safetensors.numpy.load(data)
        header = Header.model_validate_json(_metadata(path).get("mpafer", "null"))
    except (safetensors.SafetensorError, pydantic.ValidationError) as error:
        raise CheckpointError(
            f"{path} is no file of prompts of this program ({error}); export the checkpoint again"
        ) from error
    if header.format != _FORMAT:
        raise CheckpointError(f"{path} has the format {header.format!r}; this version reads {_FORMAT!r}")
    if broken := not_finite(params):
        raise CheckpointError(f"{path} holds numbers that are NaN or infinite: {', '.join(broken)}")
    return params, header


def check_types(params: Params) -> None:
    """Raises ValueError if prompts are not float32."""
    wrong = [f"{name}: found {value.dtype}" for name, value in params.items() if value.dtype != np.float32]
    if wrong:
        raise ValueError(f"prompts are not float32: {', '.join(wrong)}")
