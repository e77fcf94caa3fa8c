"""The report passes where the theorem covers, fails where it does not, and says what is wrong."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import base, check, losses, stream, toys

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
        return check.verify(**(arguments | changes), loss=loss, relative_steps=STEPS)

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
    assert sum(verdicts(verify(losses.argmax_labels()))) <= 2


def test_equality_is_the_theorems_first_alternative(verify):
    report = verify(losses.on_outputs(losses.kl(), (4,)))
    assert report.passed
    assert "exactly 0" in str(report)


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
