"""The reactive World: the others drive their logged paths, but brake for the ego and for each other.

Replayed logs cannot brake: an ego that brakes where its log did not is hit from behind, one that stops in a junction
is driven through. Here each vehicle keeps its logged path and, as long as nothing is worse than in the log, its
logged schedule, exactly. Decisions:
- Vehicles that move along their path react; pedestrians, cyclists and parked vehicles are replayed.
- The acceleration is the smallest of what the schedule asks for, what IDM allows behind each box in the corridor of
  the vehicle's own path, and what IDM allows towards the place where the ego is about to enter that corridor.
- The log's allowance: logged drivers follow closer and yield later than any fixed IDM. So each term is compared with
  the same term on the log at the same time: a = min over boxes of IDM(now) + max(a_log - IDM(log), 0). IDM's gap and
  headway are scaled by the fraction of its wanted gap that the log shows, between `least_fraction` and 1. On the log
  itself no term is then below the logged acceleration, whatever IDM's parameters. Off the log the reaction grows
  continuously with the difference. To count only the ego and late vehicles as leaders would switch abruptly, and would
  let a late vehicle drive into one that is on time.
- A vehicle is never ahead of its schedule: what the log waited for (a light, a gap) is waited for. One that is late
  drives at the speeds logged around each place and stops behind its own schedule where that stands. It may pass a
  light that changed after the log passed it.
- Yielding: the ego is extrapolated for a few seconds at its present speed and turn, or at its present braking. If it
  enters a vehicle's corridor before that vehicle arrives there at its present speed, the ego is first, and the
  vehicle reacts as if the ego were there already. If the ego brakes to let the vehicle pass, the vehicle passes. Of
  the others only the boxes that they occupy now count.
- Causality: in each sub-step all vehicles act on the boxes, the ego's included, as the sub-step before left them.
- A vehicle appears when its log begins. It vanishes when its log ends; if it is late, where its log ends.
Letters as in `simulator/world.py`; P times to which the ego is extrapolated.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from tether.data.scene import VEHICLE_TYPES, Array, Scene, is_type
from tether.simulator.car_following import CarFollowing, idm
from tether.simulator.config import SimulatorConfig
from tether.simulator.corridor import Boxes, Corridor, boxes_now, corridor_ahead, joined, look
from tether.simulator.dynamics import last_valid_step
from tether.simulator.foresight import extrapolate
from tether.simulator.logged_paths import Paths, logged_paths, pose_at
from tether.simulator.observe import Observed
from tether.simulator.transition import (
    HISTORY_STEPS,
    advance_state,
    ego_track_of,
    log_agents,
    log_lights,
    start_state,
    sweep,
)
from tether.simulator.world import Action, Agents, Outcome, State

ON_TIME_M = 1e-3  # a vehicle this close to its schedule is on it


@dataclasses.dataclass(frozen=True)
class ReactiveConfig(CarFollowing):
    """How the traffic drives, beyond the parameters of the car-following model.

    Attributes:
      headway_s: time headway of the car-following model [s]; below its default, about what logged drivers keep.
      least_fraction: smallest fraction of IDM's wanted gap that a vehicle keeps, however close its log follows.
      tolerance: a vehicle on schedule ignores a reduction of its acceleration of at most this [m/s^2].
      parked_m: tracks that never get this far from where they begin are replayed [m].
      place_m: a late vehicle wants the highest speed logged within this distance along its path [m].
      slowest: lowest speed that a late vehicle wants [m/s].
      hurry: factor on the speed that a late vehicle wants, with which it makes up for lost time.
      corridor_points: number of points at which the corridor along a vehicle's path is sampled.
      spacing_m: least distance between two points of the corridor [m].
      spacing_s: time in which a vehicle covers the distance between two points of the corridor, if that is farther [s].
      grazing_m: an overlap with a corridor's side of at most this does not count [m]; boxes are no more exact.
      foresight_s: time for which the ego's motion is extrapolated [s].
      foresight_points: P, number of extrapolated times.
    """

    headway_s: float = 1.0
    least_fraction: float = 0.2
    tolerance: float = 0.3
    parked_m: float = 3.0
    place_m: float = 10.0
    slowest: float = 3.0
    hurry: float = 1.1
    corridor_points: int = 20
    spacing_m: float = 2.0
    spacing_s: float = 0.3
    grazing_m: float = 0.2
    foresight_s: float = 3.0
    foresight_points: int = 10


@flax.struct.dataclass
class Traffic:
    """The agents' progress along their paths; float32[..., A].

    Attributes:
      arc: along the logged path [m].  speed: [m/s].
    """

    arc: Array
    speed: Array


@flax.struct.dataclass
class Latent:
    """The World's private state; fields [B, ...].

    Attributes:
      paths: `Paths`, which never change, kept because they cost as much as half a step.   traffic: `Traffic`.
    """

    paths: Paths
    traffic: Traffic


@flax.struct.dataclass
class Moment:
    """All that moves in one scene at one time, as driven or as logged.

    Attributes:
      traffic: `Traffic` [A].   boxes: `Boxes` [A + P], all agents, then the extrapolated ego.
    """

    traffic: Traffic
    boxes: Boxes


@flax.struct.dataclass
class Setting:
    """The inputs that do not change within a step of one scene.

    Attributes:
      scene: `Scene`.   paths: `Paths`.   corridor: `Corridor`, from where the agents are at the step's start.
    """

    scene: Scene
    paths: Paths
    corridor: Corridor


@dataclasses.dataclass(frozen=True)
class Reactive(Observed):
    """A World without parameters: `params` is () everywhere. It ends with the ego's log."""

    simulator: SimulatorConfig = dataclasses.field(default_factory=SimulatorConfig)
    config: ReactiveConfig = ReactiveConfig()

    def reset(self, params: tuple, key: jax.Array, scene: Scene, start: Array) -> State:
        """See `World.reset`."""
        paths = jax.vmap(logged_paths)(scene.replace(map_tile=(), road_index=()))
        return start_state(scene, start, Latent(paths, jax.vmap(on_schedule)(paths, start)))

    def step(self, params: tuple, key: jax.Array, state: State, action: Action) -> tuple[State, Outcome]:
        """See `World.step`."""
        substeps = action.acceleration.shape[-1]
        steps = state.time[:, None] + 1 + jnp.arange(substeps)
        light_state, light_valid = log_lights(state.scene, steps)
        log = log_agents(state.scene, state.time[:, None] + jnp.arange(1 - HISTORY_STEPS, substeps + 1))
        ego = ego_track_of(sweep(state, action, self.simulator))
        latent, agents = jax.vmap(self.others)(state, ego, log)
        return advance_state(
            state,
            action,
            agents,
            light_state,
            light_valid,
            latent=latent,
            config=self.simulator,
            log_valid=steps <= last_valid_step(state.scene)[:, None],
        )

    def others(self, state: State, ego: Agents, log: Agents) -> tuple[Latent, Agents]:
        """The others of one scene over S sub-steps.

        Args:
          state: without batch axis.
          ego: fields [S], the swept ego; a sub-step reads only the ends of those before it.
          log: fields [A, K + S], the log at the steps of `state.history` and at the S that follow.
        Returns: the next latent, and the others' boxes [A, S].
        """
        scene, present, following = state.scene, slice(HISTORY_STEPS - 1, -1), slice(HISTORY_STEPS, None)
        setting = self._setting(scene, state.latent)
        ego_track = state.history[scene.ego].then(ego)
        with_ego = jax.tree.map(lambda rows, row: rows.at[scene.ego].set(row), log, ego_track)

        def body(carry, step):
            (traffic, agents), (time, ego_now, ego_in_log, log_now, log_next) = carry, step
            now = Moment(traffic, joined(boxes_now(agents, scene), ego_now))
            in_log = Moment(on_schedule(setting.paths, time), joined(boxes_now(log_now, scene), ego_in_log))
            traffic = self._advance(setting, traffic, self._allowed(setting, now, in_log, time), time)
            agents = placed(setting.paths, traffic, log_next, time + 1)
            return (traffic, agents), agents

        steps = (
            state.time + jnp.arange(ego.x.shape[-1]),
            self._extrapolated(scene, ego_track),
            self._extrapolated(scene, log[scene.ego]),
            log[:, present].T,
            with_ego[:, following].T,
        )
        (traffic, _), agents = jax.lax.scan(body, (state.latent.traffic, state.now), steps)
        return state.latent.replace(traffic=traffic), agents.T

    def _setting(self, scene: Scene, latent: Latent) -> Setting:
        config, paths, traffic = self.config, latent.paths, latent.traffic
        spacing = jnp.maximum(config.spacing_m, config.spacing_s * traffic.speed)
        size = (scene.length, scene.width)
        return Setting(scene, paths, corridor_ahead(paths, traffic.arc, spacing, config.corridor_points, *size))

    def _extrapolated(self, scene: Scene, ego: Agents) -> Boxes:
        points = self.config.foresight_points
        in_s = self.config.foresight_s / points * jnp.arange(1, points + 1)
        return extrapolate(ego, scene.length[scene.ego], scene.width[scene.ego], in_s, self.simulator.limits)

    def _allowed(self, setting: Setting, now: Moment, in_log: Moment, time: Array) -> Array:
        """The highest acceleration float32[A] that the boxes ahead allow each agent, the log's allowance included."""
        config, logged = self.config, at_time(setting.paths.acceleration, time)
        view = look(setting.corridor, in_log.traffic.arc, in_log.traffic.speed, in_log.boxes, config.grazing_m)
        wanted = config.gap_m + config.headway_s * in_log.traffic.speed[:, None]
        fraction = jnp.where(view.ahead, jnp.clip(view.gap / wanted, config.least_fraction, 1.0), 1.0)
        own = dataclasses.replace(config, gap_m=fraction * config.gap_m, headway_s=fraction * config.headway_s)
        # The bound on braking is doubled here: the allowance is added before the final bound, and must not weaken an
        # emergency stop.
        own = dataclasses.replace(own, strongest_braking=2 * config.strongest_braking)

        def accelerations(moment, view):
            """[A, A + 1]: what each agent allows, and the least that the extrapolated ego allows."""
            speed, desired = moment.traffic.speed, desired_speed(setting.paths, moment.traffic.arc, config)
            acceleration = idm(own, speed[:, None], desired[:, None], view.gap, view.lead_speed)
            in_s = moment.boxes.in_s
            stands = -speed[:, None] / jnp.maximum(in_s, 1e-6)  # no vehicle has to stand before the ego arrives
            acceleration = jnp.where(in_s > 0, jnp.maximum(acceleration, stands), acceleration)
            acceleration = jnp.where(view.ahead, acceleration, jnp.inf)
            agents, extrapolated = jnp.split(acceleration, [speed.shape[0]], axis=1)
            return jnp.concatenate([agents, jnp.min(extrapolated, axis=1, keepdims=True)], axis=1)

        allowance = jnp.maximum(logged[:, None] - accelerations(in_log, view), 0.0)
        view = look(setting.corridor, now.traffic.arc, now.traffic.speed, now.boxes, config.grazing_m)
        return jnp.maximum(jnp.min(accelerations(now, view) + allowance, axis=1), -config.strongest_braking)

    def _advance(self, setting: Setting, traffic: Traffic, allowed: Array, time: Array) -> Traffic:
        """One sub-step along the paths at no more than the `allowed` acceleration [A], never ahead of the schedule."""
        paths, config, dt = setting.paths, self.config, self.simulator.dt
        due, next_due = on_schedule(paths, time), on_schedule(paths, time + 1)
        late = traffic.arc < due.arc - ON_TIME_M
        present = (time >= paths.first) & ((time <= paths.last) | (traffic.arc < paths.length))
        disturbed = allowed < at_time(paths.acceleration, time) - config.tolerance
        leaves = present & reacts(setting.scene, paths, config) & (late | disturbed)

        free = idm(config, traffic.speed, desired_speed(paths, traffic.arc, config), jnp.inf, 0.0)
        wanted = jnp.minimum(allowed, jnp.where(late, free, jnp.inf))
        # The bound from which IDM's comfortable braking brings a late vehicle back onto its own schedule.
        behind = jnp.maximum(next_due.arc - traffic.arc - next_due.speed * dt, 0.0)
        brakes = config.deceleration * dt
        fastest = next_due.speed - brakes + jnp.sqrt(brakes**2 + 2 * config.deceleration * behind)
        speed = jnp.clip(traffic.speed + wanted * dt, 0.0, fastest)
        arc = jnp.where(leaves, jnp.minimum(traffic.arc + speed * dt, next_due.arc), next_due.arc)
        on_time = arc >= next_due.arc - ON_TIME_M
        return Traffic(arc=jnp.where(on_time, next_due.arc, arc), speed=jnp.where(on_time, next_due.speed, speed))


def reacts(scene: Scene, paths: Paths, config: ReactiveConfig) -> Array:
    """bool[A], the agents that are not replayed."""
    vehicle = is_type(scene.agent_type, VEHICLE_TYPES)
    return vehicle & (paths.extent >= config.parked_m) & (jnp.arange(vehicle.shape[0]) != scene.ego)


def at_time(field: Array, time: Array) -> Array:
    """Values [A] of a field [A, T] at a log step, held beyond the log."""
    return field[:, jnp.clip(time, 0, field.shape[1] - 1)]


def on_schedule(paths: Paths, time: Array) -> Traffic:
    """The agents' progress in the log at a log step."""
    return Traffic(arc=at_time(paths.arc, time), speed=at_time(paths.speed, time))


def desired_speed(paths: Paths, arc: Array, config: ReactiveConfig) -> Array:
    """The highest speed logged near arc lengths [A], and a little more, [m/s]."""
    near = jnp.abs(paths.arc - arc[:, None]) <= config.place_m
    return config.hurry * jnp.maximum(jnp.max(jnp.where(near, paths.speed, 0.0), axis=1), config.slowest)


def placed(paths: Paths, traffic: Traffic, log: Agents, time: Array) -> Agents:
    """The agents' boxes [A] at a log step: as in the log `log` [A] where on schedule, else on the path."""
    on_time = traffic.arc >= on_schedule(paths, time).arc - ON_TIME_M
    x, y, heading = (field[:, 0] for field in pose_at(paths, traffic.arc[:, None]))
    velocity = paths.sense * traffic.speed
    late = Agents(
        x=x,
        y=y,
        heading=heading,
        vel_x=velocity * jnp.cos(heading),
        vel_y=velocity * jnp.sin(heading),
        valid=(time >= paths.first) & (traffic.arc < paths.length),
    )
    return jax.tree.map(lambda logged, moved: jnp.where(on_time, logged, moved), log, late)
