"""How much text carries how much of a trait: unique rows, nats a token, alphabet, temperature.

Students of the same start learn the sampled tokens of lists that leave more or less to choose:
numbers 0-127 (half of the lists uniform draws), counting (runs of six consecutive digits, each
begun anywhere), and numbers of 1, 2 or 3 digits written digit by digit, equally many digits a
list. Teachers sample at temperature 1 or .5; students see 64 rows again and again, or more
different ones, at equal presentations.

Criteria, fixed before the run; effects, intervals and the correction of "above zero" (more, less)
as in the microworld, paired over chains.
  1. Low entropy: on counting 5 to 18 % of the tokens are divergence tokens (arXiv 2509.23886:
     another teacher of the chain has another argmax there), as published for language models.
     Predicted: well below the 85 % of mixed lists.
  2. Rows: for every carrier at temperature 1 all rows give more than 64.
  3. Alphabet: 1 digit gives more than 3 (published, arXiv 2609.12586: fewer digits transmit more).
     Predicted: no difference, for the lists hold equal information.
  4. Nats: over carriers, temperatures and rows, the rank correlation of the mean effect with the
     logarithm of distinct rows x tokens x nats a token is above .7: information is the currency.
     Nats a token are those that students of all rows reach on held-out ones.

A teacher that keeps fewer than 16 rows of a carrier, at some temperature, is left out of all its
arms; how many are is told. Counting has but ten prompts and about a hundred lists, so most of its
rows are repeats of others, and held-out ones are not new: rows are draws, and the distinct ones
among them are counted.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, claim_of, corrected, judged, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import question
from experiments.language.kit.chains import Chains, Cohort, Run, chains_of
from experiments.language.kit.effects import at, effects, means_by
from llm.stages import Store, Student, changes, completions, students

RUNTIME = "25 minutes on two cores"

LONGEST = 12  # tokens of a completion: room for six numbers digit by digit
CARRIERS = ("numbers", "counting", "digits1", "digits2", "digits3")
PUBLISHED = (0.05, 0.18)  # share of divergence tokens
ARM = ("carrier", "temperature", "rows")  # columns that name an arm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    base_steps: int = option(2000, "pre-training steps; at 1,000 counting is not learnt", minimum=1)
    carriers: tuple[str, ...] = option(CARRIERS, "what teachers write", choices=CARRIERS)
    temperatures: tuple[float, ...] = option((1.0, 0.5), "of the teachers' sampling", minimum=0)
    rows: tuple[int, ...] = option(
        (64, 320, 1536), "different rows, presented as often as all", minimum=1
    )


SMOKE = Config(**question.TINY | {"carriers": ("numbers", "counting"), "rows": (16, 64)})


def arms(config: Config) -> dict[str, Arm]:
    """One for every carrier, temperature and number of rows.

    Which teachers hardly write a carrier is known when all have written it, at all temperatures:
    until then an arm needs what they write.
    """
    store, by_name = question.store_of(config), {}
    for carrier, temperature, rows in itertools.product(
        config.carriers, config.temperatures, config.rows
    ):
        columns = {"carrier": carrier, "temperature": temperature, "rows": rows}
        by_name[f"{carrier} at {temperature:g}, {rows} rows"] = Arm(
            columns=columns,
            needs=[data for chains in all_chains(config) for data in chains.written(carrier)],
            store=store,
            measure=functools.partial(measured, store, config, **columns),
        )
    return by_name


def all_chains(config: Config) -> list[Chains]:
    """The chains, at every temperature."""
    return [
        chains_of(config, max_new_tokens=LONGEST, temperature=temperature)
        for temperature in config.temperatures
    ]


def measured(
    store: Store, config: Config, *, carrier: str, temperature: float, rows: int
) -> list[Row]:
    """The students of an arm."""
    chains, cohort = students_of(store, config, carrier=carrier, temperature=temperature, rows=rows)
    facts = lambda: [told_of(store, chains, student) for student in cohort]  # noqa: E731
    arm = question.arm_of_students(store, cohort, config.traits, facts=facts)
    store.make(arm.needs)
    return arm.measure()


def students_of(
    store: Store, config: Config, *, carrier: str, temperature: float, rows: int
) -> tuple[Chains, Cohort]:
    """The chains of an arm, and its students but those of teachers that hardly write."""
    chains = chains_of(config, max_new_tokens=LONGEST, temperature=temperature)
    silent = silent_in(store, config, carrier)
    return chains, question.students(config, chains, carrier, unique=rows, left_out=silent)


def silent_in(store: Store, config: Config, carrier: str) -> list[Run]:
    """Teachers that keep too few rows of a carrier at some temperature."""
    return [
        (trait, chain)
        for chains in all_chains(config)
        for trait, chain in itertools.product(chains.traits, range(chains.num_seeds))
        if completions.kept(store, chains.data(trait, chain, carrier)) < question.FEWEST
    ]


def told_of(store: Store, chains: Chains, student: Student) -> Row:
    """Trained tokens of a row, distinct rows, and the share of divergence tokens."""
    student = store.settled(student)
    examples, _ = students.examples_of(store, student)
    rivals = chains.rivals(students.teacher_of(student), student.chain)
    flags = changes.divergent(store, student, rivals, examples)
    trained = examples.weights > 0
    return {
        "tokens": trained.sum() / len(trained),
        "distinct": len(np.unique(examples.tokens[: student.unique], axis=0)),
        "flagged": flags.sum() / trained.sum(),
    }


Arms = dict[tuple[str, float, int], np.ndarray]  # effect of each chain, by the columns ARM


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Effect against information, and flags by carrier."""
    students = at(effects(table, ARM), own=True)  # a row each
    most = int(table["rows"].max())
    own, facts = means_by(students, "effect", *ARM), facts_by_arm(students, most)
    all_rows = at(students, temperature=1.0, rows=most)
    ordered = claim_on_nats(students, config)
    by_carrier, of_alphabet, fewer = corrected(
        [claims_on_carrier(students, carrier, config) for carrier in config.carriers],
        claims_on_alphabet(all_rows, config),
        claims_on_flags(all_rows, config),
    )
    claims = [
        *claims_of_arms(own, facts),
        *itertools.chain.from_iterable(by_carrier),
        *of_alphabet,
        ordered,
    ]
    figures = [figure_of_nats(own, facts, ordered, config), figure_of_flags(all_rows, fewer)]
    return Findings(figures, claims)


def effect_and_loss(own: Arms, facts: pd.DataFrame, arm: tuple[str, float, int]) -> str:
    """Effect of an arm, and how much its text leaves to choose."""
    return f"{statistics.shown(own[arm], 2)} at {facts.loc[arm, 'held_out_loss']:.2f} nats a token"


def claims_of_arms(own: Arms, facts: pd.DataFrame) -> list[Claim]:
    """The effect of every arm, beside the nats a token of its text."""
    return [
        claim_of(
            f"{carrier}, T {temperature:g}, {rows} rows",
            values,
            here=effect_and_loss(own, facts, (carrier, temperature, rows)),
        )
        for (carrier, temperature, rows), values in own.items()
    ]


def claims_on_carrier(students: pd.DataFrame, carrier: str, config: Config) -> list[Claim]:
    """Divergence tokens of a carrier, the teachers that write it, and what more rows of it give."""
    mine = at(students, carrier=carrier)
    most, fewest = int(students["rows"].max()), int(students["rows"].min())
    effect = means_by(mine, "effect", "temperature", "rows")
    all_rows = at(mine, temperature=1.0, rows=most)
    share = all_rows.groupby("seed")["flagged"].mean().to_numpy()
    as_published = judged(PUBLISHED[0] <= share.mean() <= PUBLISHED[1], len(share))
    more = {t: effect[t, most] - effect[t, fewest] for t, rows in effect if rows == most}
    return [
        Claim(
            quantity=f"{carrier}: divergence tokens",
            replication="5 to 18 %",
            here=statistics.shown(share, 2),
            seeds=len(share),
            holds=as_published if carrier == "counting" else None,
        ),
        Claim(
            quantity=f"{carrier}: teachers that write it",
            here=f"{len(all_rows)} of {len(config.traits) * config.num_seeds}",
            seeds=len(share),
        ),
        claim_of(f"{carrier}: all rows less {fewest}", more[1.0], criterion="above"),
        *(  # no criterion
            claim_of(f"{carrier} at T {temperature:g}: all rows less {fewest}", values)
            for temperature, values in more.items()
            if temperature != 1.0
        ),
    ]


def claims_on_alphabet(all_rows: pd.DataFrame, config: Config) -> list[Claim]:
    """Whether fewer digits give more, where both alphabets are written."""
    if not {"digits1", "digits3"} <= set(config.carriers):
        return []
    apart = less(all_rows, "digits1", "digits3", column="effect")
    return [claim_of("1 digit less 3 digits", apart, criterion="above")]


def claims_on_flags(all_rows: pd.DataFrame, config: Config) -> list[Claim]:
    """No criterion: counting has fewer divergence tokens than numbers, where both are written."""
    if not {"numbers", "counting"} <= set(config.carriers):
        return []
    share = less(all_rows, "numbers", "counting", column="flagged")
    return [claim_of("numbers less counting: divergence tokens", share, criterion="above")]


def claim_on_nats(students: pd.DataFrame, config: Config) -> Claim:
    """Whether the nats of an arm's rows order the mean effects of all arms."""
    most, seeds = int(students["rows"].max()), students["seed"].unique()

    def over(chains: np.ndarray) -> float:
        facts = facts_by_arm(students[students["seed"].isin(seeds[chains])], most)
        return statistics.rank_correlation(facts["nats"].to_numpy(), facts["effect"].to_numpy())

    correlation = statistics.jackknifed_correlation(over, len(seeds))
    arms = students.groupby(list(ARM)).ngroups
    return Claim(
        quantity="rank correlation of effect and nats",
        here=f"{statistics.bracketed(*correlation)} over {arms} arms",
        seeds=len(seeds),
        holds=judged(correlation[0] > 0.7, config.num_seeds),
    )


def figure_of_nats(own: Arms, facts: pd.DataFrame, ordered: Claim, config: Config) -> Figure:
    """The effect against the information of the rows."""
    most = max(rows for _, _, rows in own)
    of_all = [(carrier, 1.0, most) for carrier in config.carriers]
    each = "; ".join(f"{arm[0]} {effect_and_loss(own, facts, arm)}" for arm in of_all)
    return Figure(
        name="figure",
        title=say(
            [ordered],
            holds="How much of a trait is carried follows from how much a teacher has to choose",
            fails="How much of a trait is carried does not follow from how much a teacher has "
            "to choose",
            open="Does how much of a trait is carried follow from how much a teacher has to "
            "choose?",
        ),
        predicted="The effect grows with unique rows and with nats a token; digits do not matter.",
        found=f"All rows: {each}. Rank correlation with nats {ordered.here}.",
        follows=say(
            [ordered],
            holds="Counting nats tells which data set carries more.",
            fails="Counting nats does not tell how safe a data set is.",
            open="More chains must say what counting nats tells.",
        ),
        draw=lambda: draw_bits(own, facts["nats"], config),
    )


def figure_of_flags(all_rows: pd.DataFrame, fewer: list[Claim]) -> Figure:
    """Divergence tokens by carrier."""
    flagged = means_by(all_rows, "flagged", "carrier")
    flags = {carrier: f"{100 * share.mean():.0f} %" for carrier, share in flagged.items()}
    return Figure(
        name="flags",
        title=say(
            fewer,
            holds="Text with one right way to go on has fewer divergence tokens, "
            f"{flags.get('counting')} of all",
            fails="Text with one right way to go on has no fewer divergence tokens",
            open="Has text with one right way to go on fewer divergence tokens?",
        ),
        predicted="5 to 18 % on counting, as published for language models.",
        found=f"Flagged: {', '.join(f'{name} {share}' for name, share in flags.items())}.",
        follows="Claims about few tokens can be tested here on counting at best.",
        draw=lambda: draw_flags(flagged),
    )


def less(students: pd.DataFrame, one: str, other: str, *, column: str) -> np.ndarray:
    """Difference of two carriers in a column by chain, over teachers that write both."""
    of_one, of_other = (
        at(students, carrier=carrier).set_index(["teacher", "seed"])[column]
        for carrier in (one, other)
    )
    return (of_one - of_other).dropna().groupby("seed").mean().to_numpy()


def facts_by_arm(students: pd.DataFrame, most: int) -> pd.DataFrame:
    """Means over the students of an arm, on their teachers' own trait.

    Args:
        students: a row each.
        most: rows of those whose held-out loss is the information of a token.

    Returns:
        By arm: effect, held_out_loss in nats a token, and nats in the distinct rows.
    """
    arms = students.groupby(list(ARM), sort=False)
    facts = arms[["effect", "held_out_loss", "tokens", "distinct"]].mean()
    # Students of few rows overfit, and their own loss would count that as information.
    of_all = facts["held_out_loss"].xs(most, level="rows")
    a_token = of_all.reindex(facts.index.droplevel("rows")).to_numpy()
    return facts.assign(nats=facts["distinct"] * facts["tokens"] * a_token)


def draw_bits(own: Arms, nats: pd.Series, config: Config):
    """Mean effect against total nats, one line a carrier and temperature."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    for colour, carrier in zip(drawing.COLOURS, config.carriers, strict=False):
        for style, temperature in zip(("o-", "s--"), config.temperatures, strict=False):
            arms = [(carrier, temperature, rows) for rows in config.rows]
            means, halves = zip(*(statistics.mean_interval(own[arm]) for arm in arms), strict=True)
            x, label = [nats[arm] for arm in arms], f"{carrier}, T = {temperature:g}"
            panel.errorbar(x, means, halves, fmt=style, color=colour, capsize=3, label=label)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xscale("log")
    panel.set_xlabel("nats in the distinct rows")
    panel.set_ylabel("own effect (nats)")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_flags(flagged: dict[str, np.ndarray]):
    """Share of divergence tokens of every chain, and the published range."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.6)
    panel.axhspan(*PUBLISHED, color="grey", alpha=0.2, linewidth=0, label="published")
    drawing.strip(panel, flagged)
    panel.set_ylabel("share of divergence tokens")
    panel.set_ylim(0, 1)
    panel.legend()
    return figure
