"""The decode process itself: answers one request after the other until its parent closes the pipe.

Started by `cvft.data.video.process`; see `cvft.data.video.pipe` for what is said.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import signal
import sys
from typing import Any

from cvft.data.video.decode import decode_clip
from cvft.data.video.looks import measure_cells
from cvft.data.video.oddities import find_oddities
from cvft.data.video.pipe import RawPipe, limit_time, receive_header, send_header, take_pipes, write_all
from cvft.data.video.reader import Frames, OnDuration, clip_error
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import file_of, files_of, from_text, hash_files
from cvft.errors import ClipError

_RE_ENCODE = "the file is damaged, or this decoder cannot read it; copy it again, or re-encode the clip"

_ALARM_SLACK_S = 10.0
"""The parent stops a decode in time; only when it cannot, because it is gone, the alarm ends this process."""


def serve(requests: RawPipe, answers: RawPipe) -> None:
    """Answers requests until the parent closes its end. This is the child's whole life.

    Args:
        requests: Unbuffered pipe to read from.
        answers: Unbuffered pipe to write to.
    """
    send_header(answers, {"ready": True})
    while True:
        try:
            request = receive_header(requests)
        except EOFError:
            return
        timeout_s = float(request["timeout_s"])
        _set_alarm(timeout_s)

        def report_duration(duration_s: float, timeout_s: float = timeout_s) -> float:
            allowed_s = limit_time(timeout_s, duration_s)
            _set_alarm(allowed_s)
            send_header(answers, {"opened": float(duration_s)})
            return allowed_s

        header, frames = _answer(request, report_duration)
        send_header(answers, header)
        if frames is not None:
            write_all(answers, frames.data)
        _set_alarm(0.0)


def _answer(request: dict[str, Any], report_duration: OnDuration) -> tuple[dict[str, Any], Frames | None]:
    asked, decoder = from_text(request["clip"]), request["decoder"]
    path = file_of(asked)
    sampling = Sampling(**request["sampling"])
    wants_frames = request["wants"] == "frames"
    try:
        memory_gib = float(request["memory_limit_gib"])
        clip = decode_clip(
            asked, sampling=sampling, decoder=decoder, on_duration=report_duration, memory_gib=memory_gib
        )
        header = {
            "shape": clip.frames.shape,
            "timestamps_s": clip.timestamps_s.tolist(),
            "frame_indices": clip.frame_indices,
            "num_frames_total": clip.num_frames_total,
            "avg_fps": clip.avg_fps,
            "duration_s": clip.duration_s,
            "decoder": clip.decoder,
            "notes": clip.notes,
            "has_own_times": clip.has_own_times,
            "is_image": clip.is_image,
        }
        if request["wants"] == "looks":
            header["cells"] = base64.b64encode(measure_cells(clip.frames).tobytes()).decode("ascii")
        elif not wants_frames:
            header["sha256"] = hash_files(files_of(asked))
            firsts = [clip.frame_indices.index(frame) for frame in sorted(set(clip.frame_indices))]
            seen = find_oddities(clip.frames[firsts], clip.timestamps_s[firsts].tolist())
            header["oddities"] = [(oddity.kind, oddity.got) for oddity in (*clip.oddities, *seen)]
        return {"clip": header}, clip.frames if wants_frames else None
    except ClipError as error:
        return _pack_error(error), None
    except MemoryError:
        got = f"a clip that needs more than {request['memory_limit_gib']:g} GiB of memory"
        hint = "scale the clip down, or allow more memory; a small file that asks for so much is damaged"
        refusal = clip_error(path, decoder=decoder, got=got, need="one that fits", hint=hint)
        return {**_pack_error(refusal), "restart": True}, None
    except Exception as error:  # whatever a file does to a library costs this clip alone, and is named
        got = f"a file at which it fails ({type(error).__name__}: {str(error)[:200]})"
        refusal = clip_error(path, decoder=decoder, got=got, need="a video file", hint=_RE_ENCODE)
        return {**_pack_error(refusal), "restart": True}, None


def _pack_error(error: ClipError) -> dict[str, Any]:
    return {"subject": error.subject, "problems": [vars(problem) for problem in error.problems]}


def _set_alarm(after_s: float) -> None:
    """Lets the system end this process if the parent is gone and cannot; Python code would never run in a C loop."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, after_s + _ALARM_SLACK_S if after_s else 0.0)


def _limit_resources(memory_limit_gib: float) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    with contextlib.suppress(ValueError, OSError):  # a system that forbids it, or a lower limit already
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_bytes = int(memory_limit_gib * 2**30)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def main() -> None:
    """Runs the child: the pipes are kept apart from the standard streams, which libraries may print to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then closes the pipe
    requests, answers = take_pipes()
    _limit_resources(float(sys.argv[1]))
    with contextlib.suppress(ImportError):  # load the usual decoder before the first clip's time begins to run
        importlib.import_module("av")
    with contextlib.suppress(BrokenPipeError):
        serve(requests, answers)


if __name__ == "__main__":
    main()
