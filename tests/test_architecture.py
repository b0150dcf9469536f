"""ARCHITECTURE.md's table of imports, held against the code."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAY_IMPORT = {
    "data": {"data"},
    "simulator": {"data", "simulator"},
    "worldmodel": {"data", "simulator", "worldmodel"},
    "policy": {"data", "simulator", "policy"},
    "training": {"data", "simulator", "worldmodel", "policy", "training"},
    "train.py": {"data", "training"},
    "eval.py": {"data", "training"},
    "examples": {"data", "simulator", "worldmodel"},
}
OURS = {"data", "simulator", "worldmodel", "policy", "training", "train", "eval"}
OPTIONAL = {"tensorflow", "waymo_open_dataset", "libsumo", "traci", "sumolib", "gcsfs", "wandb"}


def imports(path: pathlib.Path, top_level: bool = False) -> set[str]:
    """Top names of the modules that a file imports; with `top_level` only those that importing it imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names}


def files(package: str) -> list[pathlib.Path]:
    place = ROOT / package
    return sorted(place.rglob("*.py")) if place.is_dir() else [place] * place.exists()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    wrong = {
        str(path.relative_to(ROOT)): sorted(extra)
        for path in files(package)
        if (extra := (imports(path) & OURS) - MAY_IMPORT[package])
    }
    assert not wrong


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_optional_packages_are_imported_where_they_are_used(package):
    eager = {str(path.relative_to(ROOT)): extra for path in files(package) if (extra := imports(path, True) & OPTIONAL)}
    assert not eager


def test_pytest_is_needed_by_the_conformance_suite_alone():
    users = {path for package in MAY_IMPORT for path in files(package) if "pytest" in imports(path)}
    assert {path.parent for path in users} == {ROOT / "worldmodel" / "conformance"}
