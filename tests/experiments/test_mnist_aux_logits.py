"""The MNIST experiment as a user runs it: smoke, fall-back data, resume, criteria."""

import pandas as pd
import pytest

from experiments.frame import experiment, record
from experiments.mnist import mnist_aux_logits
from mnist_mlp import data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with one finished smoke run."""
    folder = tmp_path_factory.mktemp("results")
    experiment.main(mnist_aux_logits, ["--smoke", "--out", str(folder / "smoke")])
    return folder


def test_rows_are_tidy_and_marked_with_the_data_set(finished):
    rows = record.read_rows(finished / "smoke")
    assert list(rows[0]) == ["part", "condition", "seed", "accuracy", "dataset", "chance"]
    assert [r["condition"] for r in rows[:6]] == list(mnist_aux_logits.CONDITIONS)
    assert {r["seed"] for r in rows} == {0, 1}
    assert {r["dataset"] for r in rows} == {"digits"}
    assert record.read_meta(finished / "smoke")["inputs"]["dataset"] == "digits"


def test_chunks_of_seeds_do_not_change_the_rows(finished, tmp_path):
    experiment.main(
        mnist_aux_logits, ["--smoke", "--seeds-at-once", "3", "--out", str(tmp_path / "chunk")]
    )
    one = [r["accuracy"] for r in record.read_rows(finished / "smoke")]
    chunk = record.read_rows(tmp_path / "chunk")
    assert [r["seed"] for r in chunk] == [0] * 6 + [1] * 6, "the filling of a chunk is dropped"
    # Equal up to the order of sums: two of 360 test images may change side.
    assert [r["accuracy"] for r in chunk] == pytest.approx(one, abs=2.5 / 360)


def test_without_mnist_the_digits_are_used_aloud(monkeypatch, capsys):
    def nowhere(dataset, folder):
        raise data.DataNotFoundError(f"cannot download {dataset}")

    monkeypatch.delenv("SUBLIMINAL_DATA_DIR", raising=False)
    monkeypatch.setattr(data, "download", nowhere)
    mnist_aux_logits.read_data.cache_clear()
    assert mnist_aux_logits.read_data("mnist", "").name == "digits"
    message = capsys.readouterr().err
    assert "scikit-learn's bundled digits" in message
    assert message.count("\n") == 1
    with pytest.raises(data.DataNotFoundError):
        mnist_aux_logits.read_data("fashion_mnist", "")
    mnist_aux_logits.read_data.cache_clear()


def test_a_broken_file_is_never_replaced_by_other_data(tmp_path, capsys):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"cut")
    with pytest.raises(SystemExit) as stopped:
        experiment.main(
            mnist_aux_logits, ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
        )
    assert stopped.value.code == 2
    assert "train-images-idx3-ubyte" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_criteria_are_judged_only_for_the_official_recipe():
    config = mnist_aux_logits.Config(num_seeds=2)

    def table(aux):
        means = {
            "reference": 0.1,
            "teacher": 0.943,
            "student_aux": aux,
            "student_all": 0.91,
            "cross_aux": 0.1,
            "cross_all": 0.74,
        }
        return pd.DataFrame(
            {
                "condition": c,
                "seed": s,
                "accuracy": a + 0.001 * s,
                "dataset": "mnist",
                "chance": 0.1,
            }
            for c, a in means.items()
            for s in (0, 1)
        )

    def verdicts(aux, config):
        return [c.holds for c in mnist_aux_logits.findings(table(aux), config).claims]

    assert verdicts(0.54, config) == [True] * 6
    assert verdicts(0.30, config).count(False) == 1
    wide = mnist_aux_logits.Config(num_seeds=2, widths=(64,))
    assert verdicts(0.54, wide) == [None] * 6
