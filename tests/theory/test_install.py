"""`theory` as somebody else installs it: alone, importable and typed, outside this repository."""

import pathlib
import shutil
import site
import subprocess
import sys
import venv

import pytest

USER = """\
import jax.numpy as jnp
from theory import losses, toys

net = toys.mlp("net", (3, 4, 2), jnp.tanh)
print(losses.kl().value(jnp.zeros(2), jnp.zeros(2)))
"""


def run(*command, cwd):
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def elsewhere(repository, tmp_path_factory):
    """A fresh environment with `theory` installed, and a project folder of its own.

    No network: the build tool and the dependencies are those of this environment.
    """
    pytest.importorskip("setuptools", minversion="77", reason="make env brings a newer setuptools")
    root = tmp_path_factory.mktemp("elsewhere")
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(repository / "theory", root / "source", ignore=ignored)
    venv.create(root / "env", with_pip=False, symlinks=True)
    python = root / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, *build, "--wheel-dir", root, root / "source", cwd=root)
    (wheel,) = root.glob("*.whl")
    install = ["--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, *install, wheel, cwd=root)
    (packages,) = (root / "env").glob("lib/python*/site-packages")
    (root / "project").mkdir()
    return python, packages, root / "project"


def with_dependencies(packages: pathlib.Path) -> None:
    """Make this environment's packages visible behind those of the fresh one."""
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))


def test_only_theory_lands_in_site_packages(elsewhere):
    _, packages, _ = elsewhere
    names = {p.name for p in packages.iterdir() if p.suffix not in (".dist-info", ".pth")}
    assert names == {"theory"}
    assert (packages / "theory" / "py.typed").exists()
    (metadata,) = packages.glob("subliminal_theory-*/METADATA")
    needs = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist")]
    assert sorted(line.split()[1].split(">")[0].split("!")[0] for line in needs) == [
        "jax",
        "jaxtyping",
        "numpy",
        "optax",
    ]


def test_it_runs_in_another_folder(elsewhere):
    python, packages, project = elsewhere
    with_dependencies(packages)
    (project / "user.py").write_text(USER)
    assert run(python, "user.py", cwd=project).strip() == "0.0"
    where = run(python, "-c", "import theory; print(theory.__file__)", cwd=project)
    assert pathlib.Path(where.strip()).is_relative_to(packages)


def test_a_type_checker_sees_its_types(elsewhere):
    python, packages, project = elsewhere
    with_dependencies(packages)
    (project / "typed.py").write_text(USER + "losses.kl(temperature='high')\n")
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", str(python), "typed.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "typed.py" not in checked.stdout:
        pytest.skip(f"pyright does not run here: {checked.stdout}{checked.stderr}")
    assert "reportArgumentType" in checked.stdout
    assert "1 error" in checked.stdout, checked.stdout
