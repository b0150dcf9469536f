"""Starts the referee's processes and talks to them. Nothing here needs JAX."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Client, Connection
from typing import Any

from tether.data.sumo.install import SumoError
from tether.simulator.referee.messages import Cast, Part, Sight, TownRequest

ATTEMPTS = 2
ROOT = pathlib.Path(__file__).parents[2]
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a process with threads must not fork
GONE = (EOFError, ConnectionError, FileNotFoundError)


@dataclasses.dataclass(frozen=True)
class Town:
    """A network's process (`town.py`) with the simulations that wait in it.

    Attributes:
      request: what it serves.   casts: of its scenes, by scenario id.
      control: closing it ends the process.   process: started from here.
    """

    request: TownRequest
    casts: dict[str, Cast]
    control: Connection
    process: subprocess.Popen

    def close(self) -> None:
        """Ends the process and all that were forked from it, and waits for them."""
        self.control.close()
        self.process.wait()


def open_town(request: TownRequest) -> Town:
    """Starts a network's process and waits until its simulations are ready; one that dies is tried once more.

    Raises: SumoError naming the scenes where it fails.
    """
    scenes = f"{request.windows[0].scenario_id} and the other scenes of {request.job.name}"
    for attempt in range(ATTEMPTS):
        request = dataclasses.replace(request, directory=request.directory.with_suffix(f".{attempt}"))
        control, process = start_town(request)
        try:
            answer = control.recv()
        except EOFError:
            process.wait()
            continue
        if isinstance(answer, str):
            control.close()
            process.wait()
            raise SumoError(f"the referee cannot be set up for {scenes}: {answer}")
        return Town(request, answer, control, process)
    raise SumoError(f"the referee's process for {scenes} died {ATTEMPTS} times: {complaints(request)}")


def complaints(request: TownRequest) -> str:
    """The end of what a network's processes wrote to standard error."""
    return log_of(request).read_text(errors="replace").strip()[-400:]


def start_town(request: TownRequest) -> tuple[Connection, subprocess.Popen]:
    """Starts a network's process, not a fork of this one, and sends it its request."""
    control, theirs = Pipe()
    command = [sys.executable, "-m", "tether.simulator.referee.town", str(theirs.fileno())]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with theirs, log_of(request).open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # a keyboard interrupt ends the rollout, which ends this process in good order
            env=os.environ | {"PYTHONPATH": path} | ONE_THREAD,
        )
    control.send(request)
    return control, process


def log_of(request: TownRequest) -> pathlib.Path:
    """The file to which a network's processes write their errors."""
    return request.directory.with_name(request.directory.name + ".log")


class Simulation:
    """One scene's running simulation, in a process of its own; answers come in the order of the messages.

    SUMO may crash its process. The simulation is deterministic, so a second process that gets the same messages reaches
    the same moment: that is tried once.
    """

    def __init__(self, town: Town, scenario_id: str, take_over: int, part: Part):
        self._town, self._scenario_id, self._take_over = town, scenario_id, take_over
        self._sent: list[Any] = []
        self._attempts = 1
        self._link = self._connect()
        self.send(part)

    def _connect(self) -> Connection:
        try:
            return Client(self._town.request.address(self._take_over))
        except GONE as error:
            raise SumoError(f"{self._scenario_id}: no process holds its simulation any more ({error})") from error

    def send(self, message: Any) -> None:
        """Sends a `Part` or S ego poses; `receive` returns the answer."""
        self._sent.append(message)
        with contextlib.suppress(ConnectionError):  # `receive` finds out
            self._link.send(message)

    def receive(self) -> list[Sight]:
        """The answer to the last message. Raises: SumoError naming the scene where its process dies again."""
        try:
            return self._link.recv()
        except GONE:
            return self._repeat()

    def _repeat(self) -> list[Sight]:
        if self._attempts == ATTEMPTS:
            died = f"{self._scenario_id}: its simulation died {ATTEMPTS} times"
            raise SumoError(f"{died}, last at message {len(self._sent)}: {complaints(self._town.request)}")
        self._attempts += 1
        self.close()
        messages, self._sent, self._link = self._sent, [], self._connect()
        for message in messages:
            self.send(message)
            answer = self.receive()
        return answer

    def close(self) -> None:
        """Ends the simulation; its process ends by itself."""
        self._link.close()
