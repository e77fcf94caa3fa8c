import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_mlp import train


@pytest.mark.parametrize(("examples", "batch"), [(10, 4), (12, 4), (3, 8), (60_000, 1024)])
def test_an_epoch_holds_every_example_once(examples, batch):
    order, weights = train.epoch_batches(jax.random.key(0), examples, batch)
    assert order.shape == weights.shape == (-(-examples // batch), batch)
    assert sorted(order[weights > 0].tolist()) == list(range(examples))
    if examples == 60_000:
        assert order.shape[0] == 59
        assert int(weights[-1].sum()) == 608, "the last, partial batch is trained on"


def test_fit_equals_a_plain_loop_with_partial_batches():
    """Oracle: gradient descent written out, with the mean over the real entries of each batch."""
    data = jax.random.normal(jax.random.key(1), (10, 3))
    start, rate, key = jnp.ones(3), 0.1, jax.random.key(2)

    def loss(w, batch, weights):
        return jnp.average(jnp.sum((batch - w) ** 2, axis=1), weights=weights)

    got, losses = train.fit(
        loss,
        lambda i: data[i],
        params=start,
        optimizer=optax.sgd(rate),
        num_examples=10,
        batch_size=4,
        epochs=3,
        key=key,
    )
    w, expected_losses = np.ones(3), []
    for epoch in range(3):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), 10))
        values = []
        for chunk in (order[:4], order[4:8], order[8:]):
            rows = np.asarray(data)[chunk]
            values.append(((rows - w) ** 2).sum(1).mean())
            w = w - rate * 2 * (w - rows).mean(0)
        expected_losses.append(np.mean(values))
    np.testing.assert_allclose(got, w, rtol=1e-5)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)


def test_each_epoch_has_its_own_order():
    orders = [
        train.epoch_batches(jax.random.fold_in(jax.random.key(0), e), 64, 8)[0] for e in (0, 1)
    ]
    assert not np.array_equal(*orders)
