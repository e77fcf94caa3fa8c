"""Every family against `transformers` (PyTorch) on tiny random checkpoints, both ways."""

import jax
import numpy as np
import pytest

from llm import models, sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CASES = {
    f"{name}-{variant}": (family, fields)
    for name, family in models.FAMILIES.items()
    for variant, fields in family.tiny.items()
}
FIRST = [f"{name}-{next(iter(family.tiny))}" for name, family in models.FAMILIES.items()]
TOLERANCE = 2e-5  # on logits of unit scale, float32


def reference(family, fields: dict):
    """A random torch model whose logits have unit scale and whose norms and biases matter."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family.name, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.2 * torch.randn_like(weight))
            elif "embed" not in name:
                weight.mul_(8)  # attention far from uniform
        scale = model(torch.arange(fields["vocab_size"])[None, :48]).logits.std()
        norm = dict(model.named_parameters())[family.names["norm"] + ".weight"]
        offset = family.fixed.get("norm_offset", 0)
        norm.copy_((norm + offset) / scale - offset)
    return model.eval()


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request, tmp_path_factory):
    family, fields = CASES[request.param]
    model = reference(family, fields)
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    model.save_pretrained(folder)
    return model, *models.load(folder)


def batch(side: str):
    """Random tokens, rows of 11, 8 and 4 real tokens, padding on one side."""
    tokens = np.random.default_rng(0).integers(3, 97, (3, 11))
    lengths = np.array([[11], [8], [4]])
    slots = np.arange(11)[None]
    mask = slots < lengths if side == "right" else slots >= 11 - lengths
    return np.where(mask, tokens, 0), mask


def torch_logits(model, tokens, mask):
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        inputs = {
            "input_ids": tokens,
            "attention_mask": mask.astype(int),
            "position_ids": positions,
        }
        return model(**{name: torch.tensor(x) for name, x in inputs.items()}).logits.numpy()


def test_logits_equal_transformers(case):
    """With our own attention and with that of `jax.nn`, which accelerators have fused."""
    model, config, params = case
    apply = jax.jit(
        lambda p, t, m, kind: models.apply(config, p, t, mask=m, implementation=kind),
        static_argnums=3,
    )
    for side, kind in (("left", None), ("right", None), ("left", "xla"), ("right", "xla")):
        tokens, mask = batch(side)
        theirs = torch_logits(model, tokens, mask)
        difference = np.abs(np.asarray(apply(params, tokens, mask, kind)) - theirs)[mask].max()
        scale = theirs[mask].std()
        print(f"{side} {kind}: max abs difference {difference:.2g}, deviation {scale:.2g}")
        assert 0.5 < scale < 2
        assert difference <= TOLERANCE, f"{difference:.3g} of logits with deviation {scale:.3g}"


@pytest.mark.parametrize("case", FIRST, indirect=True)
def test_greedy_continuation_equals_transformers(case):
    model, config, params = case
    prompts, mask = batch("left")
    with torch.no_grad():
        theirs = model.generate(
            torch.tensor(prompts),
            attention_mask=torch.tensor(mask.astype(int)),
            do_sample=False,
            max_new_tokens=8,
            min_new_tokens=8,
            pad_token_id=0,
        ).numpy()[:, 11:]
    # `min_new_tokens` bars the end token, so it is barred here as well.
    choice = sampling.Choice(temperature=0.0, allowed=np.arange(97) != 2)
    ours, ours_mask = jax.jit(
        lambda p, t, m, k: sampling.generate(
            models.bind(config, p), t, mask=m, keys=k, choice=choice, max_new_tokens=8
        )
    )(params, prompts, mask, jax.random.split(jax.random.key(0), 3))
    assert ours_mask.all()
    np.testing.assert_array_equal(ours, theirs)


def test_saved_folder_is_the_same_model_in_transformers(case, tmp_path):
    model, config, params = case
    models.save(tmp_path / "back", config, params)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", attn_implementation="eager"
    ).eval()
    stored, expected = again.state_dict(), model.state_dict()
    assert stored.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(stored[name], weight), name
    tokens, mask = batch("right")
    expected_logits = torch_logits(model, tokens, mask)
    np.testing.assert_array_equal(torch_logits(again, tokens, mask), expected_logits)
    assert models.load_config(tmp_path / "back") == config
