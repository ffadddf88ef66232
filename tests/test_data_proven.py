"""Clips that a run has proved are not decoded again while they, the rule and the decoder stay; all others are."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cvft.data.proven import ProvenClips, look_at
from cvft.plan.job import open_job
from cvft.plan.prepare import PreparedRows, prepare
from cvft.recipe import load_recipe
from cvft.train.row_files import write_row_files
from tests.project import make_project
from tests.real_clips import real_clip


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Three clips in a folder of their own."""
    folder = tmp_path_factory.mktemp("proven")
    names = ["a.mp4", "b.mp4", "c.mp4"]
    for number, name in enumerate(names):
        (folder / name).write_bytes(real_clip("bikes.mp4").read_bytes() + bytes([number]))  # told apart by their bytes
    rows = [{"query": "q", "response": "r", "videos": [name]} for name in names]
    return make_project(folder, rows=rows, val_rows=rows[:1])


def start(recipe: Path, *overrides: str) -> tuple[PreparedRows, list[int]]:
    """What a start of the training finds, and how many clips were done after each that it decoded."""
    job, done = open_job(load_recipe(recipe, overrides=overrides)), []
    prepared = prepare(job, on_progress=lambda number, _: done.append(number))
    write_row_files(prepared, job.run)
    return prepared, done


def test_the_next_start_decodes_only_what_changed(project):
    first, done = start(project)
    assert done == [1, 2, 3]
    again, done = start(project)
    assert done == []
    assert replace(again, proven=None) == replace(first, proven=None)
    assert list(again.clips) == list(first.clips)
    clip = project.parent / "b.mp4"
    shutil.copystat(real_clip("bikes.mp4"), clip)  # an older time
    assert start(project)[1] == [3]
    seen = clip.stat()
    clip.write_bytes(clip.read_bytes()[:-1] + b"x")  # another content of the same size and time
    os.utime(clip, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    changed, done = start(project)
    assert done == [3]
    assert changed.clips[clip].sha256 != first.clips[clip].sha256
    assert start(project)[1] == []


def test_another_rule_decodes_all(project):
    start(project)
    assert start(project, "video.sampling=uniform")[1] == [1, 2, 3]
    assert start(project, "video.sampling=uniform", "video.timeout_s=600")[1] == [1, 2, 3]
    assert start(project)[1] == [1, 2, 3]


def test_a_record_that_cannot_be_read_proves_nothing(project):
    prepared, _ = start(project)
    file = project.parent / "runs" / "small" / "data" / "proven_clips.json"
    whole = file.read_bytes()
    assert ProvenClips.read(file, how=prepared.proven.how) == prepared.proven
    for data in (b"", b"{", whole[:-20], b"[1]", whole.replace(b"num_frames", b"frames"), b"\xff" * 9):
        file.write_bytes(data)
        assert ProvenClips.read(file, how=prepared.proven.how).facts == {}
    assert ProvenClips.read(file.with_name("none"), how="x").facts == {}
    assert start(project)[1] == [1, 2, 3]
    assert look_at([file, file.with_name("none")]).keys() == {file}
