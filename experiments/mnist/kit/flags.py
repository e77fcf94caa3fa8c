"""The flags of every experiment that trains on the grid, and their toy values."""

import dataclasses

from experiments.frame.cli import option
from mnist_mlp import data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that every grid experiment has."""

    num_seeds: int = option(8, "independent teachers, each with all arms", minimum=2)
    widths: tuple[int, ...] = option((128, 128), "hidden layer widths of the teacher", minimum=1)
    learning_rate: float = option(1e-3, "Adam step size", minimum=0, maximum=1)
    batch_size: int = option(256, "images in a batch", minimum=1)
    epoch_images: int = option(15_104, "images in an epoch", minimum=1)
    epochs: int = option(5, "epochs of teachers and of students", minimum=1)
    stack: int = option(12, "networks trained side by side; more suit an accelerator", minimum=1)
    dataset: str = option("mnist", "image data set", choices=data.DATASETS)
    data_dir: str = option("", "folder of IDX files (else SUBLIMINAL_DATA_DIR, the user cache)")
    # Root 0 was looked at, on test digits, when batch and rate were chosen (experiments/LOG.md).
    seed: int = option(1, "root of every random key", minimum=0)


TOY = {
    "num_seeds": 2,
    "widths": (16,),
    "batch_size": 64,
    "epoch_images": 128,
    "epochs": 2,
    "stack": 4,
    "dataset": "digits",
    "learning_rate": 1e-2,
}
