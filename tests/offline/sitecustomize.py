"""Refuse connections beyond this machine, in every Python process that has this folder on its path.

Python imports a module of this name when it starts, so the processes that tests start are guarded as well. A child that
is given another PYTHONPATH, or that is not Python, is not: `unshare -n` guards those.
"""

import errno
import sys
from typing import Any

ADDRESSES = {"socket.connect", "socket.sendto", "socket.sendmsg"}
NAMES = {"socket.getaddrinfo", "socket.gethostbyname"}
attempts: list[str] = []  # of this process, in their order


def is_here(host: str) -> bool:
    """Tell whether a name or a numeric address is this machine's, without asking anyone."""
    import socket  # loaded by now; imported at the top, it would be loaded into every process

    if host in ("", "localhost", socket.gethostname()):
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))  # only a machine's own addresses can be bound
    except OSError:
        return False
    return True


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise OSError for an audit event that would reach another machine."""
    if event in ADDRESSES:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path in the file system, or none again
    elif event in NAMES:
        host = arguments[0]
    else:
        return
    host = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else host
    if isinstance(host, str) and not is_here(host):
        attempts.append(f"{event} {host}")
        raise OSError(errno.ENETUNREACH, f"Tests must not reach beyond this machine, got {host!r}")


sys.addaudithook(refuse)
