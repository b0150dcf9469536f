"""One road network, simulated live: a process that others of its kind are forked from.

`python -m tether.simulator.referee.town FD` serves one `TownRequest`. It rebuilds the network and runs the log's
traffic from the seed. At each take-over it forks a process that waits there. Each connection to a waiting process forks
one that goes on from that moment, its ego driven from outside. A fork is exact; SUMO's own saved states are not. No
process may hold threads when it forks, hence no JAX backend here. All processes end when the one that asked is gone.
"""

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

import numpy as np

from tether.data.sumo.generate import recorded
from tether.data.sumo.install import SumoError, import_libsumo
from tether.data.sumo.scenes import LIGHT_STATES
from tether.simulator.referee.manners import change_manners
from tether.simulator.referee.messages import Part, Sight, TownRequest
from tether.simulator.referee.recognise import cast_of, light_codes

ON_OWN_ROUTE_OR_OFF_ROAD = 2  # `keepRoute` of moveToXY: places the ego exactly, on a road or not


def serve(request: TownRequest, control: Connection) -> None:
    """Simulates, forks at each take-over, and answers with the scenes' casts by scenario id.

    Raises: SumoError where SUMO is missing, or the traffic is not that of the logs.
    """
    take_overs = {window.take_over for window in request.windows}

    def after_step(step: int) -> None:
        if step in take_overs:
            fork_waiting(request.address(step), control)

    network, record = recorded(request.job, request.directory, after_step)
    control.send({window.scenario_id: cast_of(window, record, network) for window in request.windows})


def fork_waiting(address: str, control: Connection) -> None:
    """Leaves a process behind that waits at this moment of the simulation."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(socket.SOMAXCONN)
    with listener, in_fork() as forked:
        if forked:
            await_rollouts(listener, control)


def await_rollouts(listener: socket.socket, control: Connection) -> None:
    """Forks a rollout for each connection until the process that asked is gone, which closes `control`."""
    while control not in wait([listener, control]):
        taken, _ = listener.accept()
        with taken, in_fork() as forked:
            if forked:
                listener.close()
                serve_rollout(import_libsumo(), Connection(taken.detach()))
    await_children()


def await_children() -> None:
    """Waits until all children have ended; they notice by themselves when they are no longer needed."""
    with contextlib.suppress(ChildProcessError):
        os.wait()  # raises once no child is left; where SIGCHLD is ignored, it waits for all of them first


@contextlib.contextmanager
def in_fork() -> Iterator[bool]:
    """Forks; yields True in the child, which ends with the block and runs nothing of its parent's."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for these children
    if os.fork():
        yield False
        return
    status = 1
    try:
        yield True
        status = 0
    except Exception:  # printed here: an exception does not cross a fork; the exit status reports it too
        traceback.print_exc()
    finally:
        os._exit(status)


def serve_rollout(libsumo: ModuleType, link: Connection) -> None:
    """One rollout: after the `Part`, each message is S ego poses in SUMO's terms, each answer S `Sight`s."""
    part: Part = link.recv()
    libsumo.vehicle.setLaneChangeMode(part.ego, 0)
    for name in libsumo.vehicle.getIDList():
        change_manners(libsumo.vehicle, name, part.stream)
    link.send([look(libsumo, part)])
    with contextlib.suppress(EOFError):  # the rollout is over
        while True:
            link.send([advance(libsumo, part, pose) for pose in link.recv()])


def advance(libsumo: ModuleType, part: Part, pose: np.ndarray) -> Sight:
    """One step of 0.1 s that ends with the ego's front in `pose` (x [m], y [m], angle [degrees])."""
    x, y, angle = map(float, pose)
    libsumo.vehicle.moveToXY(part.ego, "", -1, x, y, angle, keepRoute=ON_OWN_ROUTE_OR_OFF_ROAD)
    libsumo.simulation.step()
    for name in libsumo.simulation.getDepartedIDList():
        change_manners(libsumo.vehicle, name, part.stream)
    return look(libsumo, part)


def look(libsumo: ModuleType, part: Part) -> Sight:
    """The simulation as it stands."""
    present = dict.fromkeys(libsumo.vehicle.getIDList(), libsumo.vehicle)
    present |= dict.fromkeys(libsumo.person.getIDList(), libsumo.person)
    agents = np.full((len(part.cast.names), 4), np.nan)
    for row, name in enumerate(part.cast.names):
        if name in present:
            kind = present[name]
            agents[row] = *kind.getPosition(name), kind.getAngle(name), kind.getSpeed(name)
    letters = [link and libsumo.trafficlight.getRedYellowGreenState(link[0])[link[1]] for link in part.cast.signals]
    others = [kind.getPosition(name) for name, kind in present.items() if name not in part.cast.names]
    ego = agents[part.cast.names.index(part.ego), :2]
    unlisted = np.hypot(*(np.array(others).reshape(-1, 2) - ego).T).min(initial=np.inf)
    return Sight(agents, light_codes(letters, LIGHT_STATES), float(unlisted))


def main() -> None:
    """Serves the request that comes through the given file descriptor; an error goes back as text."""
    control = Connection(int(sys.argv[1]))
    request: TownRequest = control.recv()
    Path(request.directory).mkdir()
    try:
        serve(request, control)
    except SumoError as error:
        control.send(str(error))
    wait([control])  # readable once the other end is closed
    await_children()


if __name__ == "__main__":
    main()
