"""Sets of pictures too large for one file or process: ranges of image numbers, each a file that is whole or missing.

Image k of a seed depends only on the model, the settings and k. So a missing shard can be made anywhere, at any time,
and comes out the same: that is all it takes to continue after a stop.
"""
