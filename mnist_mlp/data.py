"""Image data sets in IDX form: found, downloaded, checked and read.

Search order: an explicit folder (or SUBLIMINAL_DATA_DIR), the user cache, a download into the
cache from public mirrors. A file that is there but broken is an error, never a reason to look
further: no data set is ever substituted in silence.
"""

import dataclasses
import gzip
import hashlib
import math
import os
import pathlib
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class DataError(ValueError):
    """An image data set that cannot be used, with what to do about it."""


class DataNotFoundError(DataError):
    """An image data set that is neither on this machine nor to be downloaded."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a named data set comes from.

    Attributes:
        mirrors: base addresses, tried in turn.
        downloads: SHA-256 of each compressed file, in the order of FILES (None: not checked).
        contents: SHA-256 of each decompressed file (None: not checked).
    """

    mirrors: tuple[str, ...]
    downloads: tuple[str | None, ...]
    contents: tuple[str | None, ...]


SOURCES = {
    "mnist": Source(
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        downloads=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        contents=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": Source(
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        downloads=(None,) * 4,
        contents=(None,) * 4,
    ),
}
DATASETS = (*SOURCES, "digits", "idx")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageData:
    """Training and test images with their labels; a JAX pytree of its four arrays.

    Attributes:
        train_images: bytes 0-255, one flattened image a row.
        train_labels: class numbers from 0.
        test_images: as train_images.
        test_labels: as train_labels.
        name: what every figure and row is marked with.
        num_classes: one more than the largest label.
    """

    train_images: UInt8[Array, "train pixels"]
    train_labels: Int[Array, " train"]
    test_images: UInt8[Array, "test pixels"]
    test_labels: Int[Array, " test"]
    name: str
    num_classes: int


jax.tree_util.register_dataclass(
    ImageData,
    data_fields=["train_images", "train_labels", "test_images", "test_labels"],
    meta_fields=["name", "num_classes"],
)


def user_cache() -> pathlib.Path:
    """The folder that downloads go to: the platform's user cache."""
    import pooch

    return pathlib.Path(pooch.os_cache("subliminal-learning"))


def read_bytes(path: pathlib.Path) -> bytes:
    """A file's content, decompressed if it is gzip.

    Raises:
        DataError: if it cannot be read or the gzip stream is cut short or damaged.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is a damaged gzip file ({error}); delete it and run again"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def parse_idx(content: bytes, path: pathlib.Path) -> UInt8[np.ndarray, "..."]:
    """An IDX file of bytes: magic 0, 0, 8, rank; the dimensions big-endian; then the data.

    Raises:
        DataError: for another magic number or a length that does not fit the header.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] not in (1, 3):
        raise DataError(
            f"{path} is no IDX file of bytes: its magic number is {content[:4].hex() or 'missing'}"
            ", images start with 00000803 and labels with 00000801"
        )
    rank = content[3]
    shape = (
        tuple(np.frombuffer(content, ">u4", rank, 4).tolist())
        if len(content) >= 4 + 4 * rank
        else ()
    )
    body = len(content) - 4 - 4 * rank
    if len(shape) != rank or body != math.prod(shape):
        raise DataError(f"{path} is cut short or too long: {body} bytes of data for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """`name` or `name.gz` in a folder, if there."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)


def download(dataset: str, folder: pathlib.Path) -> None:
    """Fetch the files of a named data set that the folder lacks, trying each mirror in turn.

    Each file is written under a temporary name, checked and renamed, so a broken transfer
    leaves nothing behind.

    Raises:
        DataError: if the folder cannot be written.
        DataNotFoundError: if no mirror answers with the right bytes, or SUBLIMINAL_OFFLINE is set.
    """
    import pooch
    import requests

    source = SOURCES[dataset]
    files = zip(FILES, source.downloads, strict=True)
    missing = [(name, known_hash) for name, known_hash in files if not find(folder, name)]
    if missing and os.environ.get("SUBLIMINAL_OFFLINE"):
        raise DataNotFoundError(f"{dataset} is not on this machine, and SUBLIMINAL_OFFLINE is set")
    pooch.get_logger().setLevel("WARNING")  # the bar and one note say enough
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"cannot write the data cache {folder} ({error.strerror}); "
            "set SUBLIMINAL_DATA_DIR to a folder that holds the IDX files"
        ) from None
    for name, known_hash in missing:
        for mirror in source.mirrors:
            downloader = pooch.HTTPDownloader(progressbar=True, timeout=(4, 20))  # connect, read
            try:
                pooch.retrieve(
                    f"{mirror}{name}.gz",
                    known_hash,
                    fname=f"{name}.gz",
                    path=folder,
                    downloader=downloader,
                )
                break
            except (requests.RequestException, ValueError, OSError) as error:
                reason = type(error).__name__
        else:
            raise DataNotFoundError(
                f"cannot download {dataset} ({reason} from {len(source.mirrors)} mirrors); put the "
                f"four IDX files into a folder and name it by --data-dir or SUBLIMINAL_DATA_DIR"
            )


def read_folder(
    folder: pathlib.Path, name: str, contents: Sequence[str | None] = (None,) * 4
) -> ImageData:
    """Read the four IDX files of a folder (gzipped or not) and check that they fit together.

    Args:
        folder: holds train and t10k images and labels under their usual names.
        name: the data set's name, for messages and figures.
        contents: SHA-256 of the decompressed files, in the order of FILES, or None.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    arrays = []
    for file, expected in zip(FILES, contents, strict=True):
        path = find(folder, file)
        if path is None:
            raise DataError(f"{folder} holds neither {file} nor {file}.gz")
        content = read_bytes(path)
        arrays.append(parse_idx(content, path))
        if expected and hashlib.sha256(content).hexdigest() != expected:
            raise DataError(
                f"{path} is not the {name} file (its SHA-256 differs); delete it, or use "
                "--dataset idx for images of your own"
            )
    train_images, train_labels, test_images, test_labels = arrays
    for images, labels, part in (
        (train_images, train_labels, "train"),
        (test_images, test_labels, "t10k"),
    ):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise DataError(
                f"{folder}: {part} has images of shape {images.shape} and labels of shape "
                f"{labels.shape}; their counts must be equal and not zero"
            )
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{folder}: training images are {train_images.shape[1:]}, test images "
            f"{test_images.shape[1:]}"
        )
    return make(
        name,
        train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def make(name: str, train_images, *, train_labels, test_images, test_labels) -> ImageData:
    """Flatten the images, count the classes and bring all to the device."""
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    return ImageData(
        train_images=jnp.asarray(train_images.reshape(len(train_images), -1)),
        train_labels=jnp.asarray(train_labels.astype(np.int32)),
        test_images=jnp.asarray(test_images.reshape(len(test_images), -1)),
        test_labels=jnp.asarray(test_labels.astype(np.int32)),
        name=name,
        num_classes=num_classes,
    )


def read_digits() -> ImageData:
    """Scikit-learn's bundled 8 x 8 handwritten digits: 1,437 for training, 360 for test."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # pyright: ignore[reportAttributeAccessIssue]
    labels = digits.target  # pyright: ignore[reportAttributeAccessIssue]
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return make(
        "digits",
        images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )


def load(dataset: str = "mnist", data_dir: str | os.PathLike | None = None) -> ImageData:
    """Read a data set, downloading it into the user cache if need be.

    Args:
        dataset: "mnist", "fashion_mnist", "digits" (bundled with scikit-learn), or "idx" for
            the IDX files of any folder.
        data_dir: folder of IDX files; SUBLIMINAL_DATA_DIR if omitted, then the user cache.

    Raises:
        DataNotFoundError: if it is nowhere on this machine and cannot be downloaded.
        DataError: if it is there but broken.
    """
    if dataset == "digits":
        return read_digits()
    folder = data_dir or os.environ.get("SUBLIMINAL_DATA_DIR")
    contents = SOURCES[dataset].contents if dataset in SOURCES else (None,) * 4
    if folder and pathlib.Path(folder).is_dir():
        return read_folder(pathlib.Path(folder), dataset, contents)
    if folder:
        raise DataError(f"data folder {folder} does not exist")
    if dataset == "idx":
        raise DataError("--dataset idx needs --data-dir (or SUBLIMINAL_DATA_DIR)")
    cache = user_cache() / dataset
    download(dataset, cache)
    return read_folder(cache, dataset, contents)


def validation_split(images: ImageData, held_out: float = 1 / 6) -> ImageData:
    """The last part of the training images in the place of the test images.

    Whatever is chosen is chosen here; the test images are then seen once, by what was chosen.
    """
    last = round(len(images.train_images) * (1 - held_out))
    return dataclasses.replace(
        images,
        train_images=images.train_images[:last],
        train_labels=images.train_labels[:last],
        test_images=images.train_images[last:],
        test_labels=images.train_labels[last:],
    )


def other_pictures(side: int) -> tuple[UInt8[Array, "n pixels"], UInt8[Array, "photos h w"]]:
    """Scikit-learn's bundled digits at this size, and its two photographs in grey."""
    from sklearn import datasets

    digits = read_digits().train_images.reshape(-1, 8, 8).astype(jnp.float32)
    digits = jax.image.resize(digits, (len(digits), side, side), "linear")
    photos = np.stack(datasets.load_sample_images().images).mean(-1)  # pyright: ignore
    return (
        jnp.clip(jnp.round(digits), 0, 255).astype(jnp.uint8).reshape(len(digits), -1),
        jnp.asarray(photos.round(), jnp.uint8),
    )
