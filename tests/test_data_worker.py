"""Decode processes: a hang, a crash or a memory bomb costs one clip; and the check of all clips before training."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cvft.data.check import check_clips, write_quarantine
from cvft.data.rows import read_rows
from cvft.data.video import process as process_module
from cvft.data.video.decode import decode_clip
from cvft.data.video.pipe import limit_time
from cvft.data.video.process import DecodeProcess
from cvft.data.video.sample import Sampling
from cvft.errors import ClipError, DataError, RunError
from cvft.files import hash_file
from tests.fixtures_video import make_clip, rotate_header
from tests.real_clips import real_clips

CHAT = Sampling("chat")


@pytest.fixture
def clip_file(tmp_path):
    return make_clip(tmp_path / "a.mp4", num_frames=40)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for_end(pid, limit_s=300.0):
    end = time.monotonic() + limit_s
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


def error_of(worker, path, **options):
    with pytest.raises(ClipError) as caught:
        worker.decode(path, sampling=CHAT, **options)
    return str(caught.value).replace(f"{path.parent}/", "")


# --- the same clips as in this process


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_worker_gives_the_same_clip_as_this_process(decoder):
    with DecodeProcess() as worker:
        for path in real_clips().values():
            for sampling in (CHAT, Sampling("base"), Sampling("uniform", 5)):
                here = decode_clip(path, sampling=sampling, decoder=decoder)
                there = worker.decode(path, sampling=sampling, decoder=decoder)
                assert np.array_equal(here.frames, there.frames)
                assert np.array_equal(here.timestamps_s, there.timestamps_s)
                assert there.timestamps_s.dtype == np.float32
                assert repr(here) == repr(there)
                assert here.frame_indices == there.frame_indices
                assert here.duration_s == there.duration_s


def test_rotated_frames_cross_the_pipe(clip_file):
    rotate_header(clip_file, 90)
    with DecodeProcess() as worker:
        here, there = decode_clip(clip_file, sampling=CHAT), worker.decode(clip_file, sampling=CHAT)
    assert here.frames.shape == (3, 160, 96, 3)
    assert np.array_equal(here.frames, there.frames)


def test_bad_clip_gives_its_own_error_and_the_process_goes_on(tmp_path, clip_file):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    with DecodeProcess() as worker:
        worker.decode(clip_file, sampling=CHAT)
        pid = worker.pid
        with pytest.raises(ClipError) as here:
            decode_clip(bad, sampling=CHAT)
        assert error_of(worker, bad) == str(here.value).replace(f"{tmp_path}/", "")
        assert worker.decode(clip_file, sampling=CHAT).frames.shape == (3, 96, 160, 3)
        assert worker.pid == pid


def test_facts_come_without_frames(clip_file):
    with DecodeProcess() as worker:
        facts = worker.inspect(clip_file, sampling=Sampling("base"))
    assert (facts.num_frames, facts.height_px, facts.width_px) == (24, 96, 160)
    assert (facts.num_frames_total, facts.avg_fps, facts.duration_s) == (40, 25.0, 1.6)
    assert facts.sha256 == hash_file(clip_file)
    assert facts.timestamps_s == tuple(decode_clip(clip_file, sampling=Sampling("base")).timestamps_s.tolist())
    with DecodeProcess() as worker:
        facts = worker.inspect(make_clip(clip_file, num_frames=10), sampling=Sampling("base"))
    assert facts.notes == ("clip has 10 frames, `base` sampling repeats 14 of the 24 it shows",)


# --- what a bad clip may cost


def test_hang_costs_one_clip(clip_file):
    with DecodeProcess(timeout_s=1) as worker:
        worker.decode(clip_file, sampling=CHAT)
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)  # to the parent, the same as a decoder that loops
        begin = time.monotonic()
        assert error_of(worker, clip_file) == (
            "clip a.mp4 has 1 problem\n"
            "  a.mp4 (decoder `pyav`): got a decoder that did not finish in 1 s, need frames in that time\n"
            "    hint: the process was stopped; re-encode the clip, or allow more time"
        )
        assert time.monotonic() - begin > 0.9
        assert not is_alive(pid)
        worker.timeout_s = 600  # a busy machine must not fail what follows
        assert worker.decode(clip_file, sampling=CHAT).frames.shape == (3, 96, 160, 3)
        assert worker.pid != pid


def test_crash_costs_one_clip(clip_file):
    with DecodeProcess() as worker:
        worker.decode(clip_file, sampling=CHAT)
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)

        def crash():
            os.kill(pid, signal.SIGSEGV)
            os.kill(pid, signal.SIGCONT)

        threading.Timer(0.3, crash).start()
        assert error_of(worker, clip_file) == (
            "clip a.mp4 has 1 problem\n"
            "  a.mp4 (decoder `pyav`): got a decode process that died with signal 11 (SIGSEGV), need frames\n"
            "    hint: the decoder failed inside; it may not use more than 4 GiB: re-encode the clip, or try another decoder"
        )
        assert worker.decode(clip_file, sampling=CHAT).num_frames_total == 40


def test_process_killed_by_the_system_names_memory(clip_file):
    with DecodeProcess() as worker:
        worker.decode(clip_file, sampling=CHAT)
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        assert error_of(worker, clip_file) == (
            "clip a.mp4 has 1 problem\n"
            "  a.mp4 (decoder `pyav`): got a decode process that died with signal 9 (SIGKILL), need frames\n"
            "    hint: the system ends processes this way when it runs out of memory"
        )


def test_process_that_ended_between_two_clips_costs_nothing(clip_file):
    with DecodeProcess() as worker:
        worker.decode(clip_file, sampling=CHAT)
        pid = worker.pid
        os.kill(pid, signal.SIGKILL)
        assert wait_for_end(pid)
        assert worker.decode(clip_file, sampling=CHAT).num_frames_total == 40
        assert worker.pid != pid


def test_clip_that_needs_too_much_memory_costs_one_clip(tmp_path, clip_file):
    wide = make_clip(tmp_path / "wide.mp4", num_frames=24, width=1920, height=1080, options={"preset": "ultrafast"})
    with DecodeProcess(memory_limit_gib=0.3) as worker:
        with pytest.raises(ClipError) as caught:
            worker.decode(wide, sampling=Sampling("base"))
        assert str(caught.value).replace(f"{tmp_path}/", "") == (
            "clip wide.mp4 has 1 problem\n"
            "  wide.mp4 (decoder `pyav`): got a clip that needs more than 0.3 GiB of memory, need one that fits\n"
            "    hint: scale the clip down, or allow more memory; a small file that asks for so much is damaged"
        )
        assert worker.decode(clip_file, sampling=CHAT).num_frames_total == 40


def test_process_that_cannot_start_is_no_fault_of_the_clip(clip_file, monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodeProcess() as worker, pytest.raises(RunError) as caught:
        worker.decode(clip_file, sampling=CHAT)
    assert str(caught.value) == (
        "decoding has 1 problem\n"
        "  decode process: got an end before the first clip (exit code 1), with 4 GiB of memory, "
        "need a running process\n"
        "    hint: see its own message above; a memory limit below 1 GiB is too little to start"
    )


def test_time_grows_with_the_length_that_a_container_promises():
    assert limit_time(20.0, 30.0) == 80.0
    assert limit_time(20.0, 1e9) == 1220.0
    assert limit_time(20.0, float("nan")) == limit_time(20.0, -1.0) == 20.0


def start_noisy(monkeypatch, body):
    """Makes workers start a child whose `decode_clip` runs `body` first."""
    code = (
        "import os, signal, sys, time\nimport cvft.data.video.worker_main as child\nreal = child.decode_clip\n"
        f"def decode(*args, **options):\n    {body}\n    return real(*args, **options)\n"
        "child.decode_clip = decode\nchild._ALARM_SLACK_S = 0.5\nchild.main()"
    )
    popen = subprocess.Popen

    def start(command, **options):
        return popen([command[0], "-c", code, command[-1]], **options)

    monkeypatch.setattr(process_module.subprocess, "Popen", start)


def test_what_libraries_print_stays_out_of_the_pipe(clip_file, monkeypatch, capfd):
    start_noisy(monkeypatch, "print('noise', flush=True); os.write(1, b'noise'); sys.stdin.read()")
    with DecodeProcess() as worker:
        assert worker.decode(clip_file, sampling=CHAT).num_frames_total == 40
    out, err = capfd.readouterr()
    assert (out, err) == ("", "noise\nnoise")


def test_answer_that_makes_no_sense_is_an_error(clip_file, monkeypatch):
    start_noisy(monkeypatch, "os.write(4, b'nonsense'); time.sleep(60)")  # 4: the pipe
    with DecodeProcess() as worker:
        assert "got an answer of the decode process that makes no sense, need frames" in error_of(worker, clip_file)


@pytest.mark.parametrize(
    ("body", "got"),
    [
        ("raise IndexError('list index')", "a file at which it fails (IndexError: list index), need a video file"),
        ("raise OSError(22, 'Invalid argument')", "a file at which it fails (OSError: [Errno 22] Invalid argument)"),
        ("raise MemoryError", "a clip that needs more than 4 GiB of memory, need one that fits"),
        ("bytearray(1 << 40)", "a clip that needs more than 4 GiB of memory, need one that fits"),
        ("os._exit(3)", "a decode process that ended with exit code 3, need frames"),
        ("os.abort()", "a decode process that died with signal 6 (SIGABRT), need frames"),
        ("os.kill(os.getpid(), 9)", "a decode process that died with signal 9 (SIGKILL), need frames"),
        ("os.kill(os.getpid(), 4)", "a decode process that died with signal 4 (SIGILL), need frames"),
    ],
)
def test_death_of_a_decoder_names_its_own_cause(clip_file, monkeypatch, body, got):
    start_noisy(monkeypatch, body)
    with DecodeProcess() as worker:
        assert f"(decoder `pyav`): got {got}" in error_of(worker, clip_file)


def test_orphan_that_loops_is_ended_by_its_own_alarm(tmp_path, clip_file, monkeypatch):
    start_noisy(monkeypatch, "exec('while True: pass')")
    worker = DecodeProcess(timeout_s=0.5)
    process = worker._ensure_process()
    process_module.send_header(process.stdin, {**REQUEST, "clip": str(clip_file)})  # and nobody waits for the answer
    assert process.wait(timeout=300) == -signal.SIGALRM
    worker.close()


REQUEST = {
    "sampling": {"strategy": "chat", "max_frames": 24},
    "decoder": "pyav",
    "wants": "info",
    "timeout_s": 0.5,
    "memory_limit_gib": 4.0,
}


# --- the life of a decode process


def test_process_starts_when_needed_and_ends_with_the_context(clip_file):
    with DecodeProcess() as worker:
        assert worker.pid is None
        worker.decode(clip_file, sampling=CHAT)
        pid = worker.pid
        assert is_alive(pid)
    assert not is_alive(pid)
    assert worker.pid is None
    assert worker.decode(clip_file, sampling=CHAT).num_frames_total == 40
    worker.close()


def test_process_ends_when_its_parent_is_killed(clip_file):
    code = (
        "import os, signal, sys\nfrom cvft.data.video.process import DecodeProcess\n"
        "from cvft.data.video.sample import Sampling\nworker = DecodeProcess()\n"
        "worker.decode(sys.argv[1], sampling=Sampling())\nprint(worker.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(clip_file)], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert wait_for_end(int(done.stdout))


def decode_in_other_process(worker, path, answers):
    clip = worker.decode(path, sampling=CHAT)
    answers.put((worker.pid, int(clip.frames.sum())))
    worker.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_daemonic_process_gets_a_child_of_its_own(clip_file, method):
    context = multiprocessing.get_context(method)
    with DecodeProcess() as worker:
        expected = int(worker.decode(clip_file, sampling=CHAT).frames.sum())
        pid = worker.pid
        answers = context.Queue()
        process = context.Process(target=decode_in_other_process, args=(worker, clip_file, answers), daemon=True)
        process.start()
        other_pid, total = answers.get(timeout=300)
        process.join(timeout=300)
        assert process.exitcode == 0
        assert total == expected
        assert other_pid != pid
        assert wait_for_end(other_pid)
        assert int(worker.decode(clip_file, sampling=CHAT).frames.sum()) == expected
        assert worker.pid == pid


def test_copy_of_a_worker_has_no_process(clip_file):
    with DecodeProcess(timeout_s=7) as worker:
        worker.decode(clip_file, sampling=CHAT)
        copy = pickle.loads(pickle.dumps(worker))
    assert (copy.pid, copy.timeout_s) == (None, 7)


# --- the check of all clips


@pytest.fixture
def data(tmp_path):
    """Five rows: two of a good clip, two of a bad one, one without a clip."""
    make_clip(tmp_path / "good.mp4", num_frames=10)
    (tmp_path / "bad.mp4").write_text("no video")
    lines = [
        {"query": f"q{number}", "response": "r", "videos": videos, "score": number}
        for number, videos in enumerate([["good.mp4"], ["bad.mp4"], [], ["bad.mp4"], ["good.mp4"]])
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_bad_clips_are_told_with_their_lines(data):
    (data.parent / "sub").mkdir()
    with pytest.raises(DataError) as caught:
        check_clips(read_rows(data), sampling=CHAT)
    assert str(caught.value).replace(f"{data.parent}/", "") == (
        "the check of clips has 1 problem\n"
        "  train.jsonl:2, 4 `videos`: bad.mp4 (decoder `pyav`): got a text file, "
        "need a clip: mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, ogv or gif\n"
        "    hint: name the clip itself"
    )


def test_missing_decoder_is_told_once(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(DataError) as caught:
        check_clips(read_rows(data), sampling=CHAT, decoder="decord")
    assert str(caught.value) == (
        "the check of clips has 1 problem\n"
        "  decoder `decord`: got no such package, need the decord package\n"
        "    hint: pip install decord"
    )


def test_long_lists_of_lines_are_counted(data):
    row = json.dumps({"query": "q", "response": "r", "videos": ["bad.mp4"]})
    data.write_text(f"{row}\n" * 9)
    with pytest.raises(DataError, match=r"train.jsonl:1, 2, 3 and 6 more rows `videos`: "):
        check_clips(read_rows(data), sampling=CHAT)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_quarantine_sets_rows_aside_and_tells_why(data, tmp_path, num_workers):
    rows = read_rows(data)
    target = tmp_path / "run" / "quarantine.jsonl"
    progress = []
    check = check_clips(
        rows,
        sampling=Sampling("base"),
        on_bad_clip="quarantine",
        num_workers=num_workers,
        on_progress=lambda *counts: progress.append(counts),
    )
    assert check.rows == [rows[0], rows[2], rows[4]]
    assert [item.row for item in check.quarantined] == [rows[1], rows[3]]
    write_quarantine(check.quarantined, target)
    assert progress == [(1, 2), (2, 2)]
    reason = (
        f"{tmp_path / 'bad.mp4'} (decoder `pyav`): got a text file, "
        "need a clip: mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, ogv or gif"
    )
    assert [json.loads(line) for line in target.read_text().splitlines()] == [
        {"reason": reason, "source": str(data), "line": line, "row": rows[line - 1].to_json()} for line in (2, 4)
    ]
    (facts,) = check.facts.values()
    assert list(check.facts) == [tmp_path / "good.mp4"]
    assert (facts.num_frames, facts.sha256) == (24, hash_file(tmp_path / "good.mp4"))
    assert facts.notes == ("clip has 10 frames, `base` sampling repeats 14 of the 24 it shows",)


def test_old_quarantine_goes_when_nothing_is_set_aside(data, tmp_path):
    target = tmp_path / "quarantine.jsonl"
    target.write_text("old\n")
    rows = [row for row in read_rows(data) if not row.videos or row.videos[0].name == "good.mp4"]
    check = check_clips(rows, sampling=CHAT, on_bad_clip="quarantine")
    assert (check.rows, check.quarantined) == (rows, [])
    write_quarantine(check.quarantined, target)
    assert not target.exists()


def test_data_without_a_good_row_is_refused_also_with_quarantine(data):
    rows = [row for row in read_rows(data) if row.videos and row.videos[0].name == "bad.mp4"]
    with pytest.raises(DataError, match=r"^the check of clips, which leaves no row, has 1 problem"):
        check_clips(rows, sampling=CHAT, on_bad_clip="quarantine")
