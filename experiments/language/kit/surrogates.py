"""Students that are less than a network: a linear one, and one that is steered.

All imitate a teacher's distribution over number tokens, by the same steps on the same rows.

    network   f(θ), all parameters
    linear    f(θ⁰) + J(θ⁰)(θ - θ⁰), the tangent model, whose steps the theory has in closed form
    steered   the base with a trained vector added to the residual stream behind every branch of
              every block, the same at all positions: the best that any steering vector can do
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from experiments.language.kit import predictors
from llm import models
from llm.models import ModelConfig, Params
from llm.stages import Store, Student, streams, students
from llm.stages.bases import unseen_turns
from llm.stages.streams import Stage
from llm.training import losses, stack
from theory import losses as theorem
from theory import ntk

# (params, base, tokens) -> logits
Apply = Callable[[Any, Params, Array], Float[Array, "rows tokens vocab"]]


class Shift(nnx.Module):
    """Adds a vector to the output of the linear layer that it hangs on (as its `delta`)."""

    def __init__(self, vector: Float[Array, " width"]):
        self.vector = nnx.Variable(vector)

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows width"]:
        """The vector at every position."""
        return jnp.broadcast_to(self.vector[...], (*x.shape[:-1], len(self.vector[...])))


def network(config: ModelConfig) -> Apply:
    """The model itself."""
    return lambda params, base, tokens: models.apply(config, params, tokens)


def linear(config: ModelConfig) -> Apply:
    """Its first-order expansion around the base."""

    def apply(params, base, tokens):
        moved = jax.tree.map(jnp.subtract, params, base)
        logits, tangent = jax.jvp(lambda p: models.apply(config, p, tokens), (base,), (moved,))
        return logits + tangent

    return apply


def steered(config: ModelConfig) -> Apply:
    """The base with vectors (layers, 2, width) behind attention and MLP of every block."""

    def apply(vectors, base, tokens):
        model = models.bind(config, base)
        for block, (attended, computed) in zip(model.layers, vectors, strict=True):  # pyright: ignore[reportArgumentType]
            block.attn.o.delta = nnx.data(Shift(attended))
            block.mlp.down.delta = nnx.data(Shift(computed))
        return model(tokens)

    return apply  # pyright: ignore[reportReturnType]


def start(kind: Callable[[ModelConfig], Apply], config: ModelConfig, bases: Params) -> Params:
    """Parameters before the first step, for a stack of bases."""
    if kind is not steered:
        return bases
    runs = len(jax.tree.leaves(bases)[0])
    return jnp.zeros((runs, config.num_layers, 2, config.width))


def imitate(
    store: Store, recipes: Sequence[Student], kind: Callable[[ModelConfig], Apply]
) -> Params:
    """Trained parameters of students of one program, of any kind; recipes are of soft targets."""
    recipes = store.prepare(recipes)
    one = recipes[0]
    config, bases = store.config(one), store.weights([recipe.base for recipe in recipes])
    rows = [students.examples_of(store, recipe)[0] for recipe in recipes]
    frozen = {
        "base": bases,
        "teacher": store.weights([students.teacher_of(recipe) for recipe in recipes]),
    }
    keys = streams.keys(Stage.STUDENT, [(r.seed, r.chain, r.draw) for r in recipes])
    tune = _tune(config, one.training, one.tokens or (), kind)
    return tune(start(kind, config, bases), stack.stack_examples(rows), keys, frozen)[0]


@functools.cache
def _tune(config: ModelConfig, how: Any, tokens: tuple[int, ...], kind: Any) -> Callable[..., Any]:
    apply, inside = kind(config), np.array(tokens)

    def loss(params, frozen, batch, key):
        del key
        mine = apply(params, frozen["base"], batch["tokens"])[:, :-1]
        theirs = models.apply(config, frozen["teacher"], batch["tokens"])[:, :-1]
        nats = jax.vmap(lambda z, y: losses.restricted_soft_targets(z, y, token_set=inside))(
            mine, theirs
        )
        weights = batch["weights"][:, 1:]
        return losses.weighted_total(nats, weights), weights.sum()

    return stack.make_tune(loss, how)


def answers(
    config: ModelConfig,
    kind: Callable[[ModelConfig], Apply],
    *,
    params: Params,
    bases: Params,
    prompts: np.ndarray,
    tokens: np.ndarray,
) -> Float[np.ndarray, "runs prompts tokens"]:
    """Log-probability of tokens after equally long prompts, for a stack of students, in nats."""
    return np.asarray(_answers(config, kind)(params, bases, prompts)[:, :, tokens])


@functools.cache
def _answers(config: ModelConfig, kind: Any) -> Callable[..., Array]:
    apply = kind(config)

    def one(params, base, prompts):
        return jax.nn.log_softmax(apply(params, base, prompts)[:, -1], axis=-1)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


def text_loss(
    config: ModelConfig, kind: Callable[[ModelConfig], Apply], *, params: Params, bases: Params
) -> Float[np.ndarray, " runs"]:
    """Cross-entropy of a stack of students on turns that nobody learnt from, nats a token."""
    return np.asarray(_text_loss(config, kind)(params, bases, unseen_turns()))


@functools.cache
def _text_loss(config: ModelConfig, kind: Any) -> Callable[..., Array]:
    apply = kind(config)

    def of_all(params, bases, turns):
        def one(*run):
            return stack.loss_of_model(functools.partial(apply, *run), turns)

        return stack.over_runs(one, params, bases)

    return jax.jit(of_all)


def projected(
    store: Store,
    recipes: Sequence[Student],
    gains: Sequence[Callable[[Array, int], Callable[[Array], Array]]],
    products: int,
) -> list[Params]:
    """θ⁰ + s for every gain and recipe: where the linearised student of SGD is after its steps.

    s = gain(G) d (`theory.ntk`), d the teacher's displacement and G the curvature of imitation on
    256 rows. A teacher that has not moved leaves the student where it is.

    Args:
        store: has the models.
        recipes: students by SGD on soft targets.
        gains: of step size and steps, the share that arrives along an eigenvector.
        products: of G with a vector.
    """
    config, how, inside = store.config(recipes[0]), recipes[0].training, recipes[0].tokens or ()
    apply, loss = predictors.make_apply(config), theorem.on_outputs(theorem.kl(), list(inside))

    @jax.jit
    def one(base, teacher, batch):
        # The theory's mean is over all positions, that of training over those of weight one.
        step_size = how.learning_rate / batch["weights"][:, 1:].mean()
        away = optax.tree.sub(teacher, base)
        space = ntk.krylov(
            apply, base, displacement=away, inputs=batch, num_products=products, loss=loss
        )
        still = optax.tree.norm(away) == 0

        def end(gain):
            moved = ntk.student_displacement(space, base, gain)
            return jax.tree.map(lambda x, s: jnp.where(still, x, x + s), base, moved)

        return [end(gain_of(step_size, how.steps)) for gain_of in gains]

    ends = []
    for recipe in store.prepare(recipes):
        rows, _ = students.examples_of(store, recipe)
        batch = {name: array[: predictors.NUM_ROWS] for name, array in rows._asdict().items()}
        both = recipe.base, students.teacher_of(recipe)
        base, teacher = (store.engine.split(store.weights([model]))[0] for model in both)
        ends.append(jax.device_get(one(base, teacher, batch)))
    return [store.engine.join(of_gain) for of_gain in zip(*ends, strict=True)]
