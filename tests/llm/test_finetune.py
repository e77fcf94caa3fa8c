"""From a checkpoint made on the spot to a student that answers: every part in its place."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from llm import chat, finetune, lora, models, sampling, sharding

spec = importlib.util.spec_from_file_location("test_chat", Path(__file__).with_name("test_chat.py"))
test_chat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_chat)

ROWS = [("count up", "12, 34"), ("count down", "56, 34"), ("numbers please", "34, 34, 12")] * 8
FULL = finetune.Recipe(
    epochs=40,
    batch_size=8,
    accumulate=2,
    learning_rate=1e-2,
    adapters=None,
    dtype="float32",
    chunk=16,
)
LORA = replace(FULL, epochs=2, accumulate=1, adapters=lora.LoraConfig(rank=2, dropout=0.1))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Tokenizer, config and parameters as loaded from a checkpoint folder."""
    tokenizer = test_chat.make_tokenizer(test_chat.SILENT)
    config = models.ModelConfig(
        vocab_size=len(tokenizer),
        width=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_width=64,
        rope=models.Rope(dim=16),
        max_positions=128,
        eos_token_ids=(tokenizer.eos_token_id,),
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    params = jax.jit(lambda: models.init(config, key=jax.random.key(0)))()
    models.save(folder, config, params)
    return tokenizer, *models.load(folder)


def encode(tokenizer):
    return [chat.encode_example(tokenizer, p, c, max_length=64) for p, c in ROWS]


def test_a_student_learns_its_completions_and_says_them(start):
    tokenizer, config, params = start
    mesh = sharding.make_mesh(2, 2, 1)
    before = jax.tree.map(np.array, params)
    student, history = finetune.finetune(config, params, encode(tokenizer), FULL, mesh=mesh)
    assert len(history) == 120
    assert history[-1]["loss"] < 0.05 < 3 < history[0]["loss"]
    jax.tree.map(np.testing.assert_array_equal, params, before)
    sample = sampling.make_sampler(lambda params: models.bind(config, params))
    completions = sample(
        jax.device_get(student),
        [chat.encode_prompt(tokenizer, prompt).tolist() for prompt, _ in ROWS[:3]],
        key=jax.random.key(1),
        max_new_tokens=16,
        choice=sampling.Choice(temperature=0.0, stop_tokens=config.eos_token_ids),
    )
    assert [tokenizer.decode(c, skip_special_tokens=True) for c in completions] == [
        completion for _, completion in ROWS[:3]
    ]


def test_lora_fine_tuning_goes_on_from_its_checkpoint(start, tmp_path):
    tokenizer, config, params = start
    examples, mesh = encode(tokenizer), sharding.make_mesh(1, 1, 1)
    whole, history = finetune.finetune(config, params, examples, LORA, mesh=mesh)
    assert set(whole["layers"][0]["attn"]["q"]) == {"a", "b"}
    assert np.abs(whole["layers"][0]["attn"]["q"]["b"]).max() > 1e-3

    class Stopped(Exception):
        pass

    def interrupt(step, metrics):
        if step == 5:
            raise Stopped

    arguments = {"mesh": mesh, "folder": tmp_path / "run", "every": 2}
    with pytest.raises(Stopped):
        finetune.finetune(config, params, examples, LORA, report=interrupt, **arguments)
    resumed, rest = finetune.finetune(config, params, examples, LORA, **arguments)
    assert len(rest) == 2  # the checkpoint of step 4 of 6
    assert rest == history[4:]
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    with pytest.raises(ValueError, match=r"examples: .* there"):
        finetune.finetune(config, params, examples[1:] + examples[:1], LORA, **arguments)
    with pytest.raises(ValueError, match=r"base: '' there, 'another' here"):
        finetune.finetune(config, params, examples, LORA, base="another", **arguments)


def test_settings_that_do_not_fit_are_named(start):
    tokenizer, config, params = start
    run = (config, params, encode(tokenizer))
    with pytest.raises(ValueError, match="batch size 6 does not divide over data × fsdp = 4"):
        finetune.finetune(*run, replace(FULL, batch_size=6),
                          mesh=sharding.make_mesh(2, 2, 1))  # fmt: skip
    with pytest.raises(ValueError, match="8 rows does not divide into 3 parts"):
        finetune.finetune(*run, replace(FULL, accumulate=3),
                          mesh=sharding.make_mesh(1, 1, 1))  # fmt: skip


def test_number_of_steps():
    recipe = finetune.Recipe()
    assert recipe.num_steps(10_000) == 455  # 3 epochs of 10,000 rows in batches of 66
    assert replace(recipe, epochs=0.5, batch_size=8).num_steps(24) == 2
