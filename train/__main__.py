"""`python -m train`: parse, call, print."""

from train.cli import app

if __name__ == "__main__":
    app()
