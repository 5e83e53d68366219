"""`python -m train`."""

from ddpm_export.cli.start import begin

if __name__ == "__main__":
    begin(f"{__package__}.cli")
