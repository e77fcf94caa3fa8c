"""The opponent of benchmarks/llm.py: transformers, with peft for LoRA, on PyTorch.

Run as its users run it: AutoModelForCausalLM with its default attention, fused AdamW, bfloat16
by autocast over float32 weights (a bfloat16 base under LoRA), `generate` with its cache.
"""

import contextlib
import os
from collections.abc import Callable
from importlib import metadata

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers

from benchmarks.llm_shapes import Shape
from llm import models

INSTALLED = {distribution.name for distribution in metadata.distributions()}
VERSIONS = {
    name: metadata.version(name) for name in ("torch", "transformers", "peft") if name in INSTALLED
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(config: models.ModelConfig, dtype: torch.dtype) -> transformers.PreTrainedModel:
    """A model of the same shape with random weights."""
    hf = models.to_hf(config)
    hf.pad_token_id = 0
    with torch.device(DEVICE):
        return transformers.AutoModelForCausalLM.from_config(hf, dtype=dtype)


def make_train(
    shape: Shape, rank: int | None, bfloat16: bool, tokens: np.ndarray
) -> Callable[[], None]:
    """A function that takes one optimiser step on `tokens` [rows, length]."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    base = torch.bfloat16 if bfloat16 and rank else torch.float32
    model = make_model(shape.config, base)
    if rank:
        import peft  # pyright: ignore[reportMissingImports]

        lora = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS)
        model = peft.get_peft_model(model, lora)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    ids = torch.tensor(tokens, dtype=torch.long, device=DEVICE)
    labels = ids.masked_fill(~torch.tensor(shape.weights() > 0, device=DEVICE), -100)

    def step() -> None:
        cast = torch.autocast(DEVICE, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
        with cast:
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device

    return step


def make_sample(
    config: models.ModelConfig, bfloat16: bool, prompts: np.ndarray, num_new: int
) -> Callable[[], None]:
    """A function that draws `num_new` tokens at temperature 1 after each row of `prompts`."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = make_model(config, torch.bfloat16 if bfloat16 else torch.float32).eval()
    ids = torch.tensor(prompts, dtype=torch.long, device=DEVICE)

    def sample() -> None:
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                min_new_tokens=num_new,
                max_new_tokens=num_new,
            )
        if tuple(out.shape) != (ids.shape[0], ids.shape[1] + num_new):
            raise ValueError(f"generate gave {tuple(out.shape)} for {tuple(ids.shape)}")

    return sample


def peak_bytes() -> int | None:
    """Peak of device memory since the last call; None on the CPU, where torch keeps no count."""
    if DEVICE == "cpu":
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def release() -> None:
    """Give cached device memory back, so that the next case can have it."""
    if DEVICE != "cpu":
        torch.cuda.empty_cache()
