"""The guard of tests/offline: a test that reaches for another machine is refused, and fails."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

ELSEWHERE = "192.0.2.1"  # RFC 5737: nobody's
REACHES = {
    "stream": f"socket.create_connection(({ELSEWHERE!r}, 80), timeout=1)",
    "connect": f"socket.socket().connect_ex(({ELSEWHERE!r}, 80))",
    "datagram": f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ({ELSEWHERE!r}, 9))",
    "version 6": "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "name": "socket.getaddrinfo('example.org', 80)",
    "page": "urllib.request.urlopen('http://example.org/', timeout=1)",
}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("reach", REACHES)
def test_another_machine_is_refused(reach, attempts):
    with pytest.raises(OSError, match="Tests must not reach beyond this machine"):
        exec("import socket, urllib.request\n" + REACHES[reach])
    assert len(attempts) == 1
    attempts.clear()  # else this test would fail


@pytest.mark.parametrize("reach", REACHES)
def test_another_machine_is_refused_to_a_child(reach):
    code = "import socket, urllib.request\n" + REACHES[reach]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Tests must not reach beyond this machine" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_reached(host, attempts):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=10).close()
    assert attempts == []


def test_an_attempt_that_a_program_swallows_is_seen(attempts):
    with contextlib.suppress(OSError):
        socket.create_connection((ELSEWHERE, 80), timeout=1)
    assert attempts == [f"socket.getaddrinfo {ELSEWHERE}"]
    attempts.clear()


def test_no_proxy_stands_between():
    assert not {name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")}
