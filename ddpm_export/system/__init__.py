"""What the operating system gives: whole files, caches and locks, processors."""
