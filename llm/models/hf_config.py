"""`ModelConfig` from a `transformers` config object, and back."""

from typing import Any

from .config import SUPPORTED, ModelConfig, Rope, supported_models

_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def from_hf(hf: Any) -> ModelConfig:
    """`ModelConfig` of a `transformers` config object (from `AutoConfig`, never raw JSON).

    Raises:
        ValueError: an unsupported model type, rope scaling, activation or attention variant.
    """
    if hf.model_type == "gemma3":  # the multimodal wrapper: only its text part is read
        hf = hf.text_config
    family = hf.model_type
    if family not in SUPPORTED:
        raise ValueError(f"model type {family!r} is not supported. {supported_models()}")
    if getattr(hf, "use_bidirectional_attention", None):
        raise ValueError(f"{family} with bidirectional attention is not supported")
    heads = hf.num_attention_heads
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // heads
    windows = _windows(hf)
    rope, local_rope = _ropes(hf, head_dim)
    attention_bias = bool(getattr(hf, "attention_bias", False))
    scalar = getattr(hf, "query_pre_attn_scalar", None)
    eos = hf.eos_token_id
    return ModelConfig(
        family=family,
        vocab_size=hf.vocab_size,
        width=hf.hidden_size,
        num_layers=hf.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(hf, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        mlp_width=hf.intermediate_size,
        max_positions=hf.max_position_embeddings,
        rope=rope,
        local_rope=local_rope if any(windows) else None,
        windows=windows if any(windows) else (),
        norm_eps=hf.layer_norm_eps if family == "gpt_neox" else hf.rms_norm_eps,
        tie_embeddings=bool(hf.tie_word_embeddings),
        activation=_activation(getattr(hf, "hidden_activation", None) or hf.hidden_act),
        attention_scale=None if scalar is None else scalar**-0.5,
        attention_softcap=getattr(hf, "attn_logit_softcapping", None),
        logit_softcap=getattr(hf, "final_logit_softcapping", None),
        qkv_bias=attention_bias or family == "qwen2",
        out_bias=attention_bias,
        mlp_bias=family == "gpt_neox" or bool(getattr(hf, "mlp_bias", False)),
        qk_norm=family in ("qwen3", "gemma3_text"),
        post_norms=family in ("gemma2", "gemma3_text"),
        parallel=bool(getattr(hf, "use_parallel_residual", False)),
        init_std=hf.initializer_range,
        bos_token_id=hf.bos_token_id,
        eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
    )


def to_hf(config: ModelConfig) -> Any:
    """The `transformers` config object that describes the same model."""
    from transformers import AutoConfig

    eos = list(config.eos_token_ids)
    fields = dict(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.max_positions,
        initializer_range=config.init_std,
        tie_word_embeddings=config.tie_embeddings,
        bos_token_id=config.bos_token_id,
        eos_token_id=(eos[0] if len(eos) == 1 else eos or None),
        pad_token_id=None,
        rope_parameters=_rope_parameters(config.rope),
    )
    if config.is_neox:
        fields |= dict(
            layer_norm_eps=config.norm_eps,
            hidden_act=_to_hf_activation(config.activation),
            attention_bias=config.qkv_bias,
            use_parallel_residual=config.parallel,
        )
        fields["rope_parameters"]["partial_rotary_factor"] = config.rope.dim / config.head_dim  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
        return AutoConfig.for_model(config.family, **fields)
    fields |= dict(
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
    )
    act = "hidden_activation" if config.post_norms else "hidden_act"
    fields[act] = _to_hf_activation(config.activation)
    if config.family != "qwen2":
        fields["attention_bias"] = config.out_bias
    if config.family == "llama":
        fields["mlp_bias"] = config.mlp_bias
    if config.family in ("gemma2", "gemma3_text"):
        fields |= dict(
            query_pre_attn_scalar=_round(config.attention_scale**-2),  # pyright: ignore[reportOptionalOperand]
            attn_logit_softcapping=config.attention_softcap,
            final_logit_softcapping=config.logit_softcap,
        )
    if config.windows:
        names = ["full_attention" if w is None else "sliding_attention" for w in config.windows]
        fields |= dict(layer_types=names, sliding_window=next(w for w in config.windows if w))
        if config.family.startswith("qwen"):
            fields["use_sliding_window"] = True
    elif config.post_norms:
        fields["layer_types"] = ["full_attention"] * config.num_layers
    if config.family == "gemma3_text":
        local = config.local_rope or Rope(dim=config.head_dim)
        fields["rope_parameters"] = {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": _rope_parameters(local),
        }
    return AutoConfig.for_model(config.family, **fields)


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not supported; known: {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _to_hf_activation(name: str) -> str:
    return {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}[name]


def _windows(hf: Any) -> tuple[int | None, ...]:
    kinds = getattr(hf, "layer_types", None) or ["full_attention"] * hf.num_hidden_layers
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown:
        raise ValueError(f"layer types {sorted(unknown)} of {hf.model_type} are not supported")
    return tuple(hf.sliding_window if kind == "sliding_attention" else None for kind in kinds)


def _ropes(hf: Any, head_dim: int) -> tuple[Rope, Rope | None]:
    """Rotary settings of full layers, and of windowed layers where those have their own."""
    parameters = hf.rope_parameters
    if "full_attention" in parameters:
        return (
            _rope(parameters["full_attention"], hf, head_dim),
            _rope(parameters["sliding_attention"], hf, head_dim),
        )
    return _rope(parameters, hf, head_dim), None


def _rope(parameters: dict[str, Any], hf: Any, head_dim: int) -> Rope:
    scaling = parameters.get("rope_type", "default")
    common = dict(
        theta=float(parameters["rope_theta"]),
        dim=int(head_dim * (parameters.get("partial_rotary_factor") or 1.0)),
    )
    if scaling == "default":
        return Rope(**common)
    if scaling == "linear":
        return Rope(**common, scaling=scaling, factor=parameters["factor"])
    if scaling == "llama3":
        return Rope(
            **common,
            scaling=scaling,
            factor=parameters["factor"],
            low_freq_factor=parameters["low_freq_factor"],
            high_freq_factor=parameters["high_freq_factor"],
            original_max_positions=parameters["original_max_position_embeddings"],
        )
    raise ValueError(
        f"rope scaling {scaling!r} of {hf.model_type} is not supported; "
        "supported: default, linear, llama3"
    )


def _rope_parameters(rope: Rope) -> dict[str, Any]:
    parameters: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta}
    if rope.scaling != "default":
        parameters["factor"] = rope.factor
    if rope.scaling == "llama3":
        parameters |= dict(
            low_freq_factor=rope.low_freq_factor,
            high_freq_factor=rope.high_freq_factor,
            original_max_position_embeddings=rope.original_max_positions,
        )
    return parameters


def _round(x: float) -> int | float:
    return round(x) if abs(x - round(x)) < 1e-6 * abs(x) else x
