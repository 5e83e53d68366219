"""Programs that make one image in one step and leave: what `benchmarks.cold_start` starts afresh and times."""
