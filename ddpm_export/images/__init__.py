"""Pictures and arrays as files; the only room that names Pillow."""
