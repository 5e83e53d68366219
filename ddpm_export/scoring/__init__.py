"""How good pictures are: data sets, metrics, and the scores that a cache keeps."""
