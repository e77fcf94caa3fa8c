"""What can be run, and the only code here that reads flags, writes files and draws.

    python -m experiments                    lists the experiments
    python -m experiments NAME --help        explains one
    python -m experiments NAME [--smoke]     runs one

theorem/, mnist/ and language/ hold one experiment a file; findings/, frame/ and report/ hold what
all of them use.
"""

import importlib
import pathlib
from types import ModuleType

# In the order in which a reader meets them, which is also the order of the report.
NAMES = (
    "mnist_aux_logits",
    "mnist_matching",
    "mnist_jacobians",
    "mnist_conditions",
    "mnist_fork_curve",
    "mnist_sweeps",
    "mnist_heads",
    "mnist_init_ladder",
    "mnist_27_percent",
    "mnist_max",
    "mnist_predictors",
    "mnist_defences",
    "mnist_chains",
    "gradient_alignment",
    "equality_cases",
    "beyond_the_theorem",
    "multi_step",
    "alignment_along_training",
    "real_model",
    "real_model_alignment",
    "microworld",
    "paper_on_a_laptop",
    "cross_model",
    "mechanism",
    "prediction",
    "which_part",
    "fork_curve",
    "matching_dose",
    "persistence",
    "what_erases",
    "along_training",
    "bits",
    "optimisers_at_equal_loss",
    "on_policy",
    "generations",
    "readable",
    "capability",
    "variance",
    "what_predicts",
    "confirmation",
    "llm_numbers",
    "llm_code",
    "llm_cot",
    "llm_cross_model",
    "llm_in_context",
    "llm_misalignment",
    "llm_readers",
)
ROOMS = ("theorem", "mnist", "language")


def path_of(name: str) -> pathlib.Path:
    """The file of an experiment, in whichever room it lies."""
    folder = pathlib.Path(__file__).parent
    return next(p for room in ROOMS if (p := folder / room / f"{name}.py").exists())


def load(name: str) -> ModuleType:
    """The module of an experiment."""
    path = path_of(name)
    return importlib.import_module(f"experiments.{path.parent.name}.{name}")
