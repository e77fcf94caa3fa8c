"""Parts of a decoder by name: shared with another model, or held while the rest is trained."""

from collections.abc import Sequence

import jax
import optax
from jaxtyping import PyTree

from .models import Params

KINDS = {"attn": "attention", "mlp": "mlp", "attn_norm": "norms", "mlp_norm": "norms"}


def parts_of(path: Sequence) -> set[str]:
    """The parts that a leaf belongs to: "embedding" (tied: the head too), "attention", "mlp",
    "norms", and "block0", "block1" ... for all that a layer holds.

    Args:
        path: keys of the leaf in a tree with its layers by number.
    """  # fmt: skip
    first, *rest = (step.key for step in path)
    if first == "layers":
        return {f"block{rest[0]}", KINDS[rest[1]]}
    return {"norms" if first == "norm" else first}


def graft(params: Params, donor: Params, parts: Sequence[str]) -> Params:
    """`params` with some parts of another model of the same shape.

    Raises:
        ValueError: no leaf belongs to one of the parts.
    """
    known = {part for path, _ in jax.tree.leaves_with_path(params) for part in parts_of(path)}
    if missing := sorted(set(parts) - known):
        raise ValueError(f"no part {missing[0]!r}; there are {', '.join(sorted(known))}")

    def chosen(path, mine, theirs):
        return theirs if parts_of(path) & set(parts) else mine

    return jax.tree_util.tree_map_with_path(chosen, params, donor)


def hold(
    optimizer: optax.GradientTransformation, parts: Sequence[str]
) -> optax.GradientTransformation:
    """The optimiser without any step of some parts."""

    def labels(params: Params) -> PyTree[str]:
        def label(path, _):
            return "held" if parts_of(path) & set(parts) else "trained"

        return jax.tree_util.tree_map_with_path(label, params)

    return optax.multi_transform({"trained": optimizer, "held": optax.set_to_zero()}, labels)
