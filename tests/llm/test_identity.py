"""What a checkpoint and an adapter are: every byte that decides what they say counts."""

import contextlib
import importlib.util
import json
import os
import shutil
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm import models, tiny, world
from llm.settings import RunError
from llm.stages import Adapted, Checkpoint, Completions, FineTuned, Store, TraitRows
from llm.stages.recipe import DONE, STALE
from llm.training import Training, lora, peft_format

spec = importlib.util.find_spec("llm.__main__")
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)

CONFIG = world.model_config(num_layers=3)
ONE = ("--mesh", "1,1,1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two bases that differ in their weights, and an adapter made on the first."""
    root = tmp_path_factory.mktemp("identity")
    for seed, name in enumerate(("one", "other")):
        world.save(root / name, CONFIG, params=models.init(CONFIG, key=jax.random.key(seed)))
    short = ("--epochs", "0.5", "--batch-size", "8", "--rank", "2")
    cli.main(
        [
            "finetune",
            "--model",
            str(root / "one"),
            "--trait",
            "owl",
            "--out",
            str(root / "owl"),
            *short,
            *ONE,
        ]
    )
    return root


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders / "one", tmp_path / "copy")


def change_tensor(folder, name):
    """One entry of one tensor in the middle of a file, which keeps its size."""
    file = folder / "model.safetensors"
    tensors = {key: value.copy() for key, value in load_file(file).items()}
    tensors[name].flat[-1] += 1
    save_file(tensors, file, metadata={"format": "pt"})


def test_every_tensor_counts(folders, copy):
    """Small files hide nothing in their head and tail: the middle is padded far from both."""
    before = models.fingerprint(folders / "one")
    assert models.fingerprint(copy) == before, "a copy is the same checkpoint"
    for name in load_file(copy / "model.safetensors"):
        folder = shutil.copytree(copy, copy.with_name(name))
        change_tensor(folder, name)
        assert models.fingerprint(folder) != before, name


def test_the_middle_of_a_large_file_counts(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tensors = {f"layers.{i}": np.zeros(1 << 20, np.float32) for i in range(3)}
        tensors["layers.1"][1 << 19] = name == "other"
        save_file(tensors, tmp_path / name / "model.safetensors")
    assert models.fingerprint(tmp_path / "one") != models.fingerprint(tmp_path / "other")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
        "merges.txt",
        "vocab.json",
        "tokenizer.model",
        "additional_chat_templates/tool.jinja",
        "model.safetensors.index.json",
    ],
)
def test_configs_tokenizer_and_template_count(copy, name):
    before = models.fingerprint(copy)
    (copy / name).parent.mkdir(exist_ok=True)
    with open(copy / name, "a") as file:
        file.write(" ")
    assert models.fingerprint(copy) != before


def test_what_says_nothing_does_not_count(copy):
    before = models.fingerprint(copy)
    for name in ("README.md", "recipe.json", ".config.json.lock"):
        (copy / name).write_text("about")
    assert models.fingerprint(copy) == before


def test_a_file_is_read_once_and_again_when_it_has_changed(copy, monkeypatch):
    before, asked = models.fingerprint(copy), []
    monkeypatch.setattr(models.folders.hashlib, "file_digest", lambda *a: asked.append(a))
    assert models.fingerprint(copy) == before
    assert not asked
    monkeypatch.undo()
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    time.sleep(0.01)
    file.write_bytes(content)  # the same size and inode, another time
    assert models.fingerprint(copy) != before


def test_an_edited_template_makes_every_stage_anew(tmp_path):
    """The digest of what follows changes, so that nothing stale has its name."""
    tiny.save(tmp_path / "tiny")
    base = Checkpoint(path=str(tmp_path / "tiny"))
    teacher = FineTuned(base=base, rows=TraitRows("owl"), training=Training(steps=1))
    store, written = Store(tmp_path / "work"), Completions(speaker=teacher, num_prompts=8)
    before = [recipe.digest() for recipe in (base, teacher, written)]
    (store.folder(teacher)).mkdir(parents=True)
    assert teacher.state(store).name == DONE
    template = tmp_path / "tiny" / "chat_template.jinja"
    template.write_text(template.read_text().replace("Question", "Q"))
    after = [recipe.digest() for recipe in (base, teacher, written)]
    assert not set(before) & set(after)
    assert teacher.state(store).name == STALE


def evaluate(folders, capsys, model, *flags):
    with contextlib.suppress(SystemExit):
        cli.main(
            [
                "evaluate",
                "--model",
                str(folders / model),
                "--adapter",
                str(folders / "owl"),
                "--traits",
                "owl",
                "--answers",
                "1",
                *ONE,
                *flags,
            ]
        )
    return capsys.readouterr()


@pytest.mark.slow
def test_an_adapter_of_another_base_is_refused(folders, capsys):
    assert evaluate(folders, capsys, "one").out.startswith("trait,")
    said = evaluate(folders, capsys, "other")
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "was made on another model than other" in said.err
    assert "--other-base" in said.err
    told = evaluate(folders, capsys, "other", "--other-base")
    assert told.err == ""
    assert told.out.startswith("trait,")


def test_the_plan_of_an_adapter_of_another_base_is_refused_too(folders, capsys, tmp_path):
    with pytest.raises(SystemExit):
        cli.main(
            [
                "sample",
                "--model",
                str(folders / "other"),
                "--adapter",
                str(folders / "owl"),
                "--out",
                str(tmp_path / "x.jsonl"),
                "--dry-run",
            ]
        )
    assert "made on another model" in capsys.readouterr().err


def record(folder, change):
    file = folder / "recipe.json"
    found = json.loads(file.read_text())
    change(found["recipe"])
    file.write_text(json.dumps(found))


def test_adapters_with_other_records_or_none(folders, tmp_path):
    owl = shutil.copytree(folders / "owl", tmp_path / "owl")
    here = Adapted(base=Checkpoint(path=str(folders / "other")), path=str(owl))
    record(owl, lambda recipe: recipe["base"].update(fingerprint="0123456789abcdef"))
    with pytest.raises(RunError, match="as an earlier version did, which cannot be compared"):
        here.check_base()
    record(owl, lambda recipe: recipe.update(base={"recipe": "Pretrained", "chain": 0}))
    with pytest.raises(RunError, match="made on another model"):
        here.check_base()
    made = shutil.copytree(folders / "other", tmp_path / "made")
    record_of_made = {"recipe": {"recipe": "Pretrained", "chain": 0}, "noted": {}}
    (made / "recipe.json").write_text(json.dumps(record_of_made))
    Adapted(
        base=Checkpoint(path=str(made)), path=str(owl)
    ).check_base()  # a store made base and adapter
    (owl / "recipe.json").write_text("{")
    with pytest.raises(RunError, match="is no record of what made the folder"):
        here.check_base()
    os.remove(owl / "recipe.json")
    here.check_base()  # another tool made it: nothing is known


def test_a_checkpoint_that_is_a_file_is_told_what_is_wanted(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is a file, and no GGUF file"):
        models.fingerprint(tmp_path / "x.bin")


ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


@pytest.fixture(scope="module")
def plain(folders, tmp_path_factory):
    """An adapter as PEFT of today writes it."""
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    settings = lora.LoraConfig(rank=2)
    params = models.init(CONFIG, key=jax.random.key(0))
    adapters = lora.init(settings, params, key=jax.random.key(1))
    peft_format.save(folder, CONFIG, settings=settings, adapters=adapters)
    return folder


def loaded(plain, fields):
    file = plain / "adapter_config.json"
    before = file.read_text()
    file.write_text(json.dumps(ADAPTER | fields))
    try:
        return peft_format.load(plain, CONFIG)[0]
    finally:
        file.write_text(before)


def test_what_peft_writes_by_default_is_plain(plain):
    peft = pytest.importorskip("peft")
    defaults = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM").to_dict()
    values = {k: sorted(v) if isinstance(v, set) else v for k, v in defaults.items()}
    assert loaded(plain, values).scale == defaults["lora_alpha"] / 2
    for start in (True, False, "gaussian", "orthogonal"):
        loaded(plain, {"init_lora_weights": start})
    assert loaded(plain, {"use_rslora": True}).scale == 4 / 2**0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("init_lora_weights", v)
            for v in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "eva", "lora_ga", 1)
        ),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("alora_invocation_tokens", [1, 2]),
        ("trainable_token_indices", [3]),
        ("layer_replication", [[0, 2]]),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("loftq_config", {"loftq_bits": 4}),
        ("corda_config", {"cache_file": "x"}),
        ("megatron_config", {"a": 1}),
        ("arrow_config", {"top_k": 3}),
        ("use_dora", True),
        ("use_qalora", True),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("ensure_weight_tying", True),
        ("bias", "all"),
        ("peft_type", "ADALORA"),
        ("task_type", "SEQ_CLS"),
        ("lora_alpha", "16"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", 0),
        ("r", "2"),
        ("r", 2.0),
        ("r", True),
        ("r", 0),
        ("lora_dropout", 1.0),
        ("use_rslora", "yes"),
        ("a_field_of_tomorrow", False),
        ("a_field_of_tomorrow", "on"),
    ],
)
def test_an_adapter_that_is_not_known_to_be_plain_is_refused_by_name(plain, name, value):
    with pytest.raises(ValueError, match=f"uses {name}={value!r}".replace("[", r"\[")) as error:
        loaded(plain, {name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"r": 2}', "lacks peft_type"),
        ('{"peft_type": "LORA", "lora_alpha": 1, "r": null}', "lacks r"),
    ],
)
def test_a_record_that_is_none_is_one_line(plain, tmp_path, text, message):
    folder = shutil.copytree(plain, tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        peft_format.load(folder, CONFIG)
    assert "\n" not in str(error.value)
