"""What a model file says: the spec and its records, and the network as a denoiser. NumPy; opens no file."""
