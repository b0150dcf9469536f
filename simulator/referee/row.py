"""The rollout of one row of a batch in the referee: between the scene's arrays and SUMO's."""

from collections.abc import Sequence

import numpy as np

from tether.data.scene import LightState, Record, SceneSpec
from tether.data.sumo.scenes import AGENT_RADIUS_M
from tether.simulator.referee.frame import bumper_lengths, from_sumo, to_sumo
from tether.simulator.referee.messages import Sight
from tether.simulator.referee.processes import Simulation

Boxes = dict[str, np.ndarray]


class RowRollout:
    """The ego of one record, driven through the record's simulation.

    Attributes:
      unlisted_m: for each step of 0.1 s so far, how near the nearest agent was that has no row in the scene.
    """

    def __init__(self, record: Record, simulation: Simulation):
        self._simulation, self._origin = simulation, record.origin
        self._length, self._ego = bumper_lengths(record.scene), int(record.scene.ego)
        self._lights = record.scene.light_state.shape[0]
        self.unlisted_m: list[float] = []

    def begin(self) -> None:
        """Waits for the situation at the take-over."""
        [self._before] = self._simulation.receive()

    def send(self, poses: np.ndarray) -> None:
        """Sends the ego's next poses, float32[S, 3]."""
        length = self._length[self._ego]
        self._simulation.send(to_sumo(np.asarray(poses, np.float64), length, self._origin))

    def receive(self) -> tuple[Boxes, np.ndarray]:
        """The boxes after each sub-step, fields [A, S], and the light states int32[L, S]."""
        sights = self._simulation.receive()
        boxes = boxes_from_sumo([self._before, *sights], self._ego, self._length, self._origin)
        self._before = sights[-1]
        self.unlisted_m += [sight.unlisted_m for sight in sights]
        return boxes, np.stack([sight.light_state for sight in sights], axis=-1)

    def nothing(self, substeps: int) -> tuple[Boxes, np.ndarray]:
        """The answer for a row whose rollout is over: no agent is valid, no light is known."""
        nowhere = Sight(np.full((len(self._length), 4), np.nan), np.zeros(self._lights, np.int32), np.inf)
        boxes = boxes_from_sumo([nowhere] * (substeps + 1), self._ego, self._length, self._origin)
        return boxes, np.full((self._lights, substeps), LightState.UNKNOWN, np.int32)

    def end(self) -> None:
        """Ends the simulation, also if it has ended."""
        self._simulation.close()


def boxes_from_sumo(sights: Sequence[Sight], ego: int, length: np.ndarray, origin: np.ndarray) -> Boxes:
    """Boxes in the scene's frame as the default logs have them.

    An agent is valid while it is within 85 m of the ego. Its velocity is that of its displacement, SUMO's speed along
    its heading where it has just appeared: SUMO's speed disagrees with the displacement in turns.

    Args: sights: S + 1, the one before the first sub-step included.  ego: row.
    Returns: `x`, `y`, `heading`, `vel_x`, `vel_y` float32[A, S], `valid` bool[A, S]; 0 where not valid.
    """
    seen = np.stack([sight.agents for sight in sights], axis=1)
    poses = from_sumo(seen[..., :3], length[:, None], origin)
    x, y, heading = np.moveaxis(poses, -1, 0)
    speed = seen[:, 1:, 3]
    step_x, step_y = np.diff(x) / SceneSpec.dt, np.diff(y) / SceneSpec.dt
    appeared = np.isnan(step_x)
    x, y, heading = x[:, 1:], y[:, 1:], heading[:, 1:]
    valid = np.hypot(x - x[ego], y - y[ego]) < AGENT_RADIUS_M  # False where absent
    fields = {
        "x": x,
        "y": y,
        "heading": heading,
        "vel_x": np.where(appeared, speed * np.cos(heading), step_x),
        "vel_y": np.where(appeared, speed * np.sin(heading), step_y),
    }
    return {name: np.where(valid, field, 0.0).astype(np.float32) for name, field in fields.items()} | {"valid": valid}
