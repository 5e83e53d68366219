"""What a step and a start cost, measured so that it can be believed: `ddpm-bench`, and the benchmarks of a clone."""
