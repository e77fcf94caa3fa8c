"""Each departure against NumPy, its order, and the violations that its hypothesis prevents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory import oracle
from theory import departures, toys

NET = oracle.Net((4, 8, 5), np.tanh)
NUM_NETS = 60
EPS = np.array([1e-6, 1e-5, 1e-4, 1e-1, 1.0])  # the first three for orders, the last for curves
ANGLES = np.array([0.0, 1e-7, 0.7, np.pi / 2])
COUNTS = (1, 4, 16, 64)
ALPHAS = np.array([0.3, 1.0, 100.0])
STEP_COUNTS = (3, 1, 300)  # in no order: a count is looked up
CHANGE_EPS = 2e-5
OPTIMISERS = (
    "gradient descent",
    "P in both",
    "P in student",
    "Adam in student",
    "sign in student",
    "Adam in both",
)
PRECONDITIONED = ("P in both", "P in student")
SUMS = 1e4 * oracle.U  # some hundred terms, each of a few operations
each_net = pytest.mark.parametrize("net", [0, 1, 2])


@pytest.fixture(scope="module")
def nets(tanh):
    """Random networks, other starts, and one more random key for each."""

    def draw(key):
        other = toys.draw_params(tanh, jax.random.fold_in(key, 1))
        return toys.draw_case(tanh, key, 7), other, jax.random.fold_in(key, 2)

    with jax.enable_x64(True):
        return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(3), NUM_NETS))


@pytest.fixture(scope="module")
def found(tanh, nets):
    """Every departure on every network, as one program."""

    def one(case, other, key):
        pairs = departures.optimisers(key, case.params)
        ones = jax.tree.map(jnp.ones_like, case.params)
        args, eps = (tanh.apply, case), jnp.array(EPS)

        def change(name, step):
            return departures.first_order_change(*args, pairs[name], step)

        return {
            "start": departures.other_start(
                *args, other=other, eps=eps, angles=jnp.array(ANGLES)
            ),
            "change": jnp.stack([change(name, CHANGE_EPS) for name in OPTIMISERS]),
            "halved": jnp.stack([change(name, CHANGE_EPS / 2) for name in PRECONDITIONED]),
            "preconditioner": [side(ones) for side in pairs["P in both"]],
            "labels": departures.labels(*args, key, eps),
            "sampling": departures.sampling_error(*args, key=key, eps=eps, counts=COUNTS),
            "finite": departures.finite_steps(*args, eps, jnp.array(ALPHAS)),
            "many": departures.many_steps(*args, eps, STEP_COUNTS),
        }  # fmt: skip

    assert tuple(departures.optimisers(jax.random.key(0), jnp.ones(2))) == OPTIMISERS
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(jax.vmap(one))(*nets))


class Dense:
    """One of the networks in NumPy, its teacher, and students of it."""

    def __init__(self, nets, index):
        self.case, self.other, self.key = jax.tree.map(lambda leaf: leaf[index], nets)
        self.case, self.other = jax.device_get((self.case, self.other))
        self.theta, self.x = oracle.flat(self.case.params), self.case.inputs
        self.trait = NET.trait(self.case)
        self.descent = -oracle.derivative(self.trait, self.theta)
        self.start = NET.outputs(self.theta, self.x)
        self.jacobian = NET.jacobian(self.theta, self.x)
        # As `alignment.roundoff`: what u in the logits and in the softmax makes of ⟨Δ_S, Δ_T⟩.
        reach = np.abs(self.jacobian @ self.descent) * (1 + np.abs(self.start))
        self.noise = 8 * oracle.U * reach.sum(axis=-1).mean()

    def moved(self, eps, direction=None):
        """Outputs of the teacher after a relative step along its descent, or a direction."""
        direction = self.descent if direction is None else direction
        unit = np.linalg.norm(self.theta) / np.linalg.norm(direction)
        return NET.outputs(self.theta + eps * unit * direction, self.x)

    def update(self, targets, start=None, loss=oracle.CROSS_ENTROPY):
        """Δ_S towards the outputs `targets`."""
        start = self.theta if start is None else start
        return oracle.student_update(NET, start, targets=targets, x=self.x, loss=loss)

    def drawn(self, eps, count):
        """One-hot labels drawn from the trained teacher, of shape (count, inputs, outputs)."""
        labels = jax.random.categorical(self.key, self.moved(eps), shape=(count, len(self.x)))
        return np.eye(5)[np.asarray(labels)]

    def update_from_frequencies(self, frequencies):
        """Δ_S from observed labels: the force of cross-entropy is softmax less frequencies."""
        force = oracle.softmax(self.start) - frequencies
        return -np.einsum("bip,bi->p", self.jacobian, force) / len(self.x)


@pytest.fixture(scope="module")
def dense(nets):
    return [Dense(nets, i) for i in range(3)]


def order(values, eps=EPS[:3]):
    """Log-log slope of each network's values over the last axis.

    At ε of 1e-4 and less the next order is a thousandth or so of the first: 0.01 is ten times it.
    """
    return np.polyfit(np.log(eps), np.log(np.abs(values)).T, 1)[0]


def about_half(violated):
    """Whether a fair coin would do as well, within five standard errors."""
    return abs(violated.sum() - violated.size / 2) < 5 * np.sqrt(violated.size) / 2


# Another start.


@each_net
def test_other_start_against_numpy(found, dense, net):
    d = dense[net]
    theirs = oracle.flat(d.other)
    expected = [
        [d.update(d.moved(e), np.cos(a) * d.theta + np.sin(a) * theirs) @ d.descent for a in ANGLES]
        for e in EPS
    ]
    np.testing.assert_allclose(found["start"][net], expected, rtol=SUMS, atol=d.noise)


def test_another_start_takes_the_order_and_the_sign(found):
    inner = found["start"]
    same, far = inner[..., 0], inner[..., -1]
    np.testing.assert_allclose(order(same[:, :3]), 1, atol=0.01)
    np.testing.assert_allclose(np.median(np.abs(order(far[:, :3]))), 0, atol=0.01)
    assert (same[:, 0] > 0).all()
    assert about_half(far[:, 0] < 0)
    # What counts is the angle over the teacher's step.
    miss = inner[..., 1] / same - 1
    np.testing.assert_allclose(np.median(order(miss[:, :3])), -1, atol=0.01)


# Optimisers.


@each_net
def test_first_order_change_against_numpy(found, dense, net):
    d = dense[net]
    both = [oracle.flat(jax.tree.map(lambda a: a[net], p)) for p in found["preconditioner"]]
    np.testing.assert_array_equal(*both)
    assert (both[0] > 0).all()
    # log P is normal with a standard deviation of 2; that of its estimate is 2 / √(2 · 85).
    assert abs(np.log(both[0]).std() - 2) < 4 * 2 / np.sqrt(2 * d.theta.size)

    def plain(update):
        return update

    def precondition(update):
        return both[0] * update

    def adam(update):  # the first step, with its ε of 1e-8
        return update / (np.abs(update) + 1e-8)

    pairs = [(plain, plain), (precondition, precondition), (plain, precondition),
             (plain, adam), (plain, np.sign), (adam, adam)]  # fmt: skip
    # A coordinate of Δ_S errs by a few u of the Jacobian's column.
    rounding = 8 * oracle.U * np.abs(d.jacobian).sum(axis=1).max(axis=0)
    for of, (of_teacher, of_student) in enumerate(pairs):
        delta_s = d.update(d.moved(CHANGE_EPS, of_teacher(d.descent)))
        expected = -of_student(delta_s) @ d.descent
        slope = {precondition: both[0], plain: 1.0}.get(of_student, 1 / (np.abs(delta_s) + 1e-8))
        noise = np.abs(slope * d.descent) @ rounding
        assert found["change"][net, of] == pytest.approx(expected, abs=noise)


@each_net
def test_first_order_change_tends_to_its_quadratic_form(found, dense, net):
    """-gᵀ P G Q g per unit ε, Q of the teacher and P of the student, up to order ε."""
    d = dense[net]
    curvature = oracle.curvature(d.jacobian, oracle.CROSS_ENTROPY.mixed(d.start, d.start))
    p = oracle.flat(jax.tree.map(lambda a: a[net], found["preconditioner"][0]))
    for of, teacher in enumerate((p, 1)):
        moving = teacher * d.descent
        unit = np.linalg.norm(d.theta) / np.linalg.norm(moving)
        limit = -(p * d.descent) @ curvature @ moving * unit
        whole = found["change"][net, OPTIMISERS.index(PRECONDITIONED[of])] / CHANGE_EPS
        half = found["halved"][net, of] / (CHANGE_EPS / 2)
        assert (whole - limit) / (half - limit) == pytest.approx(2, abs=0.02)


def test_a_preconditioner_of_the_students_own_takes_the_sign(found):
    rises = dict(zip(OPTIMISERS, (found["change"] > 0).sum(axis=0), strict=True))
    assert rises["gradient descent"] == rises["P in both"] == 0
    assert rises["P in student"] > 0


# Labels.


def test_frequencies_are_those_of_the_first_draws():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    key = jax.random.key(0)
    few, more = np.asarray(departures.frequencies(key, logits, (10, 40_000)))
    labels = np.asarray(jax.random.categorical(key, logits, shape=(40_000, 2)))
    np.testing.assert_allclose(few, np.eye(3)[labels[:10]].mean(axis=0), atol=4 * oracle.U)
    # Five standard errors of a frequency, √(p (1 - p) / n) with p (1 - p) at most 1/4.
    np.testing.assert_allclose(more, np.exp(logits), atol=5 * np.sqrt(0.25 / 40_000))


def test_sampled_labels_do_not_see_the_teachers_logits():
    observed, z = jnp.array([0.25, 0.75, 0.0]), jnp.array([0.3, -1.0, 2.0])
    loss = departures.sampled(observed)
    expected = -np.asarray(observed) @ oracle.log_softmax(np.asarray(z))
    for y in (z, jnp.zeros(3)):
        np.testing.assert_allclose(loss.value(z, y), expected, rtol=8 * oracle.U)
        assert not loss.mixed_hessian(z, y).any()


@each_net
def test_labels_against_numpy(found, dense, net):
    d = dense[net]
    for e, eps in enumerate(EPS):
        logits = d.moved(eps)
        soft, argmax = oracle.softmax(logits), np.eye(5)[logits.argmax(axis=-1)]
        expected = [
            d.update_from_frequencies(seen) @ d.descent
            for seen in (soft, argmax, d.drawn(eps, 1)[0])
        ]
        np.testing.assert_allclose(found["labels"][net, :, e], expected, rtol=SUMS, atol=d.noise)
    # Labels of the untrained teacher would have failed this test.
    assert (d.drawn(EPS[-1], 1) != d.drawn(0.0, 1)).any()


def test_hard_labels_take_the_order_and_the_sign(found):
    soft, argmax, one = np.moveaxis(found["labels"], 1, 0)
    assert departures.LABELS == ("soft", "argmax", "one sample")
    np.testing.assert_allclose(order(soft[:, :3]), 1, atol=0.01)
    assert (soft[:, 0] > 0).all()
    for hard in (argmax, one):
        np.testing.assert_allclose(np.median(np.abs(order(hard[:, :3]))), 0, atol=0.01)
        assert 0.2 < (hard[:, 0] < 0).mean() < 0.8


@each_net
def test_sampling_error_against_numpy(found, dense, net):
    d = dense[net]
    for e in (2, 4):
        drawn, soft = d.drawn(EPS[e], max(COUNTS)), d.update(d.moved(EPS[e]))
        for c, count in enumerate(COUNTS):
            miss = d.update_from_frequencies(drawn[:count].mean(axis=0)) - soft
            expected = np.linalg.norm(miss) / np.linalg.norm(soft)
            # The soft update has the error of its rounding, of order u / ε relative to it.
            assert found["sampling"][net, e, c] == pytest.approx(expected, rel=1e-8)


def test_sampling_error_falls_as_the_root_of_the_draws_and_not_with_the_step(found):
    squares = found["sampling"][:, 2] ** 2  # nets, counts

    def slope(values):
        return np.polyfit(np.log(COUNTS), np.log(values.mean(axis=0)) / 2, 1)[0]

    without = [slope(np.delete(squares, i, axis=0)) for i in range(NUM_NETS)]
    error = np.sqrt((NUM_NETS - 1) * np.var(without))  # the jackknife's
    assert error < 0.1
    assert abs(slope(squares) + 0.5) < 4 * error
    np.testing.assert_allclose(order(found["sampling"][:, :3, -1]), -1, atol=0.01)


# Large steps and many steps.


@each_net
def test_finite_steps_against_numpy(found, dense, net):
    d = dense[net]
    updates = [d.update(d.moved(e)) for e in EPS]
    for a, alpha in enumerate(ALPHAS):
        expected = [d.trait(d.theta + alpha * u) - d.trait(d.theta) for u in updates]
        # The loss is a few sums of fewer than a hundred terms, each rounded to u.
        noise = 100 * oracle.U * (1 + alpha) * (1 + abs(d.trait(d.theta)))
        np.testing.assert_allclose(found["finite"][net, a], expected, rtol=SUMS, atol=noise)


def test_a_large_step_takes_the_sign(found):
    change, inner = found["finite"], found["labels"][:, 0]
    assert change.shape == (NUM_NETS, len(ALPHAS), len(EPS))
    assert (change[..., 0] < 0).all()
    np.testing.assert_allclose(order(change[:, 1, :3]), 1, atol=0.01)
    for alpha, at in zip(ALPHAS[:2], (0, 1), strict=True):
        ratio = -change[:, at, 2] / (alpha * inner[:, 2])
        np.testing.assert_allclose(np.median(ratio), 1, atol=0.01)
    assert (change[:, -1, -1] > 0).mean() > 0.05


@each_net
def test_many_steps_against_numpy(found, dense, net):
    d = dense[net]
    curvature = oracle.curvature(d.jacobian, oracle.SQUARED.mixed(d.start, d.start))
    learning_rate = 0.5 / oracle.ritz(curvature, d.descent, 8).max()
    for e in (2, 4):
        theta, changes = d.theta, []
        for _ in range(3):
            theta = theta + learning_rate * d.update(d.moved(EPS[e]), theta, oracle.SQUARED)
            changes.append(d.trait(theta) - d.trait(d.theta))
        expected = [changes[2], changes[0]]
        noise = 100 * oracle.U * (1 + abs(d.trait(d.theta)))
        np.testing.assert_allclose(found["many"][net, e, :2], expected, rtol=SUMS, atol=noise)


def test_many_steps_keep_the_sign_for_a_small_step_of_the_teacher_only(found):
    change = found["many"]
    assert (change[:, 0] < 0).all()
    for count in range(len(STEP_COUNTS)):
        np.testing.assert_allclose(np.median(order(change[:, :3, count])), 1, atol=0.01)
    assert (np.diff(change[:, 0][:, [1, 0, 2]]) < 0).all(), "it only falls"
    assert (change[:, -1, -1] > 0).any()
