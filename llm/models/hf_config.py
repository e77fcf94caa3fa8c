"""`ModelConfig` from config.json by way of `transformers`, and back, by the fields of the family.

A field that changes the decoders of another family, or of none here, is no field to read over:
it must be absent or say what the model does anyway, else the config is refused.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config import ModelConfig
from .families import FAMILIES, family_of, supported_models
from .family import Family
from .folders import folder_of, without_weights
from .from_gguf import hf_config
from .gguf_file import is_gguf

# Fields that change a decoder of `transformers` in no family's way here, with what a model does.
_ELSEWHERE: dict[str, Callable[[ModelConfig], Any]] = {
    "is_causal": lambda config: True,
    "rope_theta": lambda config: config.rope.theta,  # a leftover: read ones are in rope_parameters
    "rotary_emb_base": lambda config: config.rope.theta,
    "rotary_pct": lambda config: config.rope.dim / config.head_dim,
    "partial_rotary_factor": lambda config: config.rope.dim / config.head_dim,
    "rope_local_base_freq": lambda config: (config.local_rope or config.rope).theta,
    **dict.fromkeys(
        (
            "use_bidirectional_attention",
            "use_qk_norm",
            "qk_layernorm",
            "use_mrope",
            "rope_interleaved",
            "alibi",
            "add_cross_attention",
        ),
        lambda config: False,
    ),
    **dict.fromkeys(
        ("logit_scale", "logits_scaling", "residual_multiplier", "embedding_multiplier"),
        lambda config: 1,
    ),
    **dict.fromkeys(
        (
            "attention_multiplier",
            "attention_chunk_size",
            "clip_qkv",
            "no_rope_layers",
            "num_experts",
            "num_local_experts",
            "n_routed_experts",
        ),
        lambda config: None,
    ),
}


def load_config(folder_or_name: str | os.PathLike) -> ModelConfig:
    """`ModelConfig` of a checkpoint; code that comes with it is never run.

    The tokens that end a text are those of config.json and of generation_config.json: some models
    name them in the second file alone.

    Raises:
        ValueError: no config.json, one that asks for code of its own or tells of quantised
            weights, or a model that is not supported.
    """
    from transformers import AutoConfig

    with without_weights():
        place = folder_of(folder_or_name)
    if is_gguf(place):
        return _said_by(place, hf_config(place))
    file = place / "config.json"
    if not file.is_file():
        raise ValueError(f"no config.json in {file.parent}: not a Hugging Face checkpoint folder")
    record = _json_object(file)
    tokenizer_file = file.with_name("tokenizer_config.json")
    if "auto_map" in record or "auto_map" in _json_object(tokenizer_file, absent={}):
        raise ValueError(
            f"{file.parent} asks for code of its own (auto_map), which is never run. "
            + supported_models()
        )
    if record.get("quantization_config") or record.get("compression_config"):
        raise ValueError(
            f"{file.parent} holds quantised weights; use a bf16, f16 or f32 checkpoint"
        )
    try:
        hf = AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{file}: {_first_line(error)}. {supported_models()}") from error
    return _said_by(file, hf)


def _said_by(file: Path, hf: Any) -> ModelConfig:
    """`from_hf`, with the file in its complaints."""
    try:
        config = from_hf(hf)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except (AttributeError, KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{file} lacks a value or has one of another type ({error})") from error
    further = _ends(file.with_name("generation_config.json"))
    stops = tuple(dict.fromkeys([*config.eos_token_ids, *further]))
    return dataclasses.replace(config, eos_token_ids=stops)


def _ends(file: Path) -> list[int]:
    """The tokens that end a text by generation_config.json, which may be absent."""
    said = _json_object(file, absent={}).get("eos_token_id")
    stops = said if isinstance(said, list) else [] if said is None else [said]
    if not all(type(stop) is int for stop in stops):
        raise ValueError(f"{file}: eos_token_id must be a token's number or several, not {said!r}")
    return stops


def is_wrapped(folder_or_name: str | os.PathLike) -> bool:
    """Whether a checkpoint is a multimodal model, of which only the text part is read.

    Raises:
        ValueError: as `load_config`.
    """
    with without_weights():
        place = folder_of(folder_or_name)
    if is_gguf(place):
        return False  # of multimodal models only the text part is ever in such a file
    record = _json_object(place / "config.json")
    return record.get("model_type") in {f.wrapper for f in FAMILIES.values() if f.wrapper}


def from_hf(hf: Any) -> ModelConfig:
    """`ModelConfig` of a `transformers` config object (from `AutoConfig`, never raw JSON).

    Raises:
        ValueError: an unsupported model type, rope scaling, activation or attention variant, or
            a field set that the family does not honour.
    """
    for family in FAMILIES.values():
        if hf.model_type == family.wrapper:  # of a multimodal model only the text part is read
            hf = hf.text_config
    family = family_of(hf.model_type)
    if getattr(hf, "is_heterogeneous", False):
        raise ValueError(f"{family.name} with per_layer_config is not supported")
    fields: dict[str, Any] = {"family": family.name, **family.fixed}
    for name, field in family.fields.items():
        fields |= field.read(getattr(hf, name, None), hf)
    config = ModelConfig(**fields)
    _refuse_foreign_fields(family, config, hf)
    return config


def to_hf(config: ModelConfig) -> Any:
    """The `transformers` config object that describes the same model.

    Raises:
        ValueError: the family has no such model.
    """
    from transformers import AutoConfig

    family = family_of(config.family)
    fields = {name: field.write(config) for name, field in family.fields.items() if field.write}
    hf = AutoConfig.for_model(family.name, pad_token_id=None, **fields)
    read = vars(from_hf(hf))
    different = [name for name, value in vars(config).items() if value != read[name]]
    if different:
        said = ", ".join(f"{name} = {getattr(config, name)!r}" for name in different)
        raise ValueError(f"a {family.name} checkpoint cannot have {said}")
    return hf


def _refuse_foreign_fields(family: Family, config: ModelConfig, hf: Any) -> None:
    """Refuse fields of other families unless they say what this model does anyway."""
    known: Mapping[str, Callable[[ModelConfig], Any] | None] = _ELSEWHERE | {
        name: field.write for other in FAMILIES.values() for name, field in other.fields.items()
    }
    foreign = {
        name: getattr(hf, name)
        for name, write in known.items()
        if name not in family.fields
        and write is not None
        and getattr(hf, name, None) not in (None, write(config))
    }
    if foreign:
        said = ", ".join(f"{name} = {value!r}" for name, value in sorted(foreign.items()))
        raise ValueError(
            f"config.json sets {said}, which {family.name} models do not have: "
            "set it to null if the model was trained without it"
        )


def _json_object(file: Path, absent: dict[str, Any] | None = None) -> dict[str, Any]:
    if absent is not None and not file.is_file():
        return absent
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {_first_line(error)}. {supported_models()}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{file} holds no JSON object")
    return record


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
