"""Packages that only an export needs: a missing one is reported with what to install."""

from collections.abc import Iterator
from contextlib import contextmanager

from ddpm_export.errors import not_installed


@contextmanager
def installed(extra: str) -> Iterator[None]:
    """Turn a missing package, met while importing modules of ours, into an EnvironmentProblem.

    extra: what brings it, of pip install 'ddpm-export[extra]'.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").split(".")[0]
        if package in ("", "ddpm_export"):
            raise
        raise not_installed(package, extra) from exc
