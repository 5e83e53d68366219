"""`python -m ddpm_export.conformance -- ./program`: score a program in any language over the golden cases."""

from ddpm_export.cli.conformance import main

if __name__ == "__main__":
    main()
