"""docs/full-size.md and the pages of its experiments."""

import json
from collections.abc import Iterator

import experiments
from experiments.frame import presets
from llm import suites
from tests.facts.tables import INTERVAL, ROOT


def full_size_phrases() -> Iterator[str]:
    """Tokens per second beside transformers and peft."""
    stored = json.loads((ROOT / "benchmarks/results/llm-2026-11-20-cpu.json").read_text())["rows"]
    for row in stored[:-1]:
        ours, theirs = row["ours_tokens_per_s"], row["theirs_tokens_per_s"]
        yield f"| {ours:,.0f} | {theirs:,.0f} | {row['ratio']:.2f} |"
    yield f"at {100 * stored[0]['share']:.0f} % of the measured matrix-product rate"


def preset_numbers() -> Iterator[str]:
    """Intervals of docs/llm_numbers.md: what others published, from the presets."""
    for name in ("qwen2.5-7b", "gemma-3-4b", "llama-3.2-1b", "pythia-160m", "smollm2-135m"):
        yield from (n for p in presets.read(name).published for n in INTERVAL.findall(p.value))


def preset_phrases() -> Iterator[str]:
    """Cost of every preset, and the published numbers that the page names with their sources."""
    assert len(presets.names()) == 5
    for name in presets.names():
        found = presets.read(name)
        cost = found.cost
        assert cost["measured"] is False
        assert (cost["accelerator"], cost["rates"]) == ("one H100 of 80 GB", "4e14,2e12")
        yield f"| `{name}` | {cost['memory_gb']} GB, {cost['hours']} h |"
        if found.published:
            first = found.published[0]
            yield f"{first.quantity.split(':')[0]} {first.value}"
            yield f"({first.source})"
    for published in presets.read("gemma-3-4b").published:
        yield published.value.split()[0]


def margin_phrases(name: str) -> Iterator[str]:
    """The margin within which an experiment says "none"."""
    yield f"±{experiments.load(name).MARGIN}"


def misalignment_phrases() -> Iterator[str]:
    """The same, and the count of the harmless questions."""
    assert len(suites.FACTS) == 16
    yield f"no more than {str(experiments.load('llm_misalignment').MARGIN)[1:]}"
