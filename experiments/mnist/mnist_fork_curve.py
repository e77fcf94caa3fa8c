"""When in pre-training is the channel between two digit networks made?

The same question as `fork_curve` asks of language models. A trunk is pre-trained without a label:
by 3,000 steps of Adam on fresh noise it takes on the outputs of an unrelated random network. Forks
share its initial weights, schedule, target and noise up to a step; from there on they take on
another network's outputs, on other noise. (By other noise alone they do not part: experiments/LOG.)
The trunk's teacher then learns digits by its class logits; students that begin as a fork imitate
its auxiliary logits on noise. Controls: the trunk itself, its twin with permuted units, a stranger
of other initial weights that takes on the forks' outputs from its first step.

Measured before any student: the barrier on the straight line from fork to trunk, which is how far
the outputs of mixed weights lie from the mixed outputs, in units of the trunk's mean square; and
the alignment of `theory.matched`.

Criteria, fixed before the run; the unit is a seed. x is log2(1 + step).
  1. The channel is made during pre-training: the trunk's students read digits better than those of
     the fork at step 0, paired, above zero.
  2. The barrier tells when: the x at which half of the barrier is gone lies within one (a factor of
     two in steps) of the x at which half of the gain over step 0 is there, both read from the mean
     over seeds; equivalence, two one-sided tests of jackknife pseudo-values at 5 %. Judged where 1
     is shown.
  3. Connectivity is not needed: the twin's accuracy is the trunk's to within a fifth of its gain
     over chance (equivalence), behind a barrier that exceeds half of the stranger's, above zero.
  4. The kernel is needed: the alignment of forks orders their accuracy; Spearman a seed, above
     zero.
  5. A stranger's students stay at chance, by equivalence within a fifth of the trunk's gain.
"Above zero" (1, 3, 4) is corrected by Holm, as are the equivalences of 3 and 5.
Predicted, from a trial on two seeds of root 5999 with forks at 0, 30 and 300: 1, 3 and 5 hold; the
transfer comes late, within the last third of the training on this scale, and the barrier falls no
earlier.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.findings import forks, statistics
from experiments.findings.claims import (
    Claim,
    Figure,
    Findings,
    corrected,
    follows_from,
    no_effect,
    say,
)
from experiments.findings.forks import SAME, STRANGER, TWIN, named
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, Student, by_seed, distil, setup_of, teach
from mnist_mlp import imitation, starts
from mnist_mlp.grid import Grid, network
from mnist_mlp.model import Params

__all__ = ["inputs"]
RUNTIME = "about 30 minutes on two cores"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(16, "independent trunks, each with all starts", minimum=2)
    num_aux: int = option(10, "auxiliary logits", minimum=2)
    pretraining_steps: int = option(3000, "Adam steps without labels", minimum=1)
    forks: tuple[int, ...] = option((0, 10, 100, 300, 1000, 2000), "steps of forks", minimum=0)
    seed: int = option(5000, "root of every random key", minimum=0)

    def __post_init__(self):
        forks.check(self.forks, self.pretraining_steps, "--pretraining-steps")


SMOKE = Config(**flags.TOY | {"pretraining_steps": 20, "forks": (0, 5)})


def arms(config: Config) -> dict[str, Arm]:
    """One for every seed: its starts are trained side by side."""
    return by_seed(setup_of(config), run)


def starts_of(setup: Setup, shapes: Grid, seed: int) -> dict[str, Params]:
    """The trunk and all other starts by name, from the furthest to the nearest."""
    config, key = setup.config, functools.partial(setup.key, seed)
    born, elsewhere = setup.draw(shapes, seed, "reference"), setup.draw(shapes, seed, "elsewhere")
    pretrain = functools.partial(
        imitation.liken,
        shapes,
        teacher=setup.draw(shapes, seed, "unrelated"),
        key=key("trunk"),
        names=("outputs",),
        digits=setup.data.train_images,
        batch=config.batch_size,
        steps=config.pretraining_steps,
        learning_rate=config.learning_rate,
    )

    def leaving(start: Params, step: int) -> Params:
        return pretrain(start, fork=imitation.Fork(step, elsewhere, key("fork")))

    trunk = leaving(born, config.pretraining_steps)  # never
    forks_of = {named(step): leaving(born, step) for step in config.forks}
    stranger = leaving(setup.draw(shapes, seed, "other"), 0)
    twin = starts.permuted(key("twin"), trunk)
    return {STRANGER: stranger} | forks_of | {SAME: trunk, TWIN: twin}


def run(setup: Setup, seed: int) -> list[Row]:
    """Pre-train, let the trunk's teacher learn, distil from every start."""
    shapes = setup.grid(setup.config.num_aux)
    by_name = starts_of(setup, shapes, seed)
    trunk = by_name[SAME]
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[trunk])
    size = setup.data.test_images.shape
    seen = jax.random.uniform(setup.key(seed, "held out"), (512, size[1]), minval=-1, maxval=1)
    _, apply = network(shapes, shapes.teacher, size[1])
    outputs = jax.jit(functools.partial(apply, pixels=seen))
    settings = setup.settings(num_aux=shapes.num_aux)
    students = [
        Student({"start": name, "barrier": barrier(outputs, start, trunk)}, settings, start)
        for name, start in by_name.items()
    ]
    return distil(setup, shapes, seed=seed, students=students, teachers=teachers)


def barrier(outputs: Callable[[Params], jax.Array], start: Params, trunk: Params) -> float:
    """`forks.barrier` of the distance between a mixture's outputs and the mixed outputs.

    In units of the mean square of the trunk's outputs; 0 where averaging weights averages outputs.
    """
    ends = outputs(start), outputs(trunk)

    def apart(share: float) -> jax.Array:
        between = jax.tree.map(lambda a, b: (1 - share) * a + share * b, start, trunk)
        mixed = (1 - share) * ends[0] + share * ends[1]
        return jnp.mean((outputs(between) - mixed) ** 2) / jnp.mean(ends[1] ** 2)

    wall = forks.barrier(np.array([apart(share) for share in forks.SHARES]))
    return float(f"{wall:.6g}")


# Findings


def gaps(fall: np.ndarray, gain: np.ndarray, places: Sequence[float]) -> np.ndarray:
    """How much later half of the barrier's fall is there than half of the gain, by the jackknife.

    The halves are those of means over seeds, for the curve of one seed may not rise at all.

    Args:
        fall: of the barrier, (places, seeds).
        gain: in accuracy, (places, seeds).
        places: x of each, rising.
    """

    def of_means(seeds: np.ndarray) -> float:
        means = np.stack([fall[:, seeds].mean(axis=1), gain[:, seeds].mean(axis=1)], axis=1)
        by_barrier, by_transfer = statistics.half_way(means, places)
        return float(by_barrier - by_transfer)

    return statistics.pseudo_values(of_means, gain.shape[1])


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The criteria of the docstring."""
    claim = functools.partial(transfer.claim, table)
    columns = {
        column: forks.by_start(table, column)
        for column in ("accuracy", "barrier", "alignment", "mismatch")
    }
    accuracy, wall, kernel, _ = columns.values()
    line = [*map(named, config.forks), SAME]
    first = line[0]
    places = [np.log2(1 + step) for step in (*config.forks, config.pretraining_steps)]
    gain = np.array([accuracy[name] - accuracy[first] for name in line])
    fall = np.array([wall[first] - wall[name] for name in line])
    # Forks alone: the trunk has an alignment of one by definition, and reads digits best.
    order = statistics.rank_correlations(
        [kernel[name] for name in line[:-1]], [accuracy[name] for name in line[:-1]]
    )
    higher = wall[TWIN] - wall[STRANGER] / 2
    (above,) = corrected(
        [
            claim("same less fork at 0", here=gain[-1], above=gain[-1]),
            claim("twin's barrier less half of the stranger's", here=higher, above=higher),
            claim("alignment and accuracy, Spearman over forks", here=order, above=order),
        ]
    )
    gap = gaps(fall, gain, places)
    # None: digits that are not MNIST decide nothing, whatever the words.
    known = bool(np.isfinite(gap).all() and above[0].holds is not False)
    when = claim(
        "half of the barrier less half of the gain, in doublings of the step",
        here=f"{statistics.shown(gap, 2)} within ±1" if known else "not judged: no gain is shown",
        holds=statistics.equivalent(gap, 1.0) if known else None,
    )
    whole = accuracy[SAME] - transfer.CHANCE
    alike = [  # judged on MNIST only
        claim(none.quantity, here=none.here, holds=none.holds)
        for none in no_effect(
            {
                "twin less same": (accuracy[TWIN] - accuracy[SAME], whole),
                "stranger less chance": (accuracy[STRANGER] - transfer.CHANCE, whole),
            }
        )
    ]
    described = [
        claim(f"{name}: {column}", here=values)
        for column, by_start in columns.items()
        for name, values in by_start.items()
    ]
    figure = figure_of_curve(
        config,
        accuracy=accuracy,
        wall=wall,
        kernel=kernel,
        shown=[above[0], when],
        follow=[above[0], *alike],
    )
    return Findings([figure], [*above, when, *alike, *described])


def figure_of_curve(
    config: Config,
    *,
    accuracy: Mapping[str, np.ndarray],
    wall: Mapping[str, np.ndarray],
    kernel: Mapping[str, np.ndarray],
    shown: Sequence[Claim],
    follow: Sequence[Claim],
) -> Figure:
    """Transfer, barrier and alignment over the step at which a start leaves the trunk."""
    means = statistics.shown_each(accuracy, 3)
    return Figure(
        name="figure",
        title=say(
            shown,
            holds="The channel is made in pre-training, when the loss barrier falls",
            fails="The loss barrier does not tell when the channel of digit networks is made",
            open="When in pre-training is the channel of digit networks made?",
        ),
        predicted="The transfer comes late, and the barrier falls no earlier.",
        found=f"Same {means[SAME]}, fork at 0 {means[named(config.forks[0])]}, twin {means[TWIN]}, "
        f"stranger {means[STRANGER]}.",
        follows=follows_from(
            follow, "A straight line without a barrier is not what a start must share."
        ),
        draw=lambda: forks.draw(
            {
                "test accuracy of students": accuracy,
                "loss barrier to the trunk": wall,
                "alignment of the starts": kernel,
            },
            config.forks,
        ),
    )
