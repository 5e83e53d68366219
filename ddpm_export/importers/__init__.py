"""Read checkpoints of every known project: the network, and the numbers that belong to it. Needs torch."""
