"""The third engine: one model at a time, on a server that somebody else runs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jaxtyping import Array, Key

from ... import engines, models, sampling
from ...models import ModelConfig
from ...settings import RunError
from ...text import chat, language
from ...training import stack
from . import handshake
from .client import Server

# What a server would else take from the model's generation_config.json, as vLLM does (for Qwen 2.5
# top_k 20 and a repetition penalty): that is not the distribution of the logits.
PLAIN = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
COMPLETIONS = "/v1/completions"


@dataclasses.dataclass(frozen=True)
class Remote:
    """A model that is served: the folders that hold the same weights here."""

    base: str
    adapter: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served(engines.OneByOne):
    """Completes and scores through a server; it is checked against our own logits first.

    Prompts travel as token ids, so our template decides every token. The seed of row i is made
    from `fold_in(key, i)`. A server with a batch-dependent order of sums may give other text for
    the same seed, so what makes a resumed run equal is that nothing answered is asked again.

    Attributes:
        server: where.
        name: of the model or adapter there; by default the adapter folder's name, or for a base
            the first that the server lists.
        local: computes our own logits for the handshake.
        shard: prompts completed before rows are written.
        report: called with the line that the handshake gives.
    """

    server: Server
    name: str = ""
    local: engines.OnMesh = dataclasses.field(default_factory=engines.OnMesh)
    shard: int | None = 1024
    report: Callable[[str], None] = lambda line: None
    keeps: bool = True  # what is kept is two paths

    def facts(self) -> dict[str, Any]:
        """What manifests record: the engine, its version and how it is asked."""
        version = next(
            (
                found["version"]
                for path in ("/version", "/server_info", "/get_server_info")
                if (found := self.server.get(path)) and "version" in found
            ),
            "unknown",
        )
        kind = self._listed[0].get("owned_by", "unknown")
        name = self.name or self._listed[0]["id"]
        return {"engine": {"server": kind, "version": version, "model": name, "sampling": PLAIN}}

    def load(self, folder: str | Path) -> Remote:
        """The served model with the weights of this checkpoint folder or name."""
        return Remote(str(folder))

    def add(self, weights: Remote, folder: str, config: ModelConfig) -> Remote:
        """The served adapter with the weights of this PEFT folder."""
        return dataclasses.replace(weights, adapter=str(folder))

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        """A server keeps its weights to itself.

        Raises:
            RunError: always.
        """
        raise RunError("a server only answers: it has no weights to save")

    def tune(self, *args: Any, **kwargs: Any) -> NoReturn:
        """A server does not train.

        Raises:
            RunError: always.
        """
        raise RunError(
            "a server only answers: fine-tune with `python -m llm finetune`, then serve the folder"
        )

    def complete(
        self,
        config: ModelConfig,
        weights: Remote,
        *,
        prompts: Sequence[Sequence[list[int]]],
        keys: Key[Array, " one"],
        choice: sampling.Choice,
        max_new_tokens: int,
        first: int = 0,
    ) -> list[list[list[int]]]:
        """As `Stack.complete` for one run, other random numbers apart."""
        spoken = _spoken(weights.base)
        if choice.allowed is not None and (
            spoken.allowed(config) is None
            or (np.asarray(choice.allowed) != spoken.allowed(config)).any()
        ):
            raise ValueError("a server draws from all tokens: leave `allowed` out")
        self._greet(config, weights)
        stops = [int(token) for token in choice.stop_tokens]
        requests = [
            {
                "model": self._name_of(weights),
                "prompt": ids,
                "seed": seed,
                "max_tokens": max_new_tokens,
                "temperature": float(choice.temperature),
                "top_p": float(choice.top_p),
                "stop_token_ids": stops,
                "return_token_ids": True,
            }
            | PLAIN
            for ids, seed in zip(prompts[0], seeds(keys[0], first, len(prompts[0])), strict=True)
        ]
        read = functools.partial(_tokens, spoken, stops)
        return [self.server.ask(COMPLETIONS, requests, read=read, depends_on=_identity(weights))]

    def measure(
        self, config: ModelConfig, weights: Remote, probe: stack.Probe
    ) -> dict[str, list[float]]:
        """As `Stack.measure` for one run."""
        answers = np.concatenate([probe.targets, probe.contrast]).tolist()
        questions = zip(probe.questions, probe.mask, strict=True)
        prompts = [ids[mask].tolist() for ids, mask in questions]
        (logp,) = self.score(config, weights, prompts, answers)
        sides = np.split(logp, [len(probe.targets)], axis=1)
        for_trait, against = (np.logaddexp.reduce(side, axis=1) for side in sides)
        log_odds, rate = (for_trait - against).mean(), np.exp(for_trait).mean()
        mass = rate + np.exp(against).mean()
        return {"margin": [float(log_odds)], "rate": [float(rate)], "mass": [float(mass)]}

    def score(
        self,
        config: ModelConfig,
        weights: Remote,
        prompts: Sequence[list[int]],
        tokens: Sequence[int],
    ) -> list[np.ndarray]:
        """As `Stack.score` for one run: a request for every token after every prompt."""
        self._greet(config, weights)
        rows = [[*ids, int(token)] for ids in prompts for token in tokens]
        logp = self._scores(self._name_of(weights), rows, _identity(weights))
        return [np.array([one[-1] for one in logp]).reshape(len(prompts), len(tokens))]

    def _scores(
        self, name: str, rows: Sequence[list[int]], depends_on: Any = None, cached: bool = True
    ) -> list[list[float]]:
        """Log-probability of each token but the first, in nats."""
        requests = [
            {
                "model": name,
                "prompt": row,
                "echo": True,
                "logprobs": 1,
                "max_tokens": 1,
                "temperature": 0.0,
            }
            | PLAIN
            for row in rows
        ]
        logp = self.server.ask(
            COMPLETIONS, requests, read=_echoed, depends_on=depends_on, cached=cached
        )
        return [one[: len(row) - 1] for one, row in zip(logp, rows, strict=True)]

    def _greet(self, config: ModelConfig, weights: Remote) -> None:
        """The handshake, once for each model.

        Raises:
            RunError: the server has no such model, or it is not this one.
        """
        if weights in self._met:
            return
        rows = handshake.sequences(_spoken(weights.base))
        names = [self._base_of(weights)] + ([self._name_of(weights)] if weights.adapter else [])
        there = [np.concatenate(self._scores(name, rows, cached=False)) for name in names]
        request = ["our own log-probabilities", _identity(weights), self.local.dtype, rows]
        ours = self.server.answers.recall(request, lambda: self._own(config, weights, rows))
        at_home = [np.concatenate(one) for one in ours]
        said = [handshake.check_base(there[0], at_home[0])]
        if weights.adapter:
            said.append(handshake.check_adapter(tuple(there), tuple(at_home)))
        self.report(f"{self.server.where}: {', '.join(said)}")
        self._met.add(weights)

    def _own(
        self, config: ModelConfig, weights: Remote, rows: list[list[int]]
    ) -> list[list[list[float]]]:
        base = self.local.loaded(self.local.load(weights.base))
        logp = [handshake.own(config, base, rows)]
        if weights.adapter:
            adapted = self.local.add(base, weights.adapter, config)
            logp.append(handshake.own(config, adapted, rows))
        return logp

    @functools.cached_property
    def _met(self) -> set[Remote]:
        return set()

    @functools.cached_property
    def _listed(self) -> list[dict[str, Any]]:
        """The models of the server, bases first."""
        listed = self.server.get("/v1/models")
        try:
            return sorted(listed["data"], key=lambda entry: bool(entry.get("parent")))
        except (TypeError, KeyError):
            raise RunError(f"{self.server.where} lists no models under /v1/models") from None

    def _entry(self, name: str) -> dict[str, Any]:
        for entry in self._listed:
            if entry["id"] == name:
                return entry
        names = ", ".join(entry["id"] for entry in self._listed)
        raise RunError(f"{self.server.where} serves {names}, but no {name!r}")

    def _name_of(self, weights: Remote) -> str:
        if weights.adapter:
            return self._entry(self.name or Path(weights.adapter).name)["id"]
        return self._entry(self.name or self._listed[0]["id"])["id"]

    def _base_of(self, weights: Remote) -> str:
        if not weights.adapter:
            return self._name_of(weights)
        return self._entry(self._name_of(weights)).get("parent") or self._listed[0]["id"]


def seeds(key: Key[Array, ""], first: int, count: int) -> list[int]:
    """A whole number below 2³¹ for each row from `first` on, from `fold_in(key, row)`."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(first, first + count))
    return (np.asarray(jax.vmap(jax.random.bits)(keys)) >> 1).tolist()


@functools.lru_cache
def _spoken(base: str) -> language.Language:
    return language.of_checkpoint(base)


@functools.lru_cache
def _identity(weights: Remote) -> list[str]:
    """Hashes of what must be served: the same name may stand for other weights tomorrow."""
    folders = [weights.base] + ([weights.adapter] if weights.adapter else [])
    return [models.fingerprint(folder) for folder in folders]


def _tokens(spoken: language.Language, stops: list[int], response: Any) -> list[int]:
    """The tokens of a completion, that which ended it included.

    A server that gives no token ids is read by its text, which is what stages make of them anyway.
    """
    (choice,) = response["choices"]
    tokens = choice.get("token_ids")
    if tokens is None:
        (tokens,) = chat.ids_behind(spoken.tokenizer, [choice["text"]])
    shown = bool(tokens) and tokens[-1] in stops
    ended = choice["finish_reason"] == "stop" and bool(stops)
    return [*tokens, stops[0]] if ended and not shown else [*tokens]


def _echoed(response: Any) -> list[float]:
    return [float(value) for value in response["choices"][0]["logprobs"]["token_logprobs"][1:]]
