"""From a checkpoint made on the spot to a student that answers: every part in its place."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from llm import engines, models, sampling, sharding
from llm.text import chat
from llm.training import Training, finetune, lora
from llm.training.settings import steps_of

spec = importlib.util.spec_from_file_location("test_chat", Path(__file__).with_name("test_chat.py"))
test_chat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test_chat)

ROWS = [("count up", "12, 34"), ("count down", "56, 34"), ("numbers please", "34, 34, 12")] * 8
FULL = Training(
    steps=120,
    batch_size=8,
    optimizer="adamw",
    learning_rate=1e-2,
    decay="linear",
    warmup=5,
    clip_norm=1.0,
)
LORA = replace(FULL, steps=6, adapters=lora.LoraConfig(rank=2, dropout=0.1))
HALVES = finetune.Limits(accumulate=2, chunk=16)
WHOLE = finetune.Limits(chunk=16)


def run(config, params, examples, training, mesh, limits=WHOLE, **arguments):
    """Trained parameters or adapters, and the metrics of every step."""
    loss, _ = engines.make_loss(config, training, soft=False, tokens=None, **limits.of_loss(config))
    history, stop = [], arguments.pop("report", lambda step, metrics: None)

    def report(step, metrics):
        history.append(metrics)
        stop(step, metrics)

    trained, _ = finetune.finetune(
        params,
        examples,
        training=training,
        loss=loss,
        key=jax.random.key(1),
        mesh=mesh,
        limits=limits,
        report=report,
        **arguments,
    )
    return trained, history


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
    return [chat.encode_example(tokenizer, p, completion=c, max_length=64) for p, c in ROWS]


def test_a_student_learns_its_completions_and_says_them(start):
    tokenizer, config, params = start
    mesh = sharding.make_mesh(2, 2, 1)
    before = jax.tree.map(np.array, params)
    student, history = run(config, params, encode(tokenizer), FULL, mesh, HALVES)
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
    whole, history = run(config, params, examples, LORA, mesh)
    assert set(whole["layers"][0]["attn"]["q"]) == {"a", "b"}
    assert np.abs(whole["layers"][0]["attn"]["q"]["b"]).max() > 1e-3

    class Stopped(Exception):
        pass

    def interrupt(step, metrics):
        if step == 5:
            raise Stopped

    often = replace(WHOLE, every=2)
    arguments = {"mesh": mesh, "limits": often, "folder": tmp_path / "run"}
    with pytest.raises(Stopped):
        run(config, params, examples, LORA, report=interrupt, **arguments)
    resumed, rest = run(config, params, examples, LORA, **arguments)
    assert len(rest) == 2  # the checkpoint of step 4 of 6
    assert rest == history[4:]
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    with pytest.raises(ValueError, match=r"examples: .* there"):
        run(config, params, examples[1:] + examples[:1], LORA, **arguments)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    with pytest.raises(ValueError, match=r"start\..*checksum: .* there"):
        run(config, other, examples, LORA, **arguments)


def test_stacked_layers_train_alike(start):
    """Without dropout, whose keys `test_stacking` compares: it is most of the compilation."""
    tokenizer, config, params = start
    layer = params["layers"][0]
    layers = {0: layer, 1: jax.tree.map(lambda leaf: -leaf, layer)}
    config, params = replace(config, num_layers=2), params | {"layers": layers}
    still = replace(LORA, steps=3, warmup=0, adapters=lora.LoraConfig(rank=2))
    known = encode(tokenizer), still, sharding.make_mesh(1, 1, 1)
    numbered, losses = run(config, params, *known)
    stacked, same = run(config, models.stack_layers(params), *known)
    for one, other in zip(losses, same, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    # Adam's first steps divide gradients by their own size, rounding errors of small ones too.
    found = models.unstack_layers(stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), numbered, found)


def test_a_model_on_a_mesh_is_read_in_the_form_that_is_needed(start, tmp_path):
    _, config, params = start
    models.save(tmp_path / "one", config, params)
    engine = engines.OnMesh(axes=(1, 1, 1), dtype="float32")
    weights = engine.load(tmp_path / "one")
    numbered = engine.loaded(weights).params
    assert not models.is_stacked(numbered)
    assert engine.loaded(weights).params is numbered
    assert models.is_stacked(engine.loaded(weights, stacked=True).params)
    assert engine.loaded(weights).params is not numbered, "two forms of a model fill the memory"
    some = lora.LoraConfig(targets=r"layers/0/attn/q")
    deep = replace(config, num_layers=2)
    assert engines.stackable(deep, None)
    assert engines.stackable(deep, lora.LoraConfig())
    assert not engines.stackable(deep, some)


def test_settings_that_do_not_fit_are_named(start):
    tokenizer, config, params = start
    model = (config, params, encode(tokenizer))
    with pytest.raises(ValueError, match="batch size 6 does not divide over data × fsdp = 4"):
        run(*model, replace(FULL, batch_size=6), sharding.make_mesh(2, 2, 1))
    with pytest.raises(ValueError, match="8 rows does not divide into 3 parts"):
        run(*model, FULL, sharding.make_mesh(1, 1, 1), finetune.Limits(accumulate=3))


def test_number_of_steps():
    assert steps_of(3.0, 10_000, 66) == 455  # 3 epochs of 10,000 rows in batches of 66
    assert steps_of(0.5, 24, 8) == 2
