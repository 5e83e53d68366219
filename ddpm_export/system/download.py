"""Bytes from an address, bounded in size and time."""

from ddpm_export.errors import first_line


def downloaded(url: str, most: int, timeout_s: float) -> bytes:
    """Return at most `most` bytes of what lies at an address; raises OSError with the reason in one line."""
    import http.client
    import urllib.request
    from urllib.error import HTTPError

    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            content: bytes = response.read(most)
            return content
    except (OSError, http.client.HTTPException, ValueError) as exc:
        if isinstance(exc, HTTPError):
            exc.close()  # it holds the connection
        reason = exc if isinstance(exc, HTTPError) else getattr(exc, "reason", exc)
        raise OSError(getattr(reason, "strerror", None) or first_line(reason)) from exc
