"""Open a file on a runtime and a device; the network as a function, or a whole sampler as one call."""
