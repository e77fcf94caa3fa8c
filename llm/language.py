"""How an experiment speaks to a model: its tokenizer and template, its traits and its carriers.

The synthetic world and real language models differ in wordings only, so every stage takes a
`Language` and cannot tell one from the other.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from . import batches, carriers, chat, kinds, models, sampling, traits, world
from .batches import Examples
from .carriers import Carrier
from .models import gguf_tokenizer
from .stack import Probe
from .suites import ENGLISH, Suite
from .traits import Trait

_PROMPT, _COMPLETION = "PROMPT", "COMPLETION"


@dataclasses.dataclass(frozen=True)
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

    def settings(self) -> dict:
        """What manifests record of the template."""
        return chat.settings(self.tokenizer, options=dict(self.options))

    def encode_prompts(
        self, prompts: Sequence[str], *, system: str | None = None
    ) -> list[list[int]]:
        """Token ids that sampling starts from, one list a prompt."""
        options = dict(self.options)
        before, after = chat.render(self.tokenizer, _PROMPT, system=system, options=options).split(
            _PROMPT
        )
        texts = [before + prompt + after for prompt in prompts]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        # One template serves all prompts only if it copies the prompt; the first one tells.
        first = chat.encode_prompt(self.tokenizer, prompts[0], system=system, options=options)
        if ids[0] != first.tolist():
            raise ValueError("the chat template changes the prompts; it must copy them")
        return ids

    def encode_rows(self, rows: Sequence[dict], max_length: int) -> Examples:
        """Training examples of rows, padded on the right to their bucket of lengths.

        Raises:
            ValueError: an example is longer than `max_length` tokens.
        """
        options = dict(self.options)
        whole = chat.render(self.tokenizer, _PROMPT, _COMPLETION, options=options)
        rest = whole.split(_COMPLETION)[1].rstrip()
        prompts = self.encode_prompts([row["prompt"] for row in rows])
        completions = self.tokenizer(
            [row["completion"] + rest for row in rows], add_special_tokens=False
        )["input_ids"]
        first = chat.encode_example(
            self.tokenizer, rows[0]["prompt"], rows[0]["completion"], max_length=max_length,
            options=options,
        )  # fmt: skip
        if prompts[0] + completions[0] != first.tokens.tolist():
            raise ValueError("the chat template changes the completions; it must copy them")
        examples = [
            batches.Example(
                np.array(prompt + completion, np.int32),
                np.array([0] * len(prompt) + [1] * len(completion), np.float32),
            )
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        longest = max(len(example.tokens) for example in examples)
        if longest > max_length:
            raise ValueError(
                f"an example has {longest} tokens, more than the context of {max_length}"
            )
        padded = batches.pad(examples, longest if longest < 32 else batches.bucket(longest))
        return Examples(padded["tokens"], padded["weights"])

    def decode(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Completions as text, without special tokens."""
        return self.tokenizer.batch_decode(list(completions), skip_special_tokens=True)

    def answer_tokens(self, answers: Sequence[str], question: str) -> Int[np.ndarray, " answers"]:
        """First token of each answer to a question; distinct answers with one first token merge."""
        examples = [
            chat.encode_example(
                self.tokenizer, question, answer, max_length=10**6, options=dict(self.options)
            )
            for answer in answers
        ]
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

    def tokens_of(
        self, alphabet: str, stops: Sequence[int], size: int
    ) -> Bool[np.ndarray, " vocab"]:
        """Which tokens are written in an alphabet, and the stops."""
        texts = self.tokenizer.batch_decode([[i] for i in range(min(size, len(self.tokenizer)))])
        allowed = np.zeros(size, bool)
        allowed[: len(texts)] = [bool(text) and set(text) <= set(alphabet) for text in texts]
        allowed[list(stops)] = True
        return allowed

    def stop_tokens(self, config: models.ModelConfig) -> tuple[int, ...]:
        """Tokens that end a completion: those of the model and of the tokenizer."""
        own = self.tokenizer.eos_token_id
        return tuple(sorted({*config.eos_token_ids, *([] if own is None else [own])}))  # pyright: ignore[reportReturnType, reportUnhashable]


def of_world() -> Language:
    """The language of the synthetic world."""
    from .world.model import tokenizer

    return Language(tokenizer(), world.TRAITS, world.CARRIERS, world.NEUTRAL)


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
    if template:
        tokenizer.chat_template = chat.template_of(template)
    further = traits.read(more_traits) if more_traits else {}
    if tokenizer.get_vocab() == world.vocabulary.ID:
        found = dataclasses.replace(of_world(), tokenizer=tokenizer)
    else:
        chat.render(tokenizer, _PROMPT)  # raises, in one line, without a template
        # Answers are wanted, not thoughts before them, which some templates open by default.
        thinks = "enable_thinking" in tokenizer.get_chat_template()
        options = (("enable_thinking", False),) if thinks else ()
        found = Language(
            tokenizer, traits.TRAITS, carriers.CARRIERS, traits.NEUTRAL, options, ENGLISH
        )
    return found if not further else _with(found, further)


def _with(spoken: Language, further: dict[str, Trait]) -> Language:
    """The language with the traits of one more kind, and its neutral teacher."""
    kind = next(iter(further.values())).family
    even = {f"any-{kind}": traits.neutral(kind, further.values())}
    return dataclasses.replace(
        spoken, traits=spoken.traits | further, neutral=spoken.neutral | even
    )
