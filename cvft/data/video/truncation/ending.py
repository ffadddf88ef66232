"""What a container states about its end: what each of the files beside this one returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """What a container states about its end.

    Args:
        num_missing: Bytes that it states and that the file lacks, at least.
        stated_s: Length in seconds that its header states; None where it states none.
        end: Where the container should end, in bytes; None where it states nothing.
        is_complete: The end that it states was found, and everything before it.
        num_zeros: Zero bytes at the end of the file, those behind the stated end aside.
        padding: As many zero bytes may fill a good file's last packet.
        note: What is known against it, where nothing is stated.
    """

    num_missing: int = 0
    stated_s: float | None = None
    end: int | None = None
    is_complete: bool = False
    num_zeros: int = 0
    padding: int = 0
    note: str = ""
