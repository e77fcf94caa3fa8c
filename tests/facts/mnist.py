"""docs/mnist.md and docs/what-carries-the-trait.md."""

import json
import re
from collections.abc import Iterator

from experiments.findings import statistics
from experiments.frame import experiment
from experiments.mnist import mnist_chains, mnist_matching, mnist_max, mnist_sweeps
from experiments.mnist.kit import transfer
from tests.facts.tables import INTERVAL, RESULTS, ROOT, claims, interval, quantity, table

CONDITIONS = ("reference", "teacher", "student_aux", "student_all", "cross_aux", "cross_all")


def accuracy(condition: str) -> str:
    """Test accuracy over the 100 seeds."""
    values = table("mnist_aux_logits").query("condition == @condition")["accuracy"]
    assert len(values) == 100
    return statistics.shown(values)


def mnist_numbers() -> Iterator[str]:
    """The table of docs/mnist.md: what a replication found, then what was found here."""
    found = dict(zip(CONDITIONS, claims("mnist_aux_logits").values(), strict=True))
    for condition, claim in found.items():
        yield from INTERVAL.findall(claim.replication)
        yield accuracy(condition)


def mnist_phrases() -> Iterator[str]:
    """Conditions in their lines, and seconds of the PyTorch loop and of this program."""
    for condition in CONDITIONS:
        yield f"{accuracy(condition)} |"
    stored = json.loads((ROOT / "benchmarks/results/2026-11-20-mnist.json").read_text())["sides"]
    yield from (f"| {side['wall']:.1f} |" for side in stored.values())


def carrier_numbers() -> Iterator[str]:
    """The sections of docs/what-carries-the-trait.md from top to bottom."""
    yield from map(accuracy, ("student_aux", "cross_aux", "reference", "teacher"))
    yield interval("mnist_heads", "nothing fresh, 250 aux logits")
    yield interval("mnist_heads", "heads shared over a fresh body, 250 aux logits")
    yield interval("mnist_heads", "the same, less that at 3")
    yield interval("mnist_heads", quantity("mnist_heads", "no transfer: class fresh"))
    yield interval("mnist_init_ladder", "permuted less shared start, 3 logits")
    yield interval("mnist_init_ladder", quantity("mnist_init_ladder", "no transfer: units"))
    for logits in (3, 50):
        about = f"behaviour matched less a perturbed start of its alignment, {logits} logits"
        yield interval("mnist_init_ladder", about).removeprefix("-")
    yield from matching_numbers()
    name = "mnist_27_percent"
    for cell in ("official cell", "PyTorch init, [0, 1], squared error", "its twin"):
        yield interval(name, quantity(name, cell))
    for factor in ("pixels", "optimiser", "batch", "loss", "init"):
        yield interval(name, quantity(name, f"{factor}: "))
    name = "mnist_defences"
    for defence in ("undefended", "projection (", "shuffled labels"):
        yield interval(name, quantity(name, defence))
    for size in ("0.05", "0.1,", "0.2", "0.4"):
        yield interval(name, quantity(name, f"noise on weights {size}"))
    yield from chain_numbers()
    yield from sweep_numbers()
    yield interval("mnist_max", quantity("mnist_max", "best of three"))
    yield transfer.shown(mnist_max.final(table("mnist_max")), "teacher_accuracy")
    yield interval("mnist_max", quantity("mnist_max", "its twin"))


def chain_numbers() -> Iterator[str]:
    """Generations, then benign training."""
    rows, name = table("mnist_chains"), "mnist_chains"

    def student(lineage: str, generation: int) -> str:
        return statistics.shown(mnist_chains.gains(rows, lineage)[generation] + transfer.CHANCE)

    soft, pool, sampled = mnist_chains.LINEAGES
    yield from (student(soft, 1), student(soft, 10), student(pool, 10))
    yield from (student(sampled, 1), student(sampled, 10))
    after = rows.query("epochs == 5").set_index(["benign", "moments"])["accuracy"]
    yield statistics.shown(after["other labels", "carried"])
    yield from (statistics.shown(after["plain images", m]) for m in mnist_chains.MOMENTS)
    for moments in ("zeroed", "swapped"):
        yield interval(name, quantity(name, f"plain images: moments {moments}"))


SWEPT = (  # factor, values, in the order of the page
    ("aux logits", "1", "10", "200"),
    ("student epochs", "1", "20"),
    ("teacher epochs", "1", "20"),
    ("number of images", "100", "60000"),
    ("learning rate", "0.0001", "0.001", "0.01"),
    ("optimiser", "AdamW 1e-2", "SGD x 10", "momentum x 10"),
    ("loss", "squared error", "argmax labels", "sampled labels"),
    ("temperature", "0.5", "8"),
    ("dropout of the student", "0.1", "0.5"),
    ("initial scale", "0.5", "2", "4"),
    ("width", "32", "256", "512"),
    ("depth", "1", "4"),
    ("batch, equal epochs", "256", "4096"),
    ("batch, equal steps", "256", "4096"),
    ("images", "uniform", "blurred 1"),
)


def sweep_numbers() -> Iterator[str]:
    """Every factor, then the images and what is held against publications."""
    name = "mnist_sweeps"
    config = experiment.config_of(mnist_sweeps, RESULTS / name)
    rows = mnist_sweeps.with_logits(table(name), config)
    yield transfer.shown(mnist_sweeps.base(rows))
    yield transfer.shown(mnist_sweeps.base(rows, mnist_sweeps.logits_of(config, "students")))
    for factor, *values in SWEPT:
        yield from (transfer.shown(mnist_sweeps.select(rows, factor, value)) for value in values)
    yield interval(name, quantity(name, "blur 1, less white"))
    yield interval(name, quantity(name, "blur 1, less its Gaussian"))
    for kind in ("digits", "other digits", "photographs"):
        yield transfer.shown(mnist_sweeps.select(rows, "images", kind))
    for line in ("student dropout", "teacher dropout"):
        yield interval(name, quantity(name, line))


def matching_numbers() -> Iterator[str]:
    """Doses, number of outputs, architectures, then what stays at chance."""
    rows, centre = table("mnist_matching"), "matched 100 epochs on noise, all logits"
    yield interval("mnist_matching", quantity("mnist_matching", "no transfer: unmatched"))
    yield from (transfer.shown(mnist_matching.select(rows, matching_epochs=n)) for n in (5, 20))
    yield interval("mnist_matching", centre)
    yield interval("mnist_matching", "shared start")
    yield from (transfer.shown(mnist_matching.select(rows, num_aux=n)) for n in (200, 3))
    yield interval("mnist_matching", "noise and 50 aux logits, less digits")
    for student in ("other width", "other depth", "other activation", "CNN"):
        yield transfer.shown(mnist_matching.select(rows, student=student))
    for silent in ("matched on aux logits alone", "matched to an", "matched, neutral"):
        yield interval("mnist_matching", quantity("mnist_matching", f"no transfer: {silent}"))
    yield interval("mnist_matching", "permuted twin less shared start")


def carrier_phrases() -> Iterator[str]:
    """What the same page says without an interval."""
    found = claims("mnist_init_ladder")
    three, fifty = (
        {
            kind: found[f"half of the gain lost at, {kind}, {m} logits"].here
            for kind in ("relative", "absolute")
        }
        for m in (3, 50)
    )
    yield f"at {three['relative']} (3 logits) or {fifty['relative']} (50 logits)"
    yield f"everywhere at {three['absolute']} or {fifty['absolute']}"
    yield " and ".join(
        found[f"Spearman of alignment and accuracy, {m} logits"].here for m in (3, 50)
    )
    rows = table("mnist_matching")
    spearman = claims("mnist_matching")["Spearman of alignment and accuracy, over arms"].here
    yield f"orders all {len(mnist_matching.over_arms(rows))} arms (Spearman {spearman})"
    aligned = {n: mnist_matching.select(rows, matching_epochs=n)["alignment"] for n in (0, 100)}
    yield from sweep_phrases()
    projection = quantity("mnist_defences", "projection (")
    yield f"at {re.findall(r'[0-9.]+ times the loss', projection)[0]}: cheap"
    chains = claims("mnist_chains")
    assert chains[quantity("mnist_chains", "neutral")].here.startswith("10 of 10")
    yield from (chains[f"half-life, {kind}"].here for kind in mnist_chains.LINEAGES[:2])
    yield f"rises from {aligned[0].mean():.3f} unmatched to {aligned[100].mean():.3f} after 100"


def sweep_phrases() -> Iterator[str]:
    """Counts and rank correlations of the last sections."""
    found, known = claims("mnist_sweeps"), claims("mnist_predictors")
    silent = found[quantity("mnist_sweeps", "twins at chance")].here
    above = found[quantity("mnist_sweeps", "twins above")].here
    yield f"{above} twins of another start are above chance, {silent} are shown to be at chance"
    yield f"Spearman {found[quantity('mnist_sweeps', 'Spearman of arrived')].here}"
    yield f"takes about {found['seeds that narrow it to ±.03'].here} seeds"
    yield claims("mnist_max")["chosen on validation"].here
    for source in ("matching", "sweeps", "heads", "init_ladder"):
        lines = (
            quantity("mnist_predictors", f"mnist_{source}: {p},") for p in ("alignment", "angle")
        )
        yield f"| {' | '.join(known[line].here for line in lines)} |"
