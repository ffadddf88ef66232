"""A bar on standard error while clips are looked at, before anything is trained or told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DELAY_S = 0.3
"""How long nothing is shown: clips that are known already need no bar."""


@contextmanager
def counting_clips() -> Iterator[Callable[[int, int], None]]:
    """Shows a bar for as long as its block runs.

    Yields:
        What takes the number of clips that are done, and of all clips.
    """
    from tqdm import tqdm  # here, so that commands which look at no clip do not wait for it

    with tqdm(desc="clips", unit="clip", file=sys.stderr, dynamic_ncols=True, leave=False, delay=DELAY_S) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
