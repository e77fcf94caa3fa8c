"""Where models start: random weights and the synthetic world, or a checkpoint."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import engines, models, world
from ..settings import RunError, as_json
from ..text import chat, language
from ..training import Training, batches, stack
from ..training.batches import Examples
from . import streams
from .recipe import RECORD, Given, Model, frozen
from .store import Store
from .streams import Stage

LENGTH = 48  # tokens of a pre-training sequence
BATCH = 64
HELD_OUT_CORPUS = 99


@frozen
class Pretrained(Model):
    """A small transformer trained on the synthetic world; every token is trained on.

    Attributes:
        chain: number of the chain; chains share nothing.
        init: number of the initial weights within the chain.
        corpus: number of the corpus within the chain, and of its order.
        steps: optimiser steps on 64 sequences of 48 tokens.
        learning_rate: Adam step size, after 5 % of warm-up falling linearly to zero.
        width: of the residual stream.
        num_layers: of the transformer.
        fork: step from which it reads its own corpus; before, and in all orders, it is the chain's
            model of corpus 0. None for a model that reads one corpus throughout.
        seed: root of all random numbers.
    """

    chain: int
    init: int = 0
    corpus: int = 0
    steps: int = 1000
    learning_rate: float = dataclasses.field(default=5e-3, metadata={"recorded": "rate"})
    width: int = 32
    num_layers: int = dataclasses.field(default=2, metadata={"later": True})
    fork: int | None = dataclasses.field(default=None, metadata={"later": True})
    seed: int = 0

    @property
    def root(self) -> Model:
        """Itself."""
        return self

    @property
    def name(self) -> str:
        """The chain, and the numbers that tell its models apart."""
        forked = "" if self.fork is None else f"-fork{self.fork}"
        return f"chain{self.chain}-{self.init}{self.corpus}{forked}"

    def config(self) -> models.ModelConfig:
        """The shape of the model."""
        return world.model_config(width=self.width, num_layers=self.num_layers)

    def language(self) -> language.Language:
        """That of the world."""
        return language.of_world()

    def facts(self) -> dict[str, Any]:
        """The shape, and a fingerprint of the corpus: other text makes another model."""
        shape = dataclasses.asdict(self.config())
        return {"architecture": shape, "corpus_fingerprint": world.corpus.fingerprint()}

    def program(self) -> tuple[Any, ...]:
        """Shape and training."""
        return self.steps, self.learning_rate, self.width, self.num_layers

    def order_key(self) -> Any:
        """Key of its training, hence of the order of its rows."""
        corpus = self.corpus if self.fork is None else 0
        return streams.keys(Stage.BASE, [(self.seed, corpus, self.chain)])[0]

    def examples(self) -> Examples:
        """What it reads, in rows that each step picks from."""
        count = BATCH * self.steps
        own = turns(self.seed, self.chain, self.corpus, count)
        if self.fork is None:
            return own
        # As `stack.make_tune` splits the key: the rows of the first steps are those of the trunk.
        order_key = jax.random.split(self.order_key())[0]
        order = np.asarray(batches.all_batch_rows(order_key, self.steps, count, BATCH))
        early, trunk = order[: self.fork].ravel(), turns(self.seed, self.chain, 0, count)
        for mine, shared in zip(own, trunk, strict=True):
            mine[early] = shared[early]
        return own

    @staticmethod
    def make(store: Store, recipes: list["Pretrained"]) -> Any:
        """Pre-train them side by side."""
        config, one = recipes[0].config(), recipes[0]
        init = jax.vmap(lambda key: models.init(config, key=key))
        starts = init(streams.keys(Stage.INIT, [(r.seed, r.init, r.chain) for r in recipes]))
        training = Training(
            steps=one.steps,
            batch_size=BATCH,
            learning_rate=one.learning_rate,
            decay="linear",
            warmup=one.steps // 20,
        )
        examples = [recipe.examples() for recipe in recipes]
        keys = jnp.stack([recipe.order_key() for recipe in recipes])
        engine = store.engine
        return engine.tune(
            config,
            engine.join(stack.unstack(starts)),
            examples=examples,
            training=training,
            keys=keys,
        ).weights


def turns(seed: int, chain: int, corpus: int, count: int) -> Examples:
    """`count` sequences of 48 tokens of a chain's corpus of that number."""
    rng = streams.generator(Stage.CORPUS, seed, chain, corpus)
    tokens, _ = world.corpus.conversations(rng, count, LENGTH)
    return Examples(tokens, (tokens != world.vocabulary.PAD).astype(np.float32))


def unseen_turns(count: int = 256) -> Examples:
    """Turns of the corpus that no model was trained on."""
    return turns(0, 0, HELD_OUT_CORPUS, count)


def corpus_loss(store: Store, recipes: Sequence[Model], count: int = 256) -> list[float]:
    """Cross-entropy of models on turns that nobody was trained on, nats a token; a stack's only."""
    loss = loss_on_corpus(store.config(recipes[0]), count)
    return loss(store.weights(recipes)).tolist()


def loss_on_corpus(
    config: models.ModelConfig, count: int = 256
) -> Callable[[models.Params], np.ndarray]:
    """The function from a stack's weights to what `corpus_loss` gives, (runs,)."""
    held_out_loss = stack.make_held_out_loss(engines.make_student(config, None, "float32"))
    tests = unseen_turns(count)

    def loss(params: models.Params) -> np.ndarray:
        shown = stack.stack_examples([tests] * len(jax.tree.leaves(params)[0]))
        return np.asarray(held_out_loss(params, shown))

    return loss


@frozen
class Checkpoint(Given):
    """A model as it lies in a checkpoint folder, or under that name on the hub.

    Attributes:
        path: folder or name.
        traits: file of further traits (`traits.read`).
        template: "plain" or the file of a chat template, for models without one.
    """

    path: str
    traits: str = ""
    template: str = ""

    @property
    def root(self) -> Model:
        """Itself."""
        return self

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def describe(self) -> dict[str, Any]:
        """The content counts, not where it lies."""
        described = {"recipe": "Checkpoint", "fingerprint": models.fingerprint(self.path)}
        if self.traits:
            described["traits"] = _hash(Path(self.traits).read_text())
        return described | (
            {"template": _hash(chat.template_of(self.template))} if self.template else {}
        )

    def language(self) -> language.Language:
        """Tokenizer, template, traits."""
        return language.of_checkpoint(self.path, self.traits, self.template)

    def config(self) -> models.ModelConfig:
        """The shape of the model."""
        return models.load_config(self.path)

    def load(self, store: Store) -> Any:
        """The weights of the folder."""
        return store.engine.load(self.path)


@frozen
class Adapted(Given):
    """A model with the adapters of a PEFT folder beside it (on a mesh only).

    Attributes:
        base: the model.
        path: the adapter folder.
        other_base: let adapters that were made on another model pass, as a study of starts may.
    """

    base: Model
    path: str
    other_base: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def describe(self) -> dict[str, Any]:
        """The content counts, not where it lies."""
        adapter = models.fingerprint(self.path)
        return {"recipe": "Adapted", "base": self.base.describe(), "fingerprint": adapter}

    def check_base(self) -> None:
        """Compare the base that the adapters were made on, as far as they record it, with this one.

        A folder without a record comes from another tool: nothing is known against it.

        Raises:
            RunError: it is no adapter folder, or one of another base, or of one that is recorded in
                a way that cannot be compared.
        """
        record = Path(self.path).expanduser() / RECORD
        if not record.with_name("adapter_config.json").is_file():
            raise RunError(f"no adapter_config.json in {record.parent}: not a PEFT adapter folder")
        if self.other_base or not record.is_file():
            return
        made_on, here = _recorded(record).get("base"), as_json(self.base.describe())
        if isinstance(made_on, dict) and "fingerprint" in made_on:
            if len(made_on["fingerprint"]) != models.DIGITS:
                why = "records its base as an earlier version did, which cannot be compared"
                raise RunError(f"the adapter {self.path} {why}: use --other-base if it is this one")
            made_on, here = made_on["fingerprint"], here.get("fingerprint")
        elif isinstance(self.base, Checkpoint):  # a recipe made the base: its folder says which
            folder = models.folder_of(self.base.path)
            here = _recorded(folder / RECORD) if (folder / RECORD).is_file() else here
        if made_on != here:
            raise RunError(
                f"the adapter {self.path} was made on another model than {self.base.name}: give "
                "the one that it was made on, or --other-base"
            )

    def load(self, store: Store) -> Any:
        """The adapters beside their base.

        Raises:
            RunError: as `check_base`.
        """
        self.check_base()
        return store.engine.add(store.weights([self.base]), self.path, store.config(self))


def _recorded(file: Path) -> dict[str, Any]:
    """The recipe in the record of a folder."""
    try:
        return dict(json.loads(file.read_text())["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is no record of what made the folder ({error})") from None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
