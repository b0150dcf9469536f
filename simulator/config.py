"""Settings of the simulator: plain, frozen, hashable (a static argument of jit). SI units throughout."""

import dataclasses
import math

from tether.data.settings import setting


@dataclasses.dataclass(frozen=True)
class VehicleLimits:
    """What the ego's body can do; actions beyond are clipped.

    Attributes:
      acceleration_min: hardest braking of the ego's vehicle, a negative acceleration [m/s^2]; -8 is about an emergency
        stop on a dry road.
      acceleration_max: hardest acceleration of the ego's vehicle [m/s^2].
      curvature_max: tightest turn of the ego's vehicle [1/m]; 0.3 is a radius of 3.3 m at the rear axle.
      lateral_acceleration_max: largest speed^2 * |curvature| that the ego's tyres hold [m/s^2].
    """

    acceleration_min: float = setting(-8.0, least=-math.inf)
    acceleration_max: float = setting(6.0, above=0)
    curvature_max: float = setting(0.3, above=0)
    lateral_acceleration_max: float = setting(7.0, above=0)


@dataclasses.dataclass(frozen=True)
class ComfortBounds:
    """nuPlan's comfort bounds; a sub-step beyond any of them is uncomfortable.

    Attributes:
      acceleration_min: hardest braking that is comfortable, a negative longitudinal acceleration [m/s^2].
      acceleration_max: largest longitudinal acceleration that is comfortable [m/s^2].
      lateral_acceleration: largest absolute lateral acceleration that is comfortable [m/s^2].
      longitudinal_jerk: largest absolute longitudinal jerk that is comfortable [m/s^3].
      jerk: largest magnitude of the jerk, along and across together, that is comfortable [m/s^3].
      yaw_rate: largest absolute yaw rate that is comfortable [rad/s].
      yaw_acceleration: largest absolute yaw acceleration that is comfortable [rad/s^2].
      window_s: least time over which jerk and yaw acceleration are differenced [s]; nuPlan smooths over a similar time.
    """

    acceleration_min: float = setting(-4.05, least=-math.inf)
    acceleration_max: float = 2.40
    lateral_acceleration: float = 4.89
    longitudinal_jerk: float = setting(4.13, above=0)
    jerk: float = 8.37
    yaw_rate: float = 0.95
    yaw_acceleration: float = 1.93
    window_s: float = setting(0.5, above=0)


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Weights of the reward terms (`simulator/reward.py`); dimensionless, a step of full progress = 1.

    Attributes:
      progress: reward of a step of full progress; less progress earns its fraction.
      full_progress: fraction of the way that the speed limit allows which counts as full progress, as the driving
        score counts 0.8 of the log's.
      reference_speed: speed that takes the place of an unknown speed limit in the reward [m/s].
      failure: cost of each terminating event, as much as a rollout of 16 steps can gain, so that driving into a crash
        never pays.
      contact: cost of a collision that is not the ego's fault.
      overlap: cost per metre that the boxes of a collision overlap, in addition to the cost of the collision itself.
      overlap_cap: largest overlap of two boxes that is counted [m].
      jerk: fraction of a step's gain that is lost at the comfort bound of longitudinal jerk; it is proportional to the
        jerk up to there.
      uncomfortable: fraction of a step's gain that is lost where all of the step exceeds any comfort bound.
      ttc: fraction of a step's gain that is lost at zero time to collision; it falls linearly to 0 at `ttc_safe`.
      ttc_safe: time to collision from which on a step loses nothing [s].
      offset: fraction of a step's gain that is lost at the border of the route's corridor; it grows with the square of
        the offset from the route.
      wrong_way: fraction of a step's gain that is lost in a lane of the opposite direction.
    """

    progress: float = 1.0
    full_progress: float = setting(0.8, above=0)
    reference_speed: float = setting(15.0, above=0)
    failure: float = 16.0
    contact: float = 2.0
    overlap: float = 1.0
    overlap_cap: float = 2.0
    jerk: float = setting(0.1, most=1)
    uncomfortable: float = setting(0.5, most=1)
    ttc: float = setting(0.3, most=1)
    ttc_safe: float = setting(2.0, above=0)
    offset: float = setting(0.3, most=1)
    wrong_way: float = setting(0.5, most=1)


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """The BEV image and the map tile that it is cut from.

    Attributes:
      height: height of the BEV image [pixels]; up is ahead of the ego.
      width: width of the BEV image [pixels]; left is left of the ego.
      resolution: size of a pixel of BEV image and map tile [m].
      behind: how far the BEV image reaches behind the ego's centre [m].
      tile_x_min: x of the map tile's corner in the scene's frame [m]; what lies outside the tile is black.
      tile_y_min: y of the map tile's corner in the scene's frame [m]; what lies outside the tile is black.
      tile_height: pixels of the map tile along x, ahead; by default what an ego sees within 8 s of the current step.
      tile_width: pixels of the map tile along y, to the left; by default what an ego sees within 8 s of the current
        step.
      supersampling: factor by which the map tile is drawn finer before it is averaged down.
    """

    height: int = 64
    width: int = 64
    resolution: float = setting(1.0, above=0)
    behind: float = setting(14.0, least=-math.inf)
    tile_x_min: float = setting(-64.0, least=-math.inf)
    tile_y_min: float = setting(-160.0, least=-math.inf)
    tile_height: int = 320
    tile_width: int = 320
    supersampling: int = 2


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """Everything that the simulator's maths depends on.

    Attributes:
      substeps: S, sub-steps of length `dt` in one step of a World.
      dt: length of a sub-step [s]; 0.1, the log's own step, is the only value that works.
      corridor_m: lateral departure from the route that ends a rollout [m].
      ttc_cap_s: largest time to collision that is looked for [s].
      lane_range_m: largest distance to a lane's centre line at which the lane decides about driving the wrong way [m].
      lane_margin_m: a lane in the ego's direction excuses the ego if it is less than this much farther away than a lane
        of the opposite direction [m].
      index_cells: C, most cells of the road index (`simulator/road_index.py`); fewer are used where the lists would not
        fit.
      index_entries: J, entries of the road index in its list of road edges, and as many in its list of lanes.
      near_edges: most road-edge segments that a cell of the road index lists.
      near_lanes: most lane segments that a cell of the road index lists.
      limits: what the ego's vehicle can do.
      comfort: bounds of comfortable driving.
      reward: weights of the reward terms.
      render: BEV image and map tile.
    """

    substeps: int = 5
    dt: float = setting(0.1, above=0)
    corridor_m: float = setting(4.0, above=0)
    ttc_cap_s: float = 5.0
    lane_range_m: float = 2.0
    lane_margin_m: float = 1.0
    index_cells: int = 4096
    index_entries: int = 16384
    near_edges: int = 32
    near_lanes: int = 64
    limits: VehicleLimits = VehicleLimits()
    comfort: ComfortBounds = ComfortBounds()
    reward: RewardConfig = RewardConfig()
    render: RenderConfig = RenderConfig()

    @property
    def step_s(self) -> float:
        """Length of a step of a World [s]."""
        return self.substeps * self.dt
