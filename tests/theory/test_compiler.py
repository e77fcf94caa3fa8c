"""What is asked of a compiler: one value is one value, wherever a program uses it.

XLA computes the end of the inverse error function behind `jax.random.normal` anew in every fusion
that uses it. JAX 0.12.0, on a CPU with AVX-512, rounds it differently there: the start of a teacher
and that of its student, one value in the program, then differ in the last bit of float32, and what
the theorem says of small steps is gone (experiments/LOG.md, section gradient_alignment).
"""

import os
import subprocess
import sys

# In a process of its own: the suite compiles without optimisation, users compile with it.
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np

def twice(uniform):
    "A value, and a stack of it with itself."
    value = 0.4 * jax.lax.erf_inv(uniform)
    return value, jnp.stack([value, value], axis=1)

for shape in [(100, 7), (100, 6), (1000, 6), (64, 3)]:
    uniform = jnp.linspace(-0.9, 0.9, shape[0] * shape[1], dtype=jnp.float32).reshape(shape)
    value, stack = jax.jit(twice)(uniform)
    np.testing.assert_array_equal(value, stack[:, 0])
"""


def test_a_value_that_is_used_twice_is_rounded_once():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | flags, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
