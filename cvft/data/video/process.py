"""Decodes clips in a process of its own, so that a decoder that hangs, crashes or eats memory costs one clip.

    clip --DecodeProcess.decode--> Clip        clip --DecodeProcess.inspect--> ClipInfo (no frame crosses the pipe)

The process is started with `subprocess`, because data loader workers are daemonic and `multiprocessing` forbids those
to have children.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np

from cvft.data.video.deadline import Deadline
from cvft.data.video.decode import Clip
from cvft.data.video.looks import LOOKS_SAMPLING, SIDE_CELLS, ClipLooks
from cvft.data.video.oddities import Oddity
from cvft.data.video.pipe import RawPipe, limit_time, read_exactly, receive_header, send_header
from cvft.data.video.reader import MAX_FRAME_PX, Frames, clip_error
from cvft.data.video.sample import Sampling, coverage
from cvft.data.video.spec import ClipRef, file_of, files_of, in_files, sampling_for, to_text
from cvft.data.video.view import ClipView
from cvft.errors import ClipError, Problem, RunError
from cvft.imports import python_environment

_START_TIMEOUT_S = 120.0
"""For the interpreter and its libraries to load, which may come from a slow network disk."""

_DEATH_TIMEOUT_S = 10.0
"""For a dying process to be gone after its pipe was closed: writing a core, or tearing down gigabytes."""

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""For the child: its libraries would reserve address space per core, which the memory limit counts."""


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip that was decoded once, without its frames.

    Args:
        num_frames: Frames that the sampling rule shows.
        height_px: Height of each, upright.
        width_px: Width of each, upright.
        timestamps_s: Start of each in seconds since the clip's first frame: float32 numbers, bit for bit.
        num_frames_total: Frames of the whole clip; of a stretch, its own, as of all that follows.
        avg_fps: Its average frames per second.
        duration_s: Its length in seconds.
        decoder: Name of the decoder.
        sha256: Hash of the bytes of its files; what tells the clip from others is `cvft.data.video.spec.content_of`.
        notes: Sentences on what the rule cuts off or repeats; see `cvft.data.video.sample.coverage`.
        file_notes: Sentences on the file itself: the same words for every clip that they apply to.
        oddities: What is odd about it; None where nobody has looked.
        frame_indices: Which frames of the clip are shown.
        has_own_times: Whether its seconds are those that a row states of ready frames.
        is_image: Whether it is a picture that a model takes as an image.
    """

    num_frames: int
    height_px: int
    width_px: int
    timestamps_s: tuple[float, ...]
    num_frames_total: int
    avg_fps: float
    duration_s: float
    decoder: str
    sha256: str
    notes: tuple[str, ...]
    file_notes: tuple[str, ...] = ()
    oddities: tuple[Oddity, ...] | None = None
    frame_indices: tuple[int, ...] = ()
    has_own_times: bool = False
    is_image: bool = False

    @property
    def view(self) -> ClipView:
        """What of the clip is shown."""
        return ClipView(
            timestamps_s=self.timestamps_s,
            frame_indices=self.frame_indices,
            num_frames_total=self.num_frames_total,
            avg_fps=self.avg_fps,
            height_px=self.height_px,
            width_px=self.width_px,
            has_own_times=self.has_own_times,
            is_image=self.is_image,
        )


class DecodeProcess:
    """One decode process, started when it is first needed and again after it ended.

    Use it from one thread at a time. It may be made before a fork or sent to another process: each process that uses
    it gets a child of its own. The child ends when its parent ends or closes it.

    Args:
        timeout_s: How long a clip may take, in seconds, before its length is known. Twice the length that the
            container promises is added when the child has opened it, up to 20 minutes.
        memory_limit_gib: Most address space of the child (Linux and other systems with `RLIMIT_AS`).
        niceness: By how much the child goes behind other processes where there are too few cores, 0 to 19; not on Windows.
    """

    def __init__(self, *, timeout_s: float = 60.0, memory_limit_gib: float = 4.0, niceness: int = 0) -> None:
        self.timeout_s = timeout_s
        self.memory_limit_gib = memory_limit_gib
        self.niceness = niceness
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = -1

    def __enter__(self) -> DecodeProcess:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_owner_pid": -1}

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None while there is none."""
        return self._process.pid if self._process is not None and self._owner_pid == os.getpid() else None

    def decode(self, clip: ClipRef | str, *, sampling: Sampling, decoder: str = "pyav") -> Clip:
        """Decodes the frames that a sampling rule chooses, like `cvft.data.video.decode.decode_clip`.

        Args:
            clip: The clip.
            sampling: The rule.
            decoder: `pyav` or `decord`.

        Returns:
            The chosen frames.

        Raises:
            ClipError: The clip cannot be decoded, took too long or too much memory, or ended the decode process.
        """
        header, frames = self._ask(clip, sampling, decoder, wants="frames")
        return Clip(
            frames=frames,
            timestamps_s=np.array(header["timestamps_s"], dtype=np.float32),
            frame_indices=tuple(header["frame_indices"]),
            num_frames_total=header["num_frames_total"],
            avg_fps=header["avg_fps"],
            duration_s=header["duration_s"],
            decoder=header["decoder"],
            notes=tuple(header["notes"]),
            has_own_times=header["has_own_times"],
            is_image=header["is_image"],
        )

    def inspect(self, clip: ClipRef | str, *, sampling: Sampling, decoder: str = "pyav") -> ClipInfo:
        """Decodes a clip as `decode` does, but returns only what is known of it: no frame crosses the pipe.

        Args:
            clip: The clip.
            sampling: The rule.
            decoder: `pyav` or `decord`.

        Returns:
            What planning and a run's manifest need.

        Raises:
            ClipError: As `decode`.
        """
        header, _ = self._ask(clip, sampling, decoder, wants="info")
        num_frames, height_px, width_px, _ = header["shape"]
        seen = coverage(
            header["frame_indices"],
            num_frames_total=header["num_frames_total"],
            avg_fps=header["avg_fps"],
            duration_s=header["duration_s"],
            sampling=sampling_for(Path(clip) if isinstance(clip, str) else clip, sampling),
        )
        return ClipInfo(
            num_frames=num_frames,
            height_px=height_px,
            width_px=width_px,
            timestamps_s=tuple(header["timestamps_s"]),
            num_frames_total=header["num_frames_total"],
            avg_fps=header["avg_fps"],
            duration_s=header["duration_s"],
            decoder=header["decoder"],
            sha256=header["sha256"],
            notes=seen.notes,
            file_notes=tuple(header["notes"]),
            oddities=tuple(Oddity(kind, got) for kind, got in header["oddities"]),
            frame_indices=tuple(header["frame_indices"]),
            has_own_times=header["has_own_times"],
            is_image=header["is_image"],
        )

    def look(self, clip: ClipRef | str, *, decoder: str = "pyav") -> ClipLooks:
        """Decodes frames of the whole clip, and returns what they look like: no frame crosses the pipe.

        Args:
            clip: The clip.
            decoder: `pyav` or `decord`.

        Raises:
            ClipError: As `decode`, where not even few frames can be decoded.
        """
        for number, sampling in enumerate(LOOKS_SAMPLING, start=1):
            try:
                header, _ = self._ask(clip, sampling, decoder, wants="looks")
                break
            except ClipError:
                if number == len(LOOKS_SAMPLING):
                    raise
        cells = np.frombuffer(base64.b64decode(header["cells"]), dtype=np.uint8)
        return ClipLooks(np.array(header["timestamps_s"]), cells.reshape(-1, SIDE_CELLS**2))

    def close(self) -> None:
        """Ends the child, if this process has one."""
        process, self._process = self._process, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        if self._owner_pid != os.getpid():  # after a fork the child belongs to the other process: only drop the pipes
            process.returncode = 0
        else:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()

    def _ask(
        self, clip: ClipRef | str, sampling: Sampling, decoder: str, *, wants: str
    ) -> tuple[dict[str, Any], Frames]:
        clip = Path(clip) if isinstance(clip, str) else clip
        path = file_of(clip)
        request = {
            "clip": to_text(in_files(clip, [file.absolute() for file in files_of(clip)])),
            "sampling": asdict(sampling),
            "decoder": decoder,
            "wants": wants,
            "timeout_s": self.timeout_s,
            "memory_limit_gib": self.memory_limit_gib,
        }
        process = self._send(request)
        _, answers = _get_pipes(process)
        deadline = Deadline(process.kill, self.timeout_s)
        frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
        try:
            header = receive_header(answers)
            if "opened" in header:
                deadline.extend(limit_time(self.timeout_s, float(header["opened"])))
                header = receive_header(answers)
            if "clip" in header and wants == "frames":
                frames = _make_array(header["clip"]["shape"], sampling, limit_bytes=self.memory_limit_gib * 2**30)
                read_exactly(answers, frames.data)
        except (EOFError, OSError, ValueError) as error:
            exit_code = _await_death(process) if not isinstance(error, ValueError) else None
            deadline.end()
            process.kill()
            process.wait()
            self.close()
            if deadline.is_over:
                got = f"a decoder that did not finish in {deadline.limit_s:g} s"
                hint = "the process was stopped; re-encode the clip, or allow more time"
                raise clip_error(path, decoder=decoder, got=got, need="frames in that time", hint=hint) from error
            raise self._explain_death(path, decoder, exit_code, error) from error
        except BaseException:  # Ctrl-C in the middle of an answer: the next question must not read the rest of it
            deadline.end()
            process.kill()
            self.close()
            raise
        deadline.end()
        if deadline.is_over or header.get("restart"):  # killed just after the answer; or its memory is in pieces
            process.kill()
            self.close()
        if "clip" in header:
            return header["clip"], frames
        raise ClipError(header["subject"], [Problem(**problem) for problem in header["problems"]])

    def _explain_death(self, path: Path, decoder: str, exit_code: int | None, error: Exception) -> ClipError:
        hint = "re-encode the clip, or try another decoder"
        if isinstance(error, ValueError):
            got = "an answer of the decode process that makes no sense"
        elif exit_code is None:
            got = "a decode process that closed its pipe without an answer"
        elif exit_code >= 0:
            got = f"a decode process that ended with exit code {exit_code}"
        else:
            name = _name_signal(-exit_code)
            got = f"a decode process that died with signal {-exit_code} ({name})"
            if name == "SIGKILL":
                hint = "the system ends processes this way when it runs out of memory"
            elif name in ("SIGABRT", "SIGSEGV", "SIGBUS"):
                hint = f"the decoder failed inside; it may not use more than {self.memory_limit_gib:g} GiB: " + hint
        return clip_error(path, decoder=decoder, got=got, need="frames", hint=hint)

    def _send(self, request: dict[str, Any]) -> subprocess.Popen[bytes]:
        """Sends to the child, starting one when there is none, or when it ended since the last clip."""
        for _ in range(2):
            process = self._ensure_process()
            requests, _ = _get_pipes(process)
            try:
                send_header(requests, request)
                return process
            except OSError as error:  # it ended between two clips, which is neither clip's fault
                process.kill()
                self.close()
                last = error
        raise RunError("decoding", [Problem("decode process", f"no connection ({last})", "a running process")])

    def _ensure_process(self) -> subprocess.Popen[bytes]:
        if self._process is not None and (self._owner_pid != os.getpid() or self._process.poll() is not None):
            self.close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cvft.data.video.worker_main", str(self.memory_limit_gib)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=python_environment({**os.environ, **_ONE_THREAD}),
            )
            self._owner_pid = os.getpid()
            if hasattr(os, "setpriority"):  # not on Windows
                os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + self.niceness)
            self._await_ready(self._process)
        return self._process

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Waits until the child can decode: what goes wrong before is no clip's fault."""
        _, answers = _get_pipes(process)
        deadline = Deadline(process.kill, _START_TIMEOUT_S)
        try:
            receive_header(answers)
        except (EOFError, OSError, ValueError) as error:
            process.kill()
            exit_code = process.wait()
            self.close()
            got = f"an end before the first clip (exit code {exit_code}), with {self.memory_limit_gib:g} GiB of memory"
            hint = "see its own message above; a memory limit below 1 GiB is too little to start"
            raise RunError("decoding", [Problem("decode process", got, "a running process", hint)]) from error
        finally:
            deadline.end()


def _get_pipes(process: subprocess.Popen[bytes]) -> tuple[RawPipe, RawPipe]:
    """Returns where to write requests and where to read answers; both are raw files, because of `bufsize=0`."""
    return cast(RawPipe, process.stdin), cast(RawPipe, process.stdout)


def _await_death(process: subprocess.Popen[bytes]) -> int | None:
    """Returns how a process ended whose pipe was closed: its own end, not ours, is the cause to name."""
    try:
        return process.wait(timeout=_DEATH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return "unknown"


def _make_array(shape: object, sampling: Sampling, *, limit_bytes: float) -> Frames:
    match shape:
        case [int(num), int(height), int(width), 3] if 0 < num <= sampling.max_frames and height * width > 0:
            if height * width <= MAX_FRAME_PX and num * height * width * 3 <= limit_bytes:
                return np.empty((num, height, width, 3), dtype=np.uint8)
    raise ValueError(f"frames of shape {shape}")
