"""Copies of a clip that were encoded anew, resized, cut or thinned out are found on the other side, and other clips are not."""

import random
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cvft.data.catalog import ClipCatalog
from cvft.data.check import inspect_clips, look_at_clips
from cvft.data.doctor.check import DataFile, check_files
from cvft.data.doctor.fix import fix_files
from cvft.data.doctor.similar import align, find_similar
from cvft.data.rows import read_rows
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.looks import ClipLooks, measure_cells
from cvft.data.video.process import DecodeProcess
from cvft.data.video.sample import Sampling
from tests.project import write_jsonl
from tests.real_clips import real_clip

DEMO = sorted((Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips").glob("*.mp4"))
HOW = DecodeSettings(Sampling())
REAL = [real_clip("bikes.mp4"), real_clip("carphone_pristine.mp4")]


def encode_again(
    source: Path,
    target: Path,
    *,
    crf: int = 28,
    scale: float = 1.0,
    start_s: float = 0,
    end_s: float = 1e9,
    fps: float = 1e9,
) -> Path:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        video = old.streams.video[0]
        width, height = (max(16, round(side * scale / 2) * 2) for side in (video.width, video.height))
        stream = new.add_stream("libx264", rate=video.average_rate, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        due_s = 0.0
        for frame in old.decode(video):
            second = float(frame.pts * video.time_base) - start_s
            if not 0 <= second <= end_s - start_s or second + 1e-6 < due_s:
                continue
            due_s += 1 / fps
            again = frame.reformat(width, height, "yuv420p")
            again.pts, again.time_base = round(second * 12800), Fraction(1, 12800)
            new.mux(stream.encode(again))
        new.mux(stream.encode())
    return target


@pytest.fixture(scope="module")
def looks() -> dict[Path, ClipLooks]:
    clips = [*DEMO[::3], *REAL]
    with DecodeProcess() as process:
        return {clip: process.look(clip) for clip in clips}


def test_no_two_clips_are_taken_for_one(looks):  # all 96 of the demo: test_data_doctor.py
    assert len(looks) == 34
    assert list(find_similar(looks, looks)) == [(clip, clip, 0.0) for clip in looks]


def test_copies_are_found_whatever_was_done_to_them(looks, tmp_path):
    chance = random.Random(1)
    clips = [*chance.sample(DEMO[::3], 4), *REAL]
    missed = []
    with DecodeProcess() as process:
        for clip in clips:
            length_s = float(looks[clip].timestamps_s[-1])
            start_s, end_s = chance.uniform(0.1, 0.4) * length_s, chance.uniform(0.5, 0.9) * length_s
            for name, how in {
                "crf": {"crf": 36},
                "smaller": {"crf": 32, "scale": 0.6},
                "larger": {"scale": 1.5},
                "start": {"start_s": start_s},
                "end": {"end_s": end_s, "scale": 0.8},
                "slow": {"fps": 4},
            }.items():
                copy = process.look(encode_again(clip, tmp_path / f"{clip.stem}_{name}.mp4", **how))
                found = [(one, other) for one, other, _ in find_similar(looks, {tmp_path: copy})]
                if found != [(clip, tmp_path)]:
                    missed.append((clip.name, name, found))
                offset_s = align(copy, looks[clip])
                if name == "start" and clip in REAL:  # where things stand still, any offset is as good
                    assert offset_s == pytest.approx(start_s, abs=0.3)
    assert missed == []


def test_cells_of_a_picture_hardly_depend_on_its_size():
    small = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    frames = [small.repeat(side // 4, 0).repeat(side // 4, 1) for side in (16, 20, 48, 100)]
    cells = [measure_cells(frame[None]).astype(int) for frame in frames]
    assert all(np.abs(cells[0] - each).max() <= 32 for each in cells)
    assert all(np.sqrt(((cells[0] - each) ** 2).mean()) < 8 for each in cells)


def test_single_pictures_say_nothing():
    one = ClipLooks(np.array([0.0]), np.zeros((1, 256), np.uint8))
    two = ClipLooks(np.array([0.0, 1.0]), np.zeros((2, 256), np.uint8))
    assert align(one, one) is align(one, two) is align(two, two) is None


def ask(query: str, clip: Path) -> dict:
    return {"query": query, "response": "yes", "videos": [str(clip)]}


def test_a_check_tells_of_them_and_a_fix_brings_them_to_one_side(tmp_path):
    small = encode_again(DEMO[0], tmp_path / "small.mp4", scale=0.7)
    train = write_jsonl(tmp_path / "train.jsonl", [ask("a?", DEMO[0]), ask("b?", DEMO[0]), ask("c?", DEMO[1])])
    val = write_jsonl(tmp_path / "val.jsonl", [ask("d?", small), ask("e?", DEMO[2])])
    for is_held_out, kind in ((True, "similar_clip_on_both_sides"), (False, "similar_clips")):
        with ClipCatalog(tmp_path / "c", HOW) as catalog:
            checked = check_files([DataFile(train), DataFile(val, is_held_out=is_held_out)], how=HOW, catalog=catalog)
        (finding,) = checked.findings
        assert finding.kind == kind
        assert str(finding.problem) == (
            f"{val}:1 `videos`: {small}: got pictures of the clip of {train}:1, 2 `videos`: {DEMO[0]}, 0.0 s apart, "
            "need the rows of one clip in one file"
        )
        assert [row.query for row in finding.rows] == ["a?", "b?", "d?"]
        if is_held_out:
            fix_files(checked)
    assert [row.query for row in read_rows(tmp_path / "train.clean.jsonl")] == ["a?", "b?", "c?", "d?"]
    assert [row.query for row in read_rows(tmp_path / "val.clean.jsonl")] == ["e?"]


def test_looks_are_kept_and_those_of_one_content_are_made_once(tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(DEMO[0].read_bytes())
    clips = inspect_clips([DEMO[0], copy, DEMO[1]], sampling=HOW.sampling).found
    hashes = {path: info.sha256 for path, info in clips.items()}
    made = []
    for _ in range(2):
        with ClipCatalog(tmp_path / "c", HOW) as catalog:
            found = look_at_clips(hashes, decode=HOW, catalog=catalog, on_progress=lambda done, _: made.append(done))
            assert list(found) == [DEMO[0], copy, DEMO[1]]
    assert made == [1, 2]
    with DecodeProcess() as process:
        fresh = process.look(DEMO[0])
    assert np.array_equal(found[copy].cells, fresh.cells)
    assert np.array_equal(found[copy].timestamps_s, fresh.timestamps_s)
