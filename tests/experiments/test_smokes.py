"""Every smoke run of the microworld's experiments, end to end, in one folder of stage files."""

import pytest

import experiments
from experiments.lab import frame, record

NAMES = [
    name
    for name in experiments.NAMES
    if experiments.path_of(name).parent.name == "language" and not name.startswith("llm_")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("smokes")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_run_makes_table_claims_and_figures(name, folder, capsys):
    module = experiments.load(name)
    work = ["--work", str(folder / "work")]
    frame.main(module, ["--smoke", "--out", str(folder / name), *work])
    table = record.read_table(folder / name)
    assert len(table)
    drawn = {figure.name for figure in module.figures(table, module.SMOKE)}
    assert drawn == {path.stem for path in (folder / name).glob("*.png")}
    assert "here (95 %)" in capsys.readouterr().out
