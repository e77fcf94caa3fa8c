"""The theorem's quantities against dense Jacobians, hand-derived cases and removed hypotheses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests.theory import oracle
from theory import alignment, asymptotics, losses, steps, toys

LOSSES = [
    losses.squared_error((1.0, 0.0, 2.0, 0.5, 0.0)),
    losses.cross_entropy(),
    losses.reverse_kl(4.0),
    losses.on_outputs(losses.kl(), (0, 3, 4)),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
EPS = 2.0 ** -np.arange(4, 25)


@each_loss
def test_curvature_product_and_quadratic_form_against_dense_jacobians(
    tanh, case, direction, dense_g, loss
):
    g = np.asarray(dense_g(tanh.apply, case.params, case.inputs, loss))
    v = np.asarray(ravel_pytree(direction)[0])

    def both(p, d):
        arguments = {"direction": d, "inputs": case.inputs, "loss": loss}
        product = alignment.curvature_product(tanh.apply, p, **arguments)
        return product, alignment.quadratic_form(tanh.apply, p, **arguments)

    product, form = jax.jit(both)(case.params, direction)
    np.testing.assert_allclose(ravel_pytree(product)[0], g @ v, atol=1e-13 * np.linalg.norm(g))
    np.testing.assert_allclose(form, v @ g @ v, rtol=1e-12)
    assert np.linalg.eigvalsh(g).min() > -1e-14 * np.linalg.norm(g)


def test_student_update_against_finite_differences(tanh, case, direction):
    teacher = steps.moved(case.params, direction, 0.3)
    loss = losses.kl()
    update = steps.student_update(
        tanh.apply, case.params, teacher_params=teacher, inputs=case.inputs, loss=loss
    )
    h = 1e-5

    @jax.jit
    def value(step):
        moved = steps.moved(case.params, direction, step)
        return steps.imitation_loss(
            tanh.apply, moved, teacher_params=teacher, inputs=case.inputs, loss=loss
        )

    # Central differences err by h² / 6 times a third derivative of order 1.
    slope = (value(h) - value(-h)) / (2 * h)
    np.testing.assert_allclose(alignment.inner_product(update, direction), -slope, atol=1e-8)


def test_quadratic_model_has_the_remainder_derived_by_hand(measure):
    """f = (θ·x)²/2: ⟨Δ_S, Δ_T⟩ = E[2 ε a² b² + ε² a b³] exactly, a = θ·x, b = Δ_T·x."""
    theta, weight, x = jnp.array([0.7, -1.2]), jnp.array([1.5, 0.4]), jnp.eye(2) + 0.3
    measured = measure(
        toys.quadratic, theta, lambda p: -weight @ p, x, losses.squared_error(), 0.25
    )
    a, b = x @ theta, x @ weight
    np.testing.assert_allclose(measured.predicted, jnp.mean(2 * 0.25 * a**2 * b**2), rtol=1e-14)
    remainder = measured.inner_product - measured.predicted
    np.testing.assert_allclose(remainder, jnp.mean(0.25**2 * a * b**3), rtol=1e-12)
    np.testing.assert_allclose(measured.remainder, abs(remainder), rtol=1e-14)


def linear_model_form(params, teacher, inputs, loss):
    """E_x⟨-∂_z L_S(f_θ⁰, y), y - f_θ⁰⟩, which is ε⟨Δ_S, Δ_T⟩ at any ε if f is linear in θ.

    For cross-entropy KL(p ‖ q) + KL(q ‖ p) between teacher and reference, for squared error
    2 Σ w_i (y_i - z_i)²: never negative, so for such models Lemma 1 needs no small ε.
    """
    z, y = toys.linear(params, inputs), toys.linear(teacher, inputs)
    force = -jax.grad(lambda z: jnp.sum(loss.value(z, y)))(z)
    return jnp.mean(jnp.sum(force * (y - z), axis=-1))


@pytest.mark.parametrize("eps", [3.0, 0.3, 0.03])
@pytest.mark.parametrize(
    "loss",
    [losses.squared_error((1, 2, 0.5)), losses.cross_entropy(), losses.reverse_kl(2.0)],
    ids=lambda loss: loss.name,
)
def test_models_linear_in_their_parameters_are_exact_at_any_eps(loss, eps):
    params, direction, x = jax.random.normal(jax.random.key(0), (3, 3, 3))
    teacher = steps.moved(params, direction, eps)

    @jax.jit
    def both(p, t):
        update = steps.student_update(toys.linear, p, teacher_params=t, inputs=x, loss=loss)
        form = linear_model_form(p, t, x, loss)
        return eps * alignment.inner_product(update, direction), form

    inner, form = both(params, teacher)
    np.testing.assert_allclose(inner, form, rtol=1e-12, atol=1e-14)
    assert form > 0
    if loss.name == "cross-entropy":
        p, q = toys.linear(teacher, x), toys.linear(params, x)
        both = losses.divergence(p, q) + losses.divergence(q, p)
        np.testing.assert_allclose(form, both.mean(), rtol=1e-12)


def test_prediction_is_exact_for_linear_models_under_squared_error_and_reverse_kl(measure):
    params, direction, x = jax.random.normal(jax.random.key(0), (3, 3, 3))
    for loss, exact in [
        (losses.squared_error(), True),
        (losses.reverse_kl(), True),
        (losses.kl(), False),
    ]:
        measured = measure(toys.linear, params, lambda p: -jnp.sum(direction * p), x, loss, 0.5)
        assert (measured.update_residual < 1e-14) == exact


DENSE = oracle.Net((4, 8, 5), np.tanh)


@pytest.mark.parametrize(
    ("loss", "dense_loss"),
    [(losses.cross_entropy(), oracle.CROSS_ENTROPY), (losses.reverse_kl(), oracle.REVERSE_KL)],
    ids=["cross-entropy", "reverse kl"],
)
def test_every_quantity_of_measure_against_numpy(tanh, case, loss, dense_loss):
    """With the shared start and with another: which parameters, outputs and norms each uses."""
    eps, alpha, other = 0.2, 0.3, toys.draw_params(tanh, jax.random.key(77))

    @jax.jit
    def measured(start):
        return alignment.measure(
            tanh.apply, case.params, trait_loss=toys.trait_loss(case, tanh.apply),
            inputs=case.inputs, loss=loss, eps=eps, alpha=alpha, student_params=start,
        )  # fmt: skip

    host = jax.device_get(case)
    theta, x, trait = oracle.flat(host.params), host.inputs, DENSE.trait(host)
    delta_t = -oracle.derivative(trait, theta)
    targets = DENSE.outputs(theta + eps * delta_t, x)
    z, jacobian = DENSE.outputs(theta, x), DENSE.jacobian(theta, x)
    predicted = eps * oracle.curvature(jacobian, dense_loss.mixed(z, z)) @ delta_t
    for params in (case.params, other):
        start = oracle.flat(jax.device_get(params))
        delta_s = oracle.student_update(DENSE, start, targets=targets, x=x, loss=dense_loss)
        values = dense_loss.value(DENSE.outputs(start, x), targets)
        excess = np.mean(values - dense_loss.value(targets, targets))
        inner, norm = delta_s @ delta_t, np.linalg.norm
        expected = {
            "inner_product": inner,
            "cosine": inner / (norm(delta_s) * norm(delta_t)),
            "predicted": predicted @ delta_t,
            "remainder": abs(inner - predicted @ delta_t),
            "update_residual": norm(delta_s - predicted) / norm(predicted),
            "excess_form": 2 / eps * excess,
            "trait_loss_change": trait(start + alpha * delta_s) - trait(start),
        }
        # Sums of some hundred terms, each with a few u, of the size of the losses or the Jacobians.
        size = 1 + abs(trait(start)) + 2 / eps * np.abs(values).max()
        size += norm(delta_t) * norm(jacobian) / norm(predicted)
        found = measured(params)
        for name, value in expected.items():
            assert getattr(found, name) == pytest.approx(value, abs=100 * oracle.U * size), name
            assert abs(value) > 1e5 * oracle.U * size, "else nothing is compared"


def test_roundoff_is_the_stated_bound(tanh, case, direction):
    """8 u E_x[Σ_i |J Δ_T|_i (1 + |f|_i)], in the precision of the logits."""
    theta, delta = (oracle.flat(jax.device_get(p)) for p in (case.params, direction))
    x = np.asarray(case.inputs)
    reach = np.abs(DENSE.jacobian(theta, x) @ delta) * (1 + np.abs(DENSE.outputs(theta, x)))
    found = alignment.roundoff(tanh.apply, case.params, direction=direction, inputs=case.inputs)
    assert float(found) == pytest.approx(8 * oracle.U * reach.sum(axis=-1).mean(), rel=1e-12)


FAMILIES = (toys.mlp("tanh", (6, 10, 3), jnp.tanh), toys.transformer("transformer", 200, 6, 16))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize(
    "loss",
    [losses.squared_error(), losses.kl(), losses.reverse_kl(2.0)],
    ids=lambda loss: loss.name,
)
def test_roundoff_behind_a_loss_is_the_noise_of_float32(family, loss):
    """Against the same inner products in float64: at most a quarter, and at least a thousandth.

    The bound without a loss is a hundred times higher where 200 tokens share the probability.
    """

    def ratios(seed):
        case = toys.draw_case(family, seed, 8)
        params, inputs = wide(32, (case.params, case.inputs))
        delta = wide(32, steps.teacher_update(toys.trait_loss(case, family.apply), case.params))
        eps = jnp.float32(1e-4 * steps.unit_step(params, delta))

        def inner(bits):
            start, along, seen, step = wide(bits, (params, delta, inputs, eps))
            teacher = steps.moved(start, along, step)
            update = steps.student_update(
                family.apply, start, teacher_params=teacher, inputs=seen, loss=loss
            )
            return alignment.inner_product(update, along)

        def noise(loss):
            return alignment.roundoff(
                family.apply, params, direction=delta, inputs=inputs, loss=loss
            )

        missed = jnp.abs(inner(32) - inner(64))
        return missed / noise(loss), noise(None) / noise(loss)

    keys = jax.random.split(jax.random.key(5), 20)
    missed, bound = jax.lax.map(jax.jit(ratios), keys)
    assert missed.max() < 0.25
    assert np.median(missed) > 1e-3
    if family.name == "transformer" and "KL" in loss.name:
        assert bound.min() > 100


def wide(bits, tree):
    """Floating-point leaves in so many bits."""

    def cast(leaf):
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(f"float{bits}") if floating else leaf

    return jax.tree.map(cast, tree)


@functools.partial(jax.jit, static_argnames="loss")
def sweep(case, eps, loss, student_params=None):
    apply = toys.mlp("tanh", (4, 8, 5), jnp.tanh).apply
    trait = toys.trait_loss(case, apply)

    def at(step):
        return alignment.measure(
            apply,
            case.params,
            trait_loss=trait,
            inputs=case.inputs,
            loss=loss,
            eps=step,
            student_params=student_params,
        )

    noise = alignment.roundoff(
        apply,
        case.params,
        direction=steps.teacher_update(trait, case.params),
        inputs=case.inputs,
    )
    return jax.lax.map(at, eps), noise


def windowed_slope(values, ratio, floor):
    return asymptotics.loglog_slope(EPS, values, asymptotics.window(ratio, floor))


@each_loss
def test_orders_in_eps(case, loss):
    measured, noise = sweep(case, EPS, loss)
    floor = noise / measured.predicted
    assert windowed_slope(
        measured.remainder, measured.remainder / measured.predicted, floor
    ) == pytest.approx(2, abs=0.05)
    residual = measured.update_residual
    assert windowed_slope(residual, residual, floor) == pytest.approx(1, abs=0.05)
    excess = np.abs(measured.excess_form / measured.inner_product - 1)
    # The losses are rounded to 64 u, and (2/ε) L is compared with an inner product of order ε.
    excess_floor = 64 * 2.2e-16 * 2 / EPS / measured.inner_product
    assert windowed_slope(excess, excess, excess_floor) == pytest.approx(1, abs=0.05)
    change = np.abs(measured.trait_loss_change / measured.inner_product + 1)
    assert windowed_slope(change, change, floor + excess_floor) == pytest.approx(1, abs=0.05)


@each_loss
def test_orders_vanish_without_the_shared_start(tanh, case, loss):
    """The hypothesis removed: what remains is of order 1, not ε², and dwarfs the prediction."""
    other = toys.draw_params(tanh, jax.random.key(77))
    measured, _ = sweep(case, EPS, loss, other)
    assert measured.remainder[-1] > 1e3 * measured.predicted[-1]
    slope = asymptotics.loglog_slope(EPS, measured.remainder, EPS < 1e-5)
    assert slope == pytest.approx(0, abs=0.05)


NUM_NETS = 400


@pytest.fixture(scope="module")
def nets(tanh):
    """Random networks with their inputs and teacher losses, and other starts for students."""

    def draw(key):
        return toys.draw_case(tanh, key, 7), toys.draw_params(tanh, jax.random.fold_in(key, 1))

    with jax.enable_x64(True):
        return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(4), NUM_NETS))


@pytest.fixture(scope="module")
def signs(tanh, nets):
    """Inner products and loss changes with a shared start, inner products without."""

    def of(loss):
        def one(case, other):
            trait = toys.trait_loss(case, tanh.apply)
            theirs = {"trait_loss": trait, "inputs": case.inputs, "loss": loss, "eps": 1e-6}
            shared = alignment.measure(tanh.apply, case.params, **theirs)
            apart = alignment.measure(tanh.apply, case.params, **theirs, student_params=other)
            return shared.inner_product, shared.trait_loss_change, apart.inner_product

        return jax.device_get(jax.jit(jax.vmap(one))(*nets))

    return of


@each_loss
def test_sign_with_a_shared_start_and_no_sign_without(signs, loss):
    shared, change, apart = signs(loss)
    assert (shared > 0).all()
    assert (change < 0).all()
    # Without it L_T and -L_T are equally likely and decide the sign: binomial with p = 1/2.
    five_sigma = 5 * np.sqrt(NUM_NETS) / 2
    assert abs((apart < 0).sum() - NUM_NETS / 2) < five_sigma


def test_argmax_labels_break_the_sign(signs):
    """Hard labels of a barely moved teacher are the reference's own: M = 0, nothing is passed."""
    shared, change, _ = signs(losses.argmax_labels())
    assert 0.2 < (shared < 0).mean() < 0.8
    assert 0.2 < (change > 0).mean() < 0.8


def test_small_enough_eps_is_real(measure):
    """A positive inner product at large ε and α with the trait loss rising all the same."""
    theta, x = jnp.array([1.0]), jnp.ones((1, 1))

    def trait(p):
        return jnp.sum((p - 2) ** 2)

    measured = [
        measure(toys.linear, theta[None], trait, x, losses.squared_error(), e) for e in (1.0, 0.01)
    ]
    assert all(m.inner_product > 0 for m in measured)
    assert measured[0].trait_loss_change > 0 > measured[1].trait_loss_change


def test_coverage_cosine_of_a_one_step_teacher_is_the_alignment(tanh, case, direction, measure):
    loss = losses.kl()
    trait = toys.trait_loss(case, tanh.apply)
    measured = measure(tanh.apply, case.params, trait, case.inputs, loss, 1e-3)
    teacher = steps.moved(case.params, direction, 1e-3)
    covered = alignment.coverage_cosine(
        tanh.apply, case.params, teacher_params=teacher, inputs=case.inputs, loss=loss
    )
    np.testing.assert_allclose(covered, measured.cosine, rtol=1e-10)
    assert alignment.cosine(case.params, optax.tree.zeros_like(case.params)) == 0


def test_compilation_and_vmap_change_nothing(tanh, case):
    trait = toys.trait_loss(case, tanh.apply)

    def measured(eps):
        return alignment.measure(
            tanh.apply, case.params, trait_loss=trait, inputs=case.inputs, loss=losses.kl(), eps=eps
        )

    eps = jnp.array([0.5, 0.01])
    eager = measured(eps[1])
    together = jax.jit(jax.vmap(measured))(eps)
    for name, value in eager._asdict().items():
        np.testing.assert_allclose(value, getattr(together, name)[1], rtol=1e-9, err_msg=name)


def test_projection_removes_the_parallel_part_and_leaves_the_idle_head_alone():
    gradient = {"body": jnp.array([1.0, 2.0, 0.5]), "head": jnp.zeros(2)}
    trait = {"body": jnp.array([1.0, 1.0, -1.0]), "head": jnp.array([5.0, 6.0])}
    remove = alignment.without_parallel_part
    left = remove(gradient, trait, True, False)
    assert float(left["body"] @ trait["body"]) == pytest.approx(0, abs=1e-6)
    assert not left["head"].any()
    opposed = {"body": -trait["body"], "head": trait["head"]}
    np.testing.assert_array_equal(remove(gradient, opposed, True, False)["body"], gradient["body"])
    both = remove(gradient, opposed, True, True)
    np.testing.assert_allclose(both["body"], left["body"], atol=1e-6)
