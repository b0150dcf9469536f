"""Settings of the simulator: plain, frozen, hashable (a static argument of jit). SI units throughout."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VehicleLimits:
    """What the ego's body can do; actions beyond are clipped.

    Attributes:
      acceleration_min: hardest braking [m/s^2], about a dry-road emergency stop.
      acceleration_max: hardest acceleration [m/s^2].
      curvature_max: tightest turn [1/m]; 0.3 is a radius of 3.3 m at the rear axle.
      lateral_acceleration_max: speed^2 * |curvature| that the tyres hold [m/s^2].
    """

    acceleration_min: float = -8.0
    acceleration_max: float = 6.0
    curvature_max: float = 0.3
    lateral_acceleration_max: float = 7.0


@dataclasses.dataclass(frozen=True)
class ComfortBounds:
    """nuPlan's comfort bounds; a sub-step beyond any of them is uncomfortable.

    Attributes:
      acceleration_min, acceleration_max: longitudinal [m/s^2].
      lateral_acceleration: absolute [m/s^2].
      longitudinal_jerk, jerk: absolute [m/s^3].
      yaw_rate: absolute [rad/s].
      yaw_acceleration: absolute [rad/s^2].
      window_s: least span over which jerk and yaw acceleration are differenced [s]; nuPlan smooths over a like span.
    """

    acceleration_min: float = -4.05
    acceleration_max: float = 2.40
    lateral_acceleration: float = 4.89
    longitudinal_jerk: float = 4.13
    jerk: float = 8.37
    yaw_rate: float = 0.95
    yaw_acceleration: float = 1.93
    window_s: float = 0.5


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Weights of the reward terms (`simulator/reward.py`); dimensionless, positive, one step at the speed limit = 1.

    Attributes:
      progress: for the share of the way that the speed limit allows.
      reference_speed: stands in where the speed limit is unknown [m/s].
      failure: cost of each terminating event; above the progress of a whole 16-step rollout, so that driving into
        a crash never pays.
      contact: cost of a collision that is not the ego's fault.
      overlap: cost per metre of penetration, on top of either.
      overlap_cap: penetration that counts at most [m].
      jerk: cost of a step at the comfort bound of longitudinal jerk.
      uncomfortable: cost of a step beyond the comfort bounds.
      ttc: cost of a step at zero time to collision, falling linearly to 0 at `ttc_safe`.
      ttc_safe: [s].
      offset: cost of a step at the corridor's border, growing with the square of the offset from the route.
      wrong_way: cost of a step against the traffic.
    """

    progress: float = 1.0
    reference_speed: float = 15.0
    failure: float = 20.0
    contact: float = 2.0
    overlap: float = 1.0
    overlap_cap: float = 2.0
    jerk: float = 0.02
    uncomfortable: float = 0.1
    ttc: float = 0.3
    ttc_safe: float = 2.0
    offset: float = 0.3
    wrong_way: float = 0.5


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """The BEV image and the map tile that it is cut from.

    Attributes:
      height, width: pixels of the image; up is ahead, left is left.
      resolution: metres per pixel of image and tile [m].
      behind: how far the image reaches behind the ego's centre [m].
      tile_x_min, tile_y_min: the tile's corner in the scene's frame [m]. What lies outside the tile is black.
      tile_height, tile_width: pixels of the tile along x and y: what an ego sees within 8 s of the current step.
      supersampling: the tile is drawn this many times finer, then averaged.
    """

    height: int = 64
    width: int = 64
    resolution: float = 1.0
    behind: float = 14.0
    tile_x_min: float = -64.0
    tile_y_min: float = -160.0
    tile_height: int = 320
    tile_width: int = 320
    supersampling: int = 2


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """Everything that the simulator's maths depends on.

    Attributes:
      substeps: S, sub-steps in one step of a World.
      dt: length of a sub-step [s]; the log's own step.
      corridor_m: lateral departure from the route that ends a rollout [m].
      ttc_cap_s: time to collision is looked for within this span [s].
      lane_range_m: wrong way is judged by lanes whose centre line is at most this far [m].
      lane_margin_m: a lane that runs with the ego excuses it if it is less than this much farther than one against it.
      index_cells: C, cells of the road index (`simulator/road_index.py`); fewer are used where the lists do not fit.
      index_entries: J, entries of its lists of edges and of lanes.
      near_edges, near_lanes: most segments that a cell lists.
      limits, comfort, reward, render: see there.
    """

    substeps: int = 5
    dt: float = 0.1
    corridor_m: float = 4.0
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
