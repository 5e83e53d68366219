"""Speed side by side with peers, one command each; `python -m benchmarks` runs them all. Not in the wheel."""
