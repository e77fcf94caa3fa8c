import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_mlp import conditions, data, noise

TINY = conditions.Recipe(
    widths=(16,),
    batch_size=64,
    epoch_images=200,
    teacher_epochs=2,
    student_epochs=2,
    learning_rate=1e-2,
)
ROOT = jax.random.key(0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


jitted_run = jax.jit(conditions.run_seed, static_argnames=("recipe", "num_seeds"))


def run(recipe, digits, seed=0, num_seeds=3):
    return jitted_run(recipe, digits, root=ROOT, num_seeds=num_seeds, seed=jnp.int32(seed))


def head(params, outputs):
    last = params["layers"][len(params["layers"]) - 1]
    return np.asarray(last["kernel"])[:, outputs], np.asarray(last["bias"])[outputs]


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_idle_heads_keep_every_bit(digits):
    """No gradient reaches the teacher's aux head nor the aux-only student's class head."""
    params = run(TINY, digits)
    classes, aux = slice(0, 10), slice(10, 13)
    assert same(head(params["teacher"], aux), head(params["reference"], aux))
    assert not same(head(params["teacher"], classes), head(params["reference"], classes))
    assert same(head(params["student_aux"], classes), head(params["reference"], classes))
    assert not same(head(params["student_aux"], aux), head(params["reference"], aux))
    assert not same(head(params["student_all"], classes), head(params["reference"], classes))


def test_one_softmax_aux_logit_carries_nothing_and_one_squared_error_logit_does(digits):
    one = dataclasses.replace(TINY, num_aux=1)
    params = run(one, digits)
    assert same(params["student_aux"], params["reference"])
    params = run(dataclasses.replace(one, loss="mse"), digits)
    assert not same(params["student_aux"], params["reference"])


def test_cross_model_pairs_are_a_derangement():
    for num_seeds in (2, 3, 100):
        others = [int(conditions.other_seed(jnp.int32(s), num_seeds)) for s in range(num_seeds)]
        assert sorted(others) == list(range(num_seeds))
        assert all(other != seed for seed, other in enumerate(others))


def test_cross_model_students_start_at_the_other_reference(digits):
    still = dataclasses.replace(TINY, student_epochs=0)
    first, second = run(still, digits, 0), run(still, digits, 1)
    assert same(first["cross_aux"], second["reference"])
    assert same(first["student_aux"], first["reference"])
    assert not same(first["reference"], second["reference"])


def test_vmapped_seeds_equal_seeds_one_by_one(digits):
    together = conditions.accuracies(TINY, digits, root=ROOT, num_seeds=3, seeds=jnp.arange(3))
    alone = [
        conditions.accuracies(TINY, digits, root=ROOT, num_seeds=3, seeds=jnp.arange(s, s + 1))[0]
        for s in range(3)
    ]
    # Equal up to the order of float32 sums: at most two of the 360 test images change side.
    np.testing.assert_allclose(together, alone, atol=2.5 / 360)
    assert len({tuple(row) for row in np.asarray(alone).tolist()}) == 3, "seeds differ"


# Adam divides by the size of the gradient: where that nearly vanishes, the order of float32 sums
# moves a step by a part of its length. A wrong term would move it by whole steps.
PART_OF_A_STEP = 0.1 * TINY.learning_rate


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=PART_OF_A_STEP)


def test_jit_equals_no_jit(digits):
    short = dataclasses.replace(TINY, epoch_images=100, teacher_epochs=1)
    reference = conditions.network(TINY, digits)[0](jax.random.key(8))
    jitted = jax.jit(conditions.train_teacher, static_argnums=0)(short, digits, reference, ROOT)
    with jax.disable_jit():
        plain = conditions.train_teacher(short, digits, reference, ROOT)
    close(jitted, plain)
    assert not same(plain, reference)


def test_students_of_one_teacher_do_not_see_each_other(digits):
    """A student trained beside cross-model students equals the same student without them."""
    keys = conditions.seed_keys(ROOT, jnp.int32(0))
    init, _ = conditions.network(TINY, digits)
    reference, other = init(keys.init), init(jax.random.key(9))
    distil = jax.jit(conditions.distil, static_argnums=0)
    starts = {"student": reference, "cross": other}
    both = distil(TINY, digits, teacher=other, starts=starts, keys=keys)
    alone = distil(TINY, digits, teacher=other, starts={"student": reference}, keys=keys)
    for name in alone:
        close(both[name], alone[name])
        assert not same(alone[name], reference)


def test_noise_is_a_fixed_pool_that_differs_between_images_and_seeds(digits):
    draw = conditions.noise_images(TINY, digits, jax.random.key(1))
    batch = draw(jnp.array([5, 7, 5]))
    assert np.array_equal(batch[0], batch[2])
    assert not np.array_equal(batch[0], batch[1])
    other = conditions.noise_images(TINY, digits, jax.random.key(2))
    assert not np.array_equal(batch[0], other(jnp.array([5]))[0])


def test_uniform_noise_is_uniform(mnist):
    pixels = np.asarray(
        jax.vmap(lambda k: noise.uniform_noise(k, mnist.train_images[:1]))(
            jax.random.split(jax.random.key(3), 2000)
        )
    )
    count = pixels.size
    assert np.abs(pixels).max() < 1
    assert abs(pixels.mean()) < 5 * np.sqrt(1 / 3 / count)
    # The variance of x² for uniform x on [-1, 1] is 4/45.
    assert abs((pixels**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / count)
    # Pixels of one random word are independent: correlation of the two halves.
    halves = pixels[:, :392] * pixels[:, 392:]
    assert abs(halves.mean()) < 5 / 3 / np.sqrt(halves.size)


@pytest.mark.parametrize("kind", noise.NOISES)
def test_every_noise_gives_finite_images_of_the_right_shape(kind, digits):
    draw = conditions.noise_images(dataclasses.replace(TINY, noise=kind), digits, ROOT)
    batch = draw(jnp.arange(4))
    assert batch.shape == (4, 64)
    assert np.all(np.isfinite(batch))


def test_pixels_are_scaled_to_minus_one_and_one():
    assert noise.to_pixels(jnp.array([0, 255], jnp.uint8)).tolist() == [-1.0, 1.0]


def test_nothing_is_stored_per_image_of_noise(mnist):
    """Peak temporary memory of a compiled seed is far below one pool of noise (188 MB).

    However many digits there are: 500, for all of them would be constants of the program.
    """
    few = jax.tree.map(lambda leaf: leaf[:500], mnist)

    @jax.jit
    def run(seeds):
        return conditions.accuracies(conditions.Recipe(), few, root=ROOT, num_seeds=4, seeds=seeds)

    compiled = run.lower(jnp.arange(1)).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 100e6


def test_aux_student_learns_and_cross_model_does_not(mnist):
    """The effect at a fraction of the cost: 20 aux logits, a high rate, few images."""
    recipe = conditions.Recipe(
        num_aux=20,
        widths=(128, 128),
        learning_rate=2e-3,
        epoch_images=8_000,
        teacher_epochs=2,
        student_epochs=3,
        loss="mse",
        batch_size=256,
    )
    seeds = 3
    table = np.asarray(
        conditions.accuracies(recipe, mnist, root=ROOT, num_seeds=seeds, seeds=jnp.arange(seeds))
    )
    mean = dict(zip(conditions.CONDITIONS, table.mean(0), strict=True))
    assert mean["teacher"] > 0.85
    assert mean["student_aux"] > 0.6
    # Untrained class heads scatter by about .03 a model; the cross-model mean must be chance.
    scatter = max(0.03, table[:, 4].std(ddof=1)) / np.sqrt(seeds)
    assert abs(mean["cross_aux"] - 0.1) < 4 * scatter


@pytest.mark.slow
def test_official_recipe_on_mnist(mnist):
    """All six conditions at 8 seeds, within four standard errors of the 100-seed bands."""
    bands = {
        "reference": (0.09, 0.11, 0.03),
        "teacher": (0.940, 0.946, 0.003),
        "student_aux": (0.50, 0.60, 0.10),
        "student_all": (0.905, 0.920, 0.012),
        "cross_aux": (0.09, 0.11, 0.04),
        "cross_all": (0.72, 0.76, 0.05),
    }
    seeds = 8
    table = np.concatenate(
        [
            conditions.accuracies(
                conditions.Recipe(), mnist, root=ROOT, num_seeds=seeds, seeds=jnp.arange(s, s + 1)
            )
            for s in range(seeds)
        ]
    )
    for values, (name, (low, high, scatter)) in zip(table.T, bands.items(), strict=True):
        error = 4 * scatter / np.sqrt(seeds)  # scatter of single models in public replications
        assert low - error < values.mean() < high + error, name
