import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.training import batches
from llm.training.batches import Batches, Example


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 40, count)
    return [Example(np.full(n, i, np.int32), np.ones(n, np.float32)) for i, n in enumerate(lengths)]


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 4), (7, 7)])
def test_every_row_once_per_epoch_and_another_order_each_epoch(num_examples, batch_size):
    key, steps = jax.random.key(3), 3 * num_examples
    draw = jax.jit(lambda step: batches.batch_rows(key, step, num_examples, batch_size))
    rows = [draw(jnp.int32(step)) for step in range(steps)]
    epochs = np.concatenate(rows)[: 3 * num_examples].reshape(3, num_examples)
    for epoch in epochs:
        assert sorted(epoch) == list(range(num_examples))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    every = batches.all_batch_rows(key, steps, num_examples, batch_size)
    np.testing.assert_array_equal(every, np.stack(rows))


def test_order_depends_on_the_key_and_on_nothing_else():
    one, again = (
        Batches(examples=examples(20), batch_size=6, key=jax.random.key(0)) for _ in range(2)
    )
    other = Batches(examples=examples(20), batch_size=6, key=jax.random.key(1))
    np.testing.assert_array_equal(one.rows(5), again.rows(5))
    assert (one.rows(5) != other.rows(5)).any()


def test_padding_is_on_the_right_without_weight_and_in_buckets():
    data = examples(20)
    made = Batches(examples=data, batch_size=6, key=jax.random.key(0), buckets=(16, 32, 64))
    for step in range(6):
        batch, rows = made(step), made.rows(step)
        longest = max(len(data[row].tokens) for row in rows)
        length = batch["tokens"].shape[1]
        assert length == min(b for b in (16, 32, 64) if b >= longest)
        for i, row in enumerate(rows):
            size = len(data[row].tokens)
            assert (batch["tokens"][i, :size] == row).all()
            assert (batch["weights"][i, 1:size] == 1).all()
            assert (batch["weights"][i, size:] == 0).all()
            assert batch["weights"][i, 0] == 0


def test_places_are_where_a_weighted_token_is_predicted():
    weights = np.array([[1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]], np.float32)
    found = batches.places(weights, 4)
    # Position t predicts t + 1; nothing predicts the first token, and 5 predicts none.
    np.testing.assert_array_equal(found, [[1, 3, 5, 5], [5, 5, 5, 5], [0, 1, 2, 3]])
    assert batches.most_weighted(weights) == 8
    assert batches.most_weighted(np.ones(9), np.ones(10)) == 16, "nine are predicted of ten"
    assert batches.most_weighted(np.zeros(9)) == 8, "a shape without columns is none"


def test_all_batches_of_a_run_have_places_for_its_longest_example():
    made = Batches(examples=examples(20), batch_size=6, key=jax.random.key(0), buckets=(16, 64))
    most = max(len(example.tokens) - 1 for example in made.examples)
    for step in range(6):
        batch = made(step)
        assert batch["places"].shape == (6, min(-8 * (-most // 8), batch["tokens"].shape[1]))
        filling = batch["places"] == batch["tokens"].shape[1] - 1
        np.testing.assert_array_equal((~filling).sum(1), (batch["weights"] > 0).sum(1))


def test_windows_of_processes_are_the_whole_batch():
    parts = [
        Batches(examples=examples(20), batch_size=6, key=jax.random.key(0), window=window)(2)[
            "tokens"
        ]
        for window in (None, (0, 2), (2, 6))
    ]
    np.testing.assert_array_equal(parts[0], np.concatenate(parts[1:]))


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match="batch size 21 with 20 examples"):
        Batches(examples=examples(20), batch_size=21, key=jax.random.key(0)).rows(0)
    with pytest.raises(ValueError, match="40 tokens exceeds the largest bucket 32"):
        batches.bucket(40, (16, 32))
