"""What a model family is made of, and how the fields of its config.json are read and written.

A family is one file of `families/`: a `Family` record that says how its decoders differ. Each
field of config.json that it honours is a `Field`, a pair of functions to and from `ModelConfig`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .config import ModelConfig, Rope
from .gguf_file import GgufFile

_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


class Field(NamedTuple):
    """One field of config.json."""

    # (its value or None, the whole `transformers` config) -> fields of ModelConfig.
    read: Callable[[Any, Any], dict[str, Any]]
    # Its value for a model; None for a field that only decides others.
    write: Callable[[ModelConfig], Any] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gguf:
    """How a family lies in GGUF files."""

    architecture: str  # as the metadata call it
    names: Mapping[str, str]  # of parts of tensor names, as in safetensors
    # (metadata of the architecture, file) -> fields of config.json; takes out what it has read.
    read: Callable[[dict[str, Any], GgufFile], dict[str, Any]]
    interleaved: bool = False  # rows of q and k that turn together are neighbours
    folded: tuple[str, ...] = ()  # tensors that `read` has made a part of the config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How the decoders of one `model_type` of `transformers` differ from each other and from ours.

    Everything that changes the computation stands in `fixed` or `fields`: a config.json that sets
    any other field known to change a decoder is refused (`hf_config.from_hf`).
    """

    name: str  # `model_type` in config.json
    models: str  # published models, for messages
    fields: Mapping[str, Field]  # of config.json that it honours
    names: Mapping[str, str]  # of modules in weight files, by our names for them
    tiny: Mapping[str, dict[str, Any]]  # small config.json of every variant, for the parity tests
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # ModelConfig of all models
    wrapper: str = ""  # multimodal `model_type` whose `text_config` is of this family
    wrapped: tuple[str, str] = ("", "")  # beginning of the decoder's module names, alone and there
    spellings: tuple[tuple[str, str], ...] = ()  # (pattern, replacement): older tensor names
    ignored: str = r"rotary_emb\.inv_freq$"  # pattern of tensors without meaning here
    gguf: Gguf | None = None  # None: its GGUF files are not read


def plain(*ours: str) -> Field:
    """A field that some fields of `ModelConfig` take as it is."""
    return Field(lambda value, hf: dict.fromkeys(ours, value), lambda c: getattr(c, ours[0]))


def switch(*ours: str) -> Field:
    """A boolean field, false where it is absent."""
    return Field(lambda value, hf: dict.fromkeys(ours, bool(value)), lambda c: getattr(c, ours[0]))


def folded(write: Callable[[ModelConfig], Any] | None = None) -> Field:
    """A field without a part of its own: another field (such as `layer_types`) has it in it."""
    return Field(lambda value, hf: {}, write)


def _read_activation(value: str, hf: Any) -> dict[str, Any]:
    if value not in _ACTIVATIONS:
        raise ValueError(f"activation {value!r} is not supported; known: {sorted(_ACTIVATIONS)}")
    return {"activation": _ACTIVATIONS[value]}


def _write_activation(config: ModelConfig) -> str:
    return {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}[config.activation]


def _read_eos(value: int | list[int] | None, hf: Any) -> dict[str, Any]:
    several = value if isinstance(value, list) else [] if value is None else [value]
    return {"eos_token_ids": tuple(several)}


def _write_eos(config: ModelConfig) -> int | list[int] | None:
    several = list(config.eos_token_ids)
    return several[0] if len(several) == 1 else several or None


def _read_windows(kinds: list[str] | None, hf: Any) -> dict[str, Any]:
    kinds = kinds or []
    if unknown := set(kinds) - {_FULL, _SLIDING}:
        raise ValueError(f"layer types {sorted(unknown)} of {hf.model_type} are not supported")
    if _SLIDING not in kinds:
        return {"windows": ()}
    if not hf.sliding_window or hf.sliding_window < 1:
        raise ValueError(f"sliding layers with sliding_window {hf.sliding_window} are no windows")
    return {"windows": tuple(hf.sliding_window if k == _SLIDING else None for k in kinds)}


def _write_layer_types(config: ModelConfig) -> list[str]:
    windows = config.windows or (None,) * config.num_layers
    return [_FULL if window is None else _SLIDING for window in windows]


def rope_field(partial: bool = False) -> Field:
    """One rotary embedding for all layers; `partial`: of some of each head's entries only."""

    def read(value: dict[str, Any], hf: Any) -> dict[str, Any]:
        return {"rope": read_rope(value, hf, partial)}

    return Field(read, lambda config: write_rope(config.rope, config.head_dim, partial))


def read_rope(parameters: dict[str, Any], hf: Any, partial: bool = False) -> Rope:
    """`Rope` of one `rope_parameters` dictionary.

    Raises:
        ValueError: another scaling, or a key that this scaling does not have.
    """
    set_keys = {key: value for key, value in parameters.items() if value is not None}
    scaling = set_keys.pop("rope_type", "default")
    if scaling not in _ROPE_KEYS:
        raise ValueError(
            f"rope scaling {scaling!r} of {hf.model_type} is not supported; "
            f"supported: {', '.join(_ROPE_KEYS)}"
        )
    theta, fraction = set_keys.pop("rope_theta"), set_keys.pop("partial_rotary_factor", 1.0)
    if fraction != 1 and not partial:
        raise ValueError(f"{hf.model_type} turns whole heads, not {fraction} of them")
    own = {key: set_keys[key] for key in _ROPE_KEYS[scaling]}
    foreign = set_keys.keys() - own.keys() - {"type", "original_max_position_embeddings"}
    if foreign:
        raise ValueError(f"rope scaling {scaling!r} with {sorted(foreign)} is not supported")
    if "original_max_position_embeddings" in own:
        own["original_max_positions"] = own.pop("original_max_position_embeddings")
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    return Rope(theta=float(theta), dim=int(head_dim * fraction), scaling=scaling, **own)


def write_rope(rope: Rope, head_dim: int, partial: bool = False) -> dict[str, Any]:
    """The `rope_parameters` dictionary of a `Rope`."""
    parameters: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    for key in _ROPE_KEYS[rope.scaling]:
        ours = "original_max_positions" if key.startswith("original") else key
        parameters[key] = getattr(rope, ours)
    return parameters | ({"partial_rotary_factor": rope.dim / head_dim} if partial else {})


ACTIVATION = Field(_read_activation, _write_activation)
EOS = Field(_read_eos, _write_eos)
WINDOWS = {
    "layer_types": Field(_read_windows, _write_layer_types),
    "sliding_window": folded(lambda config: next((w for w in config.windows if w), None)),
}
SWITCHED_WINDOWS = WINDOWS | {
    "use_sliding_window": folded(lambda config: any(config.windows)),
    "max_window_layers": folded(),
}
