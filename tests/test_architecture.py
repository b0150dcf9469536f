"""The table of imports in docs/architecture.md, held against the code, imports inside of functions included."""

import ast
import graphlib
import pathlib
import re

import pytest

from benchmarks import architecture

ROOT = pathlib.Path(__file__).parents[1]
BELOW = {
    "data": set(),
    "simulator": {"data"},
    "worldmodel": {"data", "simulator"},
    "policy": {"data", "simulator"},
    "training": {"data", "simulator", "worldmodel", "policy"},
    "evaluation": {"data", "simulator", "worldmodel", "policy", "training"},
    "tether": {"data", "simulator", "worldmodel", "policy", "training", "evaluation"},
}
FIGURE = ROOT / "docs" / "architecture.svg"
PROGRAMS = ("train.py", "eval.py")
OPTIONAL = {"tensorflow", "waymo_open_dataset", "libsumo", "traci", "sumolib", "gcsfs", "wandb"}
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in (*BELOW, "examples")}


def imports(path: pathlib.Path, top_level: bool = False) -> set[str]:
    """The modules that a file imports, with what it imports from them; with `top_level` only where it is imported."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }


def package_of(module: str) -> str | None:
    """Ours that a module is in: `tether.data.scene` is in data, `tether.train` in tether."""
    first, _, rest = module.partition(".")
    if first != "tether":
        return None
    inner = rest.partition(".")[0]
    return inner if inner in BELOW else "tether"


@pytest.mark.parametrize("package", BELOW)
def test_imports_point_one_way(package):
    allowed = BELOW[package] | {package, None}
    wrong = {str(path.relative_to(ROOT)): sorted(imports(path)) for path in FILES[package] if uses(path) - allowed}
    assert not wrong


def uses(path: pathlib.Path) -> set[str | None]:
    """The packages of ours that a file imports."""
    return {package_of(module) for module in imports(path)}


def test_ours_is_imported_by_its_full_name():
    everywhere = [*ROOT.glob("*.py"), *ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py")]
    files = [*everywhere, *(path for paths in FILES.values() for path in paths)]
    bare = {
        str(path): names
        for path in files
        if (names := {m.split(".")[0] for m in imports(path)} & BELOW.keys() - {"tether"})
    }
    assert not bare
    assert all(
        imports(ROOT / name) <= {f"tether.console.{kind}" for kind in ("train", "evaluate")} for name in PROGRAMS
    )


@pytest.mark.parametrize("package", BELOW)
def test_no_module_imports_itself_by_way_of_others(package):
    modules = {name_of(path): path for path in FILES[package]}
    graph = {
        name: {
            m
            for name_imported in imports(path)
            for m in (name_imported, name_imported.rpartition(".")[0])
            if m in modules
        }
        for name, path in modules.items()
    }
    for name in graph:
        graph[name].discard(name)
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) == set(modules)


def name_of(path: pathlib.Path) -> str:
    """A file's module."""
    inner = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return inner if inner.split(".")[0] == "tether" else f"tether.{inner}"


@pytest.mark.parametrize("package", FILES)
def test_optional_packages_are_imported_where_they_are_used(package):
    eager = {str(path.relative_to(ROOT)): extra for path in FILES[package] if (extra := tops(path, True) & OPTIONAL)}
    assert not eager


def tops(path: pathlib.Path, top_level: bool = False) -> set[str]:
    """Top names of what a file imports."""
    return {module.split(".")[0] for module in imports(path, top_level)}


def test_pytest_is_needed_by_the_conformance_suite_alone():
    users = {path for paths in FILES.values() for path in paths if "pytest" in tops(path)}
    assert {path.parent for path in users} == {ROOT / "worldmodel" / "conformance"}


def test_the_document_has_this_table():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `(\w+)/` \|.*\| ([^|]+) \|$", text, re.M))
    assert table.keys() >= BELOW.keys() - {"tether"}
    for package, below in BELOW.items():
        if package != "tether":
            documented = table[package]
            assert ({"nothing of ours"} == {documented} and not below) or set(re.split(r", ", documented)) == below, (
                package
            )


def test_the_figure_is_of_these_packages(tmp_path):
    """Its arrows are those of the table that no others imply, and the picture in the repository has all its labels."""
    reached = {package: set().union(*(BELOW[one] for one in below)) for package, below in BELOW.items()}
    direct = {(package, one) for package, below in BELOW.items() for one in below - reached[package]}
    assert set(architecture.arrows()) == direct
    architecture.main(["--file", str(tmp_path / "new.svg")])
    drawn, kept = (re.findall(r">([^<>\n]+)</t", path.read_text("utf-8")) for path in (tmp_path / "new.svg", FIGURE))
    assert drawn == kept and BELOW.keys() <= set(drawn)
