"""LoRA: exact at the start, equal when merged, and the same as PEFT through its files."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm import models
from llm.models import ModelConfig
from llm.training import lora, peft_format

LLAMA = ModelConfig(vocab_size=31, num_layers=1, num_kv_heads=2, init_std=0.3, max_positions=32)
NEOX = dataclasses.replace(
    LLAMA,
    family="gpt_neox",
    num_kv_heads=4,
    parallel=True,
    qkv_bias=True,
    out_bias=True,
    activation="gelu",
    tie_embeddings=False,
    **models.FAMILIES["gpt_neox"].fixed,
)
SETTINGS = lora.LoraConfig(rank=3, alpha=6.0)
TOKENS = jax.random.randint(jax.random.key(9), (2, 8), 0, 31)


@pytest.fixture(scope="module")
def params():
    return models.init(LLAMA, key=jax.random.key(0))


@pytest.fixture(scope="module")
def adapters(params):
    """Adapters away from their start: B is not zero."""
    return randomised(lora.init(SETTINGS, params, key=jax.random.key(1)))


def randomised(adapters):
    leaves, treedef = jax.tree.flatten(adapters)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        treedef, [jnp.float32(0.1 * rng.normal(size=x.shape)) for x in leaves]
    )


@functools.partial(jax.jit, static_argnames=("config", "dropout"))
def logits(config, params, adapters, scale=SETTINGS.scale, dropout=0.0, key=None):
    return lora.bind(config, params, adapters=adapters, scale=scale, dropout=dropout, key=key)(
        TOKENS
    )


@jax.jit
def plain_logits(params):
    return models.apply(LLAMA, params, TOKENS)


def test_fresh_adapters_change_nothing_at_all(params):
    fresh = lora.init(SETTINGS, params, key=jax.random.key(1))
    base = plain_logits(params)
    np.testing.assert_array_equal(logits(LLAMA, params, fresh), base)
    merged = lora.merge(params, fresh, scale=SETTINGS.scale)
    jax.tree.map(np.testing.assert_array_equal, merged, params)


def test_merged_equals_unmerged(params, adapters):
    merged = lora.merge(params, adapters, scale=SETTINGS.scale)
    expected = plain_logits(merged)
    ours = logits(LLAMA, params, adapters)
    # Float32 rounding, of either order of the products, grows along about 20 layers of arithmetic.
    assert jnp.abs(ours - expected).max() < 20 * 2**-23 * 8 * jnp.abs(expected).max()
    base = plain_logits(params)
    assert jnp.abs(ours - base).max() > 0.1
    assert "a" not in params["layers"][0]["attn"]["q"]  # the base is left as it was


def test_only_b_moves_first(params):
    fresh = lora.init(SETTINGS, params, key=jax.random.key(1))

    @jax.jit
    @jax.grad
    def gradient(adapters):
        return jnp.mean(lora.bind(LLAMA, params, adapters=adapters, scale=2.0)(TOKENS) ** 2)

    for _, adapter in lora.adapted(gradient(fresh)):
        assert (adapter["a"] == 0).all()
        assert (adapter["b"] != 0).any()


def test_start_of_a_is_uniform(params):
    fresh = lora.init(dataclasses.replace(SETTINGS, rank=64), params, key=jax.random.key(1))
    a = fresh["layers"][0]["mlp"]["down"]["a"]
    bound = a.shape[0] ** -0.5
    assert 0.99 * bound < jnp.abs(a).max() <= bound
    # A uniform variable on ±c has variance c²/3, and its square has deviation c²·√(4/45).
    assert abs(jnp.mean(a**2) - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / 45 / a.size)
    assert (fresh["layers"][0]["attn"]["q"]["a"] != fresh["layers"][0]["attn"]["k"]["a"]).any()


def test_targets_choose_the_layers(params):
    params = params | {"layers": dict.fromkeys((0, 1), params["layers"][0])}
    settings = dataclasses.replace(SETTINGS, targets=r"layers/1/attn/(q|v)")
    chosen = lora.init(settings, params, key=jax.random.key(1))
    assert [path for path, _ in lora.adapted(chosen)] == [
        ("layers", 1, "attn", "q"),
        ("layers", 1, "attn", "v"),
    ]
    with pytest.raises(
        ValueError, match=r"no layer matches LoRA targets 'query'; layers: \['down'"
    ):
        lora.init(dataclasses.replace(SETTINGS, targets="query"), params, key=jax.random.key(1))
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        lora.init(dataclasses.replace(SETTINGS, rank=0), params, key=jax.random.key(1))


def test_dropout_acts_on_the_input_of_the_adapters_only(params, adapters):
    exact = logits(LLAMA, params, adapters)
    off = logits(LLAMA, params, adapters, dropout=0.5)  # no key: evaluation
    np.testing.assert_array_equal(off, exact)
    key = jax.random.key(3)
    dropped = logits(LLAMA, params, adapters, dropout=0.5, key=key)
    assert jnp.abs(dropped - exact).max() > 0.1
    untouched = logits(LLAMA, params, adapters, scale=0.0, dropout=0.5, key=key)
    np.testing.assert_allclose(untouched, plain_logits(params), atol=1e-6)


def test_dropout_keeps_the_mean(params):
    width = LLAMA.width
    eye = {"layers": {0: {"attn": {"q": {"a": jnp.eye(width), "b": jnp.eye(width)}}}}}
    model = lora.bind(LLAMA, params, adapters=eye, scale=1.0, dropout=0.25, key=jax.random.key(0))
    kept = model.layers[0].attn.q.delta(jnp.ones((8, 64, width)))
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.75], rtol=1e-6)
    deviation = np.sqrt(0.25 * 0.75 / kept.size) / 0.75
    assert abs(kept.mean() - 1) < 5 * deviation


def test_rank_stabilised_scale():
    assert lora.LoraConfig(rank=16, alpha=32).scale == 2
    assert lora.LoraConfig(rank=16, alpha=32, rslora=True).scale == 8


def test_adapter_folder_comes_back(params, adapters, tmp_path):
    settings = dataclasses.replace(SETTINGS, dropout=0.1, rslora=True)
    peft_format.save(
        tmp_path / "adapter", LLAMA, settings=settings, adapters=adapters, base="some/model"
    )
    loaded_settings, loaded = peft_format.load(tmp_path / "adapter", LLAMA)
    jax.tree.map(np.testing.assert_array_equal, loaded, adapters)
    again = lora.init(loaded_settings, params, key=jax.random.key(0))
    assert jax.tree.structure(again) == jax.tree.structure(adapters)
    assert dataclasses.replace(loaded_settings, targets="") == dataclasses.replace(
        settings, targets=""
    )
    with pytest.raises(ValueError, match="exists already"):
        peft_format.save(tmp_path / "adapter", LLAMA, settings=settings, adapters=adapters)


def test_foreign_or_damaged_adapters_are_refused(adapters, tmp_path):
    with pytest.raises(ValueError, match=r"no adapter_config\.json"):
        peft_format.load(tmp_path, LLAMA)
    folder = tmp_path / "adapter"
    peft_format.save(folder, LLAMA, settings=SETTINGS, adapters=adapters)
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="damaged or cut short"):
        peft_format.load(folder, LLAMA)
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"k_proj\.lora_B\.weight has shape \(16, 3\), expected"):
        peft_format.load(folder, dataclasses.replace(LLAMA, num_kv_heads=4))
    tensors = load_file(file)
    tensors.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    tensors["base_model.model.score.lora_A.weight"] = np.ones((3, 3), np.float32)
    save_file(tensors, file)
    with pytest.raises(
        ValueError, match=r"missing lora_A of model\.layers\.0\.self_attn.*unexpected"
    ):
        peft_format.load(folder, LLAMA)
    record = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(record | {"use_dora": True}))
    with pytest.raises(ValueError, match="uses use_dora=True: not supported"):
        peft_format.load(folder, LLAMA)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "pythia"])
def test_peft_agrees_in_both_directions(config, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    params = models.init(config, key=jax.random.key(0))
    models.save(tmp_path / "base", config, params)

    def torch_logits(adapter_folder):
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = peft.PeftModel.from_pretrained(base, adapter_folder).eval()
        with torch.no_grad():
            return model(torch.tensor(np.array(TOKENS)).long()).logits.numpy(), model

    settings = dataclasses.replace(SETTINGS, rslora=True)
    adapters = randomised(lora.init(settings, params, key=jax.random.key(1)))
    peft_format.save(tmp_path / "ours", config, settings=settings, adapters=adapters)
    theirs, model = torch_logits(tmp_path / "ours")
    ours = logits(config, params, adapters, scale=settings.scale)
    assert np.abs(ours - theirs).max() < 2e-5 * max(1, theirs.std()), np.abs(ours - theirs).max()

    model.save_pretrained(tmp_path / "theirs")
    loaded_settings, loaded = peft_format.load(tmp_path / "theirs", config)
    assert loaded_settings.scale == settings.scale
    jax.tree.map(np.testing.assert_array_equal, loaded, adapters)
