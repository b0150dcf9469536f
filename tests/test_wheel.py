"""What is installed: nothing but `tether`, whole and typed, and it works beside packages of the same names."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]
PROGRAMS = {"train", "eval"}  # of the modules of `tether`, not the public face
ROLLOUT = """
import data, policy
assert data.WHOSE == policy.WHOSE == "a stranger's"
import tether, tether.data, tether.policy
print(tether.drive(tether.ConstantSpeed(), tether.open_split("test")[:1]).metrics()["steps"])
print(tether.__file__, tether.data.__file__)
assert "train" not in sys.modules and "eval" not in sys.modules
"""


def run(*command: str, **options) -> subprocess.CompletedProcess:
    """Ends the test with what a command printed if it fails."""
    ran = subprocess.run(command, capture_output=True, text=True, **options)
    assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    return ran


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Built from a copy, so that no build folder is left behind; without a network."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS.values():
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-c", "import setuptools.build_meta as b; b.build_wheel('dist')", cwd=folder)
    [built] = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    """A fresh folder with the wheel in it."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    run(*pip, "--target", str(folder), str(wheel))
    return folder


@pytest.fixture
def outside(installed, tmp_path) -> dict:
    """How to run something where a stranger has packages of his own."""
    for name in ("data", "policy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('WHOSE = "a stranger\'s"\n')
    return {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(installed)}}


def test_every_package_is_listed():
    """So that a missing package fails also where no wheel can be built."""
    packages = {
        f"{package}.{'.'.join(path.parent.relative_to(ROOT / folder).parts)}".rstrip(".")
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_wheel_holds_nothing_but_tether(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tether", f"tether-{PROJECT['project']['version']}.dist-info"}
    ours = {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder)}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not ours - names
    assert {"tether/py.typed", "tether/data/tokenizer.json", "tether/data/starter/dataset_info.json"} <= names


def test_the_wheel_works_beside_packages_of_the_same_names(installed, outside):
    ran = run(sys.executable, "-c", f"import sys{ROLLOUT}", **outside)
    steps, places = ran.stdout.splitlines()
    assert float(steps) == 16
    assert places == f"{installed / 'tether' / '__init__.py'} {installed / 'tether' / 'data' / '__init__.py'}"


@pytest.mark.parametrize("command", PROJECT["project"]["scripts"])
def test_the_wheels_commands_run(installed, outside, command):
    assert "usage: " in run(str(installed / "bin" / command), "--help", **outside).stdout


def test_the_public_face_of_the_wheel_is_typed(installed):
    pytest.importorskip("mypy")
    modules = {path.stem for path in (installed / "tether").glob("*.py")} - PROGRAMS
    assert {"__init__", "scenes", "gym"} <= modules
    named = [word for stem in modules for word in ("--module", f"tether.{stem}".removesuffix(".__init__"))]
    cache = pathlib.Path(tempfile.gettempdir()) / "tether-test-cache" / "mypy"
    options = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache))
    # Not from the environment: an editable installation there would be found first.
    run(sys.executable, "-m", "mypy", *options, *named, cwd=installed, env=os.environ | {"MYPYPATH": "."})
