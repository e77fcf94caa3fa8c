"""LoRA (arXiv:2106.09685): low-rank updates in a tree of their own beside frozen parameters.

    adapters = lora.init(settings, params, key=key)
    model = lora.bind(config, params, adapters, scale=settings.scale)   # inside the jitted function
    merged = lora.merge(params, adapters, scale=settings.scale)         # plain parameters again

The tree mirrors the parameters: `["layers"][0]["attn"]["q"] = {"a": (in, r), "b": (r, out)}`.
"""

import dataclasses
import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from . import models

Adapters = PyTree[Array]


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Rank, strength and placement of the adapters."""

    rank: int = 8
    alpha: float = 8.0
    targets: str = r"layers/\d+/(attn|mlp)/\w+"  # regular expression over paths, matched whole
    dropout: float = 0.0  # of the adapters' input, in training only
    rslora: bool = False  # scale by alpha/√rank (arXiv:2312.03732) instead of alpha/rank

    @property
    def scale(self) -> float:
        """The factor of A B in the update of a weight."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def init(settings: LoraConfig, params: models.Params, *, key: Array) -> Adapters:
    """Adapters with A ~ U(-in^-1/2, in^-1/2) and B = 0, so that nothing changes at first.

    Raises:
        ValueError: no linear layer matches `settings.targets`, or the rank is not positive.
    """
    if settings.rank < 1:
        raise ValueError(f"LoRA rank must be at least 1, got {settings.rank}")
    adapters: Adapters = {}
    linears = list(_linears(params))
    for i, (path, linear) in enumerate(linears):
        if re.fullmatch(settings.targets, "/".join(map(str, path))):
            inputs, outputs = linear["kernel"].shape
            bound = inputs**-0.5
            shape, a_key = (inputs, settings.rank), jax.random.fold_in(key, i)
            a = jax.random.uniform(a_key, shape, minval=-bound, maxval=bound)
            _put(adapters, path, {"a": a, "b": jnp.zeros((settings.rank, outputs))})
    if not adapters:
        names = sorted({str(path[-1]) for path, _ in linears})
        raise ValueError(f"no layer matches LoRA targets {settings.targets!r}; layers: {names}")
    return adapters


def bind(
    config: models.ModelConfig,
    params: models.Params,
    adapters: Adapters,
    *,
    scale: float | Array,
    dropout: float = 0.0,
    key: Array | None = None,
    dtype: DTypeLike | None = None,
) -> models.Decoder:
    """The decoder with y = x W + scale · (x A) B in the adapted layers; W + A B is never formed.

    Args:
        config: the shape of the model.
        params: frozen parameters.
        adapters: as from `init` or `load`.
        scale: `LoraConfig.scale`.
        dropout: share of the adapters' inputs set to zero, the rest scaled up; needs `key`.
        key: randomness of the dropout.
        dtype: compute dtype.
    """
    model = models.bind(config, params, dtype=dtype)
    for i, (path, adapter) in enumerate(_adapted(adapters)):
        linear = functools.reduce(_child, path, model)
        layer_key = None if key is None or dropout == 0 else jax.random.fold_in(key, i)
        linear.delta = functools.partial(_delta, adapter, scale, dropout, layer_key)
    return model


def merge(params: models.Params, adapters: Adapters, *, scale: float | Array) -> models.Params:
    """Plain parameters W + scale · A B, in the dtype of W."""
    merged = jax.tree.map(lambda leaf: leaf, params)  # new dictionaries, same arrays
    for path, adapter in _adapted(adapters):
        linear = functools.reduce(_child, path, merged)
        kernel = linear["kernel"]
        update = scale * jnp.matmul(adapter["a"], adapter["b"], precision="highest")
        linear["kernel"] = (kernel.astype(update.dtype) + update).astype(kernel.dtype)
    return merged


def save(
    folder: str | os.PathLike,
    config: models.ModelConfig,
    settings: LoraConfig,
    adapters: Adapters,
    *,
    base: str = "",
) -> None:
    """Write a PEFT adapter folder; it appears whole or not at all.

    Args:
        folder: a new folder.
        config: of the base model.
        settings: rank, alpha, dropout.
        adapters: the trained tree.
        base: name or folder of the base model, recorded for PEFT.

    Raises:
        ValueError: the folder exists already.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists():
        raise ValueError(f"{folder} exists already; choose a new folder or remove it first")
    tensors, modules = {}, []
    for path, adapter in _adapted(adapters):
        modules.append(models.module_name(config, path))
        for name, leaf in (("lora_A", adapter["a"]), ("lora_B", adapter["b"])):
            tensor = np.ascontiguousarray(np.asarray(leaf).T)
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
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(tensors, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
        (scratch / "adapter_config.json").write_text(json.dumps(record, indent=2) + "\n")
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(folder: str | os.PathLike, config: models.ModelConfig) -> tuple[LoraConfig, Adapters]:
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
    record = json.loads(record_file.read_text())
    _refuse_foreign(folder, record)
    try:
        tensors = load_file(tensor_file)
    except SafetensorError as error:
        raise ValueError(f"{tensor_file} is damaged or cut short ({error})") from error
    abstract = jax.eval_shape(lambda: models.init(config, key=jax.random.key(0)))
    shapes = {
        f"{_suffix(models.module_name(config, path))}.{part}": (path, part, shape)
        for path, linear in _linears(abstract)
        for part, shape in (
            ("lora_A", (record["r"], linear["kernel"].shape[0])),
            ("lora_B", (linear["kernel"].shape[1], record["r"])),
        )
    }
    adapters: Adapters = {}
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
            _put(adapters, (*path, part[-1].lower()), jnp.asarray(tensor.T, jnp.float32))
    for path in {path for path, _ in seen}:
        problems += [
            f"missing {part} of {models.module_name(config, path)}"
            for part in ("lora_A", "lora_B")
            if (path, part) not in seen
        ]
    if problems or not adapters:
        raise ValueError(
            f"{folder} does not fit the base model: "
            + ("; ".join(sorted(problems)) or "no tensors")
        )
    paths = ["/".join(map(str, path)) for path, _ in _adapted(adapters)]
    settings = LoraConfig(
        rank=record["r"],
        alpha=record["lora_alpha"],
        targets="|".join(paths),
        dropout=record.get("lora_dropout", 0.0),
        rslora=bool(record.get("use_rslora", False)),
    )
    return settings, adapters


def _delta(adapter, scale, dropout, key, x: Float[Array, "B T inputs"]):
    if key is not None:
        keep = jax.random.bernoulli(key, 1 - dropout, x.shape)
        x = jnp.where(keep, x / (1 - dropout), 0)
    low = x @ adapter["a"].astype(x.dtype)
    return (low @ adapter["b"].astype(x.dtype)) * jnp.asarray(scale, x.dtype)


def _linears(params: models.Params, path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Paths and parameters of all linear layers, in the order of the tree."""
    for name, child in params.items():
        if not isinstance(child, dict):
            continue
        if "kernel" in child:
            yield (*path, name), child
        else:
            yield from _linears(child, (*path, name))


def _adapted(adapters: Adapters, path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    for name, child in adapters.items():
        if "a" in child and "b" in child:
            yield (*path, name), child
        else:
            yield from _adapted(child, (*path, name))


def _child(node, name: str | int):
    """One step down a tree of dictionaries or of modules."""
    if isinstance(node, dict) or isinstance(name, int):
        return node[name]
    return getattr(node, name)


def _put(tree: dict, path: tuple, leaf) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def _suffix(name: str) -> str:
    """The part of a module name that does not depend on what wraps the decoder."""
    found = re.search(r"(layers\.\d+\.|lm_head).*", name)
    return found[0] if found and "vision" not in name else name


def _refuse_foreign(folder: Path, record: dict) -> None:
    plain = {"bias": ("none", None), "use_dora": (False, None), "fan_in_fan_out": (False, None)}
    foreign = [f"{k}={record[k]!r}" for k, ok in plain.items() if record.get(k) not in ok]
    unknown = ("modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication")
    foreign += [f"{name}={record[name]!r}" for name in unknown if record.get(name)]
    if record.get("peft_type") != "LORA":
        foreign.append(f"peft_type={record.get('peft_type')!r}")
    if foreign:
        raise ValueError(f"{folder}/adapter_config.json uses {', '.join(foreign)}: not supported")
