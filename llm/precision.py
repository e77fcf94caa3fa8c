"""How exactly factors of matrix products are taken, by purpose.

float32 is not float32 everywhere: left to themselves GPUs round such factors to TF32 and TPUs to
bfloat16. Training and sampling may; what is read to four digits, and the theorem, may not.
Manifests and records say which it was (`matmul_precision`). CPUs compute the same either way.
"""

import contextlib

import jax

WORKING = "default"
MEASURED = "highest"


def at(level: str) -> contextlib.AbstractContextManager[None]:
    """Products that are traced inside are computed at WORKING or MEASURED precision."""
    return contextlib.nullcontext() if level == WORKING else jax.default_matmul_precision(level)
