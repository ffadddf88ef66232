"""What a download may take, and the errors of one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cvft.errors import ClipError

MAX_MIB = 2048
TIMEOUT_S = 1800.0
"""Where nobody says: more than two gigabytes or half an hour is rarely a clip that is shown as some dozens of frames."""


@dataclass(frozen=True)
class FetchLimits:
    """What a download may take.

    Args:
        max_bytes: Largest clip.
        total_s: Longest time for a clip, with all redirects and further tries.
        connect_s: Longest time to find a host, and to connect to one of its addresses.
        stall_s: Longest time without a byte.
        num_redirects: Most redirects.
        num_tries: Most tries that bring nothing; one that brings bytes which can be kept begins the count anew.
        pause_s: Time before the second try; each further one waits twice as long.
        allow_hosts: Hosts that may lie anywhere, such as in an own network, and be asked at any port.
        pictures: Whether single frames of clips are fetched, in place of clips.
    """

    max_bytes: int = MAX_MIB << 20
    total_s: float = TIMEOUT_S
    connect_s: float = 10.0
    stall_s: float = 30.0
    num_redirects: int = 5
    num_tries: int = 3
    pause_s: float = 1.0
    allow_hosts: Collection[str] = ()
    pictures: bool = False


class FetchError(ClipError):
    """A clip cannot be fetched."""


class HostError(FetchError):
    """The host of a clip cannot be asked: it is not known, may not be asked, does not answer, or leads to one of these."""
