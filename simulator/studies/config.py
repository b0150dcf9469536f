"""Settings of the studies: frozen and hashable like those of `simulator/config.py`. SI units throughout."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SmoothingConfig:
    """The smoothing inverse (`inverse.py`): what is smooth, and how near the log is near enough.

    Attributes:
      tube: allowed distance of the driven box centre from the logged one [m]; below the required 0.1 m.
      position: [m].   heading: [rad].
      acceleration_change: per step [m/s^2].
      lateral_change: speed^2 * curvature, per step [m/s^2].
      least_speed: below it the lateral change is weighed as at this speed [m/s].
      tube_penalty: how hard ADMM pulls plan and tube together [m].
      start_heading, start_speed: noise of the log's first heading [rad] and speed [m/s]; the ego may start as much
        beside them. 0 starts exactly where the log does. The first position is the log's in any case.
      planned_fraction: of the limits; feedback has the rest.
      linearisations, steps: of SQP, and of ADMM in each.
      relaxation: of ADMM.
    """

    tube: float = 0.08
    position: float = 0.1
    heading: float = 0.1
    acceleration_change: float = 1.0
    lateral_change: float = 1.0
    least_speed: float = 2.0
    tube_penalty: float = 0.03
    start_heading: float = 0.02
    start_speed: float = 0.5
    planned_fraction: float = 0.98
    linearisations: int = 3
    steps: int = 20
    relaxation: float = 1.6


@dataclasses.dataclass(frozen=True)
class KinematicBounds:
    """Beyond these a motion is kinematically infeasible (`log_metrics.py`); Waymax's values.

    Attributes:
      acceleration: absolute [m/s^2].
      curvature: absolute [1/m].
      slack: added to both, so that rounding does not decide about a motion at the bound.
      standing_speed: below it a turn does not count as curvature [m/s].
    """

    acceleration: float = 10.4
    curvature: float = 0.3
    slack: float = 1e-3
    standing_speed: float = 0.6
