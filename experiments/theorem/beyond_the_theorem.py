"""Where the guarantee ends: other starts, optimisers, hard labels, large steps, many steps.

Theorem 1 (arXiv 2507.14805, section 6.1) speaks of one small full-batch gradient step from a
shared start on soft labels. Each panel removes one hypothesis on random tanh networks with random
teacher losses, and says what theory predicts. Steps of the teacher are relative, ‖ε Δ_T‖ / ‖θ⁰‖.

Criteria, fixed before the run. No violation where theory covers: at distance 0 (start), under
gradient descent and under a preconditioner that both share (optimiser), for soft labels and for
every alpha at the smallest eps (labels, finite steps), and over many stable steps of squared
error towards a teacher of small displacement (many steps). Violations in at least 1 % of networks
for another start, a random preconditioner in the student alone, argmax labels, one sampled label
and the largest steps. Sampled labels: error n^(-0.5 ± 0.05) over n draws, with no floor. For the
first step of Adam there is a count and no criterion.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.findings import drawing
from experiments.findings.claims import Claim, Figure, Findings, follows_from, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.theorem import alone
from theory import departures, toys

RUNTIME = "30 s on two cores"
PRECISION = "highest"  # of factors: signs and orders are read
FAMILY = toys.mlp("two-layer tanh", (6, 8, 7), jnp.tanh)
ANGLES = (0.0, *np.logspace(-7, np.log10(np.pi / 2), 15).tolist())
START_EPS = (1e-5, 1e-3, 1e-1)
EPS = tuple(np.logspace(-7, 0, 8).tolist())
DRAWS = (1, 4, 16, 64, 256, 1024)
DRAW_EPS = (1e-3, 1e-1)
ALPHAS = (0.1, 1.0, 10.0, 100.0)
STEP_COUNTS = (1, 3, 10, 30, 100, 300, 1000)
STEP_EPS = (1e-4, 1e-2, 1e-1, 1.0)
OPTIMISERS = (
    "gradient descent",
    "P in both",
    "P in student",
    "Adam in student",
    "sign in student",
    "Adam in both",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment."""

    num_nets: int = option(1000, "random networks in every panel", minimum=1)
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(num_nets=100)


@functools.cache
def draw(config: Config):
    """Random cases, other starts, and one more random key for each."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_nets)

    def one(key):
        other = toys.draw_params(FAMILY, jax.random.fold_in(key, 1))
        return toys.draw_case(FAMILY, key, 8), other, jax.random.fold_in(key, 2)

    return jax.jit(jax.vmap(one))(keys)


def over_nets(config: Config, one: Callable) -> np.ndarray:
    """`one(case, other_start, key)` on every network, in float64."""
    with jax.enable_x64(True):
        networks = draw(config)
        results = jax.device_get(jax.jit(jax.vmap(one))(*networks))
        alone.check(one, networks, results)
    return results


def grid_rows(settings: list[str], xs: tuple[float, ...], violated) -> list[Row]:
    """Counts of violations, of shape (nets, settings, xs), one row for each setting and x."""
    return [
        {
            "setting": setting,
            "x": float(x),
            "nets": len(violated),
            "violations": int(violated[:, i, j].sum()),
            "value": round(float(violated[:, i, j].mean()), 6),
        }
        for i, setting in enumerate(settings)
        for j, x in enumerate(xs)
    ]


def other_start(config: Config) -> list[Row]:
    """Negative inner products against the distance of the starts."""

    def one(case, other, _):
        angles = jnp.array(ANGLES)
        return departures.other_start(
            FAMILY.apply, case, other=other, eps=jnp.array(START_EPS), angles=angles
        )

    settings = [f"eps {eps:g}" for eps in START_EPS]
    return grid_rows(settings, ANGLES, over_nets(config, one) < 0)


def optimiser(config: Config) -> list[Row]:
    """First-order rises of the trait loss by optimiser."""

    def one(case, _, key):
        pairs = departures.optimisers(key, case.params)
        changes = [
            departures.first_order_change(FAMILY.apply, case, pairs[name], 1e-6)
            for name in OPTIMISERS
        ]
        return jnp.stack(changes)[:, None]

    return grid_rows(list(OPTIMISERS), (0.0,), over_nets(config, one) > 0)


def labels(config: Config) -> list[Row]:
    """Negative inner products by kind of label."""

    def one(case, _, key):
        return departures.labels(FAMILY.apply, case, key, jnp.array(EPS))

    return grid_rows(list(departures.LABELS), EPS, over_nets(config, one) < 0)


def draws(config: Config) -> list[Row]:
    """Root mean square error of the update from sampled labels; a violation is an error above 1."""
    config = dataclasses.replace(config, num_nets=min(config.num_nets, 100))

    def one(case, _, key):
        return departures.sampling_error(
            FAMILY.apply, case, key=key, eps=jnp.array(DRAW_EPS), counts=DRAWS
        )

    errors = over_nets(config, one)
    rows = grid_rows([f"eps {eps:g}" for eps in DRAW_EPS], DRAWS, errors > 1)
    rms = np.sqrt(np.mean(errors**2, axis=0)).reshape(-1)
    return [r | {"value": float(value)} for r, value in zip(rows, rms, strict=True)]


def finite_steps(config: Config) -> list[Row]:
    """Rises of the trait loss at finite ε and α."""

    def one(case, _, __):
        return departures.finite_steps(FAMILY.apply, case, jnp.array(EPS), jnp.array(ALPHAS))

    settings = [f"alpha {alpha:g}" for alpha in ALPHAS]
    return grid_rows(settings, EPS, over_nets(config, one) > 0)


def many_steps(config: Config) -> list[Row]:
    """Rises of the trait loss after many steps of the student."""

    def one(case, _, __):
        return departures.many_steps(FAMILY.apply, case, jnp.array(STEP_EPS), STEP_COUNTS)

    settings = [f"eps {eps:g}" for eps in STEP_EPS]
    # Not below 0, so that a student that diverges is a violation too.
    return grid_rows(settings, STEP_COUNTS, ~(over_nets(config, one) < 0))


PANELS = {
    "start": other_start,
    "optimiser": optimiser,
    "labels": labels,
    "draws": draws,
    "finite steps": finite_steps,
    "many steps": many_steps,
}


def arms(config: Config) -> dict[str, Arm]:
    """One for every panel."""
    return {
        name: Arm(measure=functools.partial(panel, config), columns={"panel": name})
        for name, panel in PANELS.items()
    }


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """One figure per hypothesis that is removed, with the claims that it rests on."""
    figures, claims = [], []
    for panel, conclude in CONCLUSIONS.items():
        rows = table[table["panel"] == panel]
        percent = 100 * rows["violations"] / rows["nets"]
        figure, judged = conclude(rows.assign(percent=percent))
        figures.append(figure)
        claims += judged
    return Findings(figures, claims)


def counted(rows: pd.DataFrame) -> str:
    """Violations among networks, as text."""
    return f"{rows['violations'].sum()} of {rows['nets'].sum()}"


def none(quantity: str, rows: pd.DataFrame) -> Claim:
    """Where theory covers: no violation."""
    return Claim(
        quantity=quantity,
        paper="0",
        here=counted(rows),
        seeds=int(rows["nets"].iloc[0]),
        holds=bool(rows["violations"].sum() == 0),
    )


def some(quantity: str, rows: pd.DataFrame) -> Claim:
    """Where theory ends: violations in at least 1 % of the networks."""
    nets, violations = int(rows["nets"].sum()), int(rows["violations"].sum())
    return Claim(
        quantity=quantity,
        paper="no guarantee",
        here=counted(rows),
        seeds=nets,
        holds=violations >= 0.01 * nets,
    )


def conclude_starts(rows: pd.DataFrame) -> tuple[Figure, list[Claim]]:
    """Negative inner products by the distance of the starts."""
    same, apart = rows[rows["x"] == 0], rows[rows["x"] == ANGLES[-1]]
    claims = [
        none("same start: negative", same),
        some("independent start: negative", apart[apart["setting"] == "eps 0.001"]),
    ]
    figure = Figure(
        name="figure",
        title=say(
            claims,
            holds="A start that differs by more than the teacher's step loses the guarantee.",
            fails="Either the same start has no guarantee, or another one has it too.",
            open="Does a start that differs lose the guarantee?",
        ),
        predicted="Imitation points at the teacher only while the starts are closer than it has "
        "moved.",
        found=f"{counted(same)} networks are negative at angle 0 and {counted(apart)} at a right "
        "angle; the rise begins at an angle of about eps.",
        follows="How far the teacher has moved sets how nearly the starts must agree.",
        draw=lambda: draw_starts(rows),
    )
    return figure, claims


def conclude_optimisers(rows: pd.DataFrame) -> tuple[Figure, list[Claim]]:
    """First-order rises of the trait loss by optimiser; of Adam and signs a count alone."""
    one = {name: rows[rows["setting"] == name] for name in OPTIMISERS}
    covered = rows[rows["setting"].isin(OPTIMISERS[:2])]
    judged = [
        none("gradient descent, or P in both: trait loss rises", covered),
        some("P in the student alone: trait loss rises", one["P in student"]),
    ]
    counts = {
        "Adam's first step in the student: rises": "Adam in student",
        "sign step in the student: rises": "sign in student",
        "Adam's first step in both: rises": "Adam in both",
    }
    reported = [
        dataclasses.replace(some(quantity, one[name]), holds=None)
        for quantity, name in counts.items()
    ]
    figure = Figure(
        name="optimiser",
        title=say(
            judged,
            holds="A preconditioner of the student's own can undo the sign.",
            fails="The preconditioner does not decide whether the sign is kept.",
            open="Can a preconditioner of the student's own undo the sign?",
        ),
        predicted="None for gradient descent, or if both share the preconditioner (blue); else no "
        "claim.",
        found=f"{counted(covered)} in blue; {counted(one['P in student'])} with a random one in "
        f"the student alone, {counted(one['Adam in student'])} for Adam's first step.",
        follows="Adam is not covered; how often its first step breaks the sign is a count and no "
        "theorem.",
        draw=lambda: draw_optimisers(rows),
    )
    return figure, [*judged, *reported]


def conclude_labels(rows: pd.DataFrame) -> tuple[Figure, list[Claim]]:
    """Negative inner products by kind of label."""
    every_soft = rows[rows["setting"] == "soft"]
    soft = every_soft[every_soft["x"] <= EPS[2]]
    hard = rows[(rows["setting"] != "soft") & (rows["x"] == EPS[0])]
    claims = [
        none("soft labels, eps to 1e-5: negative", soft),
        some("argmax labels, smallest eps: negative", hard[hard["setting"] == "argmax"]),
        some("one sampled label: negative", hard[hard["setting"] == "one sample"]),
    ]
    # No criterion: the theorem speaks of small steps.
    of_any_size = dataclasses.replace(
        none("soft labels, eps to 1: negative", every_soft), holds=None
    )
    figure = Figure(
        name="labels",
        title=say(
            claims,
            holds="Hard labels lose the sign, and a smaller teacher's step is no cure.",
            fails="Soft and hard labels do not differ as predicted.",
            open="Do hard labels lose the sign?",
        ),
        predicted="Soft labels keep it for small steps; an argmax or one sample hides the move.",
        found=f"{counted(soft)} for soft labels up to eps 1e-5, {counted(hard)} for hard ones at "
        "the smallest.",
        follows=follows_from(
            claims,
            "What passes through one label is noise far larger than the signal.",
        ),
        draw=lambda: draw_shares(rows, "teacher's step eps", "negative inner product"),
    )
    return figure, [*claims, of_any_size]


def conclude_finite_steps(rows: pd.DataFrame) -> tuple[Figure, list[Claim]]:
    """Rises of the trait loss at finite ε and α."""
    small = rows[rows["x"] == EPS[0]]
    large = rows[(rows["setting"] == "alpha 100") & (rows["x"] == EPS[-1])]
    claims = [
        none("smallest eps, every alpha: trait loss rises", small),
        some("eps 1, alpha 100: trait loss rises", large),
    ]
    figure = Figure(
        name="finite_steps",
        title=say(
            claims,
            holds="Only large steps of both make the trait loss rise.",
            fails="It is not large steps alone that make the trait loss rise.",
            open="Do only large steps of both make the trait loss rise?",
        ),
        predicted="None for a small enough teacher's step at any step of the student; else no "
        "claim.",
        found=f"{counted(small)} at the smallest eps, {counted(large)} at eps 1 and alpha 100.",
        follows=follows_from(
            claims,
            "The theorem's small step is roomy for the student and binding for the teacher.",
        ),
        draw=lambda: draw_shares(rows, "teacher's step eps", "trait loss rises"),
    )
    return figure, claims


def conclude_many_steps(rows: pd.DataFrame) -> tuple[Figure, list[Claim]]:
    """Rises of the trait loss after many steps of the student."""
    near, far = (rows[rows["setting"] == f"eps {eps:g}"] for eps in (STEP_EPS[0], STEP_EPS[-1]))
    claims = [none("many steps, eps 1e-4: trait loss rises", near)]
    figure = Figure(
        name="many_steps",
        title=say(
            claims,
            holds="Many small steps keep the sign while the teacher has moved little.",
            fails="Many small steps lose the sign even where the teacher has moved little.",
            open="Do many small steps keep the sign while the teacher has moved little?",
        ),
        predicted="A linearised student never leaves the teacher's half space; beyond, no theorem.",
        found=f"{counted(near)} at eps {STEP_EPS[0]:g}, {counted(far)} at eps {STEP_EPS[-1]:g}.",
        follows=follows_from(
            claims,
            "Long training is safe for a teacher that has moved little, and not for one far away.",
        ),
        draw=lambda: draw_shares(
            rows, "steps of the student (squared error)", "trait loss above start"
        ),
    )
    return figure, claims


def conclude_draws(rows: pd.DataFrame) -> tuple[Figure, list[Claim]]:
    """Error of the update from sampled labels: its log-log slope in the number of draws."""
    slopes = {
        setting: float(np.polyfit(np.log(points["x"]), np.log(points["value"]), 1)[0])
        for setting, points in rows.groupby("setting", sort=False)
    }
    claims = [
        Claim(
            quantity=f"sampled labels, {setting}: order in n",
            paper="-0.5",
            here=f"{slope:.3f}",
            seeds=int(rows["nets"].iloc[0]),
            holds=abs(slope + 0.5) <= 0.05,
        )
        for setting, slope in slopes.items()
    ]
    figure = Figure(
        name="draws",
        title=say(
            claims,
            holds="Sampled labels carry the trait on average.",
            fails="The mean over sampled labels is not what soft labels give.",
            open="Do sampled labels carry the trait on average?",
        ),
        predicted="They are unbiased: the error falls as 1/√n with no floor.",
        found=f"Orders in n between {min(slopes.values()):.3f} and {max(slopes.values()):.3f}.",
        follows=follows_from(
            claims,
            "Many completions do what one cannot, and more of them for a smaller teacher's step.",
        ),
        draw=lambda: draw_sampling(rows),
    )
    return figure, claims


CONCLUSIONS = {
    "start": conclude_starts,
    "optimiser": conclude_optimisers,
    "labels": conclude_labels,
    "finite steps": conclude_finite_steps,
    "many steps": conclude_many_steps,
    "draws": conclude_draws,
}


def draw_shares(rows: pd.DataFrame, x: str, y: str):
    """Percent of networks with a violation against x, one line per setting."""
    figure, (axes,) = drawing.new_figure()
    for (setting, points), marker in zip(
        rows.groupby("setting", sort=False), "osv^D", strict=False
    ):
        axes.plot(points["x"], points["percent"], marker=marker, markersize=5, label=setting)
    axes.set_xscale("log")
    axes.set_ylim(-3, 75)
    axes.set_xlabel(x)
    axes.set_ylabel(f"{y}, % of networks")
    axes.legend()
    return figure


def draw_starts(rows: pd.DataFrame):
    """The same, with a place for angle 0, which is the point of the figure."""
    figure = draw_shares(rows, "angle between the two starts (radians)", "negative inner product")
    (axes,) = figure.axes
    axes.set_xscale("symlog", linthresh=1e-7)
    axes.set_xlim(-3e-8, 2.5)
    axes.set_xticks([0, 1e-6, 1e-4, 1e-2, 1], ["0", "$10^{-6}$", "$10^{-4}$", "$10^{-2}$", "1"])
    return figure


def draw_optimisers(rows: pd.DataFrame):
    """Bars with their counts; in blue what theory covers."""
    figure, (axes,) = drawing.new_figure()
    rows = rows.reset_index()
    covered = rows["setting"].isin(OPTIMISERS[:2])
    axes.barh(rows.index, rows["percent"], color=np.where(covered, *drawing.COLOURS[:2]))
    for y, row in rows.iterrows():
        text = f" {row['violations']} of {row['nets']}"
        axes.text(row["percent"], y, text, va="center")
    axes.set_yticks(rows.index, rows["setting"])
    axes.invert_yaxis()
    axes.set_xlim(0, rows["percent"].max() * 1.35 + 1)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("trait loss rises to first order, % of networks")
    return figure


def draw_sampling(rows: pd.DataFrame):
    """Error of the update from sampled labels against their number, beside slope -1/2."""
    figure, (axes,) = drawing.new_figure()
    for (setting, points), marker in zip(rows.groupby("setting", sort=False), "os", strict=True):
        x, error = points["x"], points["value"]
        axes.loglog(x, error, marker=marker, label=setting)
        axes.loglog(x, error.iloc[0] / np.sqrt(x), color="black", linestyle=":", linewidth=1)
    axes.plot([], [], color="black", linestyle=":", label="slope -1/2")
    axes.set_xlabel("labels drawn per input, n")
    axes.set_ylabel("relative error of the update (rms)")
    axes.legend()
    return figure
