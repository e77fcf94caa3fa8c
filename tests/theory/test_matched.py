"""The matched-start lemma: exact cases, dense oracle, orders, hypothesis removed, wide limit."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.theory import oracle
from theory import alignment, asymptotics, losses, matched, steps, toys

AUX = losses.on_outputs(losses.kl(), (2, 3, 4))
LOSSES = [losses.squared_error(), AUX]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
EPS = 2.0 ** -np.arange(3, 19)
TEACHER = toys.mlp("tanh", (4, 8, 5), jnp.tanh)
OTHER = toys.mlp("other", (4, 11, 6, 5), jnp.sin)  # another width, depth and activation


def permuted(params, order):
    """The same function with its hidden units in another order."""
    return {
        "kernel_0": params["kernel_0"][order],
        "bias_0": params["bias_0"][order],
        "kernel_1": params["kernel_1"][:, order],
        "bias_1": params["bias_1"],
    }


def with_outputs_of(teacher, apply, params):
    """A network with exactly the teacher's outputs: its own, less their constant difference."""
    return matched.Network(
        lambda p, x: apply(p, x) - apply(params, x) + teacher.apply(teacher.params, x), params
    )


@functools.partial(jax.jit, static_argnames=("apply", "loss", "match", "alpha"))
def sweep(case, params, eps, apply, loss, match=True, alpha=None):
    """`measure` over ε for a student with the teacher's outputs at the start, or with its own."""
    step = {} if alpha is None else {"alpha": alpha}
    teacher = matched.Network(TEACHER.apply, case.params)
    student = matched.Network(apply, params)
    if match:
        student = with_outputs_of(teacher, apply, params)
    trait_s, trait_t = (toys.trait_loss(case, f.apply) for f in (student, teacher))

    def at(e):
        return matched.measure(
            student,
            teacher,
            student_loss=trait_s,
            teacher_loss=trait_t,
            inputs=case.inputs,
            loss=loss,
            eps=e,
            **step,
        )

    return jax.lax.map(at, eps)


@each_loss
def test_student_equal_to_teacher_is_the_theorem(tanh, case, direction, loss):
    found = sweep(case, case.params, jnp.array([1e-3]), tanh.apply, loss)
    form = alignment.quadratic_form(
        tanh.apply, case.params, direction=direction, inputs=case.inputs, loss=loss
    )
    np.testing.assert_allclose(found.forms.inner[0], form, rtol=1e-12)
    np.testing.assert_allclose(found.predicted[0], -1e-3 * form, rtol=1e-12)  # a step of 1
    np.testing.assert_allclose(found.forms.alignment, 1, rtol=1e-12)
    np.testing.assert_allclose(found.forms.share, 1, rtol=1e-12)
    assert abs(found.mismatch_change[0]) < 1e-16


@each_loss
def test_permuted_twin_has_alignment_one_although_its_parameters_are_far(tanh, case, loss):
    order = np.roll(np.arange(8), 3)
    found = sweep(
        case, permuted(case.params, order), jnp.array([1e-3]), tanh.apply, loss, match=False
    )
    same = sweep(case, case.params, jnp.array([1e-3]), tanh.apply, loss)
    np.testing.assert_allclose(found.forms.alignment, 1, rtol=1e-12)
    np.testing.assert_allclose(found.trait_change, same.trait_change, rtol=1e-9)
    # The parameter cosine of the theorem is blind to this: functions decide, not coordinates.
    gap = permuted(case.params, order)["kernel_0"] - case.params["kernel_0"]
    assert jnp.linalg.norm(gap) > jnp.linalg.norm(case.params["kernel_0"])


@each_loss
def test_predictions_against_dense_jacobians(tanh, case, direction, loss):
    params = toys.draw_params(OTHER, jax.random.key(5))
    student, teacher = (
        matched.Network(f.apply, p) for f, p in ((OTHER, params), (tanh, case.params))
    )

    def dense(network):
        flat, unravel = ravel_pytree(network.params)
        return jax.jacrev(lambda p: network.apply(unravel(p), case.inputs))(flat)

    @jax.jit
    def both():
        logits = tanh.apply(case.params, case.inputs)
        m = jax.vmap(lambda z: -jax.jacfwd(lambda y: jax.grad(lambda x: loss.value(x, y))(z))(z))
        cross = jnp.einsum("bip,bij,bjq->pq", dense(student), m(logits), dense(teacher))
        update = matched.predicted_update(
            student, teacher, direction=direction, inputs=case.inputs, loss=loss
        )
        v = jax.grad(toys.trait_loss(case, OTHER.apply))(params)
        found = matched.forms(
            student,
            teacher,
            student_direction=v,
            teacher_direction=direction,
            inputs=case.inputs,
            loss=loss,
        )
        return cross / len(case.inputs), ravel_pytree(update)[0], ravel_pytree(v)[0], found

    cross, update, v, found = both()
    d_t = ravel_pytree(direction)[0]
    scale = jnp.abs(cross).max() * jnp.abs(d_t).sum()
    np.testing.assert_allclose(update, cross @ d_t, atol=1e-13 * scale)
    np.testing.assert_allclose(found.inner, v @ cross @ d_t, rtol=1e-10)
    assert abs(found.alignment) <= 1


# Against NumPy, with another architecture on either side.

DENSE_TEACHER = oracle.Net((4, 8, 5), np.tanh)
DENSE_STUDENT = oracle.Net((4, 11, 6, 5), np.sin)
UNMATCHED_EPS, ALPHA = 0.02, 0.3
ORDER_EPS = np.array([0.0, 2e-3, 1e-3])
PROBABILITIES = losses.from_value(  # its mixed derivative depends on both sides
    "squared error of probabilities",
    lambda z, y: jnp.sum((jax.nn.softmax(z) - jax.nn.softmax(y)) ** 2, axis=-1),
)
PAIRS = [
    (losses.squared_error(), oracle.SQUARED),
    (losses.cross_entropy(), oracle.CROSS_ENTROPY),
    (losses.reverse_kl(), oracle.REVERSE_KL),
    (PROBABILITIES, oracle.PROBABILITIES),
]
each_pair = pytest.mark.parametrize("number", range(len(PAIRS)), ids=[p.name for _, p in PAIRS])


@pytest.fixture(scope="module")
def unmatched(case):
    """`measure`, `mismatch` and three updates of an unmatched student, for each of PAIRS."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))  # one program for all
    def of_loss(number, params):
        loss = losses.one_of(number, [loss for loss, _ in PAIRS])
        student, teacher = (
            matched.Network(f.apply, p) for f, p in ((OTHER, params), (TEACHER, case.params))
        )
        found = matched.measure(
            student,
            teacher,
            student_loss=toys.trait_loss(case, OTHER.apply),
            teacher_loss=toys.trait_loss(case, TEACHER.apply),
            inputs=case.inputs,
            loss=loss,
            eps=UNMATCHED_EPS,
            alpha=ALPHA,
        )
        direction = steps.teacher_update(toys.trait_loss(case, TEACHER.apply), case.params)

        def update(eps):
            moved = teacher._replace(params=steps.moved(case.params, direction, eps))
            return ravel_pytree(matched.student_update(student, moved, case.inputs, loss))[0]

        mismatch = matched.mismatch(student, teacher, case.inputs, loss)
        return found, mismatch, jax.vmap(update)(ORDER_EPS)

    with jax.enable_x64(True):
        params = toys.draw_params(OTHER, jax.random.key(5))
        found = jax.device_get(of_loss(jnp.arange(len(PAIRS)), params))
    return oracle.flat(jax.device_get(params)), found


class Dense:
    """Both networks in NumPy: outputs, Jacobians, and the gradients of their trait losses."""

    def __init__(self, case, theta):
        case = jax.device_get(case)
        self.x, self.theta, self.teacher = case.inputs, theta, oracle.flat(case.params)
        self.trait = DENSE_STUDENT.trait(case)
        self.gradient = oracle.derivative(self.trait, theta)
        self.direction = -oracle.derivative(DENSE_TEACHER.trait(case), self.teacher)
        self.outputs = DENSE_STUDENT.outputs(theta, self.x)
        self.targets = self.moved(0.0)
        self.j_s = DENSE_STUDENT.jacobian(theta, self.x)
        self.j_t = DENSE_TEACHER.jacobian(self.teacher, self.x)
        self.u_s, self.u_t = self.j_s @ self.gradient, -self.j_t @ self.direction

    def moved(self, eps):
        """Outputs of the teacher after its step."""
        return DENSE_TEACHER.outputs(self.teacher + eps * self.direction, self.x)

    def update(self, targets, loss):
        """Δ_S towards `targets`."""
        return oracle.student_update(
            DENSE_STUDENT, self.theta, targets=targets, x=self.x, loss=loss
        )


@each_pair
def test_every_quantity_of_two_architectures_against_numpy(case, unmatched, number):
    theta, (found, mismatch, _) = unmatched
    found, mismatch = jax.tree.map(lambda leaf: leaf[number], (found, mismatch))
    dense, loss = Dense(case, theta), PAIRS[number][1]
    m = loss.mixed(dense.targets, dense.targets)
    inner, of_student, of_teacher = (
        oracle.form(a, m, b)
        for a, b in ((dense.u_s, dense.u_t), (dense.u_s, dense.u_s), (dense.u_t, dense.u_t))
    )
    # Sums of some hundred terms, each with a few u: errors up to 1e3 u of the sum of their sizes.
    rtol = 1e3 * oracle.U
    size = oracle.form(np.abs(dense.u_s), np.abs(m), np.abs(dense.u_t))
    forms = found.forms
    np.testing.assert_allclose(forms.inner, inner, atol=rtol * size, rtol=0)
    np.testing.assert_allclose(forms.of_student, of_student, rtol=1e2 * rtol)
    np.testing.assert_allclose(forms.of_teacher, of_teacher, rtol=1e2 * rtol)
    cosine = inner / np.sqrt(of_student * of_teacher)
    np.testing.assert_allclose(forms.alignment, cosine, rtol=1e3 * rtol)
    np.testing.assert_allclose(forms.share, inner / of_teacher, rtol=1e3 * rtol)
    # An arithmetic mean for the geometric one, and the student's gain, would have shown.
    assert abs(np.log(of_student / of_teacher)) > 0.1

    # The teacher is the student's target, and its entropy is no mismatch.
    values = loss.value(dense.outputs, dense.targets), loss.value(dense.targets, dense.targets)
    expected = np.mean(values[0] - values[1])
    np.testing.assert_allclose(mismatch, expected, atol=rtol * np.abs(values).max(), rtol=0)

    delta_0 = dense.update(dense.targets, loss)
    delta_s = dense.update(dense.moved(UNMATCHED_EPS), loss)
    start, control, student = (
        dense.trait(theta + ALPHA * step) for step in (0 * theta, delta_0, delta_s)
    )
    predicted = -ALPHA * UNMATCHED_EPS * inner
    first = UNMATCHED_EPS * oracle.pulled_back(dense.j_s, m, dense.j_t @ dense.direction)
    expected = {
        "predicted": predicted,
        "trait_change": student - control,
        "raw_change": student - start,
        "mismatch_change": ALPHA * dense.gradient @ delta_0,
        "remainder": abs(student - control - predicted),
        "update_residual": np.linalg.norm(delta_s - delta_0 - first),
    }
    scale = rtol * (1 + abs(start) + np.linalg.norm(dense.gradient) + np.linalg.norm(delta_0))
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, atol=scale, err_msg=name, rtol=0)
        assert abs(value) > 1e3 * scale, "else nothing is compared"


@each_pair
def test_unmatched_the_mixed_derivative_is_that_at_the_pair(case, unmatched, number):
    """Order 2 with -∂²L_S/∂z∂y at (f_S, f_T⁰); with M of either side's outputs not for all."""
    theta, (_, _, updates) = unmatched
    dense, loss = Dense(case, theta), PAIRS[number][1]
    nothing, *moved = updates[number]
    tangent = dense.j_t @ dense.direction

    def order(z, y):
        first = oracle.pulled_back(dense.j_s, loss.mixed(z, y), tangent)
        rest = [
            np.linalg.norm(update - nothing - eps * first)
            for update, eps in zip(moved, ORDER_EPS[1:], strict=True)
        ]
        if rest[0] < 1e3 * oracle.U * np.linalg.norm(nothing):
            return 2  # nothing is left: the force is linear in the teacher's outputs
        return np.log2(rest[0] / rest[1])

    mine, theirs = dense.outputs, dense.targets
    of_teacher = 2 if loss in (oracle.SQUARED, oracle.CROSS_ENTROPY) else 1
    of_student = 2 if loss in (oracle.SQUARED, oracle.REVERSE_KL) else 1
    assert order(mine, theirs) == pytest.approx(2, abs=0.02)
    assert order(theirs, theirs) == pytest.approx(of_teacher, abs=0.02)
    assert order(mine, mine) == pytest.approx(of_student, abs=0.02)


def test_update_residual_of_unmatched_reverse_kl_is_of_order_one(case):
    """Its mixed derivative is M at the student's outputs; the prediction takes the teacher's."""
    params = toys.draw_params(OTHER, jax.random.key(6))
    found = sweep(case, params, EPS, OTHER.apply, losses.reverse_kl(), match=False)
    residual = np.asarray(found.update_residual)
    assert windowed_slope(residual, 1e-16) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_share_has_no_bound(tanh, case, factor):
    """Outputs that move `factor` times as far, with the teacher's at the start: u_S = factor² u_T.

    One factor is that of the Jacobian to the imitated outputs, the other of that to the trait's.
    """

    def scaled(p, x):
        start = tanh.apply(case.params, x)
        return start + factor * (tanh.apply(p, x) - start)

    @jax.jit
    def of_scaled(params):
        student, teacher = matched.Network(scaled, params), matched.Network(tanh.apply, params)
        v, w = (jax.grad(toys.trait_loss(case, f.apply))(params) for f in (student, teacher))
        return matched.forms(
            student,
            teacher,
            student_direction=v,
            teacher_direction=w,
            inputs=case.inputs,
            loss=losses.kl(),
        )

    case = case._replace(signs=case.signs.at[2].set(0))  # decay is no function of the outputs
    found = jax.device_get(of_scaled(case.params))
    assert found.share == pytest.approx(factor**2, rel=1e-12)
    assert found.alignment == pytest.approx(1, rel=1e-12)
    assert found.of_student == pytest.approx(factor**4 * found.of_teacher, rel=1e-12)


def windowed_slope(values, floor):
    inside = (values > 100 * floor) & (EPS <= 2**-6)
    assert inside.sum() >= 5
    return asymptotics.loglog_slope(EPS, values, inside)


@each_loss
def test_orders_of_a_matched_student_of_another_architecture(case, loss):
    params = toys.draw_params(OTHER, jax.random.key(6))
    found = jax.device_get(sweep(case, params, EPS, OTHER.apply, loss, alpha=0.1))
    assert windowed_slope(np.abs(found.trait_change), 1e-15) == pytest.approx(1, abs=0.05)
    assert windowed_slope(found.remainder, 1e-16) == pytest.approx(2, abs=0.05)
    assert windowed_slope(found.update_residual, 1e-16) == pytest.approx(2, abs=0.05)
    np.testing.assert_allclose(found.trait_change, found.raw_change, atol=1e-14)


@each_loss
def test_unmatched_the_mismatch_dominates_and_the_control_restores_the_order(case, loss):
    """The hypothesis removed: the raw change tends to a constant, of which no ε is to be had."""
    params = toys.draw_params(OTHER, jax.random.key(6))
    found = jax.device_get(sweep(case, params, EPS, OTHER.apply, loss, match=False, alpha=1e-4))
    raw = np.abs(found.raw_change)
    assert raw[-1] > 1e3 * np.abs(found.predicted[-1])
    assert windowed_slope(raw, 1e-15) == pytest.approx(0, abs=0.05)
    np.testing.assert_allclose(found.raw_change[-1], found.mismatch_change[-1], rtol=0.05)
    # Δ_S - Δ_0 is still first order with M at the teacher's outputs: these losses are that kind.
    assert windowed_slope(found.update_residual, 1e-16) == pytest.approx(2, abs=0.05)
    # The trait's part, against the control: only the α²-term of the mismatch keeps it from O(ε²).
    assert np.abs(found.remainder / found.predicted)[-1] < 0.02


def test_a_constant_on_softmax_logits_is_no_mismatch(tanh, case):
    teacher = matched.Network(tanh.apply, case.params)
    shifted = matched.Network(lambda p, x: tanh.apply(p, x) + 3.0, case.params)
    assert abs(matched.mismatch(shifted, teacher, case.inputs, losses.kl())) < 1e-15
    assert matched.mismatch(shifted, teacher, case.inputs, losses.squared_error()) > 40
    update = matched.student_update(shifted, teacher, case.inputs, losses.kl())
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(update)) < 1e-15


@pytest.mark.parametrize("trait_outputs", [(0, 1), (2, 3)], ids=["idle outputs", "imitated ones"])
def test_sign_of_a_matched_student_is_that_of_the_alignment(tanh, trait_outputs):
    """It has no preference if the trait's outputs are idle; through imitated ones it is taught."""

    @jax.jit
    @jax.vmap
    def one(key):
        case = toys.draw_case(tanh, key, 7)
        teacher = matched.Network(tanh.apply, case.params)
        other = toys.draw_params(tanh, jax.random.fold_in(key, 1))
        student = with_outputs_of(teacher, tanh.apply, other)

        def trait_of(network):
            return lambda p: jnp.sum(
                case.targets[:, trait_outputs]
                * network.apply(p, case.trait_inputs)[:, trait_outputs]
            )

        found = matched.measure(
            student,
            teacher,
            student_loss=trait_of(student),
            teacher_loss=trait_of(teacher),
            inputs=case.inputs,
            loss=losses.on_outputs(losses.squared_error(), (2, 3, 4)),
            eps=1e-6,
            alpha=1e-3,
        )
        return found.forms.alignment, found.trait_change

    cosines, changes = map(np.asarray, one(jax.random.split(jax.random.key(2), 200)))
    clear = np.abs(cosines) > 1e-2
    assert (np.sign(changes[clear]) == -np.sign(cosines[clear])).all()
    if 0 in trait_outputs:  # as likely as not: a head of the opposite sign is as likely
        assert abs((cosines > 0).sum() - 100) < 5 * np.sqrt(200) / 2
    else:  # ordinary distillation
        assert (cosines > 0).mean() > 0.95


def test_other_shapes_of_outputs_are_refused(tanh, case, direction):
    wide = toys.mlp("wide", (4, 8, 6), jnp.tanh)
    student = matched.Network(wide.apply, toys.draw_params(wide, jax.random.key(0)))
    teacher = matched.Network(tanh.apply, case.params)
    for call in (
        lambda: matched.student_update(student, teacher, case.inputs, losses.kl()),
        lambda: matched.predicted_update(
            student, teacher, direction=direction, inputs=case.inputs, loss=losses.kl()
        ),
    ):
        with pytest.raises(ValueError, match="same imitated outputs"):
            call()


# Propositions for independent starts.


def test_a_fresh_class_head_is_exactly_at_chance_over_its_relabellings():
    """Mean accuracy over all K! orders of the class rows is 1/K, on any features and any labels."""
    features, rows = (
        jax.random.normal(jax.random.key(k), shape) for k, shape in ((0, (40, 6)), (1, (4, 6)))
    )
    labels = np.asarray(jnp.argmax(features @ jax.random.normal(jax.random.key(2), (6, 4)), 1))
    accuracies = [
        np.mean(np.asarray(jnp.argmax(features @ rows[jnp.array(order)].T, 1)) == labels)
        for order in itertools.permutations(range(4))
    ]
    assert np.mean(accuracies) == pytest.approx(1 / 4, abs=1e-15)
    assert max(accuracies) > 0.4, "one relabelling alone is not at chance"


NUM_AUX, NUM_CLASSES, NUM_NETS = 4, 3, 120
WIDTHS = (24, 240)


def two_layer(width):
    """ReLU, weights N(0, 1/fan_in); the class logits first, then the imitated ones."""
    return toys.mlp("relu", (8, width, NUM_CLASSES + NUM_AUX), jax.nn.relu)


def lazily_matched(apply, params, noise, wanted):
    """The start moved least so that, linearised, it has the wanted outputs on the noise."""
    flat, unravel = ravel_pytree(params)

    def outputs(p):
        return apply(unravel(p), noise).ravel()

    jacobian = jax.jacrev(outputs)(flat)
    gap = wanted.ravel() - outputs(flat)
    kernel = jacobian @ jacobian.T
    ridge = 1e-9 * jnp.trace(kernel) * jnp.eye(len(gap))
    return unravel(flat + jacobian.T @ jnp.linalg.solve(kernel + ridge, gap))


@functools.partial(jax.jit, static_argnames="width")
@functools.partial(jax.vmap, in_axes=(0, None))
def independent_nets(key, width):
    """Forms of a shared start, of another start, of shared heads, and of a lazily matched one."""
    family = two_layer(width)
    keys = jax.random.split(key, 4)
    theta, other = (toys.draw_params(family, k) for k in keys[:2])
    noise, digits = (jax.random.normal(k, (6, 8)) for k in keys[2:])
    loss = losses.squared_error()

    def imitated(p, x):
        return family.apply(p, x)[:, NUM_CLASSES:]

    def trait(p):
        return -jax.nn.log_softmax(family.apply(p, digits)[:, :NUM_CLASSES])[:, 0].mean()

    def of(params):
        return matched.forms(
            matched.Network(imitated, params),
            matched.Network(imitated, theta),
            student_direction=jax.grad(trait)(params),
            teacher_direction=jax.grad(trait)(theta),
            inputs=noise,
            loss=loss,
        )

    heads = other | {"kernel_1": theta["kernel_1"]}
    lazy = lazily_matched(family.apply, other, noise, family.apply(theta, noise))
    return [(found.inner, found.alignment) for found in map(of, (theta, other, heads, lazy))]


@pytest.fixture(scope="module")
def wide():
    """(start, quantity, width, net): inner products and alignments."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(7), NUM_NETS)
        return np.moveaxis([np.asarray(independent_nets(keys, w)) for w in WIDTHS], 0, 2)


def test_gain_of_a_shared_start_falls_as_one_over_the_width(wide):
    shared = wide[0, 0].mean(axis=1)
    error = wide[0, 0].std(axis=1) / np.sqrt(NUM_NETS) / shared  # relative
    slope = np.polyfit(np.log(WIDTHS), np.log(shared), 1)[0]
    # It errs by the relative errors of the ends over the logarithm of their ratio.
    assert abs(slope + 1) < 4 * np.hypot(*error) / np.log(WIDTHS[1] / WIDTHS[0])
    np.testing.assert_allclose(wide[0, 1], 1, rtol=1e-9)


def test_alignment_of_independent_nets_has_mean_zero_at_every_width_and_does_not_shrink(wide):
    for cosines in wide[1, 1]:
        assert abs(cosines.mean()) < 4 * cosines.std() / np.sqrt(NUM_NETS)
        assert 0.5 < cosines.std() * np.sqrt(NUM_AUX * NUM_CLASSES) < 2


def test_shared_heads_keep_their_alignment_at_every_width(wide):
    means = wide[2, 1].mean(axis=1)
    assert (means > 0.2).all()
    assert means[-1] > 0.8 * means[0]


def test_lazy_matching_fades_with_the_width(wide):
    """At equal matching (exact, in the linearised net) a wide student is an unmatched one."""
    other, lazy = wide[1, 1], wide[3, 1]
    moved = np.abs(lazy - other).mean(axis=1)
    assert moved[0] > 2 * moved[-1]
    assert abs(lazy[-1].mean()) < 4 * lazy[-1].std() / np.sqrt(NUM_NETS)
