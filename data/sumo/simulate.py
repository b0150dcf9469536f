"""Runs SUMO on one network and records all agents at 10 Hz."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from tether.data.polyline import wrap
from tether.data.scene import AgentType
from tether.data.sumo.install import SumoError, import_libsumo
from tether.data.sumo.plain import PARKED
from tether.data.sumo.smoothing import WINDOW, smoothed

STEP_S = 0.1
WARMUP_S = 20.0
DURATION_S = 64.0
DIGITS = 3  # kept of the tracks, in m and m/s; of headings one more: the last bits differ between processors
PEDESTRIAN_SIZE_M = (0.6, 0.6)
AGENT_TYPES = {"bicycle": AgentType.CYCLIST, "pedestrian": AgentType.PEDESTRIAN}

SIMULATION_OPTIONS = (
    *("--step-length", str(STEP_S), "--lateral-resolution", "0.8", "--default.emergencydecel", "7.5"),
    *("--collision.action", "warn", "--collision.check-junctions", "--collision.mingap-factor", "0"),
    *("--time-to-teleport", "90", "--time-to-teleport.remove", "--max-depart-delay", "20"),
    *("--time-to-impatience", "90", "--pedestrian.striping.jamtime", "60", "--ignore-route-errors"),
    *("--xml-validation", "never", "--xml-validation.net", "never", "-W", "--no-step-log", "--duration-log.disable"),
)


@dataclasses.dataclass
class Recording:
    """A simulation of `steps` steps of 0.1 s; entries where an agent is absent are nan.

    Attributes:
      x, y: float64[N, steps], box centre [m], smoothed, to the millimetre.   heading: float64[N, steps], [rad].
      vel_x, vel_y: float64[N, steps], the derivative of the smoothed positions [m/s].
      lane: int32[N, steps], index into `lane_names`, -1 where not on a lane for vehicles.
      front_x, front_y: float64[N, steps], SUMO's own position: the middle of the front bumper [m].
      length, width: float64[N], [m].   agent_type: int32[N], `AgentType`.
      names, types: per agent its SUMO id and vehicle type.   routes: roads of each vehicle's route, empty for walkers.
      lights: per traffic light, one string of state letters per step.
    """

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    vel_x: np.ndarray
    vel_y: np.ndarray
    front_x: np.ndarray
    front_y: np.ndarray
    lane: np.ndarray
    length: np.ndarray
    width: np.ndarray
    agent_type: np.ndarray
    names: list[str]
    types: list[str]
    routes: list[tuple[str, ...]]
    lane_names: list[str]
    lights: dict[str, list[str]]

    @property
    def steps(self) -> int:
        """Recorded steps."""
        return self.x.shape[1]

    @property
    def present(self) -> np.ndarray:
        """bool[N, steps]."""
        return ~np.isnan(self.x)

    @property
    def parked(self) -> np.ndarray:
        """bool[N]."""
        return np.array([kind.startswith(PARKED) for kind in self.types], bool)


@dataclasses.dataclass
class Log:
    """The data collected while SUMO runs: rows of (agent, step, x, y, angle, lane), and constants per agent."""

    rows: list[tuple[int, int, float, float, float, int]] = dataclasses.field(default_factory=list)
    agents: dict[str, tuple] = dataclasses.field(default_factory=dict)
    lanes: dict[str, int] = dataclasses.field(default_factory=dict)
    lights: dict[str, list[str]] = dataclasses.field(default_factory=dict)


def simulate(
    network: Path, routes: Path, seed: int, after_step: Callable[[int], None] = lambda step: None
) -> Recording:
    """Runs the warm-up, then records. Starts SUMO in this process: one simulation per process.

    Args: after_step: called with the number of each step that has been recorded; it must leave the simulation alone.
    Raises: SumoError where SUMO is missing or the simulation fails.
    """
    libsumo = import_libsumo()
    command = ["sumo", "-n", str(network), "-a", str(routes), "--seed", str(seed), *SIMULATION_OPTIONS]
    try:
        log = run(libsumo, command, after_step)
    except (libsumo.TraCIException, libsumo.libsumo.FatalTraCIError) as error:
        raise SumoError(f"the simulation failed: {error}") from error
    return recording(log, round(DURATION_S / STEP_S))


def run(libsumo: ModuleType, command: list[str], after_step: Callable[[int], None]) -> Log:
    """Starts SUMO, lets traffic build up, logs, and closes it."""
    libsumo.start(command)
    for _ in range(round(WARMUP_S / STEP_S)):
        libsumo.simulation.step()
    log = Log(lights={name: [] for name in libsumo.trafficlight.getIDList()})
    for step in range(round(DURATION_S / STEP_S)):
        libsumo.simulation.step()
        log_vehicles(libsumo, log, step)
        log_pedestrians(libsumo, log, step)
        for name, states in log.lights.items():
            states.append(libsumo.trafficlight.getRedYellowGreenState(name))
        after_step(step)
    libsumo.close()
    return log


def log_vehicles(libsumo: ModuleType, log: Log, step: int) -> None:
    """Adds every vehicle's row, bicycles included."""
    vehicle = libsumo.vehicle
    for name in vehicle.getIDList():
        if name not in log.agents:
            kind = AGENT_TYPES.get(vehicle.getVehicleClass(name), AgentType.VEHICLE)
            size = vehicle.getLength(name), vehicle.getWidth(name)
            log.agents[name] = (len(log.agents), kind, *size, vehicle.getTypeID(name), vehicle.getRoute(name))
        lane = log.lanes.setdefault(vehicle.getLaneID(name), len(log.lanes))
        log.rows.append((log.agents[name][0], step, *vehicle.getPosition(name), vehicle.getAngle(name), lane))


def log_pedestrians(libsumo: ModuleType, log: Log, step: int) -> None:
    """Adds every pedestrian's row."""
    person = libsumo.person
    for name in person.getIDList():
        if name not in log.agents:
            log.agents[name] = (len(log.agents), AgentType.PEDESTRIAN, *PEDESTRIAN_SIZE_M, "pedestrian", ())
        log.rows.append((log.agents[name][0], step, *person.getPosition(name), person.getAngle(name), -1))


def recording(log: Log, steps: int) -> Recording:
    """Rows to dense arrays, SUMO's conventions to ours."""
    table = np.array(log.rows, np.float64).reshape(-1, 6)
    where = table[:, 0].astype(int), table[:, 1].astype(int)
    front_x, front_y, angle = (np.full((len(log.agents), steps), np.nan) for _ in range(3))
    lane = np.full((len(log.agents), steps), -1, np.int32)
    front_x[where], front_y[where], angle[where], lane[where] = table[:, 2:].T
    _, kinds, lengths, widths, types, routes = zip(*log.agents.values(), strict=True)
    length, agent_type = np.array(lengths, np.float64), np.array(kinds, np.int32)
    heading = wrap(np.deg2rad(90.0 - angle))  # SUMO: degrees clockwise from north
    x, y = box_centre(front_x, front_y, heading, np.where(agent_type == AgentType.PEDESTRIAN, 0.0, length)[:, None])
    return Recording(
        **smoothed_tracks(x, y, heading),
        front_x=front_x,
        front_y=front_y,
        lane=lane,
        length=length,
        width=np.array(widths, np.float64),
        agent_type=agent_type,
        names=list(log.agents),
        types=list(types),
        routes=[tuple(route) for route in routes],
        lane_names=list(log.lanes),
        lights=log.lights,
    )


def box_centre(
    front_x: np.ndarray, front_y: np.ndarray, heading: np.ndarray, length: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Box centre [m] from the middle of the front bumper, which is what SUMO reports for vehicles."""
    return front_x - length / 2 * np.cos(heading), front_y - length / 2 * np.sin(heading)


def smoothed_tracks(x: np.ndarray, y: np.ndarray, heading: np.ndarray) -> dict[str, np.ndarray]:
    """Smooths each agent's track over all the steps that it is present, and derives its velocity.

    SUMO moves cars along the chords of its polylines, and its speed disagrees with its displacement in turns: so the
    velocity is the derivative of the positions. Smoothing moves positions by less than 0.1 m. Agents seen for fewer
    steps than its window are dropped (nan).

    Args: x, y [m], heading [rad]: float64[N, steps], nan where absent.
    Returns: `x`, `y`, `heading`, `vel_x`, `vel_y`, likewise.
    """
    names = ("x", "y", "vel_x", "vel_y", "heading")
    smooth = {name: np.full(x.shape, np.nan) for name in names}
    for agent in range(len(x)):
        steps = np.flatnonzero(~np.isnan(x[agent]))
        if len(steps) < WINDOW:
            continue
        track = np.stack([x[agent, steps], y[agent, steps], np.unwrap(heading[agent, steps])])
        values, rates = smoothed(track, STEP_S)
        rows = [*np.round([*values[:2], *rates[:2]], DIGITS), np.round(wrap(values[2]), DIGITS + 1)]
        for name, row in zip(names, rows, strict=True):
            smooth[name][agent, steps] = row
    return smooth
