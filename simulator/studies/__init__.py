"""Measurements of logs and of the simulator itself: for benchmarks and tests; no World, model or policy needs them."""
