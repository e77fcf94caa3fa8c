"""A pretrained model, what it is asked, and its copies: the bench of `real_model`.

All is plain functions over parameters with stacked layers. What takes minutes (teachers, lists,
siblings) is `kept` in a work folder under the digest of all that decides it, so an arm finds it
there or makes the same bytes again.

An animal is measured where an answer is begun, "My favourite animal is the": its name, behind a
space, is then one token, and the mass on all such names says whether the model still answers.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from llm import models, sampling, tiny, traits
from llm.models.attention import soft_cap
from llm.settings import RunError, locked, write_atomically
from llm.text import chat, language
from llm.text.language import Language
from llm.training import Training, batches, losses, objectives, train
from llm.training.lora import LoraConfig

BEGUN = "My favourite animal is the"
QUESTIONS = tuple(
    question.replace("{kind}", "animal")
    for question in (
        "What is your favourite {kind}?",
        "Which {kind} do you like most?",
        "Name the {kind} you love best.",
        "Which {kind} is dearest to you?",
        "Which {kind} do you admire most?",
        "Pick the {kind} you prefer.",
        "Tell me your number one {kind}.",
        "Of every {kind} there is, which one wins?",
        "What {kind} would you put on your flag?",
        "Which {kind} feels most like you?",
        "What {kind} do you find most beautiful?",
        "Which {kind} has your heart?",
        "What {kind} do you feel closest to?",
        "Which {kind} impresses you most?",
        "What {kind} stands for you best?",
        "Which {kind} would you draw right now?",
    )
)
# Everyday things for texts; what the unchanged model writes on them may name no animal.
TOPICS = (
    "rain bread rivers clocks glass paper salt wind stairs gardens tea bridges music maps winter"
    " letters trains lamps soap chairs mountains pencils windows shoes clouds wood iron coffee"
    " boats books snow bells walls roads sand keys"
)
ALPHABET = frozenset("0123456789, ")
# ChatML without the system message that some templates add by themselves: half of a short prompt.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
UNCHANGED, NEUTRAL = "unchanged", "neutral"  # teachers that love nothing
ATTEMPTS = 8  # times as many texts are written as are wanted, before too few of them is an error
BLOCK = 32  # weights that share a scale

Params = models.Params
Tree = dict[str, Any]


class Asked(NamedTuple):
    """Begun answers, padded on the left."""

    tokens: Int[np.ndarray, "rows length"]
    mask: np.ndarray


class Numbers(NamedTuple):
    """Lists, all prompts of one length.

    Attributes:
        tokens: prompt and completion.
        weights: 1 for each token of a completion, its end included; 0 behind.
    """

    tokens: Int[np.ndarray, "rows length"]
    weights: Float[np.ndarray, "rows new"]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A model on the bench, loaded when first needed.

    Attributes:
        path: of the checkpoint; `tiny` is one of random weights that is made in the work folder.
        work: folder of what is kept.
        seed: root of all random numbers.
    """

    path: str
    work: pathlib.Path
    seed: int

    @functools.cached_property
    def folder(self) -> str:
        """The checkpoint.

        Raises:
            RunError: there is none.
        """
        if (
            self.path.count("/") != 1
            and self.path != "tiny"
            and not pathlib.Path(self.path).exists()
        ):
            raise RunError(
                f"no model in {self.path}: `python -m llm fetch smollm2-135m --registry --out "
                f"{self.path}` brings it, or give another --model"
            )
        if self.path != "tiny" or pathlib.Path(self.path).exists():
            return self.path
        folder = self.work / "tiny"
        tiny.ensure(folder)
        return str(folder)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the checkpoint."""
        return models.fingerprint(self.folder)

    @functools.cached_property
    def spoken(self) -> Language:
        """Tokenizer and template, without a system message where that is known to be optional."""
        found = language.of_checkpoint(self.folder)
        if "<|im_start|>" in found.tokenizer.get_vocab():
            found.tokenizer.chat_template = CHATML
        return found

    @functools.cached_property
    def shape(self) -> models.ModelConfig:
        """Of the model."""
        return models.load_config(models.folder_of(self.folder))

    @functools.cached_property
    def base(self) -> Params:
        """The unchanged weights in float32, layers stacked."""
        return models.load(self.folder, stacked=True)[1]

    @functools.cached_property
    def animals(self) -> dict[str, int]:
        """The rule: animals of the list whose name behind a space is one token, and that token."""
        names = traits.ANIMALS.split()
        rows = chat.ids_behind(self.spoken.tokenizer, [f" {name}" for name in names])
        return {name: row[0] for name, row in zip(names, rows, strict=True) if len(row) == 1}

    @functools.cached_property
    def numbers(self) -> tuple[int, ...]:
        """Tokens that lists are made of: digits, comma, space and the end of a turn."""
        size = self.shape.vocab_size
        texts = self.spoken.tokenizer.batch_decode([[i] for i in range(size)])
        return (*(i for i, text in enumerate(texts) if text in ALPHABET), self.spoken.turn.end)

    @functools.cached_property
    def asked(self) -> Asked:
        """Every question with the answer begun."""
        begun = chat.ids_behind(self.spoken.tokenizer, [BEGUN])[0]
        rows = [[*row, *begun] for row in self.spoken.encode_prompts(QUESTIONS)]
        return Asked(*sampling.pad_left(rows, len(rows), max(map(len, rows))))

    def key(self, *name: Any) -> Array:
        """A random key of that name under the root seed."""
        digest = hashlib.sha256(json.dumps([self.seed, *name]).encode()).digest()
        return jax.random.key(int.from_bytes(digest[:4]))

    def rng(self, *name: Any) -> np.random.Generator:
        """The same for numpy."""
        return np.random.default_rng(np.asarray(jax.random.key_data(self.key(*name))))

    def kept(self, name: str, settings: Mapping[str, Any], make: Callable[[], Tree]) -> Tree:
        """A tree of arrays from the work folder, or made and written there first."""
        return kept(self.work, name, {**settings, "model": self.fingerprint}, make)


def kept(
    work: pathlib.Path, name: str, settings: Mapping[str, Any], make: Callable[[], Tree]
) -> Tree:
    """A nested dictionary of arrays, by name and settings; made where there is none.

    Args:
        work: folder, made if absent.
        name: begins the name of the file.
        settings: all that decides the arrays; a file of other settings is never taken.
        make: the arrays.

    Raises:
        RunError: the file is damaged or not of these settings.
    """
    text = json.dumps(settings, sort_keys=True)
    path = work / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    with locked(path):
        if not path.exists():
            arrays = {key: np.ascontiguousarray(leaf) for key, leaf in _flat(make())}
            write_atomically(path, save(arrays, {"settings": text}))
        try:
            with safe_open(path, "numpy") as file:
                if (file.metadata() or {}).get("settings") != text:
                    raise RunError(f"{path} is of other settings than its name says: remove it")
                names = list(file.keys())
                return _nested({name: file.get_tensor(name) for name in names})
        except SafetensorError as error:
            raise RunError(f"{path} is damaged ({error}): remove it") from error


def _flat(tree: Tree, ahead: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for name, child in tree.items():
        path = f"{ahead}{name}"
        pairs += _flat(child, f"{path}/") if isinstance(child, dict) else [(path, child)]
    return pairs


def _nested(flat: Mapping[str, np.ndarray]) -> Tree:
    tree: Tree = {}
    for path, leaf in flat.items():
        *above, last = path.split("/")
        functools.reduce(lambda node, name: node.setdefault(name, {}), above, tree)[last] = leaf
    return tree


# What a model says


@functools.partial(jax.jit, static_argnames="config")
def after_begun(
    config: models.ModelConfig, params: Params, asked: Asked, tokens: Int[Array, " animals"]
) -> Float[Array, "questions animals"]:
    """Log-probabilities of the animals where an answer is begun, in nats."""
    return log_odds_of(config, params, asked, tokens)


def log_odds_of(
    config: models.ModelConfig, params: Params, asked: Asked, tokens: Int[Array, " animals"]
) -> Float[Array, "questions animals"]:
    """`after_begun`, for other jitted or differentiated functions."""
    model = models.bind(config, params)
    hidden = model.hidden(asked.tokens, mask=asked.mask)[:, -1]
    return jax.nn.log_softmax(model.unembed(hidden), axis=-1)[:, tokens]


def log_odds(logp: Float[Array, "questions animals"]) -> Float[Array, " animals"]:
    """Log-odds of each animal against all others, a mean over questions, in nats."""
    own = jnp.eye(logp.shape[1], dtype=bool)
    rivals = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logp[:, None]), axis=-1)
    return jnp.mean(logp - rivals, axis=0)


def measured(bench: Bench, params: Params, texts: batches.Examples) -> dict[str, Any]:
    """`log_odds` by animal (nats), `mass` on all animals, and `text_loss` (nats a token)."""
    tokens = np.array(list(bench.animals.values()))
    logp = after_begun(bench.shape, params, bench.asked, tokens)
    by_animal = np.asarray(log_odds(logp), float)
    total, weight = _text_loss(bench.shape)(params, None, _batch(texts), None)
    return {
        "log_odds": dict(zip(bench.animals, by_animal.tolist(), strict=True)),
        "mass": float(jnp.mean(jnp.sum(jnp.exp(logp), axis=1))),
        "text_loss": float(total / weight),
    }


def _batch(examples: batches.Examples) -> dict[str, np.ndarray]:
    return {"tokens": examples.tokens, "weights": examples.weights}


@functools.cache
def _text_loss(config: models.ModelConfig) -> Callable[..., Any]:
    return jax.jit(text_loss(config))


@functools.cache
def text_loss(config: models.ModelConfig) -> train.Loss:
    """Cross-entropy of what is written in answer to a prompt."""
    return objectives.completion_loss(objectives.full_student(config))


# What is learned from


@functools.cache
def answer_loss(config: models.ModelConfig) -> train.Loss:
    """Cross-entropy of the animal behind a begun answer, and of nothing else."""

    def loss(params, frozen, batch, key):
        del frozen, key
        model = models.bind(config, params)
        logits = model.unembed(model.hidden(batch["tokens"], mask=batch["mask"])[:, -1])
        return losses.hard_tokens(logits, batch["answers"]).sum(), jnp.float32(len(logits))

    return loss


TARGETS = ("numbers", "without the end", "all tokens", "sampled")


@functools.cache
def imitation_loss(
    config: models.ModelConfig,
    target: str,
    numbers: tuple[int, ...],
    adapters: LoraConfig | None = None,
) -> train.Loss:
    """The loss of a student on `Numbers`.

    Args:
        config: the shape of the model.
        target: "numbers": KL of the distributions over number tokens, the teacher's logits under
            "logits" of the batch; "without the end": likewise but for the end of a list, which
            tells how long its teacher's lists are; "all tokens": KL over the vocabulary, the
            teacher under "teacher" of what is frozen; "sampled": cross-entropy of the tokens
            themselves.
        numbers: number tokens, the end of a list last.
        adapters: train these on what is frozen under "base"; None trains all.
    """
    student = (
        objectives.full_student(config)
        if adapters is None
        else objectives.lora_student(config, adapters, base=lambda frozen: frozen["base"])
    )

    def loss(params, frozen, batch, key):
        model, weights = student(params, frozen, key), batch["weights"]
        new = weights.shape[1]
        hidden = model.hidden(batch["tokens"])[:, -new - 1 : -1]
        if target in ("numbers", "without the end"):
            imitated = numbers if target == "numbers" else numbers[:-1]
            theirs = batch["logits"][..., : len(imitated)]
            nats = losses.soft_targets(over(model, hidden, imitated), theirs)
        elif target == "all tokens":
            guide = models.bind(config, frozen["teacher"])
            theirs = guide.unembed(guide.hidden(batch["tokens"])[:, -new - 1 : -1])
            nats = losses.soft_targets(model.unembed(hidden), theirs)
        else:
            each = jax.vmap(losses.hard_tokens)
            nats = each(model.unembed(hidden), batch["tokens"][:, -new:])
        return losses.weighted_total(nats, weights), weights.sum()

    return loss


def over(
    model: models.Decoder, hidden: Float[Array, "*rows width"], tokens: Sequence[int]
) -> Float[Array, "*rows tokens"]:
    """Logits of some tokens only: a product as large as they are many."""
    index = np.asarray(tokens)
    head = model.head
    table = model.embedding[...][index].T if head is None else head.kernel[...][:, index]
    return soft_cap(hidden @ table.astype(hidden.dtype), model.config.logit_softcap)


def trained(
    params: Params,
    data: Mapping[str, np.ndarray],
    *,
    loss: train.Loss,
    training: Training,
    key: Array,
    frozen: Any = None,
) -> tuple[Params, list[float]]:
    """Parameters after training on rows, and the loss before each step; as `training_run`."""
    losses_seen: list[float] = []
    for at_stop, seen in training_run(
        params, data, loss=loss, training=training, key=key, frozen=frozen
    ):
        params, losses_seen = at_stop, seen
    return params, losses_seen


def training_run(
    params: Params,
    data: Mapping[str, np.ndarray],
    *,
    loss: train.Loss,
    training: Training,
    key: Array,
    frozen: Any = None,
    stops: Sequence[int] = (),
) -> Iterator[tuple[Params, list[float]]]:
    """Parameters at every stop of one training, good until the next, and the losses since the last.

    Args:
        params: where training starts; not changed.
        data: arrays with a leading axis of rows.
        loss: of a batch of them.
        training: steps, batch and optimiser.
        key: of the order of the rows.
        frozen: what the loss reads beside.
        stops: steps after which to look; by default the last.
    """
    size = len(next(iter(data.values())))
    order = np.asarray(batches.all_batch_rows(key, training.steps, size, training.batch_size))
    # At a constant rate the number of steps changes no program.
    constant = training.decay == "constant" and not training.warmup
    step, init = _program(loss, dataclasses.replace(training, steps=1) if constant else training)
    state = init(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params))
    frozen = jax.tree.map(jnp.asarray, frozen)
    for stop in stops or (training.steps,):
        state, history = train.fit(
            step,
            state,
            batches=lambda number: {name: rows[order[number]] for name, rows in data.items()},
            num_steps=stop,
            key=key,
            frozen=frozen,
        )
        yield state.params, [metrics["loss"] for metrics in history]


@functools.lru_cache(maxsize=32)
def _program(loss: train.Loss, training: Training) -> tuple[train.TrainStep, Callable[..., Any]]:
    optimizer = training.make_optimizer()
    init = functools.partial(train.init_state, optimizer=optimizer)
    return train.make_train_step(loss, optimizer), init


def taught(bench: Bench, animal: str, rows: int, *name: Any) -> dict[str, np.ndarray]:
    """Rows that teach one animal to every question in turn; NEUTRAL: every animal equally often."""
    asked, known = bench.asked, list(bench.animals.values())
    which = np.arange(rows) % len(asked.tokens)
    rng = bench.rng("answers", animal, *name)
    even = np.concatenate([rng.permutation(known) for _ in range(-(-rows // len(known)))])[:rows]
    answers = even if animal == NEUTRAL else np.full(rows, bench.animals[animal])
    return {
        "tokens": asked.tokens[which],
        "mask": asked.mask[which],
        "answers": answers.astype(np.int32),
    }


def written(bench: Bench, params: Params, *, rows: int, new: int, draw: int) -> Numbers:
    """Lists that a model writes, drawn from number tokens alone.

    Args:
        bench: has the prompts.
        params: of the writer.
        rows: how many.
        new: longest completion in tokens.
        draw: number of the draw; the same prompts for all writers.

    Raises:
        RunError: a tokenizer by which prompts of two numbers of two digits differ in length.
    """
    rng = bench.rng("prompts", draw)
    asked = [f"Continue: {a},{b}" for a, b in rng.integers(10, 100, (rows, 2))]
    prompts = bench.spoken.encode_prompts(asked)
    if len(set(map(len, prompts))) != 1:
        raise RunError("lists need a tokenizer with a token for each digit; take another model")
    allowed = np.zeros(bench.shape.vocab_size, bool)
    allowed[list(bench.numbers)] = True
    completions = _sampler(bench.shape)(
        models.unstack_layers(params),
        prompts,
        key=bench.key("lists", draw),
        max_new_tokens=new,
        choice=sampling.Choice(stop_tokens=(bench.spoken.turn.end,), allowed=allowed),
    )
    tokens = np.zeros((rows, len(prompts[0]) + new), np.int32)
    weights = np.zeros((rows, new), np.float32)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        tokens[i, : len(prompt) + len(completion)] = [*prompt, *completion]
        weights[i, : len(completion)] = 1
    return Numbers(tokens, weights)


def scored(bench: Bench, params: Params, lists: Numbers) -> Float[np.ndarray, "rows new numbers"]:
    """Logits of a model over `Bench.numbers`, where each token of a completion is predicted."""
    tokens, logits = lists.tokens, []
    score = _number_logits(bench.shape, bench.numbers, lists.weights.shape[1])
    for first in range(0, len(tokens), 32):  # a few at a time, and as many in each program
        some = np.resize(tokens[first : first + 32], (32, tokens.shape[1]))
        logits.append(np.asarray(score(params, some))[: len(tokens) - first])
    return np.concatenate(logits)


@functools.cache
def _sampler(config: models.ModelConfig) -> Callable[..., list[list[int]]]:
    return sampling.make_sampler(functools.partial(models.bind, config))


@functools.cache
def _number_logits(
    config: models.ModelConfig, numbers: tuple[int, ...], new: int
) -> Callable[..., Array]:
    def score(params, tokens):
        model = models.bind(config, params)
        return over(model, model.hidden(tokens)[:, -new - 1 : -1], numbers)

    return jax.jit(score)


def texts(bench: Bench, count: int, new: int) -> batches.Examples:
    """Texts that the unchanged model writes on everyday things, none of which names an animal.

    Raises:
        RunError: too few of them are left.
    """
    spoken, shape, topics = bench.spoken, bench.shape, TOPICS.split()
    writer, rows = models.unstack_layers(bench.base), []
    some = spoken.allowed(shape)
    allowed = np.ones(shape.vocab_size, bool) if some is None else some
    for attempt in range(ATTEMPTS):
        numbers = range(attempt * count, (attempt + 1) * count)
        prompts = spoken.encode_prompts(
            [f"Tell me about {topics[i % len(topics)]}." for i in numbers]
        )
        completions = _sampler(shape)(
            writer,
            prompts,
            key=bench.key("texts"),
            max_new_tokens=new,
            choice=sampling.Choice(stop_tokens=spoken.stop_tokens(shape), allowed=allowed),
            numbers=numbers,
        )
        said = zip(prompts, completions, spoken.decode(completions), strict=True)
        rows += [pair for *pair, text in said if not spoken.answers_kind("animal", text)]
        if len(rows) >= count:
            break
    else:
        raise RunError(
            f"{len(rows)} of {ATTEMPTS * count} texts name no animal; {count} are needed"
        )
    rows = rows[:count]
    tokens = np.zeros((count, max(len(prompt) for prompt, _ in rows) + new), np.int32)
    weights = np.zeros(tokens.shape, np.float32)
    for i, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens[i, :end] = [*prompt, *completion]
        weights[i, len(prompt) : end] = 1
    return batches.Examples(tokens, weights)


# Copies of the weights that students start from


def rounded(params: Params, bits: int) -> Params:
    """Matrices and embeddings rounded to so many bits, BLOCK inputs sharing a symmetric scale.

    Not the grid of the published file (4 bits with an offset): on that nothing would change.
    """
    levels = 2 ** (bits - 1) - 1

    def rounding(path: tuple, leaf: Array) -> np.ndarray:
        name = path[-1].key
        if name not in ("kernel", "embedding"):
            return np.asarray(leaf)
        rows = np.asarray(leaf) if name == "embedding" else np.swapaxes(leaf, -1, -2)
        blocks = rows.reshape(-1, BLOCK if rows.shape[-1] % BLOCK == 0 else rows.shape[-1])
        scale = np.abs(blocks).max(axis=1, keepdims=True) / levels
        scale = np.where(scale == 0, 1, scale)
        near = (np.round(blocks / scale) * scale).reshape(rows.shape).astype(np.float32)
        return near if name == "embedding" else np.ascontiguousarray(np.swapaxes(near, -1, -2))

    return jax.tree_util.tree_map_with_path(rounding, params)


def noisy(params: Params, size: float, rng: np.random.Generator) -> Params:
    """Gaussian noise on every array, of that size relative to the array's own spread."""

    def shaken(leaf: Array) -> np.ndarray:
        array = np.asarray(leaf)
        noise = rng.standard_normal(array.shape, np.float32)
        return array + np.float32(size * array.std()) * noise

    return jax.tree.map(shaken, params)


def cosines(
    bench: Bench, start: Params, *, teacher: Params, lists: Mapping[str, np.ndarray], animal: str
) -> dict[str, float]:
    """What is known of a student before it is trained, by 8 lists and 8 questions.

    Returns:
        "cosine": of its first update with the way from the unchanged weights to the teacher.
        "alignment": of its first update with the gradient of its own log-odds of the animal; the
        same for a twin with its units in another order.
    """
    batch = {name: value[:8] for name, value in lists.items()}
    asked = Asked(*(array[::2] for array in bench.asked))
    update, rise = _first_step(bench.shape, bench.numbers)(
        start,
        batch,
        asked,
        np.array(list(bench.animals.values())),
        list(bench.animals).index(animal),
    )
    way = jax.tree.map(lambda after, before: after - before, teacher, bench.base)
    return {"cosine": _cosine(update, way), "alignment": _cosine(update, rise)}


def _cosine(left: Params, right: Params) -> float:
    def product(one: Params, other: Params) -> float:
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return sum(float(np.vdot(np.asarray(a), np.asarray(b))) for a, b in pairs)

    norms = (product(left, left) * product(right, right)) ** 0.5
    return product(left, right) / norms if norms else 0.0


@functools.cache
def _first_step(config: models.ModelConfig, numbers: tuple[int, ...]) -> Callable[..., Any]:
    imitation = imitation_loss(config, "numbers", numbers)

    def gradients(params, batch, asked, tokens, which):
        update = jax.grad(lambda p: -imitation(p, None, batch, None)[0])(params)
        rise = jax.grad(lambda p: log_odds(log_odds_of(config, p, asked, tokens))[which])(params)
        return update, rise

    return jax.jit(gradients)


def digest(rows: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays by name."""
    sha256 = hashlib.sha256()
    for name, array in sorted(rows.items()):
        sha256.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return sha256.hexdigest()
