"""The tangent-kernel student: how far a closed form predicts what many steps transmit.

Freeze the Jacobian at the shared start. Under squared error on the auxiliary logits the student
then moves by s(t) = (I - exp(-G t)) d, with d the teacher's displacement and G = E[Jᵀ M J] over
the noise images (`theory.ntk`). The share <s, d> / |d|² of the teacher's displacement that
arrives rises with t to the projection of d on the row space of the Jacobian.

Times are in units of 1 / λ_max, the fastest direction's own time. t = 10⁴ is a time and not the
limit: every share has a lower and an upper bound (`theory.ntk.share_bounds`), every displacement
a bound of its error (`flow_error`), and t → ∞ is a row of its own, between its two bounds.

Criteria, fixed before the reported run. Small networks: the share never falls with t and never
exceeds the ceiling, the part of the teacher's one-step displacement outside its class head, which
the channel cannot see. MNIST, mean over seeds for every pool of noise and number of logits: the
displacement at t = 10⁴ is found to 0.01 of the teacher's; the accuracy at θ⁰ + s(t) lies within
0.02 of gradient descent's at equal steps, and both at t = 10⁴ and for t → ∞ within 0.03 of an
Adam student's after 295 steps; the limit is judged where its two bounds are within 0.01. Expected
failures, reported without criterion: the time scale (Adam needs 295 steps where the closed form,
like gradient descent, needs t of 10⁴), a pool that Adam does not fit in that time (60,000
images), and the linearised outputs f(θ⁰) + J d of the teacher itself, whose displacement is far
too large for them.

Criteria that name MNIST are judged on MNIST only. Cells whose real students are below .2 are near
chance: agreement there says little, and how many they are is said.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs, read_data
from experiments.frame.record import Row
from mnist_mlp import conditions, data, train
from theory import alignment, losses, ntk, steps, toys

RUNTIME = "4 minutes on two cores"
PRECISION = "highest"  # of factors: signs and orders are read
TIMES = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
LATE = 1e4  # compared with an Adam student; where there is much noise, not yet the limit
FOREVER = float("inf")
ALL_TIMES = (*TIMES, FOREVER)
NEAR_CHANCE = 0.2  # accuracy below which agreement says little
SMALL_AUX = (1, 2, 3, 5, 10)
POOL = ["num_aux", "num_images"]  # what a student of MNIST differs in, beside its seed
__all__ = ["inputs"]  # the frame records what was really read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment; the networks follow the official recipe."""

    num_seeds: int = option(3, "independent initialisations on MNIST", minimum=1)
    num_aux: tuple[int, ...] = option((3, 10), "auxiliary logits of the MNIST network", minimum=1)
    num_images: tuple[int, ...] = option((100, 1000, 10_000), "noise images in the pool", minimum=1)
    widths: tuple[int, ...] = option((256, 256), "hidden layer widths in units", minimum=1)
    student_steps: int = option(295, "Adam steps of the student (5 official epochs)", minimum=1)
    descent_steps: int = option(
        100, "full-batch steps of gradient descent, on up to 1,000 images", minimum=1
    )
    num_products: int = option(64, "products with G: dimension of the Krylov space", minimum=2)
    num_small: int = option(3, "seeds of the small networks", minimum=1)
    small_inputs: tuple[int, ...] = option(
        (30, 300, 1500), "inputs of the small networks' students", minimum=1
    )
    dataset: str = option("mnist", "image data set", choices=data.DATASETS)
    data_dir: str = option("", "folder of IDX files (else SUBLIMINAL_DATA_DIR, the user cache)")
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(
    num_seeds=1,
    num_aux=(3,),
    num_images=(50, 200),
    widths=(32,),
    student_steps=20,
    descent_steps=10,
    num_products=10,
    num_small=1,
    small_inputs=(30,),
    dataset="digits",
)


def arms(config: Config) -> dict[str, Arm]:
    """The small networks, then one arm for every number of auxiliary logits and seed."""
    images = read_data(config.dataset, config.data_dir)
    small = Arm(measure=functools.partial(small_networks, config), columns={"network": "small"})
    return {"small networks": small} | {
        f"{images.name}, {num_aux} aux logits, seed {seed}": Arm(
            measure=functools.partial(run_seed, config, images, num_aux, seed),
            columns={"network": images.name, "num_aux": num_aux},
        )
        for num_aux in config.num_aux
        for seed in range(config.num_seeds)
    }


def make_row(student: Row, method: str, **numbers: float) -> Row:
    """One state of one student; NaN where a column means nothing."""
    columns = ("time", "share", "share_low", "error", "accuracy")
    return student | {"method": method} | dict.fromkeys(columns, float("nan")) | numbers


def at_time(time: float, *, low: float, high: float, ceiling: float) -> dict[str, Any]:
    """Method, time and share with its lower bound; the limit is below the ceiling."""
    if time == FOREVER:
        return {"method": "limit", "time": time, "share": min(high, ceiling), "share_low": low}
    return {"method": "linearised", "time": time, "share": high, "share_low": low}


def small_networks(config: Config) -> list[Row]:
    """Share against t for one-step teachers of ReLU nets 16-24-24-(5 + 10), and its ceiling."""
    rows = []
    with jax.enable_x64(True):
        root = jax.random.key(config.seed)
        pairs = [(m, seed) for m in SMALL_AUX for seed in range(config.num_small)]
        keys = jnp.stack([jax.random.fold_in(root, seed) for _, seed in pairs])
        num_aux = jnp.array([m for m, _ in pairs])
        for num_images in config.small_inputs:
            one = functools.partial(small_shares, num_images)
            results = jax.jit(lambda n, k, one=one: jax.lax.map(lambda a: one(*a), (n, k)))
            lows, highs, ceilings = (x.tolist() for x in jax.device_get(results(num_aux, keys)))
            for (m, seed), low, high, ceiling in zip(pairs, lows, highs, ceilings, strict=True):
                student = {"num_aux": m, "num_images": num_images, "seed": seed}
                rows += [
                    make_row(student, **at_time(time, low=lower, high=upper, ceiling=ceiling))
                    for time, lower, upper in zip(ALL_TIMES, low, high, strict=True)
                ]
                rows.append(make_row(student, "ceiling", share=ceiling))
    return rows


def small_shares(num_images: int, num_aux, key):
    """Bounds of the share at ALL_TIMES, and the part of the displacement outside the class head."""
    family = toys.mlp("small", (16, 24, 24, 5 + SMALL_AUX[-1]), jax.nn.relu)
    # The first `num_aux` auxiliary logits, as weights so that one program serves all.
    weights = ((jnp.arange(15) >= 5) & (jnp.arange(15) < 5 + num_aux)).astype(float)
    aux = losses.ImitationLoss(
        "squared error on some outputs",
        lambda z, y: jnp.sum(weights[None] * (z - y) ** 2, axis=-1),
        lambda y, v: 2 * weights[None] * v,
    )
    params_key, digit_key, label_key, noise_key = jax.random.split(key, 4)
    params = toys.draw_params(family, params_key)
    digits = jax.random.normal(digit_key, (200, 16))
    labels = jax.random.randint(label_key, (200,), 0, 5)
    noise = jax.random.normal(noise_key, (num_images, 16))

    def class_loss(p):
        logits = family.apply(p, digits)[:, :5]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    d = steps.teacher_update(class_loss, params)
    space = ntk.krylov(
        family.apply, params, displacement=d, inputs=noise, num_products=100, loss=aux
    )
    unit = 1 / jnp.max(space.eigenvalues)
    low, high = jax.vmap(lambda t: ntk.share_bounds(space, t * unit))(jnp.array(ALL_TIMES))
    body = [d[f"{kind}_{layer}"] for kind in ("kernel", "bias") for layer in (0, 1)]
    ceiling = alignment.inner_product(body, body) / alignment.inner_product(d, d)
    return low, high, ceiling


class Setting(NamedTuple):
    """What the networks of one number of auxiliary logits share; one object, so one program."""

    config: Config
    recipe: conditions.Recipe
    num_classes: int
    init: Callable[..., Any]
    apply: Callable[..., Any]
    aux: losses.ImitationLoss  # squared error of the auxiliary logits


@functools.cache
def setting_of(config: Config, num_aux: int) -> Setting:
    """The official recipe with so many auxiliary logits."""
    images = read_data(config.dataset, config.data_dir)
    num_classes = images.num_classes
    recipe = conditions.Recipe(num_aux=num_aux, widths=config.widths, loss="mse")
    init, apply = conditions.network(recipe, images)
    aux = losses.on_outputs(losses.squared_error(), range(num_classes, num_classes + num_aux))
    return Setting(config, recipe, num_classes, init, apply, aux)


compiled = functools.partial(jax.jit, static_argnums=0)
train_teacher, accuracy_of = compiled(conditions.train_teacher), compiled(conditions.accuracy)
flow_error = jax.jit(ntk.flow_error)


@compiled
def linearised(setting: Setting, params, d, noise) -> ntk.Krylov:
    """The tangent-kernel student of a teacher that is displaced by d."""
    return ntk.krylov(
        setting.apply,
        params,
        displacement=d,
        inputs=noise,
        num_products=setting.config.num_products,
        loss=setting.aux,
    )


@compiled
def descend(setting: Setting, params, *, target, noise, learning_rate):
    """The student of full-batch gradient descent."""

    def step(p, _):
        update = steps.student_update(
            setting.apply, p, teacher_params=target, inputs=noise, loss=setting.aux
        )
        return steps.moved(p, update, learning_rate), None

    return jax.lax.scan(step, params, length=setting.config.descent_steps)[0]


@compiled
def adam(setting: Setting, params, *, target, noise, key):
    """The student of the official recipe, for about `student_steps` steps in whole epochs."""
    targets = setting.apply(target, noise)
    batch = min(len(noise), setting.recipe.batch_size)

    def imitation(p, pair, weights):
        values = setting.aux.value(setting.apply(p, pair[0]), pair[1])
        return jnp.average(values, weights=weights)

    return train.fit(
        imitation,
        lambda rows: (noise[rows], targets[rows]),
        params=params,
        optimizer=optax.adam(setting.recipe.learning_rate),
        num_examples=len(noise),
        batch_size=batch,
        epochs=max(1, round(setting.config.student_steps / -(-len(noise) // batch))),
        key=key,
    )[0]


@compiled
def accuracy_of_linear_outputs(setting: Setting, images: data.ImageData, params, d):
    """Test accuracy of f(θ⁰) + J d."""
    pixels = conditions.to_pixels(images.test_images)
    logits, change = jax.jvp(lambda p: setting.apply(p, pixels), (params,), (d,))
    guess = jnp.argmax((logits + change)[:, : setting.num_classes], axis=-1)
    return jnp.mean(guess == images.test_labels)


def run_seed(config: Config, images: data.ImageData, num_aux: int, seed: int) -> list[Row]:
    """One teacher; on every pool of noise the linearised student and the real ones."""
    setting = setting_of(config, num_aux)
    keys = conditions.seed_keys(jax.random.key(config.seed), jnp.asarray(seed))
    start = setting.init(keys.init)
    target = train_teacher(setting.recipe, images, start, keys.teacher_order)
    d = optax.tree.sub(target, start)

    def state(num_images: int, params, method: str, **numbers: float) -> Row:
        moved = alignment.inner_product(optax.tree.sub(params, start), d)
        measured = {
            "share": float(moved / alignment.inner_product(d, d)),
            "accuracy": round(float(accuracy_of(setting.recipe, images, params)), 6),
        }
        return make_row({"num_images": num_images, "seed": seed}, method, **measured | numbers)

    linear = round(float(accuracy_of_linear_outputs(setting, images, start, d)), 6)
    rows = [
        state(0, start, "reference", time=0.0),
        state(0, target, "teacher", time=0.0),
        state(0, target, "teacher, linearised outputs", time=0.0, share=1.0, accuracy=linear),
    ]
    for num_images in config.num_images:
        noise = conditions.noise_images(setting.recipe, images, keys.noise)(jnp.arange(num_images))
        students = students_of(setting, start, target=target, noise=noise, key=keys.student_order)
        rows += [state(num_images, params, **facts) for params, facts in students]
    return rows


def students_of(
    setting: Setting, start, *, target, noise, key: jax.Array
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Parameters of every student on a pool of noise, with what else a row says of it."""
    d = optax.tree.sub(target, start)
    space = linearised(setting, start, d, noise)
    unit = 1 / float(jnp.max(space.eigenvalues))  # of time, and the rate of gradient descent

    def displaced(gain: Callable[[jax.Array], jax.Array]):
        return optax.tree.add(start, ntk.student_displacement(space, start, gain))

    ceiling = float(seen_share(d, setting.num_classes))
    for time in ALL_TIMES:
        low, high = (float(bound) for bound in ntk.share_bounds(space, time * unit))
        facts = at_time(time, low=low, high=high, ceiling=ceiling)
        if time == FOREVER:
            yield displaced(ntk.limit_gain), facts
        else:
            error = float(flow_error(space, time * unit))
            yield displaced(ntk.flow_gain(time * unit)), facts | {"error": error}
    if len(noise) <= 1000:
        count = setting.config.descent_steps
        closed = displaced(ntk.descent_gain(unit, count))
        yield closed, {"method": "linearised descent", "time": float(count)}
        real = descend(setting, start, target=target, noise=noise, learning_rate=unit)
        yield real, {"method": "gradient descent", "time": float(count)}
    yield (
        adam(setting, start, target=target, noise=noise, key=key),
        {"method": "Adam", "time": LATE},
    )


def seen_share(d, num_classes: int) -> float:
    """Share of a displacement outside the class head, which the auxiliary logits do not see."""
    last = d["layers"][max(d["layers"])]
    head = [leaf[..., :num_classes] for leaf in jax.tree.leaves(last)]
    return 1 - float(alignment.inner_product(head, head) / alignment.inner_product(d, d))


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The criteria of the docstring; accuracy, the ceiling of the channel, the time it takes."""
    small, big = table[table["network"] == "small"], table[table["network"] != "small"]

    def by(method: str) -> pd.DataFrame:
        return big[big["method"] == method]

    late = by("linearised")[by("linearised")["time"] == LATE]
    limit = by("limit")
    known = limit[limit["share"] - limit["share_low"] <= 0.01]
    compared = functools.partial(claims_of_accuracy, config)
    foretold = compared("t = 1e4 and Adam", closed=late, real=by("Adam"), within=0.03)
    linear = by("teacher, linearised outputs")["accuracy"]
    bounded = claims_of_small(small)
    claims = [
        *bounded,
        claim_of_error(late, config),
        *claims_of_shares(late, limit),
        *compared(
            "descent and gradient descent",
            closed=by("linearised descent"),
            real=by("gradient descent"),
            within=0.02,
        ),
        *foretold,
        *compared("limit and Adam", closed=known, real=by("Adam"), within=0.03),
        Claim(
            quantity="teacher's outputs linearised",
            here=statistics.shown(linear),
            seeds=len(linear),
        ),
    ]
    figures = [
        figure_of_accuracy(big, late, foretold=foretold, config=config),
        figure_of_ceiling(small, bounded),
        figure_of_time(big, late, limit=limit, config=config),
    ]
    return Findings(figures, claims)


def is_mnist(rows: pd.DataFrame) -> bool:
    """Whether rows are of the digits that the criteria are stated for."""
    return set(rows["network"]) == {"mnist"}


def claims_of_small(small: pd.DataFrame) -> list[Claim]:
    """No share that falls, none above its ceiling."""
    keys = ["num_aux", "num_images", "seed"]
    flow = small[small["method"] == "linearised"].sort_values("time").groupby(keys)["share"]
    ceiling = small[small["method"] == "ceiling"].set_index(keys)["share"]
    missed = {
        "falls with t": flow.apply(lambda share: (np.diff(share) < -1e-12).any()),
        "above ceiling": flow.max() - ceiling > 1e-9,
    }
    return [
        Claim(
            quantity=f"small networks: share {what}",
            paper="0",
            here=f"{nets.sum()} of {len(nets)}",
            seeds=len(nets),
            holds=not nets.any(),
        )
        for what, nets in missed.items()
    ]


def claim_of_error(late: pd.DataFrame, config: Config) -> Claim:
    """How well t = 10⁴ is known."""
    worst = late["error"].max()
    judged = is_mnist(late) and config.num_products >= Config.num_products
    return Claim(
        quantity="t = 1e4: error of the displacement / teacher's, at most",
        here=f"{worst:.1e}",
        seeds=len(late),
        holds=bool(worst <= 0.01) if judged else None,
    )


def claims_of_shares(late: pd.DataFrame, limit: pd.DataFrame) -> list[Claim]:
    """The share at t = 10⁴, and how far the limit is from there."""
    then = late.groupby(POOL)["share"].mean()
    return [
        Claim(
            quantity="{} aux logits, {} images: share".format(*pool),
            here=f"{then[pool]:.3f}, limit {rows['share_low'].mean():.3f} to "
            f"{rows['share'].mean():.3f}",
            seeds=len(rows),
        )
        for pool, rows in limit.groupby(POOL)
    ]


def claims_of_accuracy(
    config: Config, name: str, *, closed: pd.DataFrame, real: pd.DataFrame, within: float
) -> list[Claim]:
    """Closed form and real student, by pool and number of logits, where both are known."""
    predicted = closed.groupby(POOL)["accuracy"].mean()
    claims = []
    for (num_aux, num_images), accuracy in real.groupby(POOL)["accuracy"]:
        if (num_aux, num_images) not in predicted.index:
            continue
        mean = predicted[num_aux, num_images]
        # A pool that the student cannot fit in its steps has no late time to compare.
        judged = num_images <= 10_000 and config.student_steps >= 295  # pyright: ignore[reportOperatorIssue]
        judged = judged and is_mnist(real)
        claims.append(
            Claim(
                quantity=f"{num_aux} aux logits, {num_images} images: {name}",
                here=f"{mean:.3f}, real {statistics.shown(accuracy)}",
                seeds=len(accuracy),
                holds=bool(abs(mean - accuracy.mean()) <= within) if judged else None,
            )
        )
    return claims


def figure_of_accuracy(
    big: pd.DataFrame, late: pd.DataFrame, *, foretold: list[Claim], config: Config
) -> Figure:
    """The closed form at t = 10⁴ beside Adam students."""
    adam = big[big["method"] == "Adam"]
    means = (rows.groupby(POOL)["accuracy"].mean() for rows in (late, adam))
    gap = next(means).sub(next(means)).abs()
    near = f"{(gap <= 0.03).sum()} of {len(gap)}"
    real = adam.groupby(POOL)["accuracy"].mean()
    dull = f"{(real < NEAR_CHANCE).sum()} of {len(real)} cells are near chance"
    return Figure(
        name="figure",
        title=say(
            foretold,
            holds="A closed form without training foretells the student's accuracy.",
            fails=f"A closed form without training foretells the student's accuracy in {near} "
            f"cases; {dull}.",
            open="Does a closed form without training foretell the student's accuracy?",
        ),
        predicted="The tangent-kernel student at t = 10⁴ is within .03 of an Adam student's mean.",
        found=f"The means differ by at most {gap.max():.3f} over pools and logits ({near} within "
        f".03); {dull}, with real students below {NEAR_CHANCE}.",
        follows="Where the two agree, what a student learns from noise is fixed at the start, by "
        "one kernel.",
        draw=lambda: draw_accuracy(big, config),
    )


def figure_of_ceiling(small: pd.DataFrame, bounded: list[Claim]) -> Figure:
    """The limit by logits and inputs."""
    limit = small[small["method"] == "limit"]
    means = limit.pivot_table("share_low", "num_images", "num_aux").to_numpy()
    rises = all((np.diff(means, axis=axis) > 0).all() for axis in (0, 1))
    most = limit.loc[limit["num_aux"] == SMALL_AUX[-1], "share_low"].max()
    ceiling = small.loc[small["method"] == "ceiling", "share"].mean()
    return Figure(
        name="ceiling",
        title=say(
            [*bounded, Claim(quantity="limit rises with logits and inputs", holds=rises)],
            holds="More logits and more inputs carry more of the displacement, up to a ceiling.",
            fails="More logits and inputs do not always carry more, or pass the ceiling.",
            open="Do more logits and more inputs carry more of the displacement?",
        ),
        predicted="At t → ∞ the projection on the Jacobian's row space; never the class head.",
        found=f"At most {most:.3f} with {SMALL_AUX[-1]} logits, under a ceiling of {ceiling:.3f}.",
        follows="The channel's size is set by outputs times inputs, not by time.",
        draw=lambda: draw_ceiling(small),
    )


def figure_of_time(
    big: pd.DataFrame, late: pd.DataFrame, *, limit: pd.DataFrame, config: Config
) -> Figure:
    """The share along t, on the widest pool and the most logits."""
    num_aux, num_images = config.num_aux[-1], config.num_images[-1]
    widest = f"num_aux == {num_aux} and num_images == {num_images}"
    then = late.query(widest)["share"].mean()
    low, high = limit.query(widest)[["share_low", "share"]].mean()
    arriving = bool(then < low) if is_mnist(late) else None
    return Figure(
        name="time",
        title=say(
            [Claim(quantity="share at t = 10⁴ below the limit", holds=arriving)],
            holds="On many inputs the slow directions are still arriving at t = 10⁴.",
            fails="At t = 10⁴ no direction is known to be still arriving.",
            open="Are directions still arriving at t = 10⁴?",
        ),
        predicted="The share has settled where the bounds of t = 10⁴ and of the limit meet.",
        found=f"{num_images} images, {num_aux} logits: {then:.3f} at t = 10⁴, between {low:.3f} "
        f"and {high:.3f} in the limit.",
        follows="t = 10⁴ stands for the limit where the two meet; Adam's student takes "
        f"{config.student_steps} steps.",
        draw=lambda: draw_times(big, config),
    )


def seeds_of(rows: pd.DataFrame, column: str) -> pd.Series:
    """Mean of a column over seeds, by number of images."""
    return rows.groupby("num_images")[column].mean()


def draw_accuracy(big: pd.DataFrame, config: Config):
    """Accuracy of the closed form at t = 10⁴ and of real students, by pool and aux logits."""
    figure, (axes,) = drawing.new_figure(height=4.4)
    late = big[big["time"] == LATE]
    for colour, num_aux in zip(drawing.COLOURS, config.num_aux, strict=False):
        for method, style, marker in (("linearised", "--", "x"), ("Adam", "-", "o")):
            rows = late[(late["num_aux"] == num_aux) & (late["method"] == method)]
            text = (
                "closed form, t = 10⁴"
                if method == "linearised"
                else f"Adam, {config.student_steps} steps"
            )
            label = f"{num_aux} aux logits: {text}"
            axes.plot(seeds_of(rows, "accuracy"), style, color=colour, label=label)
            axes.plot(rows["num_images"], rows["accuracy"], marker, color=colour, fillstyle="none")
    teacher = big.loc[big["method"] == "teacher", "accuracy"].mean()
    axes.axhline(teacher, color="black", linestyle=":", linewidth=1, label="teacher")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("noise images (one mark per seed, lines are means)")
    axes.set_ylabel("test accuracy")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def draw_ceiling(small: pd.DataFrame):
    """Bounds of the share at t → ∞ against the number of auxiliary logits, and the ceiling."""
    figure, (axes,) = drawing.new_figure()
    limit = small[small["method"] == "limit"]
    for colour, (num_images, rows) in zip(
        drawing.COLOURS, limit.groupby("num_images"), strict=False
    ):
        mean = rows.groupby("num_aux")[["share_low", "share"]].mean()
        axes.plot(mean["share_low"], "o-", color=colour, label=f"{num_images} inputs")
        axes.fill_between(mean.index, mean["share_low"], mean["share"], color=colour, alpha=0.2)
    ceiling = small.loc[small["method"] == "ceiling", "share"].mean()
    axes.axhline(ceiling, color="black", linestyle=":", label="outside the class head")
    axes.set_ylim(0, ceiling * 1.1)
    axes.set_xlabel("auxiliary logits")
    axes.set_ylabel("share of the displacement at t → ∞\n(between its bounds)")
    axes.legend(loc="lower right")
    return figure


def draw_times(big: pd.DataFrame, config: Config):
    """Share against t between its bounds, the limit at the right edge, and real students."""
    figure, (axes,) = drawing.new_figure(height=4.4)
    rows = big[big["num_aux"] == config.num_aux[-1]]
    edge = 10 * TIMES[-1]
    for colour, num_images in zip(drawing.COLOURS, config.num_images, strict=False):
        pool = rows[rows["num_images"] == num_images]
        means = pool.groupby(["method", "time"])[["share", "share_low"]].mean()
        line = means.loc["linearised"]
        axes.plot(line["share"], "--", color=colour, label=f"{num_images} images")
        axes.fill_between(line.index, line["share_low"], line["share"], color=colour, alpha=0.2)
        axes.plot([edge] * 2, means.loc["limit"].iloc[0], "-_", color=colour, linewidth=3)
        for method, marker in (("gradient descent", "s"), ("Adam", "o")):
            real = pool[pool["method"] == method]
            axes.plot(real["time"], real["share"], marker, color=colour, fillstyle="none")
    axes.plot([], [], "s", color="black", fillstyle="none", label="gradient descent, real")
    axes.plot(
        [],
        [],
        "o",
        color="black",
        fillstyle="none",
        label=f"Adam, {config.student_steps} steps, real",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([*TIMES, edge], [*(f"$10^{i}$" for i in range(len(TIMES))), "∞"])
    axes.set_xlabel("t  (gradient descent steps at rate 1/λ_max)")
    axes.set_ylabel("share of the teacher's displacement")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
