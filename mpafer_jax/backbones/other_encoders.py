"""Dual encoders that are not read, recognised by their files, so that an error names them and says what to do."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import NamedTuple, cast

_INSTEAD = (
    "Take a CLIP of OpenAI's architecture: OpenAI's own (openai/clip-vit-base-patch16), or LAION's, DataComp's, DFN's, "
    "MetaCLIP's first or FaRL (docs/clip.md)"
)


class _Other(NamedTuple):
    name: str
    differs: str
    marks: tuple[str, ...]  # patterns of tensor names, or of fields of a configuration, "name=value"


# From the special to the general: the first that matches is named.
_OTHERS = (
    _Other(
        "SigLIP 2",
        "it has no class token and another vocabulary",
        ("model_type=siglip2", "hf_tokenizer_name=*SigLIP2*", "vocab_size=256000"),
    ),
    _Other(
        "SigLIP",
        "it has no class token, and scores pairs by a sigmoid",
        (
            "model_type=siglip*",
            "timm_model_name=*siglip*",
            "hf_tokenizer_name=*SigLIP*",
            "logit_bias",
            "vision_model.head.probe",
        ),
    ),
    _Other(
        "MetaCLIP 2",
        "it has a vocabulary of many languages and ends its texts otherwise",
        ("model_type=metaclip_2", "vocab_size=901629", "hf_tokenizer_name=facebook/xlm-v-base"),
    ),
    _Other(
        "EVA02-CLIP",
        "its image tower has rotary positions and gated MLPs",
        ("timm_model_name=eva02*", "visual.rope.*", "visual.blocks.*.attn.*"),
    ),
    _Other(
        "MobileCLIP",
        "its image tower is a FastViT or has a convolutional stem",
        ("timm_model_name=fastvit_mci*", "timm_model_name=*_mci_*", "image_encoder.model.*"),
    ),
    _Other(
        "PE-Core (Perception Encoder)",
        "its image tower has rotary positions and pools by attention",
        ("timm_model_name=vit_pe_*", "visual.attn_pool.*"),
    ),
    _Other("CLIPA", "its towers pool otherwise, and its texts are not causal", ("no_ln_pre=True",)),
    _Other("CoCa", "it has a decoder of captions", ("multimodal_cfg=*", "text_decoder.*")),
    _Other(
        "CLIP with CoCa's text tower",
        "its texts end with a learnt token",
        ("embed_cls=True", "cls_emb", "text.cls_emb"),
    ),
    _Other("CLIP with a ResNet", "its image tower is no vision transformer", ("layers=[[]*", "visual.layer1.*")),
    _Other("CLIP with an image tower of timm", "that is no tower of CLIP's", ("timm_model_name=?*", "visual.trunk.*")),
    _Other(
        "CLIP with a text tower of transformers",
        "that is no tower of CLIP's",
        ("hf_model_name=?*", "text.transformer.embeddings.*"),
    ),
    _Other("an image tower of timm alone", "the method needs the text tower too", ("architecture=*", "blocks.*")),
)


def other(marks: Iterable[str]) -> str:
    """A sentence on the encoder that these marks are of, and what to take instead; '' for an unknown one.

    Args:
      marks: names of tensors, or `fields`.
    """
    marks = list(marks)
    for name, differs, patterns in _OTHERS:
        if any(fnmatch.fnmatchcase(mark, pattern) for pattern in patterns for mark in marks):
            return f"It looks like {name}, which is not read: {differs}. {_INSTEAD}"
    return ""


def fields(*sections: object) -> list[str]:
    """The set fields of a configuration's sections as "name=value"."""
    given = [cast("dict[str, object]", section) for section in sections if isinstance(section, dict)]
    return [f"{name}={value}" for section in given for name, value in section.items() if value]


def refuse_others(marks: Iterable[str], source: str) -> None:
    """Raises ValueError for one of the known other encoders; `source` is the file."""
    if sentence := other(marks):
        raise ValueError(f"{source} is of another architecture than CLIP's. {sentence}")
