"""Random streams: a key or generator for every stage of every chain, no two of them shared.

The first number of a stream is its stage, so that no stage can meet another's. Runs of a chain
that differ in their teacher alone share noise and order on purpose: students of a teacher and of
its control see their rows in the same order, teachers answer the same prompts with the same random
numbers, and what is left of the difference is the teacher's.
"""

import enum
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key


class Stage(enum.IntEnum):
    """What draws; the numbers are part of every result and never change."""

    INIT = 0
    CORPUS = 1
    BASE = 2
    TEACHER_ROWS = 3
    TEACHER = 4
    PROMPTS = 5
    SAMPLES = 6
    STUDENT = 7
    ANSWERS = 8
    MATCHING = 9
    SHUFFLE = 10
    MASK = 11
    ALONG = 12
    CONTINUED = 13
    TWIN = 14
    PHASE = 15
    DILUTION = 16
    READERS = 17
    SKILL = 18


def number(part: int | str) -> int:
    """A part of a stream's name as a number; words by their CRC-32."""
    return part if isinstance(part, int) else zlib.crc32(part.encode())


def keys(stage: Stage, names: Sequence[tuple[int | str, ...]]) -> Key[Array, " names"]:
    """One key for each name, a tuple that begins with the root seed."""
    out = []
    for seed, *parts in names:
        key = jax.random.fold_in(jax.random.key(int(seed)), stage)
        for part in parts:
            key = jax.random.fold_in(key, number(part))
        out.append(key)
    return jnp.stack(out)


def generator(stage: Stage, *name: int | str) -> np.random.Generator:
    """A numpy generator for the name, which begins with the root seed."""
    # Without the length, numpy's padding with zeros would let [a] and [a, 0] be one stream.
    return np.random.default_rng([int(stage), len(name), *map(number, name)])
