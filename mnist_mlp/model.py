"""The networks of the auxiliary-logit experiment, and how they multiply."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

Params = nnx.State
Init = Callable[[Array], Params]
Apply = Callable[[Params, Array], Array]


class MLP(nnx.Module):
    """Dense layers with an activation between them and a linear output.

    Weights are N(0, 1/fan_in) and biases zero, as in the official recipe; neither the PyTorch
    default nor He's, both of which give other accuracies.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        dot_general: Callable = lax.dot_general,
        activation: Callable = nnx.relu,
        rngs: nnx.Rngs,
    ):
        """Layers sizes[0] -> sizes[1] -> ...; `dot_general` computes every product."""
        self.layers = nnx.List(
            dense(num_in, num_out, dot_general, rngs)
            for num_in, num_out in itertools.pairwise(sizes)
        )
        self.activation = activation

    def __call__(
        self, pixels: Float[Array, "*batch pixels"], keep: Sequence[Array] = ()
    ) -> Float[Array, "*batch outputs"]:
        """Logits of all outputs: class logits first, auxiliary logits behind them.

        `keep`: factors on the hidden units of each layer (dropout); none by default.
        """
        hidden = pixels
        for layer, factor in itertools.zip_longest(self.layers[:-1], keep, fillvalue=1.0):
            hidden = self.activation(layer(hidden)) * factor
        return self.layers[-1](hidden)


class CNN(nnx.Module):
    """Patches, then a 3 x 3 convolution, then a dense readout; ReLU between them.

    The first convolution has a stride as long as its kernel, a seventh of the side: images fall
    into about 7 x 7 patches, and both convolutions are plain matrix products over patches.
    """

    def __init__(self, num_pixels: int, channels: Sequence[int], num_outputs: int, rngs: nnx.Rngs):
        """`channels` of the two convolutions."""
        self.side = math.isqrt(num_pixels)
        self.patch = max(1, self.side // 7)
        first, second = channels
        grid = self.side // self.patch - 2
        sizes = ((self.patch**2, first), (9 * first, second), (grid**2 * second, num_outputs))
        self.layers = nnx.List(dense(*size, lax.dot_general, rngs) for size in sizes)

    def __call__(
        self, pixels: Float[Array, "batch pixels"], keep: Sequence[Array] = ()
    ) -> Float[Array, "batch outputs"]:
        """Logits as of the MLP; `keep` must be empty: nothing is dropped here."""
        grid, patch = self.side // self.patch, self.patch
        tiles = pixels.reshape(-1, self.side, self.side)[:, : grid * patch, : grid * patch]
        tiles = tiles.reshape(-1, grid, patch, grid, patch).swapaxes(2, 3)
        hidden = nnx.relu(self.layers[0](tiles.reshape(-1, grid, grid, patch**2)))
        inner = range(3)
        shifts = [hidden[:, i : i + grid - 2, j : j + grid - 2] for i in inner for j in inner]
        hidden = nnx.relu(self.layers[1](jnp.concatenate(shifts, axis=-1)))
        return self.layers[2](hidden.reshape(hidden.shape[0], -1))


def dense(num_in: int, num_out: int, dot_general: Callable, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer in the official recipe's initialisation."""
    return nnx.Linear(
        num_in,
        num_out,
        kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "normal"),
        dot_general=dot_general,
        rngs=rngs,
    )


def network(sizes: Sequence[int], dot_general: Callable = lax.dot_general) -> tuple[Init, Apply]:
    """The pure functions of an MLP: `init(key) -> params` and `apply(params, pixels) -> logits`."""
    return functions(lambda rngs: MLP(sizes, dot_general=dot_general, rngs=rngs))


def functions(make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Init, Apply]:
    """`init(key) -> params` and `apply(params, pixels[, keep]) -> logits` of a module."""

    def build(key: Array) -> nnx.Module:
        return make(nnx.Rngs(params=key))

    graphdef = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def init(key: Array) -> Params:
        return nnx.state(build(key), nnx.Param)

    def apply(params: Params, pixels: Array, keep: Sequence[Array] = ()) -> Array:
        return nnx.merge(graphdef, params)(pixels, keep)  # pyright: ignore[reportCallIssue]

    return init, apply


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of network and its sizes, without inputs and outputs.

    Attributes:
        kind: "relu" or "tanh" for an MLP of that activation, or "cnn".
        widths: units of the hidden layers, or channels of the two convolutions.
    """

    kind: str = "relu"
    widths: tuple[int, ...] = (256, 256)

    def functions(self, num_pixels: int, num_outputs: int) -> tuple[Init, Apply]:
        """`init` and `apply` at these numbers of inputs and outputs."""
        if self.kind == "cnn":
            return functions(lambda rngs: CNN(num_pixels, self.widths, num_outputs, rngs))
        sizes = (num_pixels, *self.widths, num_outputs)
        activation = {"relu": nnx.relu, "tanh": nnx.tanh}[self.kind]
        return functions(lambda rngs: MLP(sizes, activation=activation, rngs=rngs))


@jax.custom_vjp
def _bfloat16_product(x: Array, w: Array) -> Array:
    return jnp.matmul(
        x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32
    )


def _forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return _bfloat16_product(x, w), (x, w)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = saved
    g = g.astype(jnp.bfloat16)
    # XLA's CPU backend multiplies in bfloat16 only when the left factor is stored row by row
    # and converts both to float32 otherwise; storing xᵀ so doubles the rate of this product.
    x_transposed = with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))
    return (
        jnp.matmul(g, w.T, preferred_element_type=jnp.float32),
        jnp.matmul(x_transposed, g, preferred_element_type=jnp.float32),
    )


_bfloat16_product.defvjp(_forward, _backward)


def bfloat16_dot_general(x: Array, w: Array, dimension_numbers, **_) -> Array:
    """X [batch, in] times w [in, out]: bfloat16 factors, float32 sums, in both directions.

    A drop-in for `dot_general` in a dense layer. Parameters, activations and the optimiser stay
    in float32. Only the layer's own contraction is supported.
    """
    if dimension_numbers != (((1,), (0,)), ((), ())) or w.ndim != 2:
        raise ValueError(f"bfloat16_dot_general takes [batch, in] x [in, out], got {x.shape}")
    return _bfloat16_product(x, w)


DOT_GENERALS = {"float32": lax.dot_general, "bfloat16": bfloat16_dot_general}
