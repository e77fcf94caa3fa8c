"""The MNIST grid's experiments: smoke runs, claims that can fail, statistics."""

import dataclasses
import itertools
import pathlib
import re
import shutil

import jax
import numpy as np
import pandas as pd
import pytest

import experiments
from experiments.findings import drawing, statistics
from experiments.frame import experiment, record
from experiments.mnist import (
    mnist_27_percent,
    mnist_chains,
    mnist_conditions,
    mnist_heads,
    mnist_init_ladder,
    mnist_jacobians,
    mnist_matching,
    mnist_max,
    mnist_predictors,
    mnist_sweeps,
)
from experiments.mnist.kit import training
from experiments.report import told
from mnist_mlp import grid

SMOKED = (mnist_heads,)
ROOM = pathlib.Path(experiments.__file__).parent / "mnist"


@pytest.mark.thorough
@pytest.mark.parametrize("module", SMOKED, ids=lambda m: m.__name__.rsplit(".", 1)[-1])
def test_smoke_is_complete_tidy_and_redrawn_from_its_rows(module, tmp_path, capsys):
    experiment.main(module, ["--smoke", "--num-seeds", "2", "--out", str(tmp_path / "run")])
    table = record.read_table(tmp_path / "run")
    assert table["seed"].nunique() == 2
    assert table["accuracy"].between(0, 1).all()
    assert (table["dataset"] == "digits").all()
    assert "FAILS" not in capsys.readouterr().out, "toy runs are not judged"
    drawn = {p: p.read_bytes() for p in (tmp_path / "run").glob("*.svg")}
    assert tmp_path / "run" / "figure.svg" in drawn
    for path in drawn:
        path.unlink()
    experiment.main(module, ["--replot", "--out", str(tmp_path / "run")])
    assert {p: p.read_bytes() for p in drawn} == drawn


@pytest.mark.slow
def test_a_seed_does_not_depend_on_how_many_run_or_on_the_stack():
    base = mnist_init_ladder.SMOKE
    alone = mnist_init_ladder.arms(base)["seed 1"].measure()
    wider = dataclasses.replace(base, num_seeds=3, stack=7)
    again = mnist_init_ladder.arms(wider)["seed 1"].measure()
    assert [r["ladder"] for r in alone] == [r["ladder"] for r in again]
    # Equal up to the order of sums: two of 360 test images may change side.
    for mine, other in zip(alone, again, strict=True):
        assert mine["accuracy"] == pytest.approx(other["accuracy"], abs=2.5 / 360)


def verdicts(module, table, config):
    return {c.quantity: c.holds for c in module.findings(table, config).claims}


def ladder_table(rng, dead=0.1, twin=0.0):
    """Eight seeds of a ladder whose accuracy follows the alignment."""
    rows = []
    for m in (3, 50):
        for seed in range(8):
            noise = rng.normal(0, 0.01)
            for ladder, rung, accuracy, alignment in [
                ("same", 0.0, 0.6, 1.0),
                ("permuted", 0.0, 0.6 + twin, 1.0),
                ("permuted and matched", 0.0, 0.6, 1.0),
                ("absolute", 0.01, 0.4, 0.7),
                ("absolute", 0.1, 0.15, 0.2),
                ("relative", 0.4, 0.3, 0.5),
                ("interpolated", 0.5, 0.2, 0.3),
                ("behaviour matched", 20.0, 0.25, 0.4),
                ("independent", 1.0, dead, 0.0),
                ("units of the other matched", 1.0, dead, 0.0),
            ]:
                rows.append(
                    {
                        "seed": seed,
                        "ladder": ladder,
                        "rung": rung,
                        "num_aux": m,
                        "accuracy": accuracy + noise,
                        "alignment": alignment,
                        "dataset": "mnist",
                    }
                )
    return pd.DataFrame(rows)


def test_ladder_claims_hold_and_fail():
    config = mnist_init_ladder.Config()
    rng = np.random.default_rng(0)
    good = verdicts(mnist_init_ladder, ladder_table(rng), config)
    assert False not in good.values()
    leaking = verdicts(mnist_init_ladder, ladder_table(rng, dead=0.25), config)
    assert sum(v is False for k, v in leaking.items() if k.startswith("no transfer")) == 4
    moved = verdicts(mnist_init_ladder, ladder_table(rng, twin=0.03), config)
    assert [k for k, v in moved.items() if v is False] == [
        "permuted less shared start, 3 logits",
        "permuted less shared start, 50 logits",
    ]
    # Share .6 at .01 and .1 at .1: half is at .028, up to the noise of the means, .01 / √8 / .5.
    lost = mnist_init_ladder.half_lost(ladder_table(rng), "absolute", 3)
    assert lost == pytest.approx(0.028, abs=0.002)


def sweep_rows(factor, logits, accuracies, value="", start="same"):
    return [
        {
            "seed": seed,
            "logits": logits,
            "factor": factor,
            "value": value,
            "start": start,
            "epochs": 5,
            "accuracy": accuracy,
            "dataset": "mnist",
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def test_a_point_is_held_against_the_base_of_its_own_networks():
    """Dropout of three-logit networks against theirs, and never against that of 200 logits."""
    rng = np.random.default_rng(0)
    small, large = rng.normal(0.5, 0.1, 8), rng.normal(0.7, 0.1, 8)
    rows = [
        *sweep_rows("base", 200, large),
        *sweep_rows("base", 3, small),
        *sweep_rows("dropout of the student", 3, small - 0.3, "0.35"),
        *sweep_rows("dropout of the teacher", 3, small + 0.01, "0.35"),
        *sweep_rows("loss", 200, large + 0.02, "squared error"),
    ]
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)  # rows in any order
    for factor, value, gap in [
        ("dropout of the student", "0.35", -0.3),
        ("dropout of the teacher", "0.35", 0.01),
        ("loss", "squared error", 0.02),
    ]:
        point = mnist_sweeps.select(table, factor, value)
        np.testing.assert_allclose(mnist_sweeps.less_base(table, point), gap)
    found = {c.quantity: c for c in mnist_sweeps.factor_claims(table)}
    assert found["student dropout .35, less base"].here.startswith("-0.300")
    assert found["teacher dropout .35, less base"].holds
    assert mnist_sweeps.moving(table) == {
        "dropout of the student": True,
        "dropout of the teacher": True,
        "loss": True,
    }
    alone = table[table["logits"] != 3]
    with pytest.raises(ValueError, match="no base was run on networks of 3 auxiliary logits"):
        mnist_sweeps.less_base(alone, point.assign(logits=3))
    with pytest.raises(ValueError, match="too many values"):
        mnist_sweeps.less_base(table, table[table["factor"] == "base"])


@pytest.mark.thorough
@pytest.mark.parametrize("group", ["base", *mnist_sweeps.GROUPS])
def test_rows_say_the_logits_of_the_networks_that_were_trained(group, monkeypatch):
    """What `logits` says is what teachers and students of the group are built with."""
    config = dataclasses.replace(mnist_sweeps.SMOKE, groups=mnist_sweeps.GROUPS)
    built = set()

    def teach(setup, shapes, *, starts, **_):
        built.add(shapes.num_aux)
        untrained = grid.stacked(starts)
        return training.Teachers(untrained, untrained, [0.0])

    def distil(setup, shapes, **_):
        built.add(shapes.num_aux)
        return []

    monkeypatch.setattr(mnist_sweeps, "teach", teach)
    monkeypatch.setattr(mnist_sweeps, "distil", distil)
    monkeypatch.setattr(mnist_sweeps, "arrived", lambda *_, **__: {})
    arm = mnist_sweeps.arms(config)[f"seed 0, {group}"]
    arm.measure()
    assert built == {arm.columns["logits"]} == {5 if group == "students" else 3}


def factorial(accuracy_of, seeds=8):
    """Every cell with what the function says of it, and twins at chance."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "start": start,
                **facts,
                "accuracy": (accuracy_of(facts) if start == "same" else 0.1) + rng.normal(0, 0.02),
                "dataset": "mnist",
            }
            for levels in itertools.product(*mnist_27_percent.FACTORS.values())
            for facts in [dict(zip(mnist_27_percent.FACTORS, levels, strict=True))]
            for seed in range(seeds)
            for start in ("same", "another")
        ]
    )


PROBE = mnist_27_percent.PROBE | {"batch": "1024"}


def test_27_percent_is_confirmed_only_by_its_own_cell():
    def judged(candidate, others=0.54):
        table = factorial(lambda facts: candidate if facts == PROBE else others)
        found = mnist_27_percent.findings(table, mnist_27_percent.Config())
        return mnist_27_percent.verdict(table, mnist_27_percent.PROBE), found.figures[0].title

    assert judged(0.271)[0] == (True, [])
    assert judged(0.271)[1].endswith("squared error: confirmed")
    assert judged(0.40)[0][0] is False
    assert judged(0.40)[1].endswith("refuted")
    # Neither within the margin nor shown to be another number.
    wide = factorial(lambda facts: 0.271 if facts == PROBE else 0.54)
    of_probe = (wide[list(PROBE)] == pd.Series(PROBE)).all(axis=1) & (wide["start"] == "same")
    wide.loc[of_probe, "accuracy"] = np.linspace(0.1, 0.5, of_probe.sum())
    found = mnist_27_percent.findings(wide, mnist_27_percent.Config())
    assert found.figures[0].title.endswith("not settled")
    assert found.claims[0].holds is False
    (holds, others), title = judged(0.271, others=0.271)
    assert holds
    assert len(others) == 11
    assert title.endswith("not settled")


def test_effects_are_not_diluted_by_pairs_of_dead_cells():
    """Squared error adds .2 wherever anything passes, and two thirds of the cells are dead."""

    def accuracy(facts):
        dead = facts["pixels"] != "[-1, 1]" or facts["optimiser"] == "momentum"
        return 0.1 if dead else 0.4 + 0.2 * (facts["loss"] == "squared error")

    main = mnist_27_percent.effects(factorial(accuracy), mnist_27_percent.Config())
    # A mean over four pairs and eight seeds of differences with a spread of .02 √2.
    error = 5 * 0.02 * np.sqrt(2 / 32)
    assert main["loss: squared error less KL"].values.mean() == pytest.approx(0.2, abs=error)
    assert main["loss: squared error less KL"][1:] == (4, 24)
    assert main["optimiser: momentum less Adam"].values.mean() == pytest.approx(-0.4, abs=error)
    for level in ("[0, 1]", "[0, 1], noise [-1, 1]"):
        effect = main[f"pixels: {level} less [-1, 1]"]
        assert effect.values.mean() == pytest.approx(-0.4, abs=error)
        assert effect[1:] == (8, 16)
    before = factorial(accuracy).query("pixels != '[0, 1], noise [-1, 1]'")
    main = mnist_27_percent.effects(before, mnist_27_percent.Config())
    assert "pixels: [0, 1], noise [-1, 1] less [-1, 1]" not in main
    dead = mnist_27_percent.effects(factorial(lambda facts: 0.1), mnist_27_percent.Config())
    assert {effect.live for effect in dead.values()} == {0}


def test_digits_and_noise_have_scales_of_their_own(monkeypatch):
    """The third level: a teacher of digits in [0, 1], students of noise in [-1, 1]."""
    config, seen = mnist_27_percent.SMOKE, {}
    monkeypatch.setattr(
        training.grid,
        "imitate",
        lambda *_, scale, state, **__: seen.setdefault("noise", scale) and state,
    )
    monkeypatch.setattr(
        mnist_27_percent,
        "teach",
        lambda *_, scale, starts, **__: (
            seen.setdefault("digits", scale)
            and training.Teachers(grid.stacked(starts), grid.stacked(starts), [0.0] * len(starts))
        ),
    )
    for pixels, wanted in mnist_27_percent.SCALES.items():
        seen.clear()
        mnist_27_percent.arms(config)[f"seed 0, {pixels}, 1024"].measure()
        assert (seen["digits"], seen["noise"]) == wanted
    probe = mnist_27_percent.arms(config)["seed 2, probe"].measure()
    assert {tuple(row[f] for f in PROBE) for row in probe} == {tuple(PROBE.values())}


def lineage(half_life: float) -> pd.DataFrame:
    """Three seeds whose gain of .8 halves so often."""
    return pd.DataFrame(
        [
            {
                "seed": s,
                "lineage": mnist_chains.LINEAGES[0],
                "taught_by": "teacher",
                "generation": g,
                "accuracy": 0.1 + 0.8 * 0.5 ** (g / half_life),
            }
            for s in range(3)
            for g in range(6)
        ]
    )


def test_half_life_of_a_geometric_decay_is_found():
    first = mnist_chains.LINEAGES[0]
    assert mnist_chains.slopes(lineage(2.5), first) == pytest.approx([-1 / 2.5] * 3)
    assert mnist_chains.half_life(lineage(2.5), first) == "2.50 [2.50, 2.50] generations"


def test_half_life_is_that_of_the_mean_slope():
    """One seed that hardly decays moves a mean of 1/slope at will, and the mean slope little."""
    first, lives = mnist_chains.LINEAGES[0], (2.0, 2.0, 40.0)
    parts = [lineage(life).query("seed == @i") for i, life in enumerate(lives)]
    table = pd.concat(parts)
    slopes = -1 / np.array(lives)
    mean, half = statistics.mean_interval(slopes)
    value, low, high = mnist_chains.life(table, first)
    assert value == pytest.approx(-1 / slopes.mean())
    assert value < np.mean(lives) / 4
    assert low == pytest.approx(-1 / (mean - half))
    assert high == np.inf, "an interval of slopes that holds zero: it may not decay at all"
    assert mnist_chains.half_life(table, first).endswith("no end] generations")


def test_a_gain_that_is_gone_at_once_has_no_half_life():
    first = mnist_chains.LINEAGES[0]
    assert mnist_chains.slopes(lineage(0.2), first) == []
    assert mnist_chains.half_life(lineage(0.2), first).startswith("no fit, the gain is 0.025")


def test_search_never_uses_seeds_or_digits_of_the_final():
    config = mnist_max.SMOKE
    names = list(mnist_max.arms(config))
    searched = {int(n.split()[2].strip(",")) for n in names if n.startswith("search")}
    assert min(searched) > config.num_seeds
    searching = training.setup_of(config, validation=True)
    full = training.setup_of(config)
    assert len(searching.data.train_images) + len(searching.data.test_images) == len(
        full.data.train_images
    )
    table = pd.DataFrame(
        [
            dict.fromkeys((*mnist_max.RECIPE, "epochs"), 1) | {"phase": p, "rate": r, "accuracy": a}
            for p, r, a in [("search", 1.0, 0.5), ("search", 2.0, 0.7), ("final", 1.0, 0.99)]
        ]
    )
    assert mnist_max.best(table)["rate"] == 2.0


def test_no_factor_of_the_search_hides_another():
    """The design matrix: any two factors, coded and centred, are orthogonal."""
    config = mnist_max.Config()
    recipes = mnist_max.with_images(pd.DataFrame(mnist_max.design(config)))
    assert len(recipes.drop_duplicates()) == 3 * 3 * 2 * 3
    columns = {
        name: pd.get_dummies(recipes[name]).to_numpy(float)[:, 1:] for name in mnist_max.FACTORS
    }
    centred = {name: column - column.mean(0) for name, column in columns.items()}
    for a, b in itertools.combinations(centred, 2):
        np.testing.assert_allclose(centred[a].T @ centred[b], 0, atol=1e-12)
    assert mnist_max.crossed(recipes, mnist_max.FACTORS)
    fixed = ["teacher_rate", "batch"]
    assert (recipes[fixed].nunique() == 1).all(), "what is no factor does not vary"


def test_the_predicted_recipe_is_searched_and_no_rate_of_it_is_an_edge():
    config = mnist_max.Config()
    recipes = pd.DataFrame(mnist_max.design(config))
    mine = recipes[
        (recipes[list(mnist_max.PREDICTED)] == pd.Series(mnist_max.PREDICTED)).all(axis=1)
    ]
    assert len(mine) == 1
    assert min(config.student_rates) < mnist_max.PREDICTED["rate"] < max(config.student_rates)
    steps = -(-config.epoch_images // config.batch_size)
    assert steps * config.doses[0] == 295
    assert steps * config.doses[-1] == pytest.approx(1960, rel=0.01)
    assert set(mnist_max.FIXED["official"]) == set(mnist_max.FIXED["earlier search"])


def test_a_search_whose_factors_are_confounded_is_refused():
    """Squared error at one rate alone, as six random recipes had it."""

    def searched(pairs):
        return pd.DataFrame(
            [
                {"phase": "search", "width": w, "kind": "uniform", "scale": s, "epochs": 5}
                | {"loss": loss, "rate": rate, "accuracy": 0.5 + 0.1 * (loss == "KL") + 10 * rate}
                for w in (64, 128)
                for s in (1.0, 2.0)
                for loss, rate in pairs
            ]
        )

    both = ("squared error", "KL")
    effects = mnist_max.effects(searched(itertools.product(both, (3e-4, 1e-3))))
    assert effects["squared error less KL"] == pytest.approx({"at 0.0003": -0.1, "at 0.001": -0.1})
    assert effects["KL"] == pytest.approx({"at 0.0003": 0.603, "at 0.001": 0.61})
    confounded = searched([("squared error", 3e-4), ("KL", 1e-3), ("KL", 2e-3)])
    with pytest.raises(ValueError, match="confounded"):
        mnist_max.effects(confounded)
    unequal = searched([*itertools.product(both, (3e-4, 1e-3)), ("KL", 2e-3)])
    with pytest.raises(ValueError, match="confounded"):
        mnist_max.effects(unequal)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder with a whole run of the search, and the flags that made it."""
    out = tmp_path_factory.mktemp("max")
    flags = ["--smoke", "--doses", "1"]
    experiment.main(mnist_max, [*flags, "--out", str(out / "whole")])
    return out / "whole", flags


def without_finals(whole, out):
    """A copy of a run as it was when only the search had ended."""
    shutil.copytree(whole, out)
    rows = record.read_rows(out)
    record.write_rows(out, [row for row in rows if row["phase"] == "search"])


@pytest.mark.thorough
def test_a_run_resumed_after_the_search_does_not_search_again(searched, tmp_path, monkeypatch):
    whole, flags = searched
    without_finals(whole, tmp_path / "run")
    monkeypatch.setattr(mnist_max, "run_search", lambda *args, **kwargs: 1 / 0)
    experiment.main(mnist_max, [*flags, "--out", str(tmp_path / "run")])
    assert (tmp_path / "run/results.csv").read_bytes() == (whole / "results.csv").read_bytes()


@pytest.mark.thorough
def test_a_final_job_reads_the_search_that_has_run(searched, tmp_path, monkeypatch, capsys):
    whole, flags = searched
    without_finals(whole, tmp_path / "run")
    monkeypatch.setattr(mnist_max, "run_search", lambda *args, **kwargs: 1 / 0)
    job = ["--only", "final seed 0"]
    experiment.main(mnist_max, [*flags, "--out", str(tmp_path / "run"), *job])
    made = record.read_rows(tmp_path / "run/jobs/final-seed-0")
    assert made == [row for row in record.read_rows(whole) if row["part"] == "final seed 0"]
    assert {(row["arm"], row["start"]) for row in made} == {
        ("chosen", "same"),
        ("chosen", "another"),
    }
    with pytest.raises(SystemExit) as stopped:
        experiment.main(mnist_max, [*flags, "--out", str(tmp_path / "new"), *job])
    assert stopped.value.code == 2
    assert "run that first (--only 'search seed 10000" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n in told.CHECKED_IN if n.startswith("mnist_")])
def test_digits_that_are_not_mnist_decide_nothing(name):
    """The rows of the reported run under another name: no claim is judged, no title asserts."""
    module, out = experiments.load(name), told.RESULTS / name
    table, config = record.read_table(out), experiment.config_of(module, out)
    found = module.findings(table, config)
    other = module.findings(table.assign(dataset="digits"), config)
    assert {claim.holds for claim in found.claims} >= {True}
    assert {claim.holds for claim in other.claims} == {None}
    assert [claim.here for claim in other.claims] == [claim.here for claim in found.claims]
    for figure, open_figure in zip(found.figures, other.figures, strict=True):
        asks = open_figure.title.endswith(("?", "not judged"))
        # The half-life is a number of the table, whatever it is held against.
        assert asks or figure.title.startswith("Half-life of a trait"), open_figure.title
        assert not figure.title.endswith("?")


def test_kinds_are_not_joined_by_lines():
    """Losses and optimisers are points; what is a number is a line."""
    out = told.RESULTS / "mnist_sweeps"
    config = experiment.config_of(mnist_sweeps, out)
    with drawing.style():
        table = mnist_sweeps.with_logits(record.read_table(out), config)
        figure = mnist_sweeps.plot(table, config)
    joined = {
        panel.get_title(loc="left"): {line.get_linestyle() for line in panel.containers[0][:1]}
        for panel in figure.axes
    }
    drawing.close(figure)
    points = {name for name, styles in joined.items() if styles == {"None"}}
    assert points == {"loss", "optimiser"}
    assert all(styles == {"-"} for name, styles in joined.items() if name not in points)


def test_matching_needs_its_centre():
    with pytest.raises(ValueError, match="name noise"):
        mnist_matching.Config(blocks=("digits",))
    with pytest.raises(ValueError, match="--num-aux 50"):
        mnist_matching.Config(num_aux=(3, 10))


def test_matching_arms_are_told_apart():
    base = mnist_matching.columns()
    table = pd.DataFrame(
        [
            base
            | {
                "seed": s,
                "matching_epochs": d,
                "inputs": "uniform",
                "logits": logits,
                "accuracy": 0.5,
            }
            for s in (0, 1)
            for d in (0, 100)
            for logits in ("all", "aux")
        ]
    )
    assert len(mnist_matching.select(table)) == 2
    assert len(mnist_matching.select(table, logits="aux", matching_epochs=0)) == 2
    assert mnist_matching.select(table, student="CNN").empty


# Statistics.


def test_equivalence_p_agrees_with_the_interval_test():
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.02, 0.05):
        values = rng.normal(shift, 0.03, 8)
        assert (statistics.equivalence_p(values, 0.04) < 0.05) == statistics.equivalent(
            values, 0.04
        )
    assert statistics.equivalence_p([0.0], 1.0) == 1.0


def test_equivalence_is_wrong_as_often_as_it_says():
    """Means at the margin are called equivalent in 5 % of runs."""
    rng, trials = np.random.default_rng(3), 2000
    hits = sum(statistics.equivalence_p(rng.normal(1, 1, 8), 1) < 0.05 for _ in range(trials))
    assert hits / trials == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / trials))


def test_holm_is_step_down():
    assert statistics.holm([0.01, 0.04, 0.03]) == [True, False, False]
    assert statistics.holm([0.01, 0.024, 0.04]) == [True, True, True]
    assert statistics.holm([0.02, 0.5, 0.5]) == [False, False, False]


def test_spearman_interval_covers_as_often_as_it_says():
    """Normal pairs of correlation r have rank correlation 6/π asin(r/2)."""
    rng, trials, r = np.random.default_rng(4), 1000, 0.6
    truth, hits = 6 / np.pi * np.arcsin(r / 2), 0
    for _ in range(trials):
        x, e = rng.normal(size=(2, 25))
        _, low, high = statistics.spearman(x, r * x + np.sqrt(1 - r * r) * e)
        hits += low <= truth <= high
    # The variance is an approximation: its own authors find up to two points off.
    assert hits / trials == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / trials) + 0.02)
    assert statistics.spearman([1, 2, 3], [1, 2, 4]) == (pytest.approx(1.0), -1.0, 1.0)
    assert np.isnan(statistics.spearman([1, 1, 1], [1, 2, 3])[0])


def test_arms_of_other_tables_are_told_apart_also_where_a_fact_is_missing(tmp_path):
    """Six arms, of which one has no value: accuracy follows the alignment over arms, not seeds."""
    folder = tmp_path / "mnist_sweeps"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pd.DataFrame(
        [
            {
                "factor": "width",
                "value": arm or None,
                "seed": seed,
                "dataset": "mnist",
                "alignment": arm + 0.1 * rng.normal(),
                "accuracy": 100 * arm - seed,
            }
            for arm in range(6)
            for seed in range(40)
        ]
    ).to_csv(folder / "results.csv", index=False)
    config = mnist_predictors.Config(runs=str(tmp_path))
    found = pd.DataFrame(mnist_predictors.rows_of(config, "mnist_sweeps")).set_index("over")
    assert found.loc["arms", ["rho", "pairs"]].tolist() == [1.0, 6]
    assert abs(found.loc["seeds within arms", "rho"]) < 0.3


def test_alignment_is_judged_where_starts_vary(tmp_path):
    """Ten arms of a shared start that learn and ten that do not: the bit is all that it says."""
    folder = tmp_path / "mnist_sweeps"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pd.DataFrame(
        [
            {
                "value": arm,
                "seed": seed,
                "dataset": "mnist",
                "alignment": 1.0 if arm < 10 else 0.1 * rng.normal(),
                "accuracy": (0.6 if arm < 10 else 0.1) + 0.01 * rng.normal(),
            }
            for arm in range(20)
            for seed in range(8)
        ]
    ).to_csv(folder / "results.csv", index=False)
    config = mnist_predictors.Config(runs=str(tmp_path))
    rows = mnist_predictors.rows_of(config, "mnist_sweeps")
    found = pd.DataFrame(rows).set_index(["predictor", "over"])
    everywhere = found.loc[("alignment", mnist_predictors.ALL_ARMS)]
    varying = found.loc[("alignment", mnist_predictors.VARYING)]
    assert everywhere["rho"] > 0.7
    assert found.loc[("shared", mnist_predictors.ALL_ARMS), "rho"] > 0.7
    assert varying["pairs"] == 10
    assert varying["low"] < 0 < varying["high"], "over ten independent starts nothing is ordered"
    assert ("shared", mnist_predictors.VARYING) not in found.index, "a bit that does not vary"
    table = pd.DataFrame([{"experiment": "mnist_sweeps"} | row for row in rows])
    claims = mnist_predictors.findings(table, config).claims
    assert [c.holds is None for c in claims if ": alignment," in c.quantity] == [False, True]


def jacobian_rows(accuracy, mismatch):
    """Eight seeds of every arm, as far from matched outputs as is said."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "objective": name,
                "accuracy": accuracy.get(name, 0.4) + 0.02 * rng.normal(),
                "mismatch": 0.02 * mismatch,
                "moved": 0.02,
                "alignment": 0.5,
                "weights": 0.0,
                "missed kernel": 0.1,
                "dataset": "mnist",
            }
            for name in mnist_jacobians.ORDER
            for seed in range(8)
        ]
    )


def test_jacobians_are_judged_only_where_outputs_are_matched():
    """The predicted world, a world in which outputs suffice, and one that never got there."""
    config = mnist_jacobians.Config()
    predicted = {"shared": 0.9, "outputs, kernel": 0.88, "no matching": 0.1, "unrelated": 0.1}
    found = verdicts(mnist_jacobians, jacobian_rows(predicted, 0.005), config)
    assert sum(v is True for v in found.values()) == 7
    assert False not in found.values()
    enough = jacobian_rows(predicted | {"outputs": 0.9}, 0.005)
    found = verdicts(mnist_jacobians, enough, config)
    assert found["shared start less outputs"] is False
    assert found["outputs and kernel less outputs"] is False
    coarse = jacobian_rows(predicted, 0.5)
    found = verdicts(mnist_jacobians, coarse, config)
    assert found["shared start less outputs"] is None
    assert found["outputs and kernel less shared start (TOST, .1)"] is None
    assert found["outputs and kernel less kernel alone"] is True
    figure = mnist_jacobians.findings(coarse, config).figures[0]
    assert figure.title.startswith("Training does not bring another start to")


def condition_rows(accuracy, aligned=0.2, mismatch=2.0):
    """Eight seeds of every start; what is not said is at 0.85."""
    rng, config = np.random.default_rng(8), mnist_conditions.Config()
    names = [mnist_conditions.SHARED, *map(mnist_conditions.rescaled, config.spreads)]
    names += [mnist_conditions.OFFSET, mnist_conditions.BOTH]
    names += [mnist_conditions.STRANGER, mnist_conditions.MOVED]
    names += [mnist_conditions.SWAPPED, mnist_conditions.EXACT]
    strange = dict.fromkeys(["stranger", "stranger, rescaled", mnist_conditions.EXACT], 0.1)
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "optimiser": optimiser,
                "start": name,
                "accuracy": (strange | accuracy).get(name, 0.85) + 0.02 * rng.normal(),
                "mismatch": (mismatch if name != "stranger" else 2.5) + 0.02 * rng.normal(),
                "moved": 1.0,
                "alignment": aligned + 0.02 * rng.normal(),
                "share": 1.0,
                "dataset": "mnist",
            }
            for optimiser in mnist_conditions.OPTIMISERS
            for name in names
            for seed in range(8)
        ]
    )


def test_conditions_that_are_needed_are_found_and_so_are_conditions_that_are_not_broken():
    config = mnist_conditions.Config()

    def failing(**world):
        found = verdicts(mnist_conditions, condition_rows(**world), config)
        assert sum(verdict is not None for verdict in found.values()) == 16
        return {name.split(":")[0] for name, verdict in found.items() if verdict is False}

    assert failing(accuracy={}) == set()
    kernel_needed = {"rescaled by 1": 0.2, "rescaled and offset": 0.2}
    assert failing(accuracy=kernel_needed) == {
        f"{optimiser}, {start}" for optimiser in ("Adam", "momentum") for start in kernel_needed
    }
    outputs_needed = {mnist_conditions.SWAPPED: 0.1, mnist_conditions.EXACT: 0.85}
    assert failing(accuracy=outputs_needed) == {
        "no transfer",
        *(f"{optimiser}, {mnist_conditions.SWAPPED}" for optimiser in ("Adam", "momentum")),
    }
    assert failing(accuracy={}, aligned=0.6) == {"kernel is another"}
    assert failing(accuracy={}, mismatch=1.0) == {"outputs are off"}
    assert failing(accuracy={"stranger, rescaled": 0.5}) == {"no transfer"}


def test_every_purpose_of_every_seed_has_a_stream_of_its_own():
    """All purposes that the room's experiments name, also those that end alike."""
    named = re.compile(r'(?:\.key|\.draw|begun)\([^"\n]*"([^"]+)"')
    texts = [path.read_text() for path in ROOM.rglob("*.py")]
    purposes = {name for text in texts for name in named.findall(text)} | {"other", "reference"}
    assert {"teacher", "student", "match", "noise"} <= purposes
    config = mnist_heads.SMOKE
    setup = training.Setup(config, *[None] * 2)
    keys = [jax.random.key_data(setup.key(s, name)) for s in (0, 1) for name in sorted(purposes)]
    assert len({tuple(key.tolist()) for key in keys}) == len(keys)
