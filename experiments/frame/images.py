"""The images of a run: which are read, and what is recorded of them."""

import functools
import sys
from typing import Any

from mnist_mlp import data


@functools.cache
def read_data(dataset: str, data_dir: str) -> data.ImageData:
    """The data set; the bundled digits, said aloud, where no MNIST can be had."""
    try:
        return data.load(dataset, data_dir or None)
    except data.DataNotFoundError as error:
        if dataset != "mnist":
            raise
        print(
            f"note: {error}; using scikit-learn's bundled digits instead, marked as 'digits'",
            file=sys.stderr,
        )
        return data.load("digits")


def inputs(config: Any) -> dict[str, str | int]:
    """What was really read, recorded beside the config.

    Args:
        config: of any experiment with flags `dataset` and `data_dir`.
    """
    images = read_data(config.dataset, config.data_dir)
    return {"dataset": images.name, "train_images": len(images.train_images)}
