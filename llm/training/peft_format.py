"""LoRA adapters as folders in the format of PEFT, in and out, by safetensors only."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .. import models
from . import lora


def save(
    folder: str | os.PathLike,
    config: models.ModelConfig,
    *,
    settings: lora.LoraConfig,
    adapters: lora.Adapters,
    base: str = "",
    wrapped: bool = False,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write a PEFT adapter folder; it appears whole or not at all.

    Args:
        folder: a new folder.
        config: of the base model.
        settings: rank, alpha, dropout.
        adapters: the trained tree.
        base: name or folder of the base model, recorded for PEFT.
        wrapped: whether that is a multimodal model, whose decoder has other names (`is_wrapped`).
        files: further text files of the folder, by name.

    Raises:
        ValueError: the folder exists already.
    """
    tensors, modules = {}, []
    for path, adapter in lora.adapted(models.unstack_layers(adapters)):
        modules.append(models.published_name(config, path, wrapped=wrapped))
        for name, leaf in (("lora_A", adapter["a"]), ("lora_B", adapter["b"])):
            tensor = np.ascontiguousarray(models.to_host(leaf).T)
            tensors[f"base_model.model.{modules[-1]}.{name}.weight"] = tensor
    record = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with models.new_folder(folder) as scratch:
        save_file(tensors, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
        (scratch / "adapter_config.json").write_text(json.dumps(record, indent=2) + "\n")
        for name, text in (files or {}).items():
            (scratch / name).write_text(text)


def load(
    folder: str | os.PathLike, config: models.ModelConfig
) -> tuple[lora.LoraConfig, lora.Adapters]:
    """Settings and adapters of a PEFT adapter folder for the base model `config`.

    Raises:
        ValueError: missing or damaged files, a PEFT feature without counterpart here, or
            tensors that do not fit the base model (all listed).
    """
    folder = Path(folder).expanduser()
    record_file, tensor_file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (record_file, tensor_file):
        if not file.is_file():
            raise ValueError(f"no {file.name} in {folder}: not a PEFT adapter in safetensors form")
    record = _read_record(record_file)
    try:
        tensors = load_file(tensor_file)
    except SafetensorError as error:
        raise ValueError(f"{tensor_file} is damaged or cut short ({error})") from error
    try:
        adapters = _adapters(tensors, config, record["r"])
    except ValueError as error:
        raise ValueError(f"{folder} does not fit the base model: {error}") from None
    paths = ["/".join(map(str, path)) for path, _ in lora.adapted(adapters)]
    settings = lora.LoraConfig(
        rank=record["r"],
        alpha=record["lora_alpha"],
        targets="|".join(paths),
        dropout=record.get("lora_dropout") or 0.0,
        rslora=bool(record.get("use_rslora")),
    )
    return settings, adapters


def _adapters(
    tensors: Mapping[str, np.ndarray], config: models.ModelConfig, rank: int
) -> lora.Adapters:
    """The tree of a file's tensors, by PEFT's names.

    Raises:
        ValueError: naming all tensors that are missing, unknown or of another shape.
    """
    abstract = jax.eval_shape(lambda: models.init(config, key=jax.random.key(0)))
    shapes = {
        f"{_suffix(models.module_name(config, path))}.{part}": (path, part, shape)
        for path, linear in lora.linears(abstract)
        for part, shape in (
            ("lora_A", (rank, linear["kernel"].shape[0])),
            ("lora_B", (linear["kernel"].shape[1], rank)),
        )
    }
    adapters: lora.Adapters = {}
    problems, seen = [], set()
    for name, tensor in tensors.items():
        known = shapes.get(_suffix(name.removesuffix(".weight")))
        if known is None:
            problems.append(f"unexpected {name}")
        elif tensor.shape != known[2]:
            problems.append(f"{name} has shape {tensor.shape}, expected {known[2]}")
        else:
            path, part, _ = known
            seen.add((path, part))
            lora.put(adapters, (*path, part[-1].lower()), jnp.asarray(tensor.T, jnp.float32))
    for path in {path for path, _ in seen}:
        problems += [
            f"missing {part} of {models.module_name(config, path)}"
            for part in ("lora_A", "lora_B")
            if (path, part) not in seen
        ]
    if problems or not adapters:
        raise ValueError("; ".join(sorted(problems)) or "no tensors")
    return adapters


def _suffix(name: str) -> str:
    """The part of a module name that does not depend on what wraps the decoder."""
    match = re.search(r"(layers\.\d+\.|lm_head).*", name)
    return match[0] if match and "vision" not in name else name


def _one_of(*values: Any) -> Callable[[Any], bool]:
    """Whether a value is one of these; 1 is not True."""
    return lambda value: any(type(value) is type(v) and value == v for v in values)


def _any(value: Any) -> bool:
    return True


# Fields of PEFT's LoraConfig with the values that mean the LoRA of `lora`; null always means that a
# field is not used. Which modules are adapted is read from the tensors. Starts of A alone change
# nothing afterwards; "pissa", "olora", "loftq", "corda" and "lora_ga" start from another base.
_PLAIN: dict[str, Callable[[Any], bool]] = {
    "peft_type": _one_of("LORA"),
    "task_type": _one_of("CAUSAL_LM"),
    "r": lambda value: type(value) is int and value > 0,
    "lora_alpha": lambda value: type(value) in (int, float) and 0 < value < math.inf,
    "lora_dropout": lambda value: type(value) in (int, float) and 0 <= value < 1,
    "use_rslora": _one_of(True, False),
    "bias": _one_of("none"),
    "init_lora_weights": _one_of(True, False, "gaussian", "orthogonal"),
    **dict.fromkeys(
        (
            "fan_in_fan_out",
            "use_dora",
            "use_qalora",
            "use_bdlora",
            "lora_bias",
            "ensure_weight_tying",
        ),
        _one_of(False),
    ),
    **dict.fromkeys(
        (
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "loftq_config",
            "target_parameters",
            "layer_replication",
            "trainable_token_indices",
            "alora_invocation_tokens",
        ),
        _one_of([], {}),
    ),
    **dict.fromkeys(  # they tell of the file, or choose modules
        (
            "auto_mapping",
            "base_model_name_or_path",
            "revision",
            "peft_version",
            "inference_mode",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "megatron_core",
            "qalora_group_size",
        ),
        _any,
    ),
}
_NEEDED = ("peft_type", "r", "lora_alpha")


def _read_record(file: Path) -> dict[str, Any]:
    """The adapter's settings, if they are those of plain LoRA.

    Raises:
        ValueError: it is no JSON object, lacks a field, or has one that is not known here.
    """
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{file} holds no JSON object")
    foreign = [
        f"{name}={value!r}"
        for name, value in record.items()
        if value is not None and not _PLAIN.get(name, _one_of())(value)
    ]
    if foreign:
        raise ValueError(f"{file} uses {', '.join(foreign)}: not supported")
    if missing := [name for name in _NEEDED if record.get(name) is None]:
        raise ValueError(f"{file} lacks {', '.join(missing)}")
    return record
