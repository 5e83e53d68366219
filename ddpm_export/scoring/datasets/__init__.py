"""Images for training and scoring as NumPy arrays, one file a layout. Knows neither torch nor the network."""
