"""What is not trained is not reported: stages that are missing are named, and so is a run that is not finished."""

import dataclasses

import jax.numpy as jnp
import pytest

from tether.evaluation.trained import learned_policies, missing_stages, remarks, require
from tether.training import presets, stages
from tether.training.state import Progress, some_accepted

CONFIG = presets.tiny()
UNITS = [unit.name for unit in stages.schedule(CONFIG)]


def progress(count: int, *decisions: str) -> Progress:
    """A run of which the first so many units are finished, rounds 0, 1, ... being decided like that."""
    rounds = tuple({"round": number, "decision": decision, "spent": {}} for number, decision in enumerate(decisions))
    return Progress(finished=tuple(UNITS[:count]), rounds=rounds)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Stands for `Learned`."""

    imitation: object
    best: object


def test_stages_that_are_missing_are_named_in_order():
    assert missing_stages(CONFIG, progress(0)) == ["fit_world_model", "imitate", "cl_sft", "fit_value", "post_train"]
    assert missing_stages(CONFIG, progress(len(UNITS) - 1)) == ["post_train"]
    assert missing_stages(CONFIG, progress(len(UNITS))) == []


def test_random_weights_are_no_policy():
    fitted = progress(1)
    for asked in (None, ("imitation",), ("idm", "post_trained")):
        with pytest.raises(
            ValueError, match=r"runs/x: its policy is not trained yet: .*imitate, cl_sft, fit_value, post"
        ):
            learned_policies("runs/x", CONFIG, fitted, asked)
    assert learned_policies("runs/x", CONFIG, fitted, ("idm",)) == ()
    require("runs/x", CONFIG, fitted, stages.world_model.STAGE, "its world model")
    with pytest.raises(ValueError, match="its world model is not trained yet: stage fit_world_model"):
        require("runs/x", CONFIG, progress(0), stages.world_model.STAGE, "its world model")


def test_the_coach_needs_no_imitating_policy():
    config = dataclasses.replace(CONFIG, coaching=dataclasses.replace(CONFIG.coaching, rounds=1))
    units = [unit.name for unit in stages.schedule(config)]
    coached = Progress(finished=tuple(units[: units.index("0/imitate")]))
    assert learned_policies("runs/x", config, coached, ("coach", "idm")) == ("coach",)
    with pytest.raises(ValueError, match="its policy is not trained yet"):
        learned_policies("runs/x", config, coached, ("coach", "imitation"))
    with pytest.raises(ValueError, match="its coach is not trained yet: stage coach is not finished"):
        learned_policies("runs/x", config, progress(1), ("coach",))
    with pytest.raises(ValueError, match=r"coaching\.rounds is 0"):
        learned_policies("runs/x", CONFIG, progress(1), ("coach",))


def test_the_imitation_policy_is_not_called_post_trained():
    imitated, grounded = progress(2), progress(5, "accept")  # round 0 grounds the imitation policy itself
    for run in (imitated, grounded):
        assert learned_policies("runs/x", CONFIG, run) == ("imitation",)
        with pytest.raises(ValueError, match="its post-trained policy is not trained yet: stage post_train"):
            learned_policies("runs/x", CONFIG, run, ("post_trained",))
    rejected = progress(len(UNITS), "accept", "roll_back", "roll_back")
    assert learned_policies("runs/x", CONFIG, rejected, ("idm", "imitation")) == ("imitation",)
    with pytest.raises(ValueError, match="no round was accepted"):
        learned_policies("runs/x", CONFIG, rejected, ("post_trained",))
    accepted = progress(len(UNITS), "accept", "roll_back", "accept")
    assert learned_policies("runs/x", CONFIG, accepted) == ("imitation", "post_trained")
    assert learned_policies("runs/x", CONFIG, accepted, ("post_trained", "idm")) == ("post_trained",)


def test_fine_tuning_that_was_accepted_counts():
    for decision, steps in (("accept", 64), ("accept", 0), ("roll_back", 64)):
        rounds = [{"round": 0, "decision": decision, "spent": {"cl_sft": steps}}]
        assert some_accepted(rounds) == (decision == "accept" and steps > 0)


def test_the_warnings_at_the_top_of_a_report():
    same, other = Arrays({"w": jnp.ones(2)}, {"w": jnp.ones(2)}), Arrays({"w": jnp.ones(2)}, {"w": jnp.zeros(2)})
    [unfinished] = remarks(CONFIG, same, progress(3))
    assert unfinished == "Unfinished run: 3 of 12 units are done, missing are the stages fit_value, post_train."
    [rejected] = remarks(CONFIG, same, progress(len(UNITS), "accept", "roll_back"))
    assert "No round was accepted" in rejected
    done = progress(len(UNITS), "accept", "accept")
    assert remarks(CONFIG, other, done) == []
    assert "the post-trained policy is imitation's" in remarks(CONFIG, same, done)[0]
