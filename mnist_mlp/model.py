"""The multilayer perceptron of the auxiliary-logit experiment, and how it multiplies."""

import itertools
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
    """Dense layers with ReLU between them and a linear output.

    Weights are N(0, 1/fan_in) and biases zero, as in the official recipe; neither the PyTorch
    default nor He's, both of which give other accuracies.
    """

    def __init__(self, sizes: Sequence[int], *, dot_general: Callable, rngs: nnx.Rngs):
        """Layers sizes[0] -> sizes[1] -> ...; `dot_general` computes every product."""
        self.layers = nnx.List(
            nnx.Linear(
                num_in,
                num_out,
                kernel_init=nnx.initializers.variance_scaling(1.0, "fan_in", "normal"),
                dot_general=dot_general,
                rngs=rngs,
            )
            for num_in, num_out in itertools.pairwise(sizes)
        )

    def __call__(self, pixels: Float[Array, "*batch pixels"]) -> Float[Array, "*batch outputs"]:
        """Logits of all outputs: class logits first, auxiliary logits behind them."""
        hidden = pixels
        for layer in self.layers[:-1]:
            hidden = nnx.relu(layer(hidden))
        return self.layers[-1](hidden)


def network(sizes: Sequence[int], dot_general: Callable = lax.dot_general) -> tuple[Init, Apply]:
    """The pure functions of an MLP: `init(key) -> params` and `apply(params, pixels) -> logits`."""

    def build(key: Array) -> MLP:
        return MLP(sizes, dot_general=dot_general, rngs=nnx.Rngs(params=key))

    graphdef = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def init(key: Array) -> Params:
        return nnx.state(build(key), nnx.Param)

    def apply(params: Params, pixels: Array) -> Array:
        return nnx.merge(graphdef, params)(pixels)

    return init, apply


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
