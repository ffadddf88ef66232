"""Where the nodes of a training meet: checked before anything is started, so that a wrong address is reported at once."""

from __future__ import annotations

import logging
import socket
import time

from cvft.errors import Problem, RunError, quote
from cvft.plan.ranks import split_rendezvous

LOG = logging.getLogger(__name__)

POLL_S = 1.0


def check_port_is_free(rendezvous: str) -> None:
    """Checks on the first node that nothing listens on its port yet.

    Raises:
        RunError: when the port is taken.
    """
    _, port = split_rendezvous(rendezvous)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # a port that a training has just left is free, although the system still remembers it
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            got = f"port {port}: {error.strerror}"
            raise _error(got, "a free port on this machine", "choose another port, the same on every node") from error


def wait_for_first_node(rendezvous: str, *, timeout_s: float) -> None:
    """Waits on another node until the first one listens.

    Args:
        rendezvous: Its address.
        timeout_s: Seconds to wait.

    Raises:
        RunError: when the host has no address, or nothing listens there in time.
    """
    host, port = split_rendezvous(rendezvous)
    try:
        socket.getaddrinfo(host, port)
    except socket.gaierror as error:
        got = f"host {quote(host)}: {error.strerror}"
        raise _error(
            got, "a host name or address that this machine can resolve", "check parallel.rendezvous"
        ) from error
    deadline = time.monotonic() + timeout_s
    is_reported = False
    while True:
        try:
            with socket.create_connection((host, port), timeout=POLL_S):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                got = f"no answer from {rendezvous} in {timeout_s:g} s ({error})"
                hint = "start the first node (parallel.node_rank=0), and check that no firewall is between the two"
                raise _error(got, "the first node listening there", hint) from error
        if not is_reported:
            LOG.info("waiting   for the first node at %s", rendezvous)
            is_reported = True
        time.sleep(POLL_S)


def _error(got: str, need: str, hint: str) -> RunError:
    return RunError("the nodes", [Problem("parallel.rendezvous", got, need, hint)])
