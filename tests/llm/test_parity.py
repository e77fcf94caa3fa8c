"""Every family against `transformers` (PyTorch) on tiny random checkpoints, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)
GQA = TINY | dict(num_key_value_heads=2, head_dim=8)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
CASES = {
    "llama2": ("llama", TINY | dict(tie_word_embeddings=False)),
    "llama3": ("llama", GQA | dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "llama_biased": ("llama", GQA | dict(attention_bias=True, mlp_bias=True, head_dim=16)),
    "smollm2": ("llama", GQA | dict(tie_word_embeddings=True, num_attention_heads=2)),
    "qwen2": ("qwen2", GQA | dict(tie_word_embeddings=False)),
    "qwen2_window": (
        "qwen2",
        GQA | dict(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "qwen3": ("qwen3", GQA | dict(tie_word_embeddings=True, head_dim=16)),
    "gemma": ("gemma", GQA | dict(num_key_value_heads=1, head_dim=16)),
    "gemma2": ("gemma2", GQA | dict(sliding_window=4, query_pre_attn_scalar=24)),
    "gemma3": (
        "gemma3_text",
        GQA
        | dict(
            sliding_window=4,
            query_pre_attn_scalar=24,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
    ),
    "pythia": ("gpt_neox", TINY),
    "neox_serial": (
        "gpt_neox",
        TINY | dict(use_parallel_residual=False, tie_word_embeddings=True),
    ),
}
TOLERANCE = 2e-5  # on logits of unit scale, float32
ROWS, LENGTH, NEW = 3, 11, 8


def reference(family: str, fields: dict, seed: int = 0):
    """A random torch model whose logits have unit scale and whose norms and biases matter."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.2 * torch.randn_like(weight))
            elif "embed" not in name:
                weight.mul_(8)  # attention far from uniform
        logits = model(torch.arange(fields["vocab_size"])[None, :48]).logits
        cap = getattr(config, "final_logit_softcapping", None)
        head = model.get_output_embeddings().weight
        if cap is None and not config.tie_word_embeddings:
            head.div_(logits.std())
        elif not cap:
            model.get_parameter(norm_of(model)).div_(logits.std())
    return model.eval()


def norm_of(model) -> str:
    names = [name for name, _ in model.named_parameters()]
    return next(n for n in names if n.endswith(("model.norm.weight", "final_layer_norm.weight")))


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request, tmp_path_factory):
    family, fields = CASES[request.param]
    model = reference(family, fields)
    folder = tmp_path_factory.mktemp(request.param) / "checkpoint"
    model.save_pretrained(folder)
    return model, folder, *models.load(folder)


def batch(side: str):
    """Random tokens, rows of 11, 8 and 4 real tokens, padding on one side."""
    tokens = np.random.default_rng(0).integers(3, 97, (ROWS, LENGTH))
    lengths = np.array([[11], [8], [4]])
    slots = np.arange(LENGTH)[None]
    mask = slots < lengths if side == "right" else slots >= LENGTH - lengths
    return np.where(mask, tokens, 0), mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_equal_transformers(case, side):
    model, _, config, params = case
    tokens, mask = batch(side)
    ours = jax.jit(lambda p, t, m: models.apply(config, p, t, mask=m))(params, tokens, mask)
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        theirs = model(
            torch.tensor(tokens),
            attention_mask=torch.tensor(mask.astype(int)),
            position_ids=torch.tensor(positions),
        ).logits.numpy()
    scale = theirs[mask].std()
    difference = np.abs(np.asarray(ours) - theirs)[mask].max()
    print(f"max abs difference {difference:.2g} at logits of scale {scale:.2g}")
    assert difference <= TOLERANCE * max(scale, 1), f"{difference:.3g} at scale {scale:.3g}"
