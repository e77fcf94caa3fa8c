"""Checkpoint folders: every layout of files, every kind of damage."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm import models, sharding
from llm.models import ModelConfig, weights

CONFIG = ModelConfig(vocab_size=31, num_kv_heads=2, max_positions=32)


@pytest.fixture(scope="module")
def params():
    return models.init(CONFIG, key=jax.random.key(0))


@pytest.fixture
def folder(params, tmp_path):
    models.save(tmp_path / "model", CONFIG, params)
    return tmp_path / "model"


def edit(folder, change):
    """Rewrite the one weight file of a folder after `change` of its dictionary."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def assert_equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_what_is_saved_is_loaded(folder, params):
    config, loaded = models.load(folder)
    assert config == CONFIG
    assert_equal(loaded, params)


def test_shards_with_an_index_hold_the_same(params, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_SHARD_BYTES", 20_000)
    models.save(tmp_path / "model", CONFIG, params)
    files = sorted(path.name for path in tmp_path.glob("model/*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "model/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * sum(x.size for x in jax.tree.leaves(params))
    assert_equal(models.load(tmp_path / "model")[1], params)
    (tmp_path / "model" / files[1]).unlink()
    with pytest.raises(ValueError, match=f"missing {files[1]}"):
        models.load(tmp_path / "model")


def test_half_precision_is_stored_and_read_exactly(params, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    models.save(tmp_path / "half", CONFIG, half)
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    _, kept = models.load(tmp_path / "half", jnp.bfloat16)
    assert_equal(kept, half)
    _, widened = models.load(tmp_path / "half")
    assert_equal(widened, jax.tree.map(lambda x: x.astype(jnp.float32), half))


def test_each_device_reads_its_own_part(folder, params):
    mesh = sharding.make_mesh(fsdp=2, tensor=2)
    _, loaded = models.load(folder, layout=functools.partial(sharding.shardings, mesh))
    kernel = loaded["layers"][0]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (16, 64)
    assert len(loaded["norm"]["scale"].sharding.device_set) == 4
    assert_equal(loaded, params)


def test_published_spellings_and_extras_are_understood(folder, params):
    def multimodal(tensors):
        for name in list(tensors):
            tensors["language_model." + name] = tensors.pop(name)
        tensors["vision_tower.encoder.weight"] = np.ones(3, np.float32)
        tensors["multi_modal_projector.weight"] = np.ones(3, np.float32)
        tensors["lm_head.weight"] = np.ones((31, 32), np.float32)  # tied: the embedding counts
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    edit(folder, multimodal)
    assert_equal(models.load(folder)[1], params)


def test_old_name_of_the_pythia_head(tmp_path):
    config = dataclasses.replace(
        CONFIG, family="gpt_neox", num_kv_heads=4, mlp_bias=True, tie_embeddings=False
    )
    params = models.init(config, key=jax.random.key(0))
    models.save(tmp_path / "neox", config, params)
    edit(tmp_path / "neox", lambda t: t.update({"embed_out.weight": t.pop("lm_head.weight")}))
    assert_equal(models.load(tmp_path / "neox")[1], params)


def test_all_misfits_are_listed_at_once(folder):
    def damage(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.7.input_layernorm.weight"] = np.ones(32, np.float32)
        tensors["model.layers.0.self_attn.k_proj.weight"] = np.ones((32, 16), np.float32)

    edit(folder, damage)
    with pytest.raises(ValueError, match="does not fit its config") as error:
        models.load(folder)
    message = str(error.value)
    assert "\n" not in message
    assert "missing model.norm.weight" in message
    assert "unexpected model.layers.7.input_layernorm.weight" in message
    assert "k_proj.weight has shape [32, 16], expected [16, 32]" in message


def test_a_file_cut_short_is_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
        models.load(folder)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
        models.load(folder)


def test_pickled_weights_are_never_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"missing any \*\.safetensors file \(pickled"):
        models.load(folder)


def test_wrong_places_are_explained(tmp_path, folder):
    with pytest.raises(ValueError, match=r"no such checkpoint folder: .*nowhere"):
        models.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"'someone/some-model' is no folder here and could not"):
        models.load("someone/some-model")  # the suite runs with the hub switched off
    with pytest.raises(ValueError, match=r"no config\.json"):
        models.load(tmp_path)
    for broken in ('{"model_type": "mamba"}', '{"model_type": "never heard of"}', "{"):
        (folder / "config.json").write_text(broken)
        with pytest.raises(ValueError, match=r"Supported: llama \(Llama 2") as error:
            models.load(folder)
        assert "\n" not in str(error.value)


def test_quantised_and_remote_code_checkpoints_are_refused(folder):
    record = json.loads((folder / "config.json").read_text())
    quantised = record | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(ValueError, match="holds quantised weights"):
        models.load(folder)
    (folder / "code.py").write_text("raise SystemExit('remote code ran')")
    remote = record | {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(remote))
    with pytest.raises(ValueError, match="Supported: llama"):
        models.load(folder)


def test_saving_is_all_or_nothing(params, tmp_path, monkeypatch):
    models.save(tmp_path / "model", CONFIG, params)
    with pytest.raises(ValueError, match="exists already"):
        models.save(tmp_path / "model", CONFIG, params)

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        models.save(tmp_path / "other", CONFIG, params)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
