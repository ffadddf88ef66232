"""The store of vision features, and of pixels, among processes that really die, wait for each other, and run out of disk."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cvft.data.features.index import DamagedShard
from cvft.data.features.shard import HEADER_BYTES
from cvft.data.features.store import BUILD_LOCK, FeatureStore
from cvft.errors import FeatureError
from tests.feature_writing import KEY, KEYS, assert_holds, assert_valid, bytes_of, clip_of, fill, shards

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def store(request, tmp_path):
    return FeatureStore(tmp_path / "features", KEYS[getattr(request, "param", "features")])


OF_EACH_KIND = pytest.mark.parametrize("store", KEYS, indirect=True)

PRELUDE = """
import os, sys, time
from pathlib import Path
from cvft.data.features.store import FeatureStore
from tests.feature_writing import KEYS, add, bytes_of, clip_of, fill
store = FeatureStore(Path(sys.argv[1]), KEYS[os.environ["KIND"]])
"""


def start(store: FeatureStore, code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a process that has opened the same store."""
    command = [sys.executable, "-c", PRELUDE + code, str(store.root), *map(str, arguments)]
    environment = {**os.environ, "KIND": store.key.kind}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=pipe, stdin=pipe, text=True, env=environment)


def tell(process: subprocess.Popen[str]) -> str:
    """Waits for a line that the process prints."""
    line = process.stdout.readline().strip()
    assert line, f"ended with {process.wait()}"
    return line


def finish(*processes: subprocess.Popen[str]) -> list[str]:
    """Lets processes go on that wait for their input to end, and returns what they printed."""
    for process in processes:
        process.stdin.close()
    printed = []
    for process in processes:
        with process:
            printed.append(process.stdout.read())
    assert [process.returncode for process in processes] == [0] * len(processes)
    return printed


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    assert process.wait(timeout=600) == -signal.SIGKILL
    process.stdout.close()
    process.stdin.close()


@OF_EACH_KIND
def test_a_writer_that_is_killed_leaves_nothing_half_written(store):
    code = """
with store.writer(max_shard_bytes=2**18 + 1024) as writer:
    for name in range(3):
        add(writer, store, name)
    print("added", flush=True)
    sys.stdin.read()
"""
    process = start(store, code)
    assert tell(process) == "added"
    (partial,) = store.folder.glob("*.partial")
    store.check()
    assert partial.exists()  # its writer lives
    kill(process)
    assert len(shards(store)) == 1
    assert store.missing(map(clip_of, range(3))) == [clip_of(2)]
    assert store.check() == []
    assert not partial.exists()
    assert_holds(store, (0, 1))
    fill(store, range(3))
    assert_valid(store)


@OF_EACH_KIND
def test_a_writer_can_be_killed_at_any_moment(store):
    code = """
print("go", flush=True)
for name in range(int(sys.argv[2]), 10**9):
    fill(store, [f"{sys.argv[2]} {name}", name])
"""
    processes = [start(store, code, number) for number in range(4)]
    for process in processes:
        tell(process)
    for process in processes:  # each is killed in the middle of naming, syncing, locking or writing
        time.sleep(0.1)
        kill(process)
    (store.folder / ".index.json.1.tmp").write_text("left by one that was killed while it wrote the index")
    assert store.check() == []
    assert_valid(store)
    assert len(store) > 4
    known = {clip_of(name): name for name in range(10**4)}
    known |= {clip_of(f"{number} {name}"): f"{number} {name}" for number in range(4) for name in range(10**4)}
    assert_holds(store, [known[clip] for clip in store.verify() or list(store._view.locations)])


def test_two_builders_do_the_work_once(store):
    code = """
print("ready", flush=True)
sys.stdin.read()
with store.build_lock():
    todo = store.missing(map(clip_of, range(20)))
    with store.writer() as writer:
        for name in range(20):
            if clip_of(name) in todo:
                time.sleep(0.01)
                writer.add(clip_of(name), (256,), "BF16", bytes_of(name))
print(len(todo))
"""
    processes = [start(store, code) for _ in range(2)]
    for process in processes:
        tell(process)
    assert sorted(map(int, finish(*processes))) == [0, 20]
    assert_holds(store, range(20))
    assert len(shards(store)) == 1
    assert_valid(store)


def test_two_writers_without_a_lock_lose_nothing(store):
    code = """
print("ready", flush=True)
sys.stdin.read()
first, last = map(int, sys.argv[2:])
fill(store, range(first, last), max_shard_bytes=2**18 + 3 * 512)
print(len(store))
"""
    processes = [start(store, code, 0, 60), start(store, code, 30, 90)]
    for process in processes:
        tell(process)
    assert "90" in {line.strip() for line in finish(*processes)}
    assert_holds(store, range(90))
    assert_valid(store)
    numbers = [int(path.name.split("-")[1]) for path in shards(store)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_build_lock_is_waited_for_and_dies_with_its_process(store, tmp_path):
    code = """
with store.build_lock():
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""
    process = start(store, code)
    assert int(tell(process)) == process.pid
    with pytest.raises(FeatureError) as caught, store.build_lock(timeout_s=0.2):
        pass
    assert str(caught.value) == (
        "the lock of a store has 1 problem\n"
        f"  {store.folder / BUILD_LOCK}: got held by `process {process.pid} on {os.uname().nodename}`, "
        "need nobody to hold it within 0.2 s\n"
        "    hint: wait until that process is done"
    )
    fill(store, [1])  # writers need no lock, and readers neither
    kill(process)
    with store.build_lock(timeout_s=0):
        pass


def test_a_child_that_was_forked_under_the_build_lock_does_not_keep_it(store):
    code = """
with store.build_lock():
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
print("left", flush=True)
os.waitpid(child, 0)
"""
    process = start(store, code)
    assert tell(process) == "left"
    with store.build_lock(timeout_s=0):
        pass
    finish(process)


# --- size


def test_reading_one_entry_of_a_large_shard_reads_only_that_entry(store):
    num_bytes = 4 * 2**20
    data = bytes(num_bytes - 4)
    with store.writer() as writer:
        for name in range(50):
            writer.add(clip_of(name), (num_bytes // 2,), "BF16", data + name.to_bytes(4, "little"))
    assert store.num_bytes() == HEADER_BYTES + 50 * num_bytes
    code = """
def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak_kib()
feature = store.read(clip_of(33))
assert int.from_bytes(feature.data[-4:], "little") == 33
untouched = peak_kib()
assert feature.data.tobytes()[:4] == bytes(4)
print(untouched - before, peak_kib() - before)
"""
    (printed,) = finish(start(store, code))
    untouched_kib, read_kib = map(int, printed.split())
    assert untouched_kib < 2 * 2**10
    assert read_kib < 10 * 2**10  # 4 MiB of the file and 4 MiB of the copy


# --- failures


def test_what_was_added_before_an_exception_is_kept(store):
    def interrupt():
        with store.writer() as writer:
            writer.add(clip_of(1), (256,), "BF16", bytes_of(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert_holds(store, [1])
    assert_valid(store)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield place
    # lazily: exceptions that refer to their own frames may keep a store, and with it the files that it has mapped
    subprocess.run(["umount", "--lazy", str(place)], check=True)


FULL = (
    "the store has 1 problem\n"
    "  {folder}: got a full disk, need room for features of clips\n"
    "    hint: features published before are intact: free some space and run the same command again"
)


def test_a_full_disk_is_told_and_costs_nothing_that_was_whole(small_disk):
    store = FeatureStore(small_disk, KEY)
    fill(store, ["before"], num_bytes=2**19)
    with pytest.raises(FeatureError) as caught:
        fill(store, range(10), num_bytes=2**19)
    assert str(caught.value) == FULL.format(folder=store.folder)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert len(shards(store)) == 2
    assert 2 < len(store) < 10
    assert_valid(store)
    whole = len(store)
    with pytest.raises(FeatureError, match="got a full disk"):  # not even a header fits after this
        fill(store, range(100, 200), num_bytes=2**16)
    with pytest.raises(FeatureError, match="got a full disk"):
        fill(store, range(200, 300), num_bytes=2**12)
    assert list(store.folder.glob("*.partial")) + list(store.folder.glob(".*.tmp")) == []
    assert_valid(store)
    assert len(store) >= whole
    assert_holds(store, ["before"], num_bytes=2**19)
    store.drop_damaged([DamagedShard(shards(store)[0], "in the way", ())])  # its space is free again
    fill(store, ["after"], num_bytes=2**16)
    assert_holds(store, ["after"], num_bytes=2**16)
    assert store.missing([clip_of("before")]) == [clip_of("before")]
    assert_valid(store)


@pytest.mark.parametrize("limit_bytes", [1000, HEADER_BYTES + 100, HEADER_BYTES + 1000])
def test_a_file_that_may_not_grow_is_told_like_a_full_disk(store, limit_bytes):
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    fill(store, range(9))
except ValueError as error:
    print(error)
"""
    (printed,) = finish(start(store, code, limit_bytes))
    assert printed.strip() == FULL.format(folder=store.folder)
    assert list(store.folder.glob("*.partial")) + list(store.folder.glob(".*.tmp")) == []
    kept = [0] if limit_bytes > HEADER_BYTES + 512 else []
    assert store.missing(map(clip_of, range(9))) == [clip_of(name) for name in range(9) if name not in kept]
    assert_valid(store)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "features").write_text("a file")
    store = FeatureStore(tmp_path / "store", KEY)
    store.folder.parent.write_text("a file")
    with pytest.raises(FeatureError, match=r"got `.*`, need a folder that can be read, written and locked"):
        fill(store, [1])
