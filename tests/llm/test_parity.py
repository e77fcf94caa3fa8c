"""Every family against `transformers` (PyTorch) on tiny random checkpoints, both ways."""

import jax
import numpy as np
import pytest
from safetensors import safe_open

from llm import engines, models, sampling, tiny
from llm.training import lora, peft_format

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


@pytest.fixture(autouse=True)
def _float32_is_float32():
    """Accelerators multiply float32 with fewer digits unless told."""
    with jax.default_matmul_precision("highest"):
        yield


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


def multimodal(seed: int = 0):
    """A small Gemma 3 that sees: its decoder lies within, under names of its own."""
    torch.manual_seed(seed)
    # The wrapper knows no soft cap of logits; published models have none.
    text = models.FAMILIES["gemma3_text"].tiny["gemma3"] | {"final_logit_softcapping": None}
    vision = dict(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=96,
        boi_token_index=94,
        eoi_token_index=95,
    )
    return transformers.Gemma3ForConditionalGeneration(config).eval()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
def test_adapters_of_a_multimodal_folder_have_the_names_of_its_modules(tmp_path):
    """LoRA trained on the text part is what PEFT loads beside the whole model, and back."""
    peft = pytest.importorskip("peft")
    whole = multimodal()
    whole.save_pretrained(tmp_path / "base")
    config, params = models.load(tmp_path / "base")
    assert models.is_wrapped(tmp_path / "base")
    how = lora.LoraConfig(rank=2, alpha=4.0)
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, lora.init(how, params, key=jax.random.key(1)))
    engine = engines.OnMesh(axes=(1, 1, 1), dtype="float32")
    weights = engine.load(tmp_path / "base")._replace(adapters=adapters, settings=how)
    engine.save(tmp_path / "ours", config, weights=weights, tokenizer=tiny.tokenizer(), files={})
    with safe_open(tmp_path / "ours" / "adapter_model.safetensors", framework="np") as file:
        modules = {name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in file.keys()}  # noqa: SIM118
    assert modules <= dict(whole.named_modules()).keys()
    model = peft.PeftModel.from_pretrained(multimodal(), tmp_path / "ours").eval()
    tokens, mask = batch("right")
    tokens = np.where(tokens < 94, tokens, 3)  # the others stand for images
    ours = jax.jit(lambda p, a, t, m: lora.bind(config, p, adapters=a, scale=how.scale)(t, mask=m))(
        params, adapters, tokens, mask
    )
    theirs, plain = torch_logits(model, tokens, mask), torch_logits(whole, tokens, mask)
    assert np.abs(theirs - plain)[mask].max() > 0.01, "PEFT has loaded something"
    assert np.abs(np.asarray(ours) - theirs)[mask].max() < TOLERANCE * max(1, theirs.std())
    model.save_pretrained(tmp_path / "theirs")
    back_settings, back = peft_format.load(tmp_path / "theirs", config)
    assert back_settings.scale == how.scale
    jax.tree.map(np.testing.assert_array_equal, back, adapters)
