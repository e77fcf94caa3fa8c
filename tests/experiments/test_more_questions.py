"""The other one-question experiments of the microworld: criteria see an effect, and its absence."""

import itertools

import numpy as np
import pytest

from experiments.language import along_training
from tests.experiments.made_up import judged, students


def along_rows(effect_of):
    """Every arm of the experiment with the effect that `effect_of` gives it."""
    config, rng = along_training.Config(), np.random.default_rng(0)
    block = config.along_steps // config.points
    arms = [("steps", block * k) for k in range(config.points + 1)] + [("plain", 0.0)]
    arms += itertools.product(along_training.DROPOUTS, config.dropout)
    arms += [("share", share) for share in config.shares]
    return [
        row
        for group, value in arms
        for row in students(rng, effect_of(group, value), group=group, value=value)
    ]


def test_along_training():
    def rising(group, value):
        known = {"steps": 2 * value / 800, "student's dropout": 2 * (1 - value)}
        return known.get(group, 0.5 + value if group == "share" else 2.0)

    found = judged(along_training, along_rows(rising))
    assert found["lost by the student's dropout of 0.35"] is True
    assert found["teacher's dropout 0.35 less none, equivalent to none"] is True
    assert False not in found.values()

    def falling(group, value):
        fallen = {"steps": 2.0 * (value < 400), "teacher's dropout": 0.5, "share": 0.0}
        return fallen.get(group, 2.0)

    found = judged(along_training, along_rows(falling))
    assert found["no fall, 40 to 80 steps"] is True
    assert found["no fall, 320 to 640 steps"] is False
    assert found["lost by the student's dropout of 0.35"] is False
    assert found["benign: left at 0.5 %"] is False
    assert found["teacher's dropout 0.1 less none, equivalent to none"] is False


MAKE = {along_training: lambda: along_rows(lambda group, value: 1.0)}


@pytest.mark.parametrize("module", MAKE)
def test_few_chains_decide_nothing(module):
    """Two chains are no ground for any verdict."""
    rows = [row for row in MAKE[module]() if row["seed"] < 2]
    assert set(judged(module, rows, module.Config(num_seeds=2)).values()) == {None}
