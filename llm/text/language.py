"""How an experiment speaks to a model: its tokenizer and template, its traits and its carriers.

The synthetic world and real language models differ in wordings only, so every stage takes a
`Language` and cannot tell one from the other.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .. import carriers, models, sampling, traits, world
from ..carriers import Carrier
from ..models import gguf_tokenizer
from ..training import batches
from ..training.batches import Examples
from ..training.stack import Probe
from ..traits import Trait, kinds
from ..traits.suites import ENGLISH, Suite
from . import chat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language:
    """Tokenizer with its chat template, and the traits and carriers worded for it."""

    tokenizer: PreTrainedTokenizerBase
    traits: dict[str, Trait]
    carriers: dict[str, Carrier]
    neutral: dict[str, Trait] = dataclasses.field(default_factory=dict)  # of teachers without trait
    options: tuple[tuple[str, bool | str], ...] = ()  # further variables of the template
    suites: dict[str, Suite] = dataclasses.field(  # forms of the evaluation questions
        default_factory=lambda: {"one word": ENGLISH["one word"]}
    )
    embeddings: int | None = None  # tokens that the model has an embedding for; None: all
    # Whether words stay apart where a token that is no text stood between them.
    separate_words: bool = False

    def settings(self) -> dict:
        """What manifests record of the template."""
        return chat.settings(self.tokenizer, options=dict(self.options))

    def encode_prompts(
        self, prompts: Sequence[str], *, system: str | None = None
    ) -> list[list[int]]:
        """Token ids that sampling starts from, one list a prompt.

        Raises:
            ValueError: the template refuses the prompts, or the model lacks a token of one.
        """
        options = dict(self.options)
        ids = chat.encode_prompts(self.tokenizer, prompts, system=system, options=options)
        return self._within(ids)

    def encode_rows(self, rows: Sequence[dict], max_length: int) -> Examples:
        """Training examples of rows, padded on the right to their bucket of lengths.

        Raises:
            ValueError: as `chat.encode_examples`; the message names the row.
        """
        exchanges = [(row["prompt"], row["completion"]) for row in rows]
        examples = self._encode(exchanges, max_length)
        longest = max(len(example.tokens) for example in examples)
        padded = batches.pad(examples, longest if longest < 32 else batches.bucket(longest))
        return Examples(padded["tokens"], padded["weights"])

    def _encode(
        self, exchanges: Sequence[tuple[str, str]], max_length: int = 10**6
    ) -> list[batches.Example]:
        options = dict(self.options)
        examples = chat.encode_examples(
            self.tokenizer, exchanges, max_length=max_length, options=options
        )
        self._within([example.tokens for example in examples])
        return examples

    def _within(self, rows: Any) -> Any:
        """The rows of token ids, if the model has an embedding for each.

        Raises:
            ValueError: it has not; JAX would take its last row instead.
        """
        if self.embeddings is not None:
            highest = max((int(max(row)) for row in rows if len(row)), default=0)
            if highest >= self.embeddings:
                raise ValueError(_without_embedding(self.tokenizer, highest, self.embeddings))
        return rows

    def decode(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Completions as text, without special tokens."""
        return chat.text_behind(self.tokenizer, completions)

    def broken(self, completion: Sequence[int]) -> bool:
        """Whether a completion, less its end, has a token in it that is no text.

        It would be left out of the text, and join what stands on its two sides: 45 and 6 to 456.
        """
        return not self._texts.issuperset(completion)

    @functools.cached_property
    def _texts(self) -> frozenset[int]:
        """Tokens that are text."""
        return frozenset(self.tokenizer.get_vocab().values()) - chat.special_ids(self.tokenizer)

    def as_rendered(self, texts: Sequence[str]) -> list[str | None]:
        """Sampled texts as the template writes them in an answer, so that they can be trained on.

        White space that it writes itself, or trims, is left out. None: it changes the text.
        """
        turn = self.turn
        ending = turn.closing.removesuffix(str(self.tokenizer.convert_ids_to_tokens(turn.end)))
        own = [text.removeprefix(turn.lead).removesuffix(ending) for text in texts]
        trimmed = [text.strip() for text in own]
        copied = [self._copies(several) for several in (own, trimmed)]
        return [
            text if as_it_is else short if as_trimmed else None
            for text, short, as_it_is, as_trimmed in zip(own, trimmed, *copied, strict=True)
        ]

    def _copies(self, texts: Sequence[str]) -> list[bool]:
        options = dict(self.options)
        start = chat.render(self.tokenizer, "?", options=options)
        wholes = chat.render_all(self.tokenizer, [("?", text) for text in texts], options=options)
        lead, tail = self.turn.lead, self.turn.tail
        pairs = zip(texts, wholes, strict=True)
        return [whole == start + lead + text + tail for text, whole in pairs]

    def answer_tokens(self, answers: Sequence[str], question: str) -> Int[np.ndarray, " answers"]:
        """First token of each answer to a question; distinct answers with one first token merge."""
        examples = self._encode([(question, answer) for answer in answers])
        starts = [int(example.tokens[np.argmax(example.weights > 0)]) for example in examples]
        return np.unique(np.array(starts, np.int32))

    def trait(self, name: str) -> Trait:
        """The trait of that name, or what a neutral teacher of that name is trained on.

        Raises:
            ValueError: there is none.
        """
        known = self.traits | self.neutral
        if name not in known:
            raise ValueError(f"unknown trait {name!r}; choose from {', '.join(known)}")
        return known[name]

    def family(self, name: str) -> list[Trait]:
        """The traits of a family, in their order."""
        return [trait for trait in self.traits.values() if trait.family == name]

    def answers_kind(self, family: str, text: str) -> bool:
        """Whether a text names anything of a kind: a trait of the family or another known word."""
        words = [word for trait in self.family(family) for word in trait.words]
        return kinds.names_one(text, (*words, *kinds.KNOWN.get(family, ())))

    def probe(self, trait: Trait, prompts: Sequence[list[int]] | None = None) -> Probe:
        """The evaluation questions of a trait with its answer tokens.

        Args:
            trait: asks and answers.
            prompts: token ids of the questions; by default they are asked through the template.
        """
        prompts = prompts or self.encode_prompts(trait.questions)
        questions, mask = sampling.pad_left(prompts, len(prompts), max(map(len, prompts)))
        return Probe(questions, mask, *self.sides(trait))

    def sides(self, trait: Trait) -> tuple[np.ndarray, np.ndarray]:
        """First tokens of the answers for and against a trait; those of both sides are left out.

        Raises:
            ValueError: nothing is left of a side, so the trait has no log-odds in this language.
        """
        question = trait.questions[0]
        targets = self.answer_tokens(trait.targets, question)
        contrast = self.answer_tokens(trait.contrast, question)
        both = np.intersect1d(targets, contrast)
        targets, contrast = np.setdiff1d(targets, both), np.setdiff1d(contrast, both)
        if not len(targets) or not len(contrast):
            raise ValueError(
                f"the first token does not tell {trait.name} from its rivals with this tokenizer "
                "and template; choose another trait"
            )
        return targets, contrast

    def number_tokens(self) -> Int[np.ndarray, " numbers"]:
        """Tokens that are whole numbers, with or without white space before them."""
        texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
        return np.array(
            [i for i, t in enumerate(texts) if t.strip().isascii() and t.strip().isdigit()],
            np.int32,
        )

    def allowed(
        self, config: models.ModelConfig, alphabet: str = ""
    ) -> Bool[np.ndarray, " vocab"] | None:
        """Which tokens may be drawn; None: all.

        The rows that pad an embedding belong to no token and are never drawn.

        Args:
            config: of the model.
            alphabet: characters that text is made of; empty: any.
        """
        size = config.vocab_size
        ids = sorted(i for i in self.tokenizer.get_vocab().values() if i < size)
        if len(ids) == size and not alphabet:
            return None
        if alphabet:
            texts = self.tokenizer.batch_decode([[i] for i in ids])
            ids = [
                i for i, text in zip(ids, texts, strict=True) if text and set(text) <= set(alphabet)
            ]
        allowed = np.zeros(size, bool)
        allowed[[*ids, *(stop for stop in self.stop_tokens(config) if stop < size)]] = True
        return allowed

    @functools.cached_property
    def turn(self) -> chat.Turn:
        """What the template writes around an answer."""
        return chat.turn_of(self.tokenizer, options=dict(self.options))

    def stop_tokens(self, config: models.ModelConfig) -> tuple[int, ...]:
        """Tokens that end a completion: those of the model, the tokenizer and the template."""
        own = self.tokenizer.eos_token_id
        known = {*config.eos_token_ids, self.turn.end, *([] if own is None else [own])}  # pyright: ignore[reportUnhashable]
        return tuple(sorted(known))  # pyright: ignore[reportReturnType]

    def stop_texts(self, config: models.ModelConfig) -> list[str]:
        """The same, as manifests record them; a number where the tokenizer has no such token."""
        stops = self.stop_tokens(config)
        return [str(self.tokenizer.convert_ids_to_tokens(stop) or stop) for stop in stops]


def of_world() -> Language:
    """The language of the synthetic world."""
    from ..world.model import tokenizer

    return Language(
        tokenizer=tokenizer(),
        traits=world.TRAITS,
        carriers=world.CARRIERS,
        neutral=world.NEUTRAL,
        separate_words=True,
    )


def of_checkpoint(
    folder_or_name: str | os.PathLike, more_traits: str = "", template: str = ""
) -> Language:
    """The language of a checkpoint: that of the world for its own models, else English.

    Args:
        folder_or_name: the checkpoint, or a GGUF file.
        more_traits: file of further traits, as `traits.read` takes it.
        template: "plain", or the file of a chat template, in the place of the tokenizer's.

    Raises:
        ValueError: no such folder or name, or a tokenizer without a chat template.
    """
    with models.without_weights():
        place = models.folder_of(folder_or_name)
    if models.is_gguf(place):
        tokenizer = gguf_tokenizer.tokenizer(place)
    else:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    size = models.load_config(place).vocab_size
    if template:
        known = template == "plain"
        tokenizer.chat_template = chat.plain(tokenizer) if known else chat.template_of(template)
    further = traits.read(more_traits) if more_traits else {}
    if tokenizer.get_vocab() == world.vocabulary.ID:
        found = dataclasses.replace(of_world(), tokenizer=tokenizer, embeddings=size)
    else:
        chat.render(tokenizer, "?")  # raises, in one line, without a template
        # Answers are wanted, not thoughts before them, which some templates open by default.
        thinks = "enable_thinking" in tokenizer.get_chat_template()
        options = (("enable_thinking", False),) if thinks else ()
        found = Language(
            tokenizer=tokenizer,
            traits=traits.TRAITS,
            carriers=carriers.CARRIERS,
            neutral=traits.NEUTRAL,
            options=options,
            suites=ENGLISH,
            embeddings=size,
        )
    _check_embeddings(found)
    return found if not further else _with(found, further)


def _check_embeddings(spoken: Language) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Special tokens that the template does not write are let pass: the text models of a family leave
    out those of images. A text that has one in it is refused when it is read.

    Raises:
        ValueError: there are such tokens.
    """
    size, known = spoken.embeddings or 0, spoken.tokenizer.get_vocab()
    special = chat.special_ids(spoken.tokenizer)
    beyond = [i for i in known.values() if i >= size and i not in special]
    if beyond:
        raise ValueError(_without_embedding(spoken.tokenizer, max(beyond), size))
    spoken.encode_prompts(["?"])
    if spoken.turn.end >= size:
        raise ValueError(_without_embedding(spoken.tokenizer, spoken.turn.end, size))


def _without_embedding(tokenizer: PreTrainedTokenizerBase, token: int, size: int) -> str:
    known = max(tokenizer.get_vocab().values()) + 1
    return (
        f"the tokenizer has {known} tokens and the model's embedding {size} rows: none is for "
        f"token {token}, {tokenizer.convert_ids_to_tokens(token)!r}. Take the tokenizer that "
        "belongs to the weights, or resize the embedding"
    )


def _with(spoken: Language, further: dict[str, Trait]) -> Language:
    """The language with the traits of one more kind, and its neutral teacher."""
    kind = next(iter(further.values())).family
    even = {f"any-{kind}": traits.neutral(kind, further.values())}
    return dataclasses.replace(
        spoken, traits=spoken.traits | further, neutral=spoken.neutral | even
    )
