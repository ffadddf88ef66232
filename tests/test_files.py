"""Files and folders that appear whole, among processes that are really killed before every single file operation."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from itertools import count
from pathlib import Path

import pytest

from cvft import files
from cvft.errors import RunError
from cvft.files import LockHeldError, drop_torn_line, lock, publish_folder, recover_folder, why_unwritable, write_whole
from cvft.runs import LOCK_FILE, RunFolder, locked

REPOSITORY = Path(__file__).parent.parent

COUNTING = """
import os, signal, sys
from pathlib import Path
from cvft import files

last = int(sys.argv[1])
done = []

def counted(module, name):
    real = getattr(module, name)
    def operate(*args, **kwargs):
        if len(done) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(name)
        seen = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else args[0]
        print(name, seen, flush=True)
        return real(*args, **kwargs)
    setattr(module, name, operate)

for name in ("open", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
    counted(os, name)
if sys.argv[2] == "exchange":
    counted(files, "_exchange")
else:
    files._exchange = lambda first, second: False
"""
"""Prelude of a process that is killed before its N-th file operation. What it does is printed, to be looked at."""


def run(code: str, last: int, way: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code that is killed before file operation number `last`, counted from 0, if it comes that far."""
    command = [sys.executable, "-c", COUNTING + code, str(last), way, *map(str, arguments)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result


def make_folder(path: Path, content: str) -> Path:
    """A folder with a file, a folder with a file, an empty folder and a link."""
    (path / "inner").mkdir(parents=True)
    (path / "empty").mkdir()
    (path / "one").write_text(content)
    (path / "inner" / "two").write_text(content)
    (path / "link").symlink_to(__file__)
    return path


def content_of(path: Path) -> str | None:
    """The content of a whole folder; None when it is not there. Anything in between fails."""
    if not path.exists():
        return None
    assert sorted(str(found.relative_to(path)) for found in path.rglob("*")) == [
        "empty",
        "inner",
        "inner/two",
        "link",
        "one",
    ]
    one, two = (path / "one").read_text(), (path / "inner" / "two").read_text()
    assert one == two
    return one


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- files


def test_a_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "file"
    for content, expected in (("ä\r\n", b"\xc3\xa4\r\n"), (b"\0\xff", b"\0\xff")):
        write_whole(path, content)
        assert path.read_bytes() == expected
        assert names(path.parent) == ["file"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_is_old_or_new_whenever_its_writer_is_killed(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []
    for number in count():
        result = run("files.write_whole(Path(sys.argv[3]), 'new' * 10**5)", number, "exchange", path)
        assert path.read_text() in ("old", "new" * 10**5)
        seen.append(path.read_text()[:3])
        write_whole(tmp_path / "other", "its neighbour")
        write_whole(tmp_path / "again" / "file", "x")
        path.replace(tmp_path / "again" / "file")
        for left in tmp_path.glob(".file.*"):
            left.rename(tmp_path / "again" / left.name)
        write_whole(tmp_path / "again" / "file", "newer")  # it removes what the one that was killed has left
        assert names(tmp_path / "again") == ["file"]
        path.write_text("old")
        if result.returncode == 0:
            break
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}
    lines = [line for line in result.stdout.splitlines() if line.startswith(("fsync", "replace"))]
    assert [line.split()[0] for line in lines] == ["fsync", "replace", "fsync"]
    assert lines[2] == f"fsync {tmp_path}"


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    code = """
import os, sys
from pathlib import Path
from cvft import files
file = files._open_aside(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""
    aside = tmp_path / ".file.123456789.tmp"
    command = [sys.executable, "-c", code, str(aside)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    write_whole(tmp_path / "file", "new")
    assert names(tmp_path) == [aside.name, "file"]
    process.kill()
    process.communicate()
    (tmp_path / ".file.notes.tmp").write_text("somebody's")
    write_whole(tmp_path / "file", "newer")
    assert names(tmp_path) == [".file.notes.tmp", "file"]


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"torn", b""), (b"\x85\n\xe2", b"\x85\n")],
)
def test_half_a_line_at_the_end_is_dropped(tmp_path, before, after):
    path = tmp_path / "log"
    drop_torn_line(path)
    assert not path.exists()
    path.write_bytes(before)
    drop_torn_line(path)
    assert path.read_bytes() == after


# --- folders

PUBLISH = "files.publish_folder(Path(sys.argv[3]), Path(sys.argv[4]))"
RECOVER = "files.recover_folder(Path(sys.argv[3]))"
WAYS = ("exchange", "two renames")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("depth", ["", "partial"])
def test_a_folder_is_old_or_new_whenever_its_publisher_is_killed(tmp_path, way, depth):
    seen, num_absent = [], 0
    for number in count():
        place = tmp_path / f"{number}"
        aside, final = make_folder(place / depth / "aside", "new"), make_folder(place / "final", "old")
        result = run(PUBLISH, number, way, aside, final)
        if not final.exists():
            num_absent += 1
            recover_folder(final)
        seen.append(content_of(final))
        assert seen[-1] in ("old", "new")
        # whatever was left: the next one takes its place, and nothing lies beside it
        publish_folder(make_folder(place / "again", "newer"), final)
        assert content_of(final) == "newer"
        assert set(names(place)) <= {"aside", "partial", "final"}
        if result.returncode == 0:
            break
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"old", "new"}
    assert num_absent == (0 if way == "exchange" else 1)


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_is_on_the_disk_before_it_gets_its_name_and_the_old_one_goes_last(tmp_path, way):
    aside, final = make_folder(tmp_path / "aside", "new"), make_folder(tmp_path / "final", "old")
    lines = [line.split() for line in run(PUBLISH, 10**6, way, aside, final).stdout.splitlines()]
    operations = [name for name, _ in lines]
    named = operations.index("_exchange" if way == "exchange" else "rename")
    synced = {seen for name, seen in lines[:named] if name == "fsync"}
    assert synced == {str(aside), *(str(aside / name) for name in ("one", "inner", "inner/two", "empty"))}
    removed = min(operations.index(name) for name in ("unlink", "rmdir"))
    assert ["fsync", str(tmp_path)] in lines[named:removed]
    assert names(tmp_path) == ["final"]


def test_a_recovery_that_is_killed_is_finished_by_the_next(tmp_path):
    for number in count():
        final = tmp_path / f"{number}" / "fin[a]l"
        make_folder(final.with_name(".fin[a]l.replaced-1"), "old")
        (final.with_name(".fin[a]l.removed-2") / "half").mkdir(parents=True)
        result = run(RECOVER, number, "exchange", final)
        recover_folder(final)
        assert content_of(final) == "old"
        assert names(final.parent) == ["fin[a]l"]
        if result.returncode == 0:
            break
    assert number > 2


def test_what_was_half_removed_is_never_brought_back(tmp_path):
    final = tmp_path / "final"
    (tmp_path / ".final.removed-1" / "half").mkdir(parents=True)
    (tmp_path / ".final2.replaced-1").mkdir()
    recover_folder(final)
    recover_folder(tmp_path / "nowhere" / "final")
    assert names(tmp_path) == [".final2.replaced-1"]


@pytest.mark.parametrize("kind", ["absent", "empty folder", "file", "link"])
def test_a_folder_takes_the_place_of_anything(tmp_path, kind):
    final, target = tmp_path / "fin[a]l", make_folder(tmp_path / "target", "old")
    if kind == "empty folder":
        final.mkdir()
    elif kind == "file":
        final.write_text("old")
    elif kind == "link":
        final.symlink_to(target)
    publish_folder(make_folder(tmp_path / "aside", "new"), final)
    assert content_of(final) == "new"
    assert not final.is_symlink()
    assert content_of(target) == "old"
    assert names(tmp_path) == ["fin[a]l", "target"]


@pytest.mark.parametrize("way", WAYS)
def test_a_publish_that_fails_leaves_the_old_folder(tmp_path, monkeypatch, way):
    final = make_folder(tmp_path / "final", "old")
    if way != "exchange":
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    with pytest.raises(FileNotFoundError):
        publish_folder(tmp_path / "aside", final)
    assert content_of(final) == "old"
    assert names(tmp_path) == ["final"]


def test_a_system_that_cannot_exchange_is_told_from_one_that_fails(tmp_path, monkeypatch):
    first, second = make_folder(tmp_path / "first", "1"), make_folder(tmp_path / "second", "2")
    if sys.platform.startswith("linux"):
        assert files._exchange(first, second)
        assert (content_of(first), content_of(second)) == ("2", "1")
    for code in (errno.ENOSYS, errno.EINVAL, errno.EIO):
        monkeypatch.setattr(files, "_find_exchange", lambda code=code: lambda *_: ctypes.set_errno(code) or -1)
        if code == errno.EIO:
            with pytest.raises(OSError, match=os.strerror(code)):
                files._exchange(first, second)
        else:
            assert not files._exchange(first, second)
    monkeypatch.setattr(files, "_find_exchange", lambda: None)
    assert not files._exchange(first, second)


# --- locks


def hold(path: Path) -> subprocess.Popen[str]:
    """Starts a process that holds a lock until its input ends."""
    code = """
import sys
import tempfile
from pathlib import Path
from cvft.files import lock
with lock(Path(sys.argv[1]), timeout_s=None, subject="x"):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path):
    path = tmp_path / "lock"
    process = hold(path)
    for _ in range(2):  # those who ask do not wipe out the name
        with pytest.raises(LockHeldError) as caught, lock(path, timeout_s=0.1, subject="the place"):
            pass
        assert str(caught.value) == (
            "the place has 1 problem\n"
            f"  {path}: got held by `process {process.pid} on {os.uname().nodename}`, need nobody to hold it within 0.1 s\n"
            "    hint: wait until that process is done"
        )
    process.kill()
    process.communicate()
    with lock(path, timeout_s=0, subject="the place"):
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
    with lock(path, timeout_s=None, subject="the place"):
        pass


def test_a_lock_is_waited_for(tmp_path):
    path = tmp_path / "lock"
    process = hold(path)
    threading.Timer(0.3, process.stdin.close).start()
    with lock(path, timeout_s=300, subject="x"):
        assert process.wait(timeout=300) == 0
    process.stdout.close()


def test_a_run_folder_takes_one_training_at_a_time(tmp_path):
    process = hold(tmp_path / LOCK_FILE)
    with pytest.raises(RunError) as caught, locked(RunFolder(tmp_path)):
        pass
    assert str(caught.value) == (
        f"run folder {tmp_path} has 1 problem\n"
        "  folder: got another process that trains in it, need one at a time\n"
        "    hint: wait for it, or stop it"
    )
    process.communicate()
    with locked(RunFolder(tmp_path)):
        pass


def test_a_lock_dies_with_its_process_even_while_a_forked_child_lives(tmp_path):
    code = """
import os, sys
from pathlib import Path
from cvft.files import lock
with lock(Path(sys.argv[1]), timeout_s=None, subject="x"):
    os.write(1, b"parent\\n" if os.fork() else b"child\\n")
    sys.stdin.read()
"""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", code, str(path)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert {process.stdout.readline(), process.stdout.readline()} == {"parent\n", "child\n"}  # both are past the fork
    with pytest.raises(LockHeldError), lock(path, timeout_s=0, subject="x"):
        pass
    process.kill()
    process.wait()
    with lock(path, timeout_s=0, subject="x"):  # data loaders fork, and may outlive the process that they served
        pass
    process.stdin.close()  # ends the child
    process.stdout.close()


def test_what_keeps_us_from_writing_is_told_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    assert why_unwritable(tmp_path) == why_unwritable(tmp_path / "new" / "deeper") == ""
    for place in ("file", "file/below/it"):
        assert why_unwritable(tmp_path / place) == f"`{tmp_path}/file` is a file"
    assert why_unwritable(tmp_path / "dangling" / "x").endswith("dangling` is a link to a place that is not there")
    assert why_unwritable(tmp_path / ("x" * 300) / "y").startswith("file name too long at `")
    assert why_unwritable(Path("/proc/new")).endswith(" at `/proc`")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs users")
def test_a_folder_of_another_user_is_told(tmp_path):
    closed, mine = tmp_path / "closed", tmp_path / "mine"
    closed.mkdir(mode=0o555)
    mine.mkdir()
    code = (
        "import os, sys; from pathlib import Path; from cvft.files import why_unwritable\n"
        "os.getuid() or os.setresuid(65534, 65534, 65534)\n"
        "print([why_unwritable(Path(name) / 'run') for name in sys.argv[1:]])"
    )
    if os.getuid() == 0:
        os.chown(mine, 65534, 65534)
    shared = Path(tempfile.gettempdir())
    for folder in (tmp_path, *(each for each in tmp_path.parents if each.is_relative_to(shared) and each != shared)):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, closed, mine], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert eval(done.stdout) == [f"permission denied at `{closed}`", ""]


def test_a_full_disk_is_told(tmp_path):
    """A limit on the size of files stands in for the disk: the write fails at the same place."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from cvft.files import why_unwritable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "print(why_unwritable(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == f"file too large at `{tmp_path}`"
