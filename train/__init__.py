"""The torch training application, run as `python -m train` from a clone. Imports ddpm_export, never the reverse."""
