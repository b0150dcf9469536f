"""Runs jobs in processes of their own: libsumo holds one simulation per process, and may take the process with it."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

from tether.data.sumo.install import SumoError

ATTEMPTS = 3


def run_jobs(work: Callable[[Any], Any], jobs: list[Any], processes: int) -> Iterator[tuple[Any, Any]]:
    """Yields (job, result) as jobs finish, at most `processes` at a time.

    A process that dies (a crash within SUMO) is tried again, twice.

    Raises: SumoError naming the job that fails, with the reason given in its process.
    """
    with ThreadPoolExecutor(processes) as threads:
        futures = {threads.submit(run_job, work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def run_job(work: Callable[[Any], Any], job: Any) -> Any:
    """Runs one job in a fresh process and waits for its result."""
    context = multiprocessing.get_context("spawn")
    for _ in range(ATTEMPTS):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=report, args=(sender, work, job), daemon=True)
        process.start()
        sender.close()  # the child holds the only other end: its death ends the wait
        try:
            result, error = receiver.recv()
        except EOFError:
            continue
        finally:
            process.join()
        if error is not None:
            raise SumoError(f"{job}: {error}")
        return result
    raise SumoError(f"{job}: its process died {ATTEMPTS} times, last with exit status {process.exitcode}")


def report(sender: Connection, work: Callable[[Any], Any], job: Any) -> None:
    """In the child: sends (result, None), or (None, reason) for an error that trying again would not mend."""
    silence_stdout()
    try:
        sender.send((work(job), None))
    except SumoError as error:
        sender.send((None, str(error)))


def silence_stdout() -> None:
    """SUMO's C++ code and import warnings write to standard output, through the progress bar."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
