"""Odd fields in config.json: a family honours them as `transformers` does, or refuses them.

Without PyTorch only the refusals are checked; with it, every accepted config is compared by its
logits.
"""

import importlib.util

import numpy as np
import pytest
import transformers

from llm import models

# Fields that change some decoder of `transformers`, with values away from what is usual.
ODD = {
    "partial_rotary_factor": [0.5],
    "rotary_pct": [0.5],
    "rope_theta": [100.0],
    "rotary_emb_base": [100.0],
    "rope_local_base_freq": [100.0],
    "attn_logit_softcapping": [1.0],
    "final_logit_softcapping": [1.0],
    "query_pre_attn_scalar": [3],
    "hidden_act": ["gelu", "silu", "gelu_new"],
    "hidden_activation": ["gelu", "silu", "gelu_pytorch_tanh"],
    "use_parallel_residual": [True, False],
    "is_causal": [False, True],
    "use_bidirectional_attention": [True, False],
    "attention_bias": [True, False],
    "mlp_bias": [True, False],
    "sliding_window": [3],
    "use_sliding_window": [True],
    "max_window_layers": [0],
    "layer_types": [["sliding_attention", "full_attention"], ["full_attention"] * 2],
    "head_dim": [4],
    "num_key_value_heads": [1, 4],
    "layer_norm_eps": [0.1],
    "rms_norm_eps": [0.1],
    "tie_word_embeddings": [True, False],
    "logits_scaling": [4.0, 1.0],
    "rope_parameters": [
        {"rope_type": "default", "rope_theta": 100.0},
        {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
        {"rope_type": "default", "rope_theta": 100.0, "factor": 4.0},
        {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0},
        {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0},
    ],
    "original_max_position_embeddings": [16],
    "initializer_range": [0.5],
    "attention_dropout": [0.5],
    "use_cache": [False],
    "pretraining_tp": [2],
    "per_layer_config": [{"1": {"rms_norm_eps": 0.1}}, {"1": {"layer_norm_eps": 0.1}}],
}
CASES = [
    (name, field, value)
    for name in models.FAMILIES
    for field, values in ODD.items()
    for value in values
]
TOKENS = np.random.default_rng(0).integers(3, 97, (2, 12))


def hf_config(name, field=None, value=None):
    """The first tiny config of a family with one field more, as read from a config.json."""
    fields = next(iter(models.FAMILIES[name].tiny.values()))
    fields = {k: v for k, v in fields.items() if k != "rope_parameters" or name == "gemma3_text"}
    return transformers.AutoConfig.for_model(name, **fields, **({field: value} if field else {}))


def refusal(hf):
    """Why a config is refused, or None."""
    try:
        models.from_hf(hf)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("names", "field", "value"),
    [
        (("llama", "qwen2", "qwen3", "gemma", "gemma2"), "partial_rotary_factor", 0.5),
        (("llama", "qwen2", "qwen3", "gemma", "gpt_neox"), "final_logit_softcapping", 1.0),
        (("llama", "qwen2", "qwen3", "gemma", "gpt_neox"), "query_pre_attn_scalar", 3),
        (("llama", "gemma", "gemma3_text", "gpt_neox"), "attn_logit_softcapping", 1.0),
        (("llama", "qwen2", "qwen3", "gemma", "gpt_neox"), "hidden_activation", "relu"),
        (("llama", "qwen2", "qwen3", "gemma", "gemma2"), "use_parallel_residual", True),
        (tuple(models.FAMILIES), "is_causal", False),
        (tuple(models.FAMILIES), "use_bidirectional_attention", True),
        (("llama", "gemma", "gpt_neox"), "sliding_window", 3),
        (("gemma", "qwen2", "qwen3", "gemma2"), "mlp_bias", True),
    ],
)
def test_a_field_of_another_family_is_refused(names, field, value):
    for name in names:
        assert refusal(hf_config(name)) is None
        reason = refusal(hf_config(name, field, value))
        assert reason is not None, name
        assert field in reason or "turns whole heads, not 0.5" in reason
        assert "\n" not in reason


def test_a_field_that_says_what_the_model_does_anyway_is_accepted():
    for name, field, value in (
        ("llama", "is_causal", True),
        ("llama", "attn_logit_softcapping", None),
        ("llama", "query_pre_attn_scalar", 8),
        ("gemma", "hidden_activation", "gelu_pytorch_tanh"),
        ("gemma2", "hidden_act", "gelu_pytorch_tanh"),
        ("gpt_neox", "head_dim", 8),
        ("qwen2", "attention_bias", False),
    ):
        assert models.from_hf(hf_config(name, field, value)) == models.from_hf(hf_config(name))


# What these read, another family reads as well: their own forty configs each are a slow test.
KIN = ("qwen2", "qwen3", "gemma")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no PyTorch")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in KIN else []) for n in models.FAMILIES],
)
def test_what_is_accepted_has_the_logits_of_transformers(name, tmp_path):
    different, compared = [], 0
    for field, value in [(f, v) for n, f, v in CASES if n == name]:
        try:
            hf = hf_config(name, field, value)
        except Exception:  # `transformers` refuses it itself
            continue
        if refusal(hf) is not None:
            continue
        folder = tmp_path / f"{compared}"
        theirs = reference_logits(hf, folder)
        ours = models.apply(*models.load(folder), TOKENS)
        compared += 1
        if np.abs(ours - theirs).max() > 2e-5 * max(1, theirs.std()):
            different.append((field, value, float(np.abs(ours - theirs).max())))
    assert not different
    assert compared >= 12


def reference_logits(hf, folder):
    """Logits of a random torch model far from uniform attention, which is saved in `folder`."""
    import torch

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(hf, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            noise = 0.15 * torch.randn_like(weight)
            weight.copy_(noise if weight.ndim > 1 else weight + noise)
        logits = model(torch.tensor(TOKENS)).logits.numpy()
    model.save_pretrained(folder)
    return logits
