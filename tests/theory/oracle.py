"""The theorem's quantities in NumPy from explicit Jacobians: nothing of `theory` or JAX is used.

Derivatives are complex steps, Im f(θ + i h) / h with h = 1e-30: nothing is subtracted, so they err
by rounding alone. Parameters are flat vectors in the order of `ravel_pytree`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

H = 1e-30
U = float(np.finfo(float).eps)


def derivative(f, at):
    """∂f/∂at, the coordinates of `at` last."""
    steps = 1j * H * np.eye(at.size)
    return np.stack([np.imag(f(at + step)) / H for step in steps], axis=-1)


def flat(params):
    """The leaves of a flat dictionary, in the order of its sorted names."""
    return np.concatenate([np.ravel(params[name]) for name in sorted(params)])


@dataclasses.dataclass(frozen=True)
class Net:
    """A fully connected network with a linear last layer."""

    sizes: tuple[int, ...]
    activation: Callable

    def outputs(self, theta, x):
        """Logits of a batch."""
        fans = list(zip(self.sizes[1:], self.sizes[:-1], strict=True))
        shapes = [(n,) for n, _ in fans] + fans  # bias_0, bias_1, ..., kernel_0, kernel_1, ...
        pieces = np.split(theta, np.cumsum([np.prod(s) for s in shapes])[:-1])
        leaves = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        for i in range(len(fans)):
            x = (self.activation(x) if i else x) @ leaves[len(fans) + i].T + leaves[i]
        return x

    def jacobian(self, theta, x):
        """Of shape (batch, outputs, parameters)."""
        return derivative(lambda t: self.outputs(t, x), theta)

    def trait(self, case):
        """The loss of `toys.trait_loss` as a function of θ."""
        labels = np.argmax(case.targets, axis=-1)

        def loss(theta):
            z = self.outputs(theta, case.trait_inputs)
            nll = -np.mean(log_softmax(z)[np.arange(len(z)), labels])
            squared = np.mean((z - case.targets) ** 2)
            return np.asarray(case.signs) @ np.stack([nll, squared, np.sum(theta**2) / 100])

        return loss


def log_softmax(z):
    """Of the last axis, also of complex numbers."""
    return z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))


def softmax(z):
    """The same in probabilities."""
    return np.exp(log_softmax(z))


@dataclasses.dataclass(frozen=True)
class Loss:
    """L_S(z, y) per example, and ∂L_S/∂z as worked out by hand."""

    name: str
    value: Callable
    force: Callable

    def mixed(self, z, y):
        """-∂²L_S/∂z_i∂y_j of every example at the pair (z, y); M if z = y."""
        pairs = zip(z, y, strict=True)
        return np.stack([-derivative(lambda t, a=a: self.force(a, t), b) for a, b in pairs])


def _value_of_kl(z, y):
    return np.sum(softmax(y) * (log_softmax(y) - log_softmax(z)), axis=-1)


def _force_of_reverse_kl(z, y):
    q, gap = softmax(z), log_softmax(z) - log_softmax(y)
    return q * (gap - np.sum(q * gap, axis=-1, keepdims=True))


def _force_of_probabilities(z, y):
    q, gap = softmax(z), softmax(z) - softmax(y)
    return 2 * q * (gap - np.sum(q * gap, axis=-1, keepdims=True))


SQUARED = Loss(
    "squared error", lambda z, y: np.sum((z - y) ** 2, axis=-1), lambda z, y: 2 * (z - y)
)
CROSS_ENTROPY = Loss(
    "cross-entropy",
    lambda z, y: -np.sum(softmax(y) * log_softmax(z), axis=-1),
    lambda z, y: softmax(z) - softmax(y),
)
KL = Loss("kl", _value_of_kl, CROSS_ENTROPY.force)
REVERSE_KL = Loss("reverse kl", lambda z, y: _value_of_kl(y, z), _force_of_reverse_kl)
PROBABILITIES = Loss(
    "squared error of probabilities",
    lambda z, y: np.sum((softmax(z) - softmax(y)) ** 2, axis=-1),
    _force_of_probabilities,
)


def student_update(net, theta, *, targets, x, loss):
    """-∇E_x[L_S(f_θ(x), targets(x))]."""
    return -derivative(lambda t: np.mean(loss.value(net.outputs(t, x), targets)), theta)


def form(left, m, right):
    """E_x[leftᵀ M right] of tangents of shape (batch, outputs)."""
    return np.einsum("bi,bij,bj->", left, m, right) / len(m)


def pulled_back(jacobian, m, tangent):
    """E_x[Jᵀ M t]."""
    return np.einsum("bip,bij,bj->p", jacobian, m, tangent) / len(m)


def curvature(jacobian, m):
    """G = E_x[Jᵀ M J]."""
    return np.einsum("bip,bij,bjq->pq", jacobian, m, jacobian) / len(m)


def ritz(matrix, start, num_products):
    """Eigenvalues of a matrix restricted to span{v, G v, ...}, v the start."""
    basis = start[None] / np.linalg.norm(start)
    for _ in range(num_products - 1):
        rest = matrix @ basis[-1]
        for _ in range(2):  # once is not enough in finite precision
            rest = rest - basis.T @ (basis @ rest)
        basis = np.concatenate([basis, rest[None] / np.linalg.norm(rest)])
    return np.linalg.eigvalsh(basis @ matrix @ basis.T)
