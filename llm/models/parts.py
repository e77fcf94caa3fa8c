"""Parts of a decoder by name: shared with another model, or held while the rest is trained."""

from collections.abc import Sequence

import jax
import optax
from jaxtyping import PyTree

from . import Params

KINDS = {"attn": "attention", "mlp": "mlp", "attn_norm": "norms", "mlp_norm": "norms"}


def parts_of(path: Sequence) -> set[str]:
    """The parts that a leaf belongs to.

    They are "embedding" (tied: the head too), "attention", "mlp", "norms", and "block0", "block1"
    ... for all that a layer holds.

    Args:
        path: keys of the leaf in a tree with its layers by number.
    """
    first, *rest = (step.key for step in path)
    if first == "layers":
        return {f"block{rest[0]}", KINDS[rest[1]]}
    return {"norms" if first == "norm" else first}


def within(params: PyTree, parts: Sequence[str]) -> PyTree[bool]:
    """Which leaves belong to one of the parts.

    Raises:
        ValueError: no leaf belongs to one of the parts.
    """
    known = {part for path, _ in jax.tree.leaves_with_path(params) for part in parts_of(path)}
    if missing := sorted(set(parts) - known):
        raise ValueError(f"no part {missing[0]!r}; there are {', '.join(sorted(known))}")
    return jax.tree.map_with_path(lambda path, _: bool(parts_of(path) & set(parts)), params)


def graft(params: Params, donor: Params, parts: Sequence[str]) -> Params:
    """`params` with some parts (of `within`) of another model of the same shape."""
    pick = lambda inside, mine, theirs: theirs if inside else mine  # noqa: E731
    return jax.tree.map(pick, within(params, parts), params, donor)


def hold(
    optimizer: optax.GradientTransformation, parts: Sequence[str]
) -> optax.GradientTransformation:
    """The optimiser without any step of some parts (of `within`)."""

    def labels(params: Params) -> PyTree[str]:
        return jax.tree.map(lambda held: "held" if held else "trained", within(params, parts))

    return optax.multi_transform({"trained": optimizer, "held": optax.set_to_zero()}, labels)
