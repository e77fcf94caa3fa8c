"""When the channel of digit networks is made: the criteria can hold, and each can fail."""

import numpy as np
import pandas as pd
import pytest

from experiments.findings.forks import SAME, STRANGER, TWIN
from experiments.mnist import mnist_fork_curve

CONFIG = mnist_fork_curve.Config()
WHEN = "half of the barrier less half of the gain, in doublings of the step"
LAST = np.log2(1 + CONFIG.pretraining_steps)


def table_of(accuracy, barrier, alignment=lambda x: x / 20, stranger=0.1, twin_wall=3.0):
    """Eight seeds of every start; curves are functions of log2(1 + step)."""
    forks = {f"fork at {step}": np.log2(1 + step) for step in CONFIG.forks} | {SAME: LAST}
    rng, rows = np.random.default_rng(3), []
    for seed in range(8):
        scatter = {name: 0.01 * rng.normal() for name in (*forks, STRANGER)}
        every = {name: (accuracy(x), barrier(x), alignment(x)) for name, x in forks.items()}
        every |= {TWIN: (accuracy(LAST), twin_wall, 1.0), STRANGER: (stranger, 3.0, 0.0)}
        for name, (reached, wall, kernel) in every.items():
            noise = scatter[SAME if name == TWIN else name]  # training is equivariant
            row = {"seed": seed, "start": name, "dataset": "mnist", "alignment": kernel + noise}
            row["mismatch"] = 0.0
            rows.append(row | {"accuracy": reached + noise, "barrier": wall + noise})
    return pd.DataFrame(rows)


def switch(at, low=0.15, high=0.6):
    """A curve that rises around one x."""
    return lambda x: low + (high - low) / (1 + np.exp(-3 * (x - at)))


def verdicts(table):
    return {c.quantity: c.holds for c in mnist_fork_curve.findings(table, CONFIG).claims}


def test_the_predicted_world_meets_every_criterion():
    table = table_of(switch(5), lambda x: 2 - switch(5)(x))
    judged = {name: holds for name, holds in verdicts(table).items() if holds is not None}
    assert len(judged) == 6
    assert all(judged.values()), judged
    for figure in mnist_fork_curve.findings(table, CONFIG).figures:
        figure.draw()


@pytest.mark.parametrize(
    ("world", "quantity", "verdict"),
    [
        ({"accuracy": lambda x: 0.6}, "same less fork at 0", False),
        ({"accuracy": lambda x: 0.6}, WHEN, None),
        ({"barrier": lambda x: 2 - switch(9)(x)}, WHEN, False),
        ({"twin_wall": 0.2}, "twin's barrier less half of the stranger's", False),
        ({"alignment": lambda x: -x}, "alignment and accuracy, Spearman over forks", False),
        ({"stranger": 0.4}, "stranger less chance, equivalent to none (1 of 2, Holm)", False),
    ],
)
def test_each_criterion_fails_in_a_world_without_it(world, quantity, verdict):
    predicted = {"accuracy": switch(5), "barrier": lambda x: 2 - switch(5)(x)}
    assert verdicts(table_of(**predicted | world))[quantity] is verdict


def test_a_trunk_that_is_aligned_with_itself_orders_no_forks():
    """What the first reading of the run took for an order: the trunk was among the forks."""
    table = table_of(switch(10), lambda x: 2 - switch(5)(x))
    scatter = np.random.default_rng(5).normal(scale=0.1, size=len(table))
    table["alignment"] = np.where(table["start"] == SAME, 1.0, scatter)
    assert verdicts(table)["alignment and accuracy, Spearman over forks"] is False


def test_a_twin_that_learns_otherwise_fails():
    table = table_of(switch(5), lambda x: 2 - switch(5)(x))
    table.loc[table["start"] == TWIN, "accuracy"] -= 0.2
    assert verdicts(table)["twin less same, equivalent to none (1 of 2, Holm)"] is False


def test_a_barrier_is_what_mixed_weights_miss_of_the_mixed_outputs():
    """Of w² between 0 and 2 the outputs miss by 4 s (1 - s), at most 1, where the trunk says 4."""
    ends = {"w": np.zeros(3)}, {"w": np.full(3, 2.0)}
    assert mnist_fork_curve.barrier(lambda p: p["w"] ** 2, *ends) == pytest.approx(1 / 16)
    assert mnist_fork_curve.barrier(lambda p: 3 * p["w"], *ends) == 0


def test_forks_that_do_not_rise_are_refused():
    for forks in ((3, 0), (0, 0), (0, 3000)):
        with pytest.raises(ValueError, match="must rise"):
            mnist_fork_curve.Config(forks=forks)
