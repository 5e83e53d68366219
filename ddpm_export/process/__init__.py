"""The diffusion process in numbers: schedules, noise, solvers as rows, the one loop. NumPy; opens no file."""
