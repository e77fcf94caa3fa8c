"""What a caller may pass in, and which leaf a refusal names."""

import jax.numpy as jnp
import numpy as np
import pytest

from theory import base

TREE = {"body": [np.ones((2, 3)), np.zeros(4)], "head": np.ones(5)}


def test_floating_point_trees_pass():
    base.require_float_params(TREE)
    base.require_float_params({"narrow": jnp.ones(2, jnp.bfloat16), "host": np.ones(2)})
    base.require_same_tree(TREE, TREE, "both")
    base.require_logits(jnp.ones((2, 3), jnp.float32))
    base.require_float64(TREE)


@pytest.mark.parametrize("leaf", [jnp.array(3), np.arange(2), jnp.array(True)])
def test_an_array_of_whole_numbers_cannot_be_differentiated(leaf):
    with pytest.raises(ValueError, match=rf"net\['body'\]\[1\] is {leaf.dtype}, and only floating"):
        base.require_float_params({"body": [jnp.ones(2), leaf]}, "net")


@pytest.mark.parametrize("leaf", [3, 2.0, "text"])
def test_a_leaf_that_is_no_array_is_named_by_its_type(leaf):
    with pytest.raises(ValueError, match=rf"params\['step'\] is {type(leaf).__name__}, and only"):
        base.require_float_params({"step": leaf})


def test_a_tree_without_leaves_is_refused():
    with pytest.raises(ValueError, match="net has no leaves"):
        base.require_float_params({"body": []}, "net")


def test_trees_must_agree_in_structure_and_shapes():
    for other in ({"body": TREE["body"]}, {"body": [jnp.ones(1)] * 3, "head": jnp.ones(5)}):
        for pair in ((TREE, other), (other, TREE)):
            with pytest.raises(ValueError, match="a and b are trees of different structure"):
                base.require_same_tree(*pair, "a and b")
    shorter = TREE | {"body": [jnp.ones((2, 3)), jnp.zeros(3)]}
    with pytest.raises(ValueError, match=r"at \['body'\]\[1\]: \(4,\) and \(3,\)"):
        base.require_same_tree(TREE, shorter, "a and b")
    with pytest.raises(ValueError, match=r"at the only leaf: \(2,\) and \(3,\)"):
        base.require_same_tree(jnp.ones(2), jnp.ones(3), "a and b")


@pytest.mark.parametrize(
    ("logits", "found"),
    [(np.arange(3), "int64"), ((jnp.ones(2),), "a tuple"), (2.0, "a float"), (None, "a NoneType")],
)
def test_logits_are_one_floating_point_array(logits, found):
    with pytest.raises(ValueError, match=f"array of logits, got {found}; pick"):
        base.require_logits(logits)


def test_narrow_parameters_are_named_and_made_wide():
    narrow = TREE | {"head": jnp.ones(5, jnp.float32)}
    with pytest.raises(ValueError, match=r"params\['head'\] is float32, and claims about orders"):
        base.require_float64(narrow)
    base.require_float64(base.as_float64(narrow))
