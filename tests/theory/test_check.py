"""The report passes where the theorem covers, fails where it does not, and says what is wrong."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import alignment, asymptotics, base, check, losses, stream, toys

STEPS = 2.0 ** -np.arange(6, 22)


@pytest.fixture
def verify(tanh, case):
    def run(loss, **changes):
        arguments = {
            "apply": tanh.apply,
            "params": case.params,
            "trait_loss": toys.trait_loss(case, tanh.apply),
            "inputs": case.inputs,
        }
        return check.verify(**({"relative_steps": STEPS} | arguments | changes), loss=loss)

    return run


def verdicts(report):
    return [finding.holds for finding in report.findings]


@pytest.mark.parametrize(
    "loss",
    [losses.squared_error(), losses.kl(), losses.on_outputs(losses.reverse_kl(2.0), (1, 2, 4))],
    ids=lambda loss: loss.name,
)
def test_every_claim_holds_for_covered_losses(verify, loss):
    report = verify(loss)
    assert report.passed, str(report)
    assert len(report.findings) == 7
    assert str(report).count("pass") == 7
    assert "order 2.0" in str(report)


def test_the_claims_fail_without_their_hypotheses(verify, tanh):
    other = toys.draw_params(tanh, jax.random.key(9))
    apart = verify(losses.kl(), student_params=other)
    assert not apart.passed
    assert sum(verdicts(apart)) <= 2  # the two signs may come out right by chance
    assert "no asymptotic range" in str(apart)
    assert "FAIL" in str(apart)
    hard = verify(losses.argmax_labels())
    assert not hard.passed
    assert len(hard.findings) == 7, "nothing is predicted, but the inner product is not 0"
    assert sum(verdicts(hard)) <= 2


def test_the_students_step_is_a_choice(verify, case):
    one, short = verify(losses.kl(), alpha=1.0), verify(losses.kl(), alpha=0.3)
    assert short.passed, str(short)
    fine = STEPS < 1e-4  # where change = -α ⟨Δ_S, Δ_T⟩ up to a percent
    for report, alpha in ((one, 1.0), (short, 0.3)):
        ratio = report.measured.trait_loss_change / report.measured.inner_product
        np.testing.assert_allclose(ratio[fine], -alpha, rtol=0.01)


# What the report says of numbers that no network made.

GRID, NOISE, STEP = 2.0 ** -np.arange(4, 25), 1e-12, 0.3
# The window of `update_residual` = ε, from its definition: at most 0.02, and 10 times the floor
# NOISE / (3 ε) at least; of these the finest four, and of them the third is read.
READ = np.flatnonzero((GRID <= 0.02) & (NOISE / (3 * GRID) <= 0.1 * GRID))[-4:][2]
# ε + 128 u / (3 ε²) is least where 3 ε³ = 256 u, within half an octave.
READ_EXCESS = np.argmin(np.abs(np.log2(GRID) - np.log2(256 * 2.0**-52 / 3) / 3))


def made_up(**changes):
    """Measurements of a theorem that holds, each with a next order, but for `changes`."""
    inner = 3 * GRID * (1 + 2 * GRID)
    held = alignment.Alignment(
        inner_product=inner,
        cosine=np.full_like(GRID, 0.5),
        predicted=3 * GRID,
        remainder=6 * GRID**2,
        update_residual=GRID,
        excess_form=inner * (1 + GRID),
        trait_loss_change=-STEP * inner * (1 - GRID),
    )
    return held._replace(**changes)


def failing(**changes):
    """Indices of the findings that fail."""
    findings = check.general_case(GRID, made_up(**changes), NOISE, STEP)
    assert len(findings) == 7
    return [i for i, finding in enumerate(findings) if not finding.holds]


HELD = made_up()


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, []),
        ({"inner_product": -HELD.inner_product}, [0, 1, 2, 6]),
        ({"predicted": 1.021 * HELD.predicted}, [1]),
        ({"predicted": 0.979 * HELD.predicted}, [1]),
        ({"predicted": 1.019 * HELD.predicted}, []),
        ({"excess_form": HELD.excess_form / 2}, [2]),
        ({"remainder": GRID / 100}, [3]),
        ({"remainder": GRID**2.06}, [3]),
        ({"update_residual": GRID**2}, [4]),
        ({"update_residual": GRID**0.94}, [4]),
        ({"update_residual": np.ones_like(GRID)}, [4]),
        ({"trait_loss_change": -HELD.trait_loss_change}, [5, 6]),
        ({"trait_loss_change": -HELD.inner_product}, [6]),  # a step of 1, not of α
        ({"trait_loss_change": 0 * GRID}, [5, 6]),
    ],
)
def test_each_claim_fails_alone(changes, fails):
    assert failing(**changes) == fails


@pytest.mark.parametrize(
    ("name", "read"),
    [("predicted", READ), ("excess_form", READ_EXCESS), ("trait_loss_change", READ)],
)
def test_ratios_are_read_where_first_order_and_roundoff_can_be_told_apart(name, read):
    """Wrong at every other ε a ratio holds, and wrong at that one it fails."""
    right = getattr(HELD, name)
    there = np.arange(len(GRID)) == read
    assert failing(**{name: np.where(there, right, 2 * right)}) == []
    assert failing(**{name: np.where(there, 2 * right, right)}) != []


def test_what_is_below_the_noise_is_no_sign():
    barely = np.full_like(GRID, NOISE / 2)
    assert 0 in failing(inner_product=barely)
    assert 5 in failing(trait_loss_change=-STEP * barely)
    assert 5 not in failing(trait_loss_change=-4 * STEP * barely)
    assert 0 not in failing(inner_product=4 * barely)


def test_an_inner_product_of_zero_is_no_ratio():
    assert {0, 1, 2, 6} <= set(failing(inner_product=0 * GRID, remainder=3 * GRID))


def test_an_order_is_read_in_its_window():
    """Of a remainder 2 ε² (1 + ε) + noise the slope is that of `asymptotics` over these steps."""
    values, floor = 2 * GRID**2 * (1 + GRID), NOISE / GRID
    finding = check.order("claim", 2, eps=GRID, values=values, scale=GRID, floor=floor)
    inside = asymptotics.window(values / GRID, floor)
    slope = asymptotics.loglog_slope(GRID, values, inside)
    assert finding.measured.startswith(f"order {slope:.3f} over eps {GRID[inside].min():.0e} to")
    assert finding.holds
    assert finding.expected == f"order 2 ± {check.SLOPE_TOLERANCE}"
    assert not check.order(
        "claim", 2, eps=GRID, values=np.ones_like(GRID), scale=1.0, floor=floor
    ).holds
    hidden = check.order("claim", 2, eps=GRID, values=floor / 2, scale=1.0, floor=floor)
    assert (hidden.holds, hidden.measured) == (True, "0 up to round-off")


def curved(curvature):
    """At one relative step what a model of that curvature gives: orders show below 2^-5 / it."""

    def at(step):
        looked.append(step)
        bent = curvature * step
        return alignment.Alignment(
            inner_product=3 * step * (1 + bent),
            cosine=0.5,
            predicted=3 * step,
            remainder=3 * step * bent,
            update_residual=bent / (1 + bent),
            excess_form=3 * step,
            trait_loss_change=-3 * step,
        )

    looked = []
    return at, looked


@pytest.mark.parametrize("curvature", [2.0**-2, 1.0, 2.0**6, 2.0**12])
def test_the_range_of_steps_is_found_however_curved_the_model(curvature):
    at, looked = curved(curvature)
    steps, points = check.search(at, NOISE)
    assert len(looked) == len(set(looked)) == len(steps) <= 23, "no step is measured twice"
    assert (np.diff(steps) < 0).all()
    measured = jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    findings = check.general_case(steps, measured, NOISE, 1.0)
    assert [finding.holds for finding in findings] == [True] * 7, findings
    # The window, from its definition: the finest four halvings that are legible at all.
    fine = 2.0 ** -np.arange(0, 60)
    seen = (curvature * fine <= 0.02) & (NOISE / (3 * fine) <= 0.1 * curvature * fine)
    assert abs(np.log2(steps[np.isin(steps, fine[seen])].min() / fine[seen].min())) < 1


def test_the_search_ends_where_roundoff_hides_what_was_legible():
    at, looked = curved(1.0)
    check.search(at, NOISE)
    assert min(looked) > 2.0**-30, "the finest legible step is about 2^-18"


def test_without_an_order_all_coarse_steps_are_looked_at_and_the_report_says_so():
    def flat(step):
        return curved(1.0)[0](step)._replace(update_residual=1.0)

    steps, points = check.search(flat, NOISE)
    assert {*check.COARSE_STEPS.tolist()} <= {*steps.tolist()}
    measured = jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    residual = check.general_case(steps, measured, NOISE, 1.0)[4]
    assert not residual.holds
    assert residual.measured == f"no asymptotic range in {len(steps)} steps"


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_network_is_verified_without_a_grid_of_its_own(verify, tanh, case, scale):
    """Outputs thirty times as large bend thirty times as soon: no fixed grid serves both."""

    def apply(params, x):
        return scale * tanh.apply(params, x)

    trait = toys.trait_loss(case, tanh.apply)
    report = verify(losses.kl(), apply=apply, trait_loss=trait, relative_steps=None)
    assert report.passed, str(report)
    other = toys.draw_params(tanh, jax.random.key(9))
    apart = verify(losses.kl(), student_params=other, relative_steps=None)
    assert not apart.passed


def test_equality_says_how_large_the_largest_inner_product_is():
    values = np.array([0.0, -2e-17, 1e-17])
    measured = alignment.Alignment(values, *[np.zeros(3)] * 6)
    (finding,) = check.equality_case(measured, 1e-15)
    assert finding.measured == "at most 2.0e-17"
    assert finding.expected == "0 to 1e-15"


def test_equality_is_the_theorems_first_alternative(verify):
    report = verify(losses.on_outputs(losses.kl(), (4,)))
    assert report.passed
    assert "exactly 0" in str(report)
    assert not report.measured.update_residual.any(), "nothing was predicted, and nothing came"


def test_a_linear_model_under_squared_error_has_no_remainder_at_all(verify):
    w = jax.random.normal(jax.random.key(0), (5, 4))
    report = verify(
        losses.squared_error(), apply=toys.linear, params=w, trait_loss=lambda p: jnp.sum(p**2)
    )
    assert report.passed, str(report)
    assert str(report).count("0 up to round-off") == 2


def test_low_rank_adapters_are_a_choice_of_params(verify, tanh, case):
    down, up = jax.random.normal(jax.random.key(0), (2, 8, 2))
    adapters = {"down": down[:4], "up": up}

    def apply(lora, x):
        kernel = case.params["kernel_0"] + lora["up"] @ lora["down"].T
        return tanh.apply(case.params | {"kernel_0": kernel}, x)

    trait = toys.trait_loss(case, apply)
    report = verify(losses.kl(), apply=apply, params=adapters, trait_loss=trait)
    assert report.passed, str(report)


@pytest.mark.parametrize("kind", ["scan", "loader"])
def test_streams_give_the_same_report(verify, case, kind):
    doubled = jnp.stack([case.inputs, case.inputs])
    source = {"scan": stream.scan(doubled), "loader": stream.iterate(lambda: list(doubled))}[kind]
    once, twice = verify(losses.kl()), verify(losses.kl(), inputs=source)
    assert twice.passed
    np.testing.assert_allclose(once.measured.predicted, twice.measured.predicted, rtol=1e-12)


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float32])
def test_a_module_that_rounds_inside_is_told_why_it_fails(verify, tanh, case, narrow):
    def rounded(p, x):
        p = jax.tree.map(lambda leaf: leaf.astype(narrow), p)
        return tanh.apply(p, x.astype(narrow)).astype(float)

    report = verify(losses.kl(), apply=rounded, inputs=stream.scan(case.inputs[None]))
    assert not report.passed
    assert f"cause: apply converts float64 to {jnp.dtype(narrow)} inside" in str(report)
    assert "cause" not in str(verify(losses.kl()))


def test_the_readme_example_runs_as_printed(repository, capsys):
    readme = (repository / "theory" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(example[example.index("with jax") :].splitlines()) <= 14
    exec(compile(example, str(pathlib.Path("theory/README.md")), "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "every claim holds" in printed
    (shown,) = re.findall(r"^    (pass  Lemma 1.*)$", readme, re.MULTILINE)
    assert shown[:40] in printed


def float32(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda c: {"params": float32(c.params)}, r"enable_x64\(True\)"),
        (lambda c: {"params": c.params | {"step": jnp.array(3)}}, r"\['step'\] is int64"),
        (lambda c: {"params": {}}, "no leaves"),
        (lambda c: {"student_params": {"kernel_0": jnp.ones(2)}}, "different structure"),
        (
            lambda c: {"student_params": c.params | {"bias_1": jnp.ones(4)}},
            r"\['bias_1'\]: \(4,\) and \(5,\)",
        ),
        (lambda c: {"apply": lambda p, x: (x, p["bias_0"])}, "one floating-point array.*a tuple"),
        (lambda c: {"apply": lambda p, x: jnp.argmax(x, -1)}, "one floating-point array.*int"),
        (lambda c: {"trait_loss": lambda p: p["bias_0"]}, r"scalar, got shape \(8,\)"),
        (lambda c: {"trait_loss": lambda p: jnp.log(-1.0 - jnp.sum(p["bias_0"]))}, "not finite"),
        (lambda c: {"trait_loss": lambda p: 0.0 * jnp.sum(p["bias_0"])}, "no gradient"),
        (lambda c: {"inputs": c.inputs.at[0, 0].set(jnp.nan)}, "not finite"),
    ],
)
def test_bad_input_says_what_is_wrong(verify, case, changes, message):
    with pytest.raises(ValueError, match=message):
        verify(losses.kl(), **changes(case))


def test_a_subset_out_of_range_says_so(verify):
    with pytest.raises(ValueError, match="5 outputs, numbered from 0"):
        verify(losses.on_outputs(losses.kl(), (3, 7)))


def test_float64_must_be_switched_on(case):
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"enable_x64\(True\)"):
        base.as_float64(float32(case.params))
    assert jax.tree.leaves(base.as_float64(float32(case.params)))[0].dtype == jnp.float64
