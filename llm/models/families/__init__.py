"""The supported model families: one file each, listed here once."""

from ..family import Family
from . import gemma, gemma2, gemma3_text, gpt_neox, llama, qwen2, qwen3

FAMILIES: dict[str, Family] = {
    file.FAMILY.name: file.FAMILY
    for file in (llama, qwen2, qwen3, gemma, gemma2, gemma3_text, gpt_neox)
}


def family_of(name: str) -> Family:
    """The family of a `model_type`.

    Raises:
        ValueError: it is not supported; says what is.
    """
    if name not in FAMILIES:
        raise ValueError(f"model type {name!r} is not supported. {supported_models()}")
    return FAMILIES[name]


def supported_models() -> str:
    """One line that says what can be loaded."""
    return "Supported: " + "; ".join(f"{f.name} ({f.models})" for f in FAMILIES.values())
