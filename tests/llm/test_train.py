import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm import models
from llm.training import batches, lora, objectives, train
from llm.training.batches import Batches, Example

CONFIG = models.ModelConfig(
    vocab_size=64, width=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=48
)
KEY = jax.random.key(7)
init = jax.jit(lambda key: models.init(CONFIG, key=key))


@pytest.fixture(scope="module")
def params():
    return init(jax.random.key(0))


def make_batch(rows, length, seed=0):
    """Rows with very different numbers of weighted tokens, right-padded."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, CONFIG.vocab_size, (rows, length)).astype(np.int32)
    weights = np.zeros((rows, length), np.float32)
    for row in range(rows):
        weights[row, 2 : 3 + row * (length - 4) // rows] = 1.0
    return {"tokens": jnp.asarray(tokens), "weights": jnp.asarray(weights)}


def examples(count, length=12):
    rng = np.random.default_rng(1)
    return [
        Example(rng.integers(0, CONFIG.vocab_size, length), np.ones(length, np.float32))
        for _ in range(count)
    ]


def full_loss(**kwargs):
    return objectives.completion_loss(objectives.full_student(CONFIG), **kwargs)


def assert_trees_close(found, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


def test_completion_loss_is_the_weighted_negative_log_likelihood(params):
    batch = make_batch(3, 16)
    logits = jax.jit(lambda p: models.apply(CONFIG, p, batch["tokens"]))(params)
    logp = np.asarray(jax.nn.log_softmax(logits))
    weights, tokens = np.asarray(batch["weights"]), np.asarray(batch["tokens"])
    pairs = [(b, t) for b in range(3) for t in range(1, 16)]
    expected = -sum(weights[b, t] * logp[b, t - 1, tokens[b, t]] for b, t in pairs)
    grads = []
    for chunk, remat in ((None, False), (5, True)):
        loss = jax.jit(jax.value_and_grad(full_loss(chunk=chunk, remat=remat), has_aux=True))
        (total, weight), grad = loss(params, None, batch, KEY)
        assert float(weight) == weights.sum()
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        grads.append(grad)
    assert_trees_close(*grads, rtol=1e-4, atol=1e-5)


def test_places_leave_out_logits_and_nothing_else(params):
    """Value and gradient are those of all positions; only weighted ones meet the head."""
    batch = make_batch(3, 32)
    most = batches.most_weighted(np.asarray(batch["weights"]))
    short = batch | {"places": jnp.asarray(batches.places(np.asarray(batch["weights"]), most))}
    assert most < 32
    grads = []
    for given, chunk in ((batch, None), (short, None), (short, 9)):
        loss = jax.jit(jax.value_and_grad(full_loss(chunk=chunk), has_aux=True))
        (total, weight), grad = loss(params, None, given, KEY)
        assert float(weight) == batch["weights"].sum()
        grads.append((total, grad))
    for found in grads[1:]:
        assert_trees_close(found, grads[0], rtol=1e-4, atol=1e-5)


def test_tokens_after_the_last_weight_do_not_matter(params):
    batch = make_batch(2, 16)
    last = int(jnp.max(jnp.nonzero(batch["weights"])[1]))
    padded = {**batch, "tokens": batch["tokens"].at[:, last + 1 :].set(5)}
    loss = jax.jit(full_loss())
    assert loss(params, None, batch, KEY)[0] == loss(params, None, padded, KEY)[0]


def test_distillation_vanishes_at_the_teacher_and_descends_to_it(params):
    batch = make_batch(4, 16)
    student = objectives.full_student(CONFIG)
    loss = objectives.distillation_loss(
        student,
        lambda frozen: models.bind(CONFIG, frozen),
        token_set=jnp.arange(10, 30),
        chunk=8,
    )
    optimizer = train.make_optimizer("adam", 1e-3)
    step = jax.jit(train.make_train_step(loss, optimizer))
    _, metrics = step(train.init_state(params, optimizer), batch, KEY, params)
    assert float(metrics["loss"]) < 1e-6
    teacher = init(jax.random.key(5))
    state, values = train.init_state(params, optimizer), []
    for _ in range(30):
        state, metrics = step(state, batch, KEY, teacher)
        values.append(float(metrics["loss"]))
    assert values[-1] < 0.7 * values[0]


def test_accumulation_is_the_large_batch(params):
    batch, optimizer = make_batch(8, 16), optax.sgd(0.5)
    results = [
        jax.jit(train.make_train_step(full_loss(), optimizer, accumulate))(
            train.init_state(params, optimizer), batch, KEY
        )
        for accumulate in (1, 4)
    ]
    (large, large_metrics), (small, small_metrics) = results
    assert_trees_close(small.params, large.params, atol=2e-6)
    assert_trees_close(small_metrics, large_metrics, rtol=1e-5)
    moved = np.abs(large.params["embedding"] - params["embedding"]).max()
    assert moved > 1e-3  # the step does something
    gradient = jax.tree.map(lambda before, after: (before - after) / 0.5, params, large.params)
    np.testing.assert_allclose(large_metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-3)
    # the mean of the microbatches' mean losses is something else: the weights differ
    parts = [{name: x[i::4] for name, x in batch.items()} for i in range(4)]
    means = [jax.jit(full_loss())(params, None, part, KEY) for part in parts]
    naive = sum(float(total / weight) for total, weight in means) / 4
    assert abs(naive / float(large_metrics["loss"]) - 1) > 1e-4


def test_a_batch_without_weight_changes_nothing(params):
    batch = make_batch(2, 16)
    batch["weights"] = jnp.zeros_like(batch["weights"])
    optimizer = optax.sgd(0.5)
    state, metrics = jax.jit(train.make_train_step(full_loss(), optimizer))(
        train.init_state(params, optimizer), batch, KEY
    )
    assert_trees_close(state.params, params, rtol=0)
    assert float(metrics["grad_norm"]) == 0


def test_lora_trains_adapters_only_with_the_same_step(params):
    settings = lora.LoraConfig(rank=2, alpha=4.0, dropout=0.1)
    adapters = lora.init(settings, params, key=jax.random.key(1))
    loss = objectives.completion_loss(objectives.lora_student(CONFIG, settings))
    optimizer = train.make_optimizer("adamw", 1e-2)
    step = jax.jit(train.make_train_step(loss, optimizer))
    state, batch = train.init_state(adapters, optimizer), make_batch(4, 16)
    assert jax.tree.structure(state.params) == jax.tree.structure(adapters)
    values = []
    for _ in range(20):
        state, metrics = step(state, batch, KEY, params)
        values.append(float(metrics["loss"]))
    assert values[-1] < values[0] - 0.2
    # dropout draws from fold_in(key, step): another step or another root key, another loss
    again = step(state, batch, KEY, params)[1]["loss"]
    assert again == step(state, batch, KEY, params)[1]["loss"]
    assert again != step(state, batch, jax.random.key(8), params)[1]["loss"]
    later = state._replace(step=state.step + 1)
    assert again != step(later, batch, KEY, params)[1]["loss"]


def test_bfloat16_compute_keeps_float32_master_weights(params):
    loss = objectives.completion_loss(objectives.full_student(CONFIG, jnp.bfloat16))
    optimizer = train.make_optimizer("adamw", 1e-5)
    batch, state = make_batch(4, 16), train.init_state(params, optimizer)
    after, metrics = jax.jit(train.make_train_step(loss, optimizer))(state, batch, KEY)
    assert {x.dtype for x in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}
    exact, weight = jax.jit(full_loss())(params, None, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], exact / weight, rtol=2**-8)
    # an update far below bfloat16 resolution is not lost
    kernels = [tree["layers"][0]["mlp"]["up"]["kernel"] for tree in (after.params, params)]
    assert np.mean(np.not_equal(*kernels)) > 0.9


def test_seeds_in_one_scan_are_the_python_loop(params):
    del params
    optimizer, batch = train.make_optimizer("adam", 1e-3, clip_norm=1.0), make_batch(4, 16)
    step = train.make_train_step(full_loss(), optimizer)

    def run(seed):
        init_key, key = jax.random.split(jax.random.key(seed))
        start = train.init_state(models.init(CONFIG, key=init_key), optimizer)
        return jax.lax.scan(lambda s, _: step(s, batch, key), start, length=3)

    states, metrics = jax.jit(jax.vmap(run))(jnp.arange(2))
    init_key, key = jax.random.split(jax.random.key(1))
    one = train.init_state(init(init_key), optimizer)
    one, history = train.fit(step, one, batches=lambda _: batch, num_steps=3, key=key)
    # Adam divides small gradients by their size, so round-off shows up to a part of the step.
    assert_trees_close(jax.tree.map(lambda x: x[1], states.params), one.params, atol=2e-4)
    np.testing.assert_allclose(metrics["loss"][1], [h["loss"] for h in history], rtol=1e-5)
    assert float(metrics["loss"][0, 0]) != float(metrics["loss"][1, 0])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_agree_with_pytorch(name):
    torch = pytest.importorskip("torch")
    weight_decay = 0.1 if name == "adamw" else 0.0
    start = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    grads = np.random.default_rng(1).normal(size=(6, 3, 4)).astype(np.float32)
    schedule = train.make_schedule(0.1, 6, warmup_steps=2)
    ours = train.make_optimizer(name, schedule, weight_decay=weight_decay, clip_norm=1.0)
    params, theirs = {"kernel": jnp.asarray(start)}, torch.nn.Parameter(torch.tensor(start))
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    extra = {"weight_decay": weight_decay} if name == "adamw" else {}
    optimizer = kinds[name]([theirs], lr=0.1, **extra)
    rates = [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]  # linear warm-up over 2, then to 0 at step 6
    state = ours.init(params)
    for grad, rate in zip(grads, rates, strict=True):
        updates, state = ours.update({"kernel": jnp.asarray(grad)}, state, params)
        params = optax.apply_updates(params, updates)
        theirs.grad = torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        optimizer.param_groups[0]["lr"] = 0.1 * rate
        optimizer.step()
    np.testing.assert_allclose(params["kernel"], theirs.detach().numpy(), atol=2e-6)


def test_schedules():
    constant = train.make_schedule(1.0, 10, 4, decay="constant")
    cosine = train.make_schedule(1.0, 12, 4, decay="cosine")
    np.testing.assert_allclose([constant(s) for s in (0, 1, 4, 9)], [0, 0.25, 1, 1])
    np.testing.assert_allclose([cosine(s) for s in (4, 8, 12)], [1, 0.5, 0], atol=1e-7)
    assert train.make_schedule(1.0, 10)(0) == 1
    with pytest.raises(ValueError, match="warmup_steps 11"):
        train.make_schedule(1.0, 10, 11)
    with pytest.raises(ValueError, match="unknown decay 'step'"):
        train.make_schedule(1.0, 10, decay="step")


def test_weight_decay_spares_norms_and_biases_and_needs_adamw(params):
    spared = train.decayed({**params, "q": {"bias": jnp.zeros(3), "kernel": jnp.zeros((3, 3))}})
    assert spared["q"] == {"bias": False, "kernel": True}
    assert spared["norm"] == {"scale": False}
    assert spared["layers"][0]["attn_norm"]["scale"] is False
    assert spared["layers"][0]["attn"]["q"]["kernel"] is True
    with pytest.raises(ValueError, match="needs adamw"):
        train.make_optimizer("sgd", 0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="unknown optimizer 'lion': choose one of adamw"):
        train.make_optimizer("lion", 0.1)


def test_a_loss_that_is_not_finite_names_step_rows_and_checkpoint():
    def loss(params, frozen, batch, key):
        del frozen, key
        bad = (batch["tokens"] == 3).any()
        return jnp.where(bad, jnp.nan, params["w"].sum()), jnp.float32(1)

    data = [Example(np.full(4, i, np.int32), np.ones(4, np.float32)) for i in range(4)]
    batches = Batches(examples=data, batch_size=1, key=jax.random.key(0))
    bad_step = [int(batches.rows(step)[0]) for step in range(4)].index(3)
    optimizer = optax.sgd(0.1)
    state = train.init_state({"w": jnp.ones(2)}, optimizer)
    seen = []
    with pytest.raises(
        train.NonFiniteLossError,
        match=rf"loss nan .* at step {bad_step + 1}, batch {bad_step} \(dataset rows \[3\]\); "
        "last checkpoint: none",
    ):
        train.fit(
            train.make_train_step(loss, optimizer),
            state,
            batches=batches,
            num_steps=4,
            key=KEY,
            report=lambda step, values: seen.append(step),
        )
    assert seen == list(range(1, bad_step + 1))


def test_out_of_memory_says_what_to_lower():
    """A batch of 256 TiB: the runtime itself refuses it, on every version of JAX."""

    def loss(params, frozen, batch, key):
        del frozen, key
        return (batch["x"] * params["w"][0]).sum(), jnp.float32(1)

    optimizer = optax.sgd(0.1)
    state = train.init_state({"w": jnp.ones(2)}, optimizer)
    with pytest.raises(train.OutOfMemoryError, match=r"out of memory \(RES.*Lower the batch size"):
        train.fit(
            train.make_train_step(loss, optimizer),
            state,
            batches=lambda _: {"x": jnp.zeros((1 << 20, 1 << 26))},
            num_steps=1,
            key=KEY,
        )


def test_errors_other_than_memory_pass_through():
    with pytest.raises(KeyError), train.explain_out_of_memory():
        raise KeyError("x")
