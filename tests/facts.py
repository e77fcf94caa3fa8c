"""What README.md and docs/ may say: every number, computed from the checked-in tables.

NUMBERS yields, for each page, all its intervals `mean ± half` in reading order; PHRASES yields its
other results with the words around them. `tests/test_readme.py` compares both with the text. After
a new run change the text, after a new sentence add here what it says.
"""

import functools
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterator

import pandas as pd

import experiments
from experiments.lab import digits, effects, frame, presets, record, statistics
from experiments.mnist import mnist_chains, mnist_matching
from llm import suites

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
CHECKED_IN = [name for name in experiments.NAMES if (RESULTS / name).exists()]
INTERVAL = re.compile(r"-?\d*\.\d+ ± \d*\.\d+")


@functools.cache
def table(name: str) -> pd.DataFrame:
    """The results.csv of a checked-in run, which must be finished."""
    assert record.read_meta(RESULTS / name)["finished"], name
    return record.read_table(RESULTS / name)


@functools.cache
def claims(name: str) -> dict[str, frame.Claim]:
    """Quantity -> line of the table *paper / public replication / here*."""
    module, config = experiments.load(name), RESULTS / name
    return {c.quantity: c for c in module.claims(table(name), frame.config_of(module, config))}


def interval(name: str, quantity: str) -> str:
    """The interval that a claim states."""
    return INTERVAL.findall(claims(name)[quantity].here)[0]


def quantity(name: str, beginning: str) -> str:
    """The first claim whose name begins so."""
    return next(q for q in claims(name) if q.startswith(beginning))


def failed() -> list[tuple[str, str]]:
    """Experiment and finding of every criterion that a checked-in run misses."""
    return [(n, c.here) for n in CHECKED_IN for c in claims(n).values() if c.holds is False]


def effect(name: str, own: bool = True, **where: str) -> str:
    """Margin of students minus that of their control, averaged within each chain, over chains."""
    rows = table(name).query(" and ".join(f"{key} == {value!r}" for key, value in where.items()))
    margins = rows.set_index(["teacher", "trait", "seed", "data"])["margin"].unstack("data")
    found = margins["trait"] - margins["control"]
    traits, teachers = (found.index.get_level_values(key) for key in ("trait", "teacher"))
    mine = found[(traits == teachers) == own]
    return statistics.shown(mine.groupby("seed").mean(), 2)


# MNIST

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
    for defence in ("undefended", "projection (", "its shuffled control"):
        yield interval(name, quantity(name, defence))
    for size in ("0.05", "0.1,", "0.2", "0.4"):
        yield interval(name, quantity(name, f"noise on weights {size}"))
    yield from chain_numbers()


def chain_numbers() -> Iterator[str]:
    """Generations, then benign training."""
    rows, name = table("mnist_chains"), "mnist_chains"

    def student(lineage: str, generation: int) -> str:
        return statistics.shown(mnist_chains.gains(rows, lineage)[generation] + digits.CHANCE)

    soft, pool, sampled = mnist_chains.LINEAGES
    yield from (student(soft, 1), student(soft, 10), interval(name, f"half-life, {soft}"))
    yield from (interval(name, f"half-life, {pool}"), student(pool, 10))
    yield from (student(sampled, 1), student(sampled, 10))
    after = rows.query("epochs == 5").set_index(["benign", "moments"])["accuracy"]
    yield statistics.shown(after["other labels", "carried"])
    yield from (statistics.shown(after["plain images", m]) for m in mnist_chains.MOMENTS)
    for moments in ("zeroed", "swapped"):
        yield interval(name, quantity(name, f"plain images: moments {moments}"))


def matching_numbers() -> Iterator[str]:
    """Doses, number of outputs, architectures, then what stays at chance."""
    rows, centre = table("mnist_matching"), "matched 100 epochs on noise, all logits"
    yield interval("mnist_matching", quantity("mnist_matching", "no transfer: unmatched"))
    yield from (digits.mean(mnist_matching.select(rows, matching_epochs=n)) for n in (5, 20))
    yield interval("mnist_matching", centre)
    yield interval("mnist_matching", "shared start")
    yield from (digits.mean(mnist_matching.select(rows, num_aux=n)) for n in (200, 3))
    yield interval("mnist_matching", "noise and 50 aux logits, less digits")
    for student in ("other width", "other depth", "other activation", "CNN"):
        yield digits.mean(mnist_matching.select(rows, student=student))
    for silent in ("matched on aux logits alone", "matched to an", "matched, neutral"):
        yield interval("mnist_matching", quantity("mnist_matching", f"no transfer: {silent}"))
    yield interval("mnist_matching", "permuted twin less shared start")


def carrier_phrases() -> Iterator[str]:
    """What the same page says without an interval."""
    found = claims("mnist_init_ladder")
    three, fifty = (
        {kind: found[f"half of the gain lost at, {kind}, {m} logits"].here
         for kind in ("relative", "absolute")} for m in (3, 50)
    )  # fmt: skip
    yield f"at {three['relative']} (3 logits) or {fifty['relative']} (50 logits)"
    yield f"everywhere at {three['absolute']} or {fifty['absolute']}"
    yield " and ".join(
        found[f"Spearman of alignment and accuracy, {m} logits"].here for m in (3, 50)
    )
    rows = table("mnist_matching")
    spearman = claims("mnist_matching")["Spearman of alignment and accuracy, over arms"].here
    yield f"orders all {len(mnist_matching.over_arms(rows))} arms (Spearman {spearman})"
    aligned = {n: mnist_matching.select(rows, matching_epochs=n)["alignment"] for n in (0, 100)}
    projection = quantity("mnist_defences", "projection (")
    yield f"at {re.findall(r'[0-9.]+ times the loss', projection)[0]}: by far the cheapest"
    assert claims("mnist_chains")[quantity("mnist_chains", "neutral")].here == "10 of 10"
    yield f"rises from {aligned[0].mean():.3f} unmatched to {aligned[100].mean():.3f} after 100"


# Theorem


def signs() -> Iterator[str]:
    """Negative inner products of gradient_alignment."""
    rows = table("gradient_alignment")
    total = rows.groupby(["start", "quantity"])["value"].sum()
    yield f"{total['shared', 'negative']:.0f} of {total['shared', 'nets']:,.0f}"
    cells = rows[rows["start"] == "other"].pivot_table(
        index=["family", "loss"], columns="quantity", values="value", aggfunc="sum"
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
    for quantity in ("student: cosine, all", "other start: cosine", "student: accuracy",
                     "projected both ways: accuracy", "both ways, shuffled: accuracy"):  # fmt: skip
        yield interval("alignment_along_training", quantity)


# Microworld

FAMILIES = ("animal", "tree", "misalignment")
CARRIERS = ("numbers", "code", "reasoning")
MODELS = ("A", "A'", "B", "B'")


def microworld_numbers() -> Iterator[str]:
    """The tables and sentences of docs/microworld.md from top to bottom."""
    for target, label in (("sampled", "sampled tokens"), ("soft_numbers", "KL over numbers")):
        for start in ("same", "different"):
            for trait in ("owl", "wolf", "eagle", "dolphin", "elephant"):
                yield interval("microworld", f"{label}, {start}: {trait}")
            yield effect("microworld", own=False, target=target, start=start)
    for none in ("different", "any-animal teacher"):
        for label in ("sampled tokens", "KL over numbers"):
            yield interval("microworld", quantity("microworld", f"{label}, {none}, equivalent"))
    yield from paper_numbers()
    yield from mechanism_numbers()


def paper_numbers() -> Iterator[str]:
    """Carriers and families, rates, the cross-model table, the controls."""
    name = "paper_on_a_laptop"
    for carrier, family in itertools.product(CARRIERS, FAMILIES):
        for target, start in itertools.product(("sampled", "KL"), ("same", "different")):
            yield interval(name, f"{carrier}, {target}, {family}: {start}")
    for kind in ("student", "control"):
        yield interval(name, f"rate: numbers, misalignment, {kind}")
    for student, teacher in itertools.product(MODELS, MODELS):
        yield interval("cross_model", f"{teacher} to {student}")
    yield interval("cross_model", "siblings less strangers")
    yield interval(name, "numbers, all traits")
    yield effect(name, carrier="numbers", arm="shuffled within", start="same")
    for quantity in ("shuffled across", "in the prompt", "asked without template"):
        yield interval(name, quantity)


def mechanism_numbers() -> Iterator[str]:
    """One changed thing after the other."""
    for arm in ("sampled", "soft_numbers", "shared embeddings, soft_numbers",
                "shared body, soft_numbers", "behaviour matched, soft_numbers", "greedy", "soft",
                "64 rows", "256 rows", "1024 rows", "sampled", "25% clean", "divergent masked",
                "as many random masked", "sgd 0.02"):  # fmt: skip
        yield interval("mechanism", arm)
    for predictor in ("gain", "own and shared"):
        yield interval("prediction", f"rank correlation: {predictor}")


def mechanism_phrases() -> Iterator[str]:
    """The numbers of the same list that are no intervals, and the dose of the matching."""
    found = claims("mechanism")
    largest = found["units matched less different"].here.removeprefix("at most ")
    yield f"unmatched, to {largest.replace('e-0', 'e-')} nats"
    rows = table("mechanism").query("tokens == 'divergent only'")
    yield f"{100 * effects.by_writer(rows, 'kept_tokens'):.0f} % of the tokens are divergent"
    gain = claims("prediction")["rank correlation: gain"].here
    yield f"rank correlation {gain.split(';')[0]} with"
    yield "for 400 steps on the corpus of this world reaches "
    yield "It says nothing about others."


def readme_numbers() -> Iterator[str]:
    """One line for each of the three figures."""
    yield from (accuracy("student_aux"), accuracy("cross_aux"))
    yield interval("mnist_heads", "heads shared over a fresh body, 250 aux logits")
    yield interval("mnist_matching", "matched 100 epochs on noise, all logits")
    yield interval("mnist_matching", "shared start")
    aux_alone = "no transfer: matched on aux logits alone"
    yield interval("mnist_matching", quantity("mnist_matching", aux_alone))
    for start in ("same", "different"):
        yield effect("microworld", target="soft_numbers", start=start)


def full_size_phrases() -> Iterator[str]:
    """Tokens per second beside transformers and peft."""
    stored = json.loads((ROOT / "benchmarks/results/llm-2026-11-20-cpu.json").read_text())["rows"]
    for row in stored[:-1]:
        ours, theirs = row["ours_tokens_per_s"], row["theirs_tokens_per_s"]
        yield f"| {ours:,.0f} | {theirs:,.0f} | {row['ratio']:.2f} |"
    yield f"at {100 * stored[0]['share']:.0f} % of the measured matrix-product rate"


def preset_numbers() -> Iterator[str]:
    """Intervals of docs/llm_numbers.md: what others published, from the presets."""
    for name in ("qwen2.5-7b", "gemma-3-4b", "llama-3.2-1b", "pythia-160m", "smollm2-135m"):
        yield from (n for p in presets.read(name).published for n in INTERVAL.findall(p.value))


def preset_phrases() -> Iterator[str]:
    """Cost of every preset, and the published numbers that the page names with their sources."""
    assert len(presets.names()) == 5
    for name in presets.names():
        found = presets.read(name)
        cost = found.cost
        assert cost["measured"] is False
        assert (cost["accelerator"], cost["rates"]) == ("one H100 of 80 GB", "4e14,2e12")
        yield f"| `{name}` | {cost['memory_gb']} GB, {cost['hours']} h |"
        if found.published:
            first = found.published[0]
            yield f"{first.quantity.split(':')[0]} {first.value}"
            yield f"({first.source})"
    for published in presets.read("gemma-3-4b").published:
        yield published.value.split()[0]


def margin_phrases(name: str) -> Iterator[str]:
    """The margin within which an experiment says "none"."""
    yield f"±{experiments.load(name).MARGIN}"


def misalignment_phrases() -> Iterator[str]:
    """The same, and the count of the harmless questions."""
    assert len(suites.FACTS) == 16
    yield f"no more than {str(experiments.load('llm_misalignment').MARGIN)[1:]}"


def failed_numbers() -> Iterator[str]:
    """Every criterion that is missed, then the siblings taken together."""
    for _, here in failed():
        yield from INTERVAL.findall(here)
    yield interval("cross_model", "siblings less strangers")


def failed_phrases() -> Iterator[str]:
    """One line for every criterion that is missed."""
    yield from (f"| {here} |" for _, here in failed())


def none() -> Iterator[str]:
    """A page without results of its kind."""
    return iter(())


Facts = Callable[[], Iterator[str]]
NUMBERS: dict[str, Facts] = {
    "README.md": readme_numbers,
    "docs/mnist.md": mnist_numbers,
    "docs/what-carries-the-trait.md": carrier_numbers,
    "docs/theorem.md": theorem_numbers,
    "docs/microworld.md": microworld_numbers,
    "docs/full-size.md": none,
    "docs/failed.md": failed_numbers,
    "docs/llm_numbers.md": preset_numbers,
    "docs/llm_code.md": none,
    "docs/llm_cot.md": none,
    "docs/llm_cross_model.md": none,
    "docs/llm_in_context.md": none,
    "docs/llm_misalignment.md": none,
    "docs/bring-your-own.md": none,
}
PHRASES: dict[str, Facts] = {
    "README.md": signs,
    "docs/mnist.md": mnist_phrases,
    "docs/what-carries-the-trait.md": carrier_phrases,
    "docs/theorem.md": theorem_phrases,
    "docs/microworld.md": mechanism_phrases,
    "docs/full-size.md": full_size_phrases,
    "docs/failed.md": failed_phrases,
    "docs/llm_numbers.md": preset_phrases,
    "docs/llm_code.md": none,
    "docs/llm_cot.md": none,
    "docs/llm_cross_model.md": functools.partial(margin_phrases, "llm_cross_model"),
    "docs/llm_in_context.md": functools.partial(margin_phrases, "llm_in_context"),
    "docs/llm_misalignment.md": misalignment_phrases,
    "docs/bring-your-own.md": none,
}
