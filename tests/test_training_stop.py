"""SIGTERM and Ctrl-C: what a process does with them at each part of its life."""

import signal
import subprocess
import sys

import pytest

PARTS = {
    "import": "stop.at_once(); ready(); time.sleep(60)",
    "work": "stop.at_once(); stop.run(lambda: (ready(), time.sleep(60)))",
    "caught": "stop.run(work)",
    "training": "stop.run(train)",
    "over": "atexit.register(lambda: (ready(), time.sleep(1))); stop.run(lambda: 3)",
}
PROGRAM = """
import atexit, time
from tether.training import stop

def ready():
    print("ready", flush=True)

def work():
    try:
        ready(), time.sleep(60)
    except Exception:  # as the search for an undamaged checkpoint does
        return 0

def train():
    with stop.Stop() as asked:
        ready()
        while not asked.requested:
            time.sleep(0.01)
        print("saved")
        return stop.INTERRUPTED

"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("part", "status", "message"),
    [
        ("import", 130, "stopped before anything began\n"),
        ("work", 130, "stopped by {}\n"),
        ("caught", 130, "stopped by {}\n"),
        ("training", 130, "stopping after this step; a second Ctrl-C stops at once, without saving\n"),
        ("over", 3, ""),
    ],
)
def test_a_signal_is_honoured_wherever_it_comes(part, status, message, number):
    command = [sys.executable, "-c", PROGRAM + PARTS[part]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (status, message.format(number.name))
    assert out == ("saved\n" if part == "training" else "")
