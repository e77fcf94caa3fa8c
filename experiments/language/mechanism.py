"""What carries the trait in the language model from scratch, and what predicts it.

Every arm is the microworld's numbers experiment with one thing changed: the start, the target,
the tokens trained on, the rows, the optimiser, the parametrisation. Effects are those of the
microworld (student minus student of the unchanged base's data, changed in the same way), averaged
over the teachers' traits, with the held-out cross-entropy on teacher data beside them.

Divergence tokens (arXiv 2509.23886): the tokens of a teacher's data at which the argmax of the next
token differs between that teacher and another one of the same seed. LoRA: at every rank the step
size with the lowest held-out cross-entropy is taken, never the one with the largest effect.

Criteria, fixed before the run; 95 % Student-t intervals over chains, paired where arms
are compared.
  1. Start (KL over numbers): "shared embeddings" and "shared body" each lie below "same". Matching
     the units of a different base to the teacher's changes nothing (1e-3 nats), because training is
     equivariant under permutations. Matching its behaviour first, as in the journal version of the
     paper, has no criterion: the toys disagree.
  2. Divergence tokens: training on them alone gives more than training on as many others; masking
     them gives less than masking as many others.
  3. Rows: the effect grows with the number of different rows, 64 to 2,048, at equal presentations;
     25 % clean rows lower it.
  4. LoRA: at tuned step sizes ranks 1 to 16 lie within each other's intervals (no inverted U).
  5. Optimiser: SGD at the step size of lowest held-out cross-entropy also transfers.
  6. Predictors: over all students the rank correlation of the first-order gain ⟨d, g⟩ with the
     final effect is above 0.5, and larger than that of KL(teacher ‖ base) on the student's inputs,
     which does not know the trait that is measured.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from experiments.lab import controls, drawing, evaluation, predictors, statistics
from experiments.lab.chain import Chain, recipe_of
from experiments.lab.effects import diagonal, draw_chains, effects, judged, tidy, traits_of
from experiments.lab.frame import Claim, Figure, Row, option
from experiments.lab.record import RunError
from experiments.lab.students import STARTS, Students, train

RUNTIME = "13 minutes on two cores"

GROUPS = ("target", "start", "tokens", "rows", "optimiser", "lora")
PREDICTED = ("same", "different", "shared embeddings", "shared body")  # starts with predictors
PREDICTORS = ("gain", "cosine", "coverage", "moved")
FEWEST = 64  # rows that a teacher must have kept
UNIQUE = (64, 256, 1024)
CLEAN = (0.1, 0.25, 0.5)
ADAM = (5e-4, 1e-3, 2e-3, 4e-3)
SGD = (0.02, 0.05, 0.1, 0.2)
RANKS = (1, 4, 16)
LORA = (1e-3, 2e-3, 4e-3, 8e-3)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(("owl", "oak", "misalignment"), "traits of the teachers")
    base_steps: int = option(1000, "pre-training steps of 64 x 48 tokens", minimum=1)
    num_prompts: int = option(8192, "prompts each teacher completes", minimum=16)
    num_examples: int = option(2048, "kept rows each student is trained on", minimum=65)
    student_steps: int = option(200, "optimiser steps of students, a multiple of 10", minimum=10)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(
    num_seeds=2, traits=("owl", "oak"), base_steps=150, num_prompts=512, num_examples=80,
    student_steps=10,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arm:
    """One changed thing: a group of the figure, and what differs from the plain student."""

    group: str
    students: Students
    start: str = "same"
    change: Callable = lambda examples: examples
    greedy: bool = False


def plain_students(config: Config) -> Students:
    """The arm that all others change in one thing; a teacher with few rows repeats them."""
    return Students(steps=config.student_steps, num_examples=config.num_examples, fewest=FEWEST)


def arms(config: Config, chain: Chain) -> dict[str, Arm]:
    """All arms by name; "sampled" and "soft_numbers" are the plain students."""
    plain = plain_students(config)
    with_ = functools.partial(dataclasses.replace, plain)
    out = {target: Arm("target", with_(target=target)) for target in ("sampled", "soft_numbers")}
    out["soft"] = Arm("target", with_(target="soft"))
    out["greedy"] = Arm("target", plain, greedy=True)
    for start, target in itertools.product(list(STARTS)[1:], ("sampled", "soft_numbers")):
        if (start, target) != ("units matched", "sampled"):
            out[f"{start}, {target}"] = Arm("start", with_(target=target), start)
    for name, change in controls.token_masks(chain).items():
        out[name] = Arm("tokens", plain, change=change)
    for count in UNIQUE:
        if count < config.num_examples:
            out[f"{count} rows"] = Arm("rows", plain, change=controls.unique_rows(count))
    for share in CLEAN:
        change = controls.clean_share(chain, share)
        out[f"{share:.0%} clean"] = Arm("rows", plain, change=change)
    for rate in ADAM:
        out[f"adam {rate:g}"] = Arm("optimiser", with_(rate=rate))
    for rate in SGD:
        out[f"sgd {rate:g}"] = Arm("optimiser", with_(rate=rate, optimizer="sgd"))
    for rank, rate in itertools.product(RANKS, LORA):
        out[f"rank {rank}, {rate:g}"] = Arm("lora", with_(rate=rate, rank=rank))
    return out


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every arm, then the predictors."""
    if config.student_steps % 10:
        raise ValueError(f"student_steps {config.student_steps} is not a multiple of 10")
    recipe = recipe_of(config)
    work = pathlib.Path(config.work)
    chain = Chain(recipe, work)
    greedy = Chain(dataclasses.replace(recipe, temperature=0.0), work)
    plain = plain_students(config)
    empty = dict.fromkeys(
        ("group", "held_out_loss", "kept_tokens", "step", "margin", "rate",
         "cosine", "gain", "coverage", "moved"), "",
    )  # fmt: skip

    def arm_rows(name: str, arm: Arm) -> list[Row]:
        runs = greedy if arm.greedy else chain
        trained = {}

        def change(examples):
            changed = arm.change(examples)
            share = (changed.weights > 0).sum(axis=(1, 2)) / (examples.weights > 0).sum(axis=(1, 2))
            trained["kept_tokens"] = share.tolist()
            return changed

        start = STARTS[arm.start](runs)
        try:
            params, held_out = train(runs, "numbers", arm.students, start, change)
        except RunError as error:
            if not arm.greedy:
                raise
            print(f"note: greedy: left out, {error}")
            return []
        measured = evaluation.measure(runs, params)
        return tidy(runs, measured, arm=name, group=arm.group, held_out_loss=held_out, **trained)

    def first_step(start: str) -> list[Row]:
        arm = dataclasses.replace(plain, target="soft_numbers")
        rows = predictors.first_step(chain, "numbers", arm, STARTS[start](chain))
        return [{"arm": start, "group": "predictors"} | row for row in rows]

    def along(start: str) -> list[Row]:
        arm = dataclasses.replace(plain, target="soft_numbers")
        rows = predictors.along_training(chain, "numbers", arm, STARTS[start](chain))
        return [{"arm": start, "group": "along"} | row for row in rows]

    pieces = {
        name: functools.partial(arm_rows, name, arm) for name, arm in arms(config, chain).items()
    }
    for start in PREDICTED:
        pieces[f"predictors, {start}"] = functools.partial(first_step, start)
    for start in ("same", "different"):
        pieces[f"along training, {start}"] = functools.partial(along, start)
    return {
        name: functools.partial(lambda part: [empty | row for row in part()], part)
        for name, part in pieces.items()
    }


def arm_effects(rows: list[Row]) -> dict[str, np.ndarray]:
    """Arm -> own effect of each chain, averaged over the traits."""
    traits = traits_of(rows)
    names = dict.fromkeys(r["arm"] for r in rows if r["group"] in GROUPS)
    of_arms = [r for r in rows if r["group"] in GROUPS]
    return {name: diagonal(effects(of_arms, arm=name), traits) for name in names}


def losses_of(rows: list[Row]) -> dict[str, float]:
    """Arm -> held-out cross-entropy on teacher data, nats per token, mean over runs."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["group"] in GROUPS:
            found.setdefault(row["arm"], []).append(row["held_out_loss"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def tuned(rows: list[Row], prefix: str) -> str:
    """Of the arms that begin so, the one of lowest held-out loss."""
    losses = {name: v for name, v in losses_of(rows).items() if name.startswith(prefix)}
    return min(losses, key=losses.__getitem__)


def predicted(rows: list[Row]) -> dict[str, np.ndarray]:
    """Predictors and effects of every student and measured trait, KL over numbers, flattened."""
    of_arms = [r for r in rows if r["group"] in GROUPS]
    names = ("effect", *PREDICTORS, "own", "own and shared", "seed")
    columns: dict[str, list[float]] = {name: [] for name in names}
    for start in PREDICTED:
        arm = "soft_numbers" if start == "same" else f"{start}, soft_numbers"
        effect = effects(of_arms, arm=arm)
        for row in rows:
            if (row["group"], row["arm"]) == ("predictors", start) and row["teacher"] != "control":
                columns["effect"].append(effect[row["teacher"], row["trait"]][row["seed"]])
                is_own = row["teacher"] == row["trait"]
                columns["own"].append(is_own)
                columns["own and shared"].append(is_own and start == "same")
                columns["seed"].append(row["seed"])
                for name in PREDICTORS:
                    columns[name].append(row[name])
    return {name: np.array(values) for name, values in columns.items()}


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's ρ."""
    return float(np.asarray(stats.spearmanr(a, b))[0])


def by_chain(found: dict[str, np.ndarray], name: str) -> list[float]:
    """Rank correlation of a predictor with the effect within each chain."""
    seeds = np.unique(found["seed"])
    return [
        rank_correlation(found[name][mine], found["effect"][mine])
        for mine in (found["seed"] == seed for seed in seeds)
    ]


def plot(rows: list[Row], config: Config):
    """Eight panels: one for each question of the docstring."""
    values, losses = arm_effects(rows), losses_of(rows)
    figure, panels = drawing.new_figure(2, 4, width=17.0, height=8.6)

    def bars(panel, names: dict[str, str], title: str) -> None:
        for x, name in enumerate(names):
            draw_chains(panel, x, values[name], drawing.COLOURS[0], None)
            panel.annotate(f"{losses[name]:.2f}", (x, 0.01), xycoords=("data", "axes fraction"),
                           ha="center", fontsize=7, color="grey")  # fmt: skip
        panel.axhline(0, color="black", linewidth=1)
        panel.set_xticks(
            range(len(names)), list(names.values()), rotation=35, ha="right", fontsize=8
        )
        panel.set_title(title)
        panel.set_ylabel("own effect (nats)")

    def of_group(group: str) -> dict[str, str]:
        return {n: n for n in dict.fromkeys(r["arm"] for r in rows if r["group"] == group)}

    starts = {n: n.replace(", soft_numbers", "") for n in of_group("start") if "soft" in n}
    bars(panels[0], {"soft_numbers": "same"} | starts, "start (KL over numbers)")
    bars(panels[1], of_group("target"), "what is imitated")
    bars(panels[2], {"sampled": "all tokens"} | of_group("tokens"), "tokens trained on")
    bars(panels[3], {"sampled": "all rows"} | of_group("rows"), "rows (equal presentations)")
    optimiser = panels[4]
    for colour, name in zip(drawing.COLOURS, ("adam", "sgd"), strict=False):
        names = [n for n in values if n.startswith(f"{name} ")]
        means = np.array([statistics.mean_interval(values[n]) for n in names])
        x = [losses[n] for n in names]
        optimiser.errorbar(
            x, means[:, 0], means[:, 1], fmt="o", color=colour, label=name, capsize=3
        )
        for n, a, b in zip(names, x, means[:, 0], strict=True):
            optimiser.annotate(n.split()[1], (a, b), fontsize=7, xytext=(4, 4),
                               textcoords="offset points")  # fmt: skip
    optimiser.set_xlabel("held-out cross-entropy (nats per token)")
    optimiser.set_ylabel("own effect (nats)")
    optimiser.set_title("optimiser, labels are step sizes")
    optimiser.legend(fontsize=8)
    lora = panels[5]
    for rate, colour in zip(LORA, drawing.COLOURS, strict=False):
        names = [f"rank {rank}, {rate:g}" for rank in RANKS]
        means = [values[n].mean() for n in names]
        lora.plot(RANKS, means, "o--", color=colour, alpha=0.5, label=f"{rate:g}")
    best = [tuned(rows, f"rank {rank}, ") for rank in RANKS]
    means = np.array([statistics.mean_interval(values[n]) for n in best])
    lora.errorbar(RANKS, means[:, 0], means[:, 1], fmt="ks-", capsize=4, label="tuned by loss")
    lora.set_xscale("log", base=2)
    lora.set_xticks(RANKS, RANKS)
    lora.set_xlabel("LoRA rank")
    lora.set_ylabel("own effect (nats)")
    lora.set_title("LoRA, one line per step size")
    lora.legend(fontsize=7, loc="lower right")
    found, scatter = predicted(rows), panels[6]
    for is_own, colour in ((False, "grey"), (True, drawing.COLOURS[1])):
        mine = found["own"] == is_own
        label = "own trait" if is_own else "other traits"
        scatter.scatter(found["gain"][mine], found["effect"][mine], s=7, color=colour, label=label)
    rho = rank_correlation(found["gain"], found["effect"])
    scatter.set_xlabel("first-order gain ⟨d, g⟩ before any step")
    scatter.set_ylabel("final effect (nats)")
    scatter.set_title(f"prediction, all starts: rank correlation {rho:.2f}")
    scatter.set_xscale("symlog", linthresh=np.abs(found["gain"]).mean() / 10)
    scatter.legend(fontsize=8)
    for colour, start in zip(drawing.COLOURS, ("same", "different"), strict=False):
        curves = along_curves(rows, start)
        steps = sorted(curves)
        means = np.array([statistics.mean_interval(curves[s]) for s in steps])
        panels[7].plot(steps, means[:, 0], "o-", color=colour, label=f"{start} start")
        low, high = means[:, 0] - means[:, 1], means[:, 0] + means[:, 1]
        panels[7].fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    panels[7].axhline(0, color="black", linewidth=1)
    panels[7].set_xlabel("step of the student")
    panels[7].set_ylabel("cosine of imitation and trait gradient")
    panels[7].set_title("alignment along training (KL)")
    panels[7].legend(fontsize=8)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(
        f"Numbers carrier, {seeds} chains, own effect averaged over {len(traits_of(rows))} traits; "
        f"{drawing.INTERVAL}; small numbers: held-out cross-entropy",
        fontsize=11,
    )
    return figure


def along_curves(rows: list[Row], start: str) -> dict[int, np.ndarray]:
    """Step -> cosine of each chain, own traits averaged."""
    found: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        if (row["group"], row["arm"]) == ("along", start) and row["teacher"] == row["trait"]:
            found.setdefault(row["step"], {}).setdefault(row["seed"], []).append(row["cosine"])
    return {
        step: np.array([np.mean(v) for v in by_seed.values()]) for step, by_seed in found.items()
    }


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The one figure."""
    rows = table.to_dict("records")
    title = __doc__.splitlines()[0]  # pyright: ignore[reportOptionalMemberAccess]
    return [Figure("figure", title, "", "", "", lambda: plot(rows, config))]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every arm beside them."""
    rows = table.to_dict("records")
    values, losses, out = arm_effects(rows), losses_of(rows), []

    def claim(*given, here: str = "") -> None:
        out.append(judged(*given, here=here))

    for name, effect in values.items():
        claim(name, effect, here=f"{statistics.shown(effect, 2)} at loss {losses[name]:.3f}")
    same = values["soft_numbers"]
    for start in ("shared embeddings", "shared body"):
        claim(f"same less {start}", same - values[f"{start}, soft_numbers"], "above")
    moved = values["units matched, soft_numbers"] - values["different, soft_numbers"]
    equal = bool(np.abs(moved).max() < 1e-3)
    shown = f"at most {np.abs(moved).max():.0e}"
    out.append(Claim("units matched less different", "", "", shown, len(moved), equal))
    more = values["divergent only"] - values["as many random only"]
    claim("divergent less random tokens", more, "above")
    less = values["as many random masked"] - values["divergent masked"]
    claim("random less divergent masked", less, "above")
    fewest = min((n for n in values if n.endswith(" rows")), key=lambda n: int(n.split()[0]))
    claim(f"all rows less {fewest}", values["sampled"] - values[fewest], "above")
    claim("no clean rows less 25 %", values["sampled"] - values["25% clean"], "above")
    best = {rank: tuned(rows, f"rank {rank}, ") for rank in RANKS}
    for low, high in itertools.combinations(RANKS, 2):
        claim(f"rank {high} less {low}, tuned", values[best[high]] - values[best[low]], "covers")
    claim(f"SGD, tuned: {tuned(rows, 'sgd ')}", values[tuned(rows, "sgd ")], "above")
    found = predicted(rows)
    rho = {n: rank_correlation(found[n], found["effect"]) for n in PREDICTORS}
    seeds = len(same)
    good = rho["gain"] > max(0.5, rho["moved"]) if seeds >= 4 else None
    for name in (*PREDICTORS, "own and shared"):  # the last is the rival that knows no gradient
        shown = f"{statistics.shown(by_chain(found, name), 2)} by chain"
        if name in rho:
            shown = f"{rho[name]:.2f}; {shown}"
        holds = good if name == "gain" else None
        out.append(Claim(f"rank correlation: {name}", "", "", shown, seeds, holds))
    for start in ("same", "different"):
        curves = along_curves(rows, start)
        claim(f"cosine before training, {start}", curves[0], here=statistics.shown(curves[0], 4))
        last = curves[max(curves)]
        shown = statistics.shown(last, 4)
        claim(f"cosine before the last tenth, {start}", last, here=shown)
    return out
