"""Timing of benchmarks: CPU-seconds of one core on a CPU, which hold on a loaded machine; else wall-clock seconds."""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

REPEATS = 3
# By the vendor's data sheets: memory bandwidth [byte/s], and dense bfloat16 products [FLOP/s].
BANDWIDTH = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}
PEAK_FLOPS = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12}


def use_one_core() -> None:
    """Keeps this process on one core, where the system can; to be called before anything is computed."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def on_cpu() -> bool:
    """Whether seconds are CPU-seconds: whether JAX computes on a CPU."""
    return jax.default_backend() == "cpu"


def unit() -> str:
    """Unit of the rates, as the end of a key."""
    return "per_cpu_second" if on_cpu() else "per_second"


def seconds(compiled: Callable[..., Any], *args: Any) -> float:
    """The shortest of `REPEATS` calls, after a first call that does not count."""
    jax.block_until_ready(compiled(*args))
    clock, best = time.process_time if on_cpu() else time.perf_counter, np.inf
    for _ in range(REPEATS):
        started = clock()
        jax.block_until_ready(compiled(*args))
        best = min(best, clock() - started)
    return best
