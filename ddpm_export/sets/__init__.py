"""Sets of pictures too large for one file or process: ranges of image numbers, each a file that is whole or missing.

Image k of a seed depends on nothing but the model, the settings and k. So a shard that is missing is made, wherever and
however often, and comes out the same: that is all there is to going on after a stop.
"""
