"""From a network to a proven file: trace, graph, proof, write. Needs torch for checkpoints."""
