"""Programs compiled for accelerators that are not there: what they hold, compute and move.

    python -m llm finetune --model BASE --data rows.jsonl --out student --plan --topology h200:8

The compilers of JAX run without a device (`pip install ".[ahead-cuda]"` or `".[ahead-tpu]"`).
Nothing is allocated and no weight is read. They may abort, so each question is a process of its
own: `targets` knows the machines, `programs` what is compiled, `hlo` reads it, `asking` asks.
"""

from .asking import Answer, ask, describe
from .programs import Drawing, Job, Tuning
from .targets import Target, target

__all__ = ["Answer", "Drawing", "Job", "Target", "Tuning", "ask", "describe", "target"]
