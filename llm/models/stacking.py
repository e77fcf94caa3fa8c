"""Layers as one stacked tree, so that a program holds one block however deep the model is.

A tree of parameters (or adapters) has `layers` either by number, `tree["layers"][0]["attn"]`, or
stacked, `tree["layers"]["attn"]` with a leading axis of layers on every leaf. The decoder takes
both: by number it is unrolled, which tiny models and sampling like (a loop would copy each
layer's weights for every token); stacked it is one `lax.scan`, which deep models need to compile
in bounded time and which training does not feel.
"""

from typing import Any

import jax
import jax.numpy as jnp

Tree = dict[str, Any]  # parameters or adapters


def is_stacked(tree: Tree) -> bool:
    """Whether the layers of a tree are stacked."""
    return any(isinstance(name, str) for name in tree.get("layers", {}))


def is_uniform(tree: Tree) -> bool:
    """Whether a tree with layers by number has them all (up to the last), and all of one form."""
    layers = tree.get("layers", {})
    forms = {jax.tree.structure(layer) for layer in layers.values()}
    return len(forms) == 1 and len(layers) > max(layers)


def stack_layers(tree: Tree) -> Tree:
    """The tree with its layers stacked, as it is if they are already.

    Raises:
        ValueError: the layers differ in structure, as adapters of some layers only do.
    """
    if is_stacked(tree) or "layers" not in tree:
        return tree
    if not is_uniform(tree):
        raise ValueError("layers of different structure cannot be stacked")
    layers = [layer for _, layer in sorted(tree["layers"].items())]
    return tree | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def unstack_layers(tree: Tree) -> Tree:
    """The tree with its layers by number, as it is if they are already."""
    if not is_stacked(tree):
        return tree
    count = jax.tree.leaves(tree["layers"])[0].shape[0]
    return tree | {"layers": {n: layer_of(tree["layers"], n) for n in range(count)}}


def layer_of(stacked: Any, number: int) -> Any:
    """One layer of a stack, whatever kind of tree it is."""
    return jax.tree.map(lambda leaf: leaf[number], stacked)
