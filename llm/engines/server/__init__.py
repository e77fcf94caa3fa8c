"""Sampling and scoring through an OpenAI-compatible server, instead of the built-in sampler.

    server = Server("http://localhost:8000", answers=Answers("numbers.answers.jsonl"))
    store = Store(engine=Served(server))        # stages sample and measure as ever
    scores = judge(server, "judge-model", questions, answers)

A client only: it needs nothing beyond the standard library. Documented with vLLM
(`vllm serve BASE --enable-lora --lora-modules owl=./owl`); SGLang speaks the same dialect.
"""

from .answers import Answers
from .client import KEY, Patience, Server
from .engine import Served
from .judge import judge

__all__ = ["KEY", "Answers", "Patience", "Served", "Server", "judge"]
