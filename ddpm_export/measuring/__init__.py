"""What a step and a start cost, measured reliably: for `ddpm-bench` and the benchmarks of a clone."""
