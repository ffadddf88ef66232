"""The catalog of clips: a clip is decoded once per content and setting, over runs, commands, processes and kills."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.data.catalog import FILE, ClipCatalog
from cvft.data.check import inspect_clips
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling
from cvft.plan.check import check_recipe
from cvft.plan.forecast import forecast
from cvft.plan.job import open_job
from cvft.plan.prepare import PreparedRows, prepare
from cvft.recipe import load_recipe
from tests.project import HANG_S, make_project, write_jsonl
from tests.real_clips import real_clip
from tests.trained import copy_of_trained_project

HOW = DecodeSettings(Sampling())
NUM_KILLS = int(os.environ.get("CVFT_NUM_KILLS", "3"))
INFO = ClipInfo(2, 4, 6, (0.0, 0.1), 2, 10.0, 0.2, "pyav", "a" * 64, ("note",), ("file",), ())


def make_clips(folder: Path, count: int) -> list[str]:
    """Clips that are told apart by their bytes alone."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.mp4").write_bytes(real_clip("bikes.mp4").read_bytes() + bytes([number]))
    return [f"{number}.mp4" for number in range(count)]


@pytest.fixture
def project(tmp_path) -> Path:
    """Three clips in a folder of their own."""
    rows = [{"query": "q", "response": "r", "videos": [name]} for name in make_clips(tmp_path, 3)]
    return make_project(tmp_path, rows=rows, val_rows=rows[:1])


def start(recipe: Path, *overrides: str) -> tuple[PreparedRows, list[int]]:
    """What a start of the training finds, and how many clips were done after each that it decoded."""
    job, done = open_job(load_recipe(recipe, overrides=overrides)), []
    return prepare(job, on_progress=lambda number, _: done.append(number)), done


def test_the_next_start_decodes_only_what_changed(project):
    first, done = start(project)
    assert done == [1, 2, 3]
    again, done = start(project)
    assert (again, done, list(again.clips)) == (first, [], list(first.clips))
    clip = project.parent / "1.mp4"
    shutil.copystat(real_clip("bikes.mp4"), clip)  # an older time, and the same bytes
    assert start(project)[1] == []
    seen = clip.stat()
    clip.write_bytes(clip.read_bytes()[:-1] + b"x")  # another content of the same size and time
    os.utime(clip, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    changed, done = start(project)
    assert done == [3]
    assert changed.clips[clip].sha256 != first.clips[clip].sha256
    (project.parent / "elsewhere").mkdir()
    clip.rename(project.parent / "elsewhere" / "1.mp4")  # ... and it is known by its bytes wherever it lies
    clip.symlink_to("elsewhere/1.mp4")
    assert start(project)[1] == []


def test_every_command_and_every_run_knows_what_one_has_found(project):
    loaded = load_recipe(project)
    checked = check_recipe(loaded)
    assert (checked.num_clips, checked.num_decoded) == (3, 3)
    assert start(project)[1] == []
    assert start(project, "name=other", "lora.rank=2")[1] == []
    planned = []
    assert forecast(loaded, on_progress=lambda done, _: planned.append(done)).num_clips_read == 3
    assert planned == []
    assert check_recipe(loaded).num_decoded == 0
    assert [each.kind for each in check_recipe(loaded).findings] == [each.kind for each in checked.findings]


def test_after_a_run_neither_a_second_one_nor_its_own_continuation_decodes_a_clip_again(tmp_path_factory):
    recipe = copy_of_trained_project(
        tmp_path_factory
    )  # its `cvft run` has recorded them: commands and workers are processes
    assert start(recipe)[1] == []
    assert start(recipe, "name=second")[1] == []
    assert len(start(recipe, f"output.root={tmp_path_factory.mktemp('other')}")[1]) == 2


def test_another_rule_decodes_all_and_forgets_nothing(project):
    start(project)
    assert start(project, "video.sampling=uniform")[1] == [1, 2, 3]
    assert start(project, "video.sampling=uniform", "video.timeout_s=600")[1] == [1, 2, 3]
    assert start(project)[1] == []
    assert start(project, "video.sampling=uniform", "data.check_workers=2")[1] == []


def test_clips_that_do_not_decode_are_tried_again(tmp_path):
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"no clip")
    for _ in range(2):
        with ClipCatalog(tmp_path / "c", HOW) as catalog:
            assert inspect_clips([path], sampling=HOW.sampling, catalog=catalog).num_decoded == 1


@pytest.mark.parametrize("num_workers", [1, 3])
def test_facts_come_back_bit_for_bit_with_any_number_of_processes(tmp_path, num_workers):
    paths = [tmp_path / name for name in make_clips(tmp_path, 4)]
    with ClipCatalog(tmp_path / "c", HOW) as catalog:
        first = inspect_clips(paths, sampling=HOW.sampling, num_workers=num_workers, catalog=catalog)
    with ClipCatalog(tmp_path / "c", HOW) as catalog:
        again = inspect_clips(paths, sampling=HOW.sampling, num_workers=num_workers, catalog=catalog)
    assert (first.num_decoded, again.num_decoded) == (4, 0)
    assert list(again.found.items()) == list(first.found.items())
    assert list(again.found) == paths


DAMAGES = {
    "noise": lambda raw: b"no database at all" * 100,
    "half": lambda raw: raw[: len(raw) // 2],
    "hole": lambda raw: raw[:4096] + bytes(8192) + raw[12288:],
    "head": lambda raw: raw[:30] + b"\xff" * 70 + raw[100:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path, caplog, damage):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"any")
    file = tmp_path / "c" / FILE
    with ClipCatalog(file.parent, HOW) as catalog:
        catalog.find([path])
        catalog.record(path, INFO)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert not caplog.records
    with ClipCatalog(file.parent, HOW) as catalog:
        assert catalog.find([path]) == {}
        catalog.record(path, INFO)
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [f"clips     {file} is damaged"]
    assert file.with_suffix(".damaged").is_file()
    with ClipCatalog(file.parent, HOW) as catalog:
        assert catalog.find([path]) == {path: INFO}


def test_facts_that_were_changed_on_the_disk_or_mean_other_things_are_not_believed(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"any")
    file = tmp_path / "c" / FILE

    def found_after(change: str) -> dict:
        with ClipCatalog(file.parent, HOW) as catalog:
            catalog.find([path])
            catalog.record(path, INFO)
        with sqlite3.connect(file) as db:
            db.execute(change)
        db.close()
        with ClipCatalog(file.parent, HOW) as catalog:
            return catalog.find([path])

    assert found_after("UPDATE clips SET crc32 = crc32") == {path: INFO}
    assert found_after("UPDATE clips SET facts = replace(facts, '0.1', '0.2')") == {}
    assert found_after("UPDATE clips SET facts = '{}', crc32 = 2745614147") == {}
    assert found_after("UPDATE files SET num_bytes = 4") == {}
    with ClipCatalog(file.parent, replace(HOW, timeout_s=1)) as catalog:
        assert catalog.find([path]) == {}


def test_where_the_disk_takes_no_file_clips_are_decoded_again(tmp_path, caplog):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"any")
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        with ClipCatalog(tmp_path / "file" / "c", HOW) as catalog:
            assert catalog.find([path]) == {}
            catalog.record(path, INFO)
            assert catalog.find([path]) == {path: INFO}
    assert [record.getMessage().partition("(")[2][:9] for record in caplog.records] == ["[Errno 20"] * 2


def count_known(file: Path) -> int:
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
            return db.execute("SELECT count(*) FROM clips").fetchone()[0]
    except sqlite3.Error:  # it is not there yet
        return 0


def test_a_check_that_is_killed_never_decodes_a_finished_clip_again(tmp_path):
    num_clips, file = 40, tmp_path / "runs" / ".clips" / FILE
    rows = [
        {"query": f"{name}?", "response": "r", "videos": [f"clips/{name}"]}
        for name in make_clips(tmp_path / "clips", num_clips)
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    command = [sys.executable, "-m", "cvft", "check", str(data), "--workers", "2", "--output", "check.json"]
    known = 0
    for least in sorted(random.Random(7).sample(range(1, num_clips - 8), NUM_KILLS)):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begin = time.monotonic()
        while count_known(file) < least and process.poll() is None and time.monotonic() - begin < HANG_S:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert known <= (known := count_known(file)) < num_clips
        assert not (tmp_path / "check.json").exists()
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=HANG_S)
    after_kills = json.loads((tmp_path / "check.json").read_text())
    assert after_kills.pop("num_decoded") == num_clips - known
    shutil.rmtree(file.parent)
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=HANG_S)
    straight = json.loads((tmp_path / "check.json").read_text())
    assert straight.pop("num_decoded") == num_clips
    assert after_kills == straight


def test_several_processes_use_one_catalog_at_the_same_time(tmp_path):
    rows = [{"query": f"{name}?", "response": "r", "videos": [name]} for name in make_clips(tmp_path, 6)]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "runs" / ".clips").mkdir(parents=True)
    (tmp_path / "runs" / ".clips" / FILE).write_bytes(b"and a damaged one" * 99)
    command = [sys.executable, "-m", "cvft", "check", str(data), "--workers", "1", "--json"]
    started = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [(*process.communicate(timeout=HANG_S), process.returncode) for process in started]
    findings = [json.loads(out)["findings"] for out, _, _ in results]
    assert findings == [findings[0]] * 3
    assert [code for _, _, code in results] == [0] * 3
    assert "".join(err for _, err, _ in results).count("is damaged") == 1
    assert "cannot be used" not in "".join(err for _, err, _ in results)
    assert count_known(tmp_path / "runs" / ".clips" / FILE) == 6


def test_workers_of_the_command_line(tmp_path, capsys):
    recipe = make_project(tmp_path)
    assert main(["check", str(recipe), "--workers", "2", "--format", "llava"]) == 2
    assert capsys.readouterr().err == (
        "command line has 2 problems\n"
        "  --format: got it beside a recipe, need `data.format=llava`, which is the recipe's own\n"
        "  --workers: got it beside a recipe, need `data.check_workers=2`, which is the recipe's own\n"
    )
    assert main(["check", "rows.jsonl", "--workers", "0"]) == 2
    assert capsys.readouterr().err == "command line has 1 problem\n  --workers: got `0`, need at least 1\n"
