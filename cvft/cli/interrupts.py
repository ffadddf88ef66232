"""Ctrl-C ends a command within seconds, wherever it arrives.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a destructor or a callback from C it is printed and
forgotten; a library may catch it; a long call into C keeps it waiting, and so does a thread that the interpreter waits for at its
end. Every file and folder of ours is whole whenever we are killed, so that a process which does not end by itself can be ended.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""

GRACE_S = 3.0
"""What a command gets to end by itself."""

AGAIN_S = 0.05
"""After this time an interrupt that was forgotten is raised again, when the destructor that it hit is probably left; and one that
nobody has heard is sent again."""


@contextmanager
def raised_only() -> Iterator[None]:
    """Makes Ctrl-C a plain KeyboardInterrupt for a command that goes on after it; nothing ends the process any more.

    Elsewhere than in the main thread, or where SIGINT is ignored, it does nothing.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        os.set_blocking(end, False)
    is_over = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            os.read(read_end, 4096)
        raise KeyboardInterrupt

    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    before = signal.signal(signal.SIGINT, hear)
    again = threading.Thread(target=_send_again, args=(read_end, is_over), daemon=True)
    again.start()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(wakeup)
        is_over.set()
        os.close(write_end)  # ends the wait of the thread
        again.join()
        os.close(read_end)


def _send_again(read_end: int, is_over: threading.Event) -> None:
    """Sends SIGINT anew for as long as nobody has heard it.

    Python hears of a signal between two operations of its own. One that comes after the last of these and before C waits for keys
    would be heard at the next key.
    """
    main = threading.main_thread().ident
    assert main is not None, "it runs"
    while not is_over.is_set():
        select.select([read_end], [], [])  # the number of a signal, which `hear` takes away
        if is_over.wait(AGAIN_S):
            return
        with suppress(BlockingIOError):
            if signal.SIGINT in os.read(read_end, 4096):
                signal.pthread_kill(main, signal.SIGINT)


class Interrupts:
    """Watches for Ctrl-C while a command runs. Elsewhere than in the main thread, or where SIGINT is ignored, it does nothing.

    A training has handlers of its own, which ask for a checkpoint: `cvft.train.launch` takes over for its time. So does a chat
    in a terminal, which Ctrl-C does not end: `raised_only`.
    """

    def __init__(self) -> None:
        self.asked = False
        """Whether Ctrl-C was pressed."""

    def __enter__(self) -> Interrupts:
        in_main = threading.current_thread() is threading.main_thread()
        self._is_watching = in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._is_watching:
            self._read_end, self._write_end = os.pipe()
            os.set_blocking(self._write_end, False)
            # the number of a signal arrives in the pipe at once; a Python handler waits for the main thread
            signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
            signal.signal(signal.SIGINT, self._raise)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._raise_again
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_watching and not self.asked:  # otherwise the watch goes on until the process has ended
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = self._hook
            os.close(self._write_end)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def _raise_again(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._hook(unraisable)
            return
        again = threading.Timer(AGAIN_S, _thread.interrupt_main)
        again.daemon = True
        again.start()

    def _listen(self) -> None:
        with os.fdopen(self._read_end, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] != signal.SIGINT:
                    continue
                self.asked = True
                time.sleep(GRACE_S)
                os.write(2, b"interrupted\n")
                os._exit(EXIT_INTERRUPTED)
