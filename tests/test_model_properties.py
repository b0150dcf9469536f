"""The page of results on what holds for world models before they are fitted."""

import json

import pytest

from benchmarks import model_properties

RULES = """<testsuites><testsuite>
<testcase name="test_padding_is_nothing[rssm]"/>
<testcase name="test_padding_is_nothing[oracle]"><skipped message="nothing to fit"/></testcase>
<testcase name="test_rigid_motion[quarter-rssm]"><failure message="broken"/></testcase>
<testcase name="test_rigid_motion[quarter-oracle]"/>
</testsuite></testsuites>"""
SPEED = {
    "scenes": 4,
    "log_replay": {"world_steps_per_cpu_second": 2000, "environment_steps_per_cpu_second": 10000},
    "models": {
        "rssm": {
            "parameters": 12345,
            "training_scenes_per_cpu_second": 67.5,
            "imagined_world_steps_per_cpu_second": 1000,
            "imagined_environment_steps_per_cpu_second": 5000,
            "simulator_over_model": 2.0,
        }
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What two benchmarks left, of two models."""
    monkeypatch.setattr(model_properties, "MODELS", ("rssm", "oracle"))
    (tmp_path / "rules.xml").write_text(RULES)
    (tmp_path / "speed.json").write_text(json.dumps(SPEED))
    return tmp_path


def test_every_rule_has_a_row(folder):
    """A broken rule shows, and one that does not apply is no pass."""
    outcomes = model_properties.check_rules(folder)
    assert outcomes == {
        "padding is nothing": {"rssm": "passed", "oracle": "skipped"},
        "rigid motion (quarter)": {"rssm": "failed", "oracle": "passed"},
    }
    rows = model_properties.rules_table(outcomes).splitlines()[2:]
    assert rows == ["| padding is nothing | yes | - |", "| rigid motion (quarter) | **no** | yes |"]


def test_speed_has_the_simulator_beside_the_models(folder):
    """Columns that nothing fills are left out."""
    header, _, rssm, simulator = model_properties.speed_table(model_properties.measure_speed(folder)).splitlines()
    assert "training scenes per cpu second" in header and "utilisation" not in header
    assert rssm == "| rssm | 12,345 | 67.5 | 1,000 | 5,000 | 2.0 |"
    assert simulator == "| log replay | - | - | 2,000 | 10,000 | - |"


def test_writes_its_page(folder):
    model_properties.main(["--out", str(folder), "--results", str(folder / "pages")])
    text = (folder / "pages" / "model-properties.md").read_text()
    assert text.startswith("# World models: rules and speed\n") and "## Conformance" in text and "12,345" in text
