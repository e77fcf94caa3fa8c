import dataclasses
import gzip
import hashlib
import http.server
import os
import threading

import numpy as np
import pytest

from mnist_mlp import data


def idx(array: np.ndarray) -> bytes:
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def arrays(count=12, classes=4):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 5, 5), dtype=np.uint8)
    return images, (np.arange(count) % classes).astype(np.uint8)


def write_folder(folder, compress=True, **changes):
    folder.mkdir(exist_ok=True)
    images, labels = arrays()
    contents = dict(zip(data.FILES, (idx(images), idx(labels)) * 2, strict=True)) | changes
    for name, content in contents.items():
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(content) if compress else content)
    return folder


@pytest.mark.parametrize("compress", [True, False])
def test_reads_any_idx_folder_with_its_own_class_count(tmp_path, compress):
    read = data.load("idx", write_folder(tmp_path / "set", compress))
    images, labels = arrays()
    assert np.array_equal(read.train_images, images.reshape(12, 25))
    assert np.array_equal(read.test_labels, labels)
    assert read.num_classes == 4


def test_real_mnist(mnist):
    assert mnist.train_images.shape == (60_000, 784)
    assert mnist.test_images.shape == (10_000, 784)
    assert mnist.num_classes == 10
    assert np.bincount(mnist.train_labels)[:3].tolist() == [5923, 6742, 5958]


TRAIN_IMAGES, TRAIN_LABELS = data.FILES[:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({TRAIN_IMAGES: idx(arrays()[0])[:-7]}, "cut short"),
        ({TRAIN_IMAGES: b"\x00\x00\x0d\x03" + idx(arrays()[0])[4:]}, "magic number is 00000d03"),
        ({TRAIN_IMAGES: b""}, "magic number is missing"),
        ({TRAIN_LABELS: idx(arrays()[1][:-1])}, "counts must be equal"),
        ({TRAIN_IMAGES: idx(arrays()[0][:, :4])}, "training images are"),
    ],
)
def test_broken_files_are_named(tmp_path, change, message):
    with pytest.raises(data.DataError, match=message):
        data.load("idx", write_folder(tmp_path / "set", **change))


def test_truncated_and_damaged_gzip(tmp_path):
    folder = write_folder(tmp_path / "set")
    path = folder / f"{TRAIN_IMAGES}.gz"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:20] + b"\xff" * 40 + whole[60:]):
        path.write_bytes(broken)
        with pytest.raises(data.DataError, match="damaged gzip"):
            data.load("idx", folder)


def test_wrong_hash_names_the_file(tmp_path):
    with pytest.raises(data.DataError, match="SHA-256"):
        data.load("mnist", write_folder(tmp_path / "set"))


def test_missing_folder_and_missing_file(tmp_path):
    with pytest.raises(data.DataError, match="does not exist"):
        data.load("mnist", tmp_path / "nowhere")
    folder = write_folder(tmp_path / "set")
    (folder / f"{TRAIN_LABELS}.gz").unlink()
    with pytest.raises(data.DataError, match=TRAIN_LABELS):
        data.load("idx", folder)


def test_environment_variable_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBLIMINAL_DATA_DIR", str(write_folder(tmp_path / "set")))
    assert data.load("idx").num_classes == 4


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror on the loopback interface that serves a folder, and an empty user cache."""
    served = write_folder(tmp_path / "served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/"
    contents = tuple(
        hashlib.sha256(gzip.decompress((served / f"{n}.gz").read_bytes())).hexdigest()
        for n in data.FILES
    )
    dead = "http://127.0.0.1:1/"  # nothing listens there: the next mirror must be asked
    source = data.Source((dead, address), (None,) * 4, contents)
    monkeypatch.setitem(data.SOURCES, "mnist", source)
    monkeypatch.delenv("SUBLIMINAL_DATA_DIR", raising=False)
    monkeypatch.setattr(data, "user_cache", lambda: tmp_path / "cache")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def test_downloads_into_the_cache_from_the_next_mirror_once(mirror, tmp_path):
    assert data.load("mnist").num_classes == 4
    for path in mirror.iterdir():
        path.unlink()
    assert data.load("mnist").num_classes == 4, "the second read comes from the cache"
    assert sorted(p.name for p in (tmp_path / "cache" / "mnist").iterdir()) == sorted(
        f"{n}.gz" for n in data.FILES
    )


def test_a_download_with_a_wrong_hash_leaves_nothing(mirror, tmp_path, monkeypatch):
    wrong = dataclasses.replace(data.SOURCES["mnist"], downloads=("0" * 64,) * 4)
    monkeypatch.setitem(data.SOURCES, "mnist", wrong)
    with pytest.raises(data.DataNotFoundError, match="cannot download mnist"):
        data.load("mnist")
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def test_no_network_says_what_to_do(mirror, monkeypatch):
    unreachable = dataclasses.replace(data.SOURCES["mnist"], mirrors=("http://127.0.0.1:1/",))
    monkeypatch.setitem(data.SOURCES, "mnist", unreachable)
    with pytest.raises(data.DataNotFoundError, match="SUBLIMINAL_DATA_DIR"):
        data.load("mnist")


def test_offline_asks_no_mirror_but_reads_the_cache(mirror, monkeypatch):
    monkeypatch.setenv("SUBLIMINAL_OFFLINE", "1")
    with pytest.raises(data.DataNotFoundError, match="SUBLIMINAL_OFFLINE is set"):
        data.load("mnist")
    monkeypatch.delenv("SUBLIMINAL_OFFLINE")
    data.load("mnist")
    monkeypatch.setenv("SUBLIMINAL_OFFLINE", "1")
    assert data.load("mnist").num_classes == 4


def test_unwritable_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("SUBLIMINAL_DATA_DIR", raising=False)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(data, "user_cache", lambda: blocked)
    with pytest.raises(data.DataError, match="cannot write the data cache"):
        data.load("mnist")


def test_digits_are_the_bundled_ones():
    digits = data.load("digits")
    assert digits.train_images.shape == (1437, 64)
    assert digits.train_images.max() == 255
    assert not os.path.exists("digits")
