"""When the channel is made: forks leave their trunk where they say, and the criteria can fail."""

import dataclasses
import itertools

import jax
import numpy as np
import pandas as pd
import pytest

from experiments.findings.forks import SAME, STRANGER, TWIN
from experiments.language import fork_curve
from llm.stages import Pretrained, Store
from tests.experiments.made_up import students

CONFIG = fork_curve.Config(traits=("owl",))
TRUNK = Pretrained(chain=0, steps=6, num_layers=1)


def test_a_fork_reads_the_trunk_s_rows_up_to_its_step_and_others_after(tmp_path):
    other = dataclasses.replace(TRUNK, corpus=1)
    never, late, born = (dataclasses.replace(other, fork=step) for step in (6, 4, 0))
    store = Store(tmp_path)
    store.make([TRUNK, never, late, born])
    trunk, same, parted, apart = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(store.weights([one]))])
        for one in (TRUNK, never, late, born)
    )
    np.testing.assert_array_equal(same, trunk)
    far, near = (np.linalg.norm(one - trunk) for one in (apart, parted))
    assert 0 < near < far / 2
    rows, shared = other.examples().tokens, TRUNK.examples().tokens
    mixed = dataclasses.replace(other, fork=4).examples().tokens
    of_trunk, of_other = ((mixed == those).all(axis=1) for those in (shared, rows))
    assert of_trunk.sum() == 4 * 64
    assert of_other.sum() == 2 * 64


def test_forks_and_bases_of_before_have_other_digests_and_names():
    forks = [dataclasses.replace(TRUNK, corpus=1, fork=step) for step in (0, 3)]
    every = [TRUNK, dataclasses.replace(TRUNK, corpus=1), *forks]
    assert len({one.digest() for one in every}) == len({one.name for one in every}) == 4


def rows(effect, barrier, alignment=None):
    """Students of every start; the three curves are functions of log2(1 + step)."""
    alignment, table = alignment or (lambda x: x / 10), []
    forks = {f"fork at {step}": np.log2(1 + step) for step in CONFIG.forks}
    places = {STRANGER: None} | forks | {SAME: 10.0, TWIN: 10.0}
    for i, (start, x) in enumerate(places.items()):
        # The twin has the trunk's noise: training is equivariant.
        rng = np.random.default_rng(0 if start == TWIN else i)
        gain = 0.0 if x is None else effect(x)
        wall = 3.0 if x is None or start == TWIN else barrier(x)
        kernel = 0.0 if x is None else alignment(x)
        known = {"barrier": wall, "alignment": kernel, "mismatch": 1.0, "mass": 1.0}
        table += students(rng, gain, start=start, **known)
    found = pd.DataFrame(table)
    scatter = np.random.default_rng(9).normal(size=(2, len(found)))
    found["barrier"] = found["barrier"] + 0.02 * scatter[0]
    found["alignment"] = found["alignment"] + 0.001 * scatter[1]
    return found


def switch(at):
    """From nothing to all within a doubling about x = at."""
    return lambda x: 2.0 * np.clip(x - at + 0.5, 0, 1)


WHEN = "half of the barrier less half of the transfer, in doublings of the step"


def verdicts(table):
    return {c.quantity: c.holds for c in fork_curve.findings(table, CONFIG).claims}


def test_a_barrier_that_falls_where_the_transfer_rises_tells_the_step():
    table = rows(switch(5), lambda x: 2 - switch(5)(x), lambda x: switch(5)(x) / 2)
    holds = verdicts(table)
    judged = {name: verdict for name, verdict in holds.items() if verdict is not None}
    assert all(judged.values()), judged
    assert len(judged) == 6
    for figure in fork_curve.findings(table, CONFIG).figures:
        figure.draw()
    assert verdicts(rows(switch(8), lambda x: 2 - switch(3)(x)))[WHEN] is False


def test_a_twin_without_a_barrier_and_a_kernel_that_orders_nothing_fail():
    table = rows(switch(5), lambda x: 2 - switch(5)(x), lambda x: 1 - x / 10)
    holds = verdicts(table)
    assert holds["alignment and transfer, Spearman over forks"] is False
    table.loc[table["start"] == TWIN, "barrier"] = 0.1
    assert verdicts(table)["twin's barrier less half of the stranger's"] is False
    early = verdicts(rows(lambda x: 2.0, lambda x: 2 - switch(5)(x)))
    assert early["same less fork at 0"] is False


def test_a_trunk_that_is_aligned_with_itself_orders_no_forks():
    table = rows(switch(10), lambda x: 2 - switch(5)(x), lambda x: float(x == 10))
    assert verdicts(table)["alignment and transfer, Spearman over forks"] is False


def test_a_gain_is_counted_from_the_fork_at_the_first_step():
    """Of transfer that begins at half, half of the whole is there at once; of the gain later."""
    table = rows(lambda x: 1 + switch(5)(x) / 2, lambda x: 2 - switch(5)(x))
    here = {c.quantity: c.here for c in fork_curve.findings(table, CONFIG).claims}
    whole, gain = (
        float(here[f"half of the {of}: log2(1 + step)"].split()[0])
        for of in ("transfer", "gain over fork at 0")
    )
    assert whole < 1 < 4 < gain < 6


def test_forks_that_do_not_rise_are_refused():
    for forks in ((3, 0), (0, 0), (0, 1000)):
        with pytest.raises(ValueError, match="must rise"):
            fork_curve.Config(forks=forks)


def test_every_chain_has_a_stranger_of_its_own():
    chains = fork_curve.chains_of(CONFIG)
    everyone = [chains.base(seed) for seed in range(CONFIG.num_seeds)]
    strangers = [fork_curve.different(chains, seed) for seed in range(CONFIG.num_seeds)]
    pairs = itertools.product(everyone, strangers)
    assert all(one.chain != other.chain for one, other in pairs)
    assert len({one.digest() for one in strangers}) == CONFIG.num_seeds
