"""docs/theorem.md."""

from collections.abc import Iterator

from tests.facts.tables import INTERVAL, claims, failed, interval, table


def signs() -> Iterator[str]:
    """Negative inner products of gradient_alignment."""
    rows = table("gradient_alignment")
    total = rows.groupby(["start", "quantity"])["value"].sum()
    yield f"{total['shared', 'negative']:.0f} of {total['shared', 'nets']:,.0f}"
    cells = rows[rows["start"] == "other"].pivot_table(
        index=[c for c in ("family", "trait", "loss") if c in rows],
        columns="quantity",
        values="value",
        aggfunc="sum",
    )
    share = 100 * cells["negative"] / cells["nets"]
    yield f"{share.min():.1f} to {share.max():.1f} %"


def theorem_phrases() -> Iterator[str]:
    """The table of docs/theorem.md and the counts below it."""
    negative, apart = signs()
    assert negative == "0 of 24,000"
    yield "over 24,000 pairs"
    yield f"| 0 | {apart}"
    rows = table("gradient_alignment")
    total = rows[rows["start"] == "shared"].groupby("quantity")["value"].sum()
    yield f"teacher's loss rises at the student | {total['trait loss rises']:.0f} |"
    yield f"{total['slope nets']:,.0f} fits) | all but {total['remainder order outside']:.0f} |"
    yield f"(slope 1 ± 0.05) | all but {total['residual order outside']:.0f} |"
    zeros = table("equality_cases").query("expected == 'zero'").groupby(["case", "variant"]).sum()
    exact = zeros[zeros["exactly_0"] == zeros["nets"]]
    assert len(exact) == len(zeros) - 1, "all but the shifted logits, which round"
    yield f"exactly* zero, {exact['nets'].iloc[0]:,} of {exact['nets'].iloc[0]:,} each"
    beyond = {key: claim.here.split()[0] for key, claim in claims("beyond_the_theorem").items()}
    yield f"independent starts {beyond['independent start: negative']} of 1,000"
    yield f"argmax labels {beyond['argmax labels, smallest eps: negative']}"
    yield f"one sampled label {beyond['one sampled label: negative']}"
    yield f"rises in {beyond['P in the student alone: trait loss rises']} of 1,000"
    yield from (f"it gives {here}" for name, here in failed() if name == "multi_step")
    loss = claims("alignment_along_training")
    share = loss["projected both ways: final imitation loss / student's"].here
    yield f"at {float(share.split()[0]):.2f} times its imitation loss"


def theorem_numbers() -> Iterator[str]:
    """The criteria's slopes, the closed form, and the training of MNIST students."""
    for name, here in failed():
        yield from INTERVAL.findall(here) if name == "multi_step" else ()
    for line in (
        "student: cosine, all",
        "other start: cosine",
        "student: accuracy",
        "projected both ways: accuracy",
        "both ways, shuffled: accuracy",
    ):
        yield interval("alignment_along_training", line)
