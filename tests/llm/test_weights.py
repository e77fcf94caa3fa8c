"""Checkpoint folders: every layout of files, every kind of damage."""

import dataclasses
import functools
import json
import shutil

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


def test_a_tensor_is_copied_a_few_rows_at_a_time(folder, params, monkeypatch):
    """A reader copies what it is asked for: whole tensors would be on the host twice."""
    sizes = []

    class Counted:
        def __getitem__(self, index):
            part = np.arange(12 * 7, dtype=np.float32).reshape(12, 7)[index]
            sizes.append(part.nbytes)
            return part

    monkeypatch.setattr(weights, "_SLAB_BYTES", 60)  # two rows of seven numbers
    found = weights._to_devices(Counted(), True, dtype=np.float32, shape=(7, 12), place=None)
    np.testing.assert_array_equal(found, np.arange(12 * 7).reshape(12, 7).T)
    assert max(sizes) <= 60
    assert len(sizes) == 6
    assert_equal(models.load(folder)[1], params)


def test_published_spellings_and_extras_are_understood(tmp_path):
    fixed = models.FAMILIES["gemma3_text"].fixed
    config = dataclasses.replace(CONFIG, family="gemma3_text", activation="gelu_tanh", **fixed)
    params = models.init(config, key=jax.random.key(0))
    models.save(tmp_path / "model", config, params)

    def multimodal(tensors):
        for name in list(tensors):
            tensors["language_model." + name] = tensors.pop(name)
        tensors["vision_tower.encoder.weight"] = np.ones(3, np.float32)
        tensors["multi_modal_projector.weight"] = np.ones(3, np.float32)
        tensors["lm_head.weight"] = np.ones((31, 32), np.float32)  # tied: the embedding counts
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)

    edit(tmp_path / "model", multimodal)
    assert_equal(models.load(tmp_path / "model")[1], params)


def test_old_name_of_the_pythia_head(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        family="gpt_neox",
        num_kv_heads=4,
        tie_embeddings=False,
        **models.FAMILIES["gpt_neox"].fixed,
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
    hopeless = r"'someone/some-model' is no folder here .* run `hf download someone/some-model`"
    with pytest.raises(ValueError, match=hopeless):  # the suite runs with the hub switched off
        models.load("someone/some-model")
    with pytest.raises(ValueError, match=r"no config\.json"):
        models.load(tmp_path)
    for broken in ('{"model_type": "mamba"}', '{"model_type": "never heard of"}', "{"):
        (folder / "config.json").write_text(broken)
        with pytest.raises(ValueError, match=r"Supported: llama \(Llama 2") as error:
            models.load(folder)
        assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(folder, params):
    def spoil(value):
        def change(tensors):
            tensors["model.norm.weight"][3] = value

        return change

    for value in (np.nan, np.inf, -np.inf):
        edit(folder, spoil(value))
        with pytest.raises(ValueError, match=r"1 of 20 tensors hold NaN or infinity.*model\.norm"):
            models.load(folder)
    edit(folder, spoil(1e5))  # finite as it is stored
    models.load(folder)
    with pytest.raises(ValueError, match=r"as float16, first model\.norm"):
        models.load(folder, jnp.float16)


def test_integers_are_no_weights(folder):
    def quantise(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = (100 * tensors[name]).astype(np.int8)

    edit(folder, quantise)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight is of type I8"):
        models.load(folder)


def test_files_that_leave_a_choice_are_refused(folder):
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds model\.safetensors, other\.safetensors without"):
        models.load(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"model.norm.weight": "other.safetensors"}}')
    with pytest.raises(ValueError, match=r"model\.safetensors beside an index of other files"):
        models.load(folder)
    names = ["model.safetensors", "other.safetensors"]
    index.write_text(json.dumps({"weight_map": dict(enumerate(names))}))
    with pytest.raises(ValueError, match=r"holds lm_head|holds model\..* twice"):
        models.load(folder)


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": []}', "{", '{"weight_map": null}'])
def test_an_index_without_weight_map_is_one_line(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json has no weight_map") as error:
        models.load(folder)
    assert "\n" not in str(error.value)


def test_a_read_that_fails_is_one_line(folder, monkeypatch):
    class Failing:
        def __init__(self, *args, **kwargs):
            self.file = weights_open(*args, **kwargs)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

        def keys(self):
            return self.file.keys()

        def get_slice(self, key):
            if key == "model.norm.weight":
                raise OSError("input/output error\nsecond line")
            return self.file.get_slice(key)

    weights_open = weights.safe_open
    monkeypatch.setattr(weights, "safe_open", Failing)
    with pytest.raises(ValueError, match=r"cut short \(input/output error\); fetch") as error:
        models.load(folder)
    assert "\n" not in str(error.value)


def change_config(folder, **fields):
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | fields))


def test_quantised_checkpoints_are_refused(folder):
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ValueError, match="holds quantised weights"):
        models.load(folder)


@pytest.mark.parametrize("model_type", ["own", "llama"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_refused_without_asking(folder, monkeypatch, model_type, file):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked a question"))
    (folder / "code.py").write_text("raise SystemExit('remote code ran')")
    change_config(folder, model_type=model_type)
    record = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps(record | {"auto_map": {"AutoConfig": "code.Config"}}))
    with pytest.raises(ValueError, match=r"code of its own \(auto_map\), which is never run"):
        models.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn' of llama"),
        ({"hidden_act": "relu"}, "activation 'relu' is not supported"),
        ({"num_attention_heads": 0}, r"config\.json"),
        ({"hidden_size": "wide"}, r"config\.json"),
        ({"num_key_value_heads": 3}, "not a multiple of num_kv_heads"),
        ({"use_sliding_window": True}, "sets use_sliding_window = True, which llama models do not"),
        ({"final_logit_softcapping": 30.0}, "sets final_logit_softcapping = 30.0, which llama"),
    ],
)
def test_a_config_that_cannot_be_followed_is_one_line(folder, fields, message):
    change_config(folder, **fields)
    with pytest.raises(ValueError, match=message) as error:
        models.load(folder)
    assert "\n" not in str(error.value)


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
