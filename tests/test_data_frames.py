"""Ready frames with seconds of their own: pictures of a list or a folder, through rows, decoding, catalog and families."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cvft.data.catalog import ClipCatalog
from cvft.data.check import inspect_clips
from cvft.data.clip_columns import NamesAsWritten, clip_of_frames
from cvft.data.formats.convert import convert_file
from cvft.data.records import ClipRecord, find_files, read_records, write_records
from cvft.data.rows import make_rows, read_rows
from cvft.data.split import split_by_clip
from cvft.data.video.decode import decode_clip
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import DecodeProcess
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import ClipSpec, content_of, files_of, from_text, hash_files, to_text
from cvft.data.video.view import ClipView
from cvft.errors import ClipError, DataError
from cvft.families.glm4v import inputs as glm
from cvft.families.glm4v.sizes import TowerSizes as GlmTower
from cvft.families.qwen_vl import inputs as qwen
from cvft.families.qwen_vl.layout import STYLES
from cvft.families.qwen_vl.sizes import TowerSizes as QwenTower
from tests.fixtures_video import draw_number, read_number
from tests.project import write_jsonl

EVERY = Sampling("uniform", 1000)
SECONDS = (0, 0.5, 1, 2.5, 4)


@pytest.fixture
def folder(tmp_path):
    """Five pictures without loss, whose names sort otherwise as text than by their numbers."""
    (tmp_path / "f").mkdir()
    for number in range(5):
        Image.fromarray(draw_number(number, width=160, height=96)).save(tmp_path / "f" / f"shot{number + 8}.png")
    return tmp_path


def paths_in(folder):
    return tuple((folder / "f" / f"shot{number + 8}.png").resolve() for number in range(5))


def spec_of(folder, seconds=SECONDS, **more):
    return ClipSpec(paths_in(folder)[0], frames=paths_in(folder), seconds=tuple(map(float, seconds)), **more)


def rows_of(folder, *rows):
    return read_rows(write_jsonl(folder / "rows.jsonl", [{"query": "q", "response": "r", **row} for row in rows]))


def test_rows_name_frames_by_list_or_folder_and_are_written_as_they_were_read(folder):
    names = [f"f/shot{number + 8}.png" for number in range(5)]
    said = [{"videos": [names], "seconds": SECONDS}, {"videos": ["f"], "seconds": SECONDS}]
    rows = rows_of(folder, *said, {**said[0], "start": 0.5, "end": 3})
    assert [row.videos[0] for row in rows] == [
        spec_of(folder),
        spec_of(folder),
        spec_of(folder, start_s=0.5, end_s=3.0),
    ]
    assert [from_text(to_text(row.videos[0])) for row in rows] == [row.videos[0] for row in rows]
    again = convert_file(folder / "rows.jsonl", folder / "again.jsonl").target
    assert [(row.videos[0], row.to_json()) for row in read_rows(again)] == [
        (row.videos[0], row.to_json()) for row in rows
    ]
    stored = [(1, json.loads(line)) for line in again.read_text().splitlines()]
    (folder / "f").rename(folder / "gone")
    assert [
        row.videos[0] for row in make_rows(stored, source=again, video_root=folder, finder=NamesAsWritten())
    ] == [row.videos[0] for row in rows]  # fmt: skip


def test_messages_hold_lists_of_frames(folder):
    said = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A dog."}]
    names = [f"f/shot{number + 8}.png" for number in range(5)]
    source = write_jsonl(folder / "rows.jsonl", [{"messages": said, "videos": [names], "seconds": SECONDS}])
    (row,) = read_rows(source, format="auto")
    assert row.videos[0] == spec_of(folder)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"videos": ["f"], "seconds": [0, 1]}, "`seconds`: got 2 seconds, need 5, one for each picture"),
        ({"videos": ["f"], "seconds": [1, 2, 3, 4, 5]}, "`seconds`: got 1 for the first picture, need 0"),
        ({"videos": ["f"], "seconds": [0, 2, 1, 3, 4]}, "`seconds`: got 1 for picture 3 after 2, need later seconds for later"),
        ({"videos": ["f"], "seconds": [0, 1, 2, 3, 10**400]}, "`seconds`: got the number `1000000000"),
        ({"videos": ["f"], "seconds": [0, 1, 2, 3, 1e300]}, "`seconds`: got 1e+300 for the last picture, need less than 1e+07 s"),
        ({"videos": ["f"], "seconds": [0, 1e-300, 2, 3, 4]}, "`seconds`: got 1e-300 for picture 2 after 0, need at least"),
        ({"videos": ["f"], "seconds": 0.5}, "`seconds`: got the number `0.5`, need a list of seconds"),
        ({"videos": ["f"], "seconds": [0, "x", 2, 3, 4]}, "`seconds`: got the string `x`, need a number of seconds"),
        ({"videos": ["rows.jsonl"], "seconds": [0]}, "`videos`: got `rows.jsonl`, need a folder of pictures"),
        ({"videos": ["nowhere"], "seconds": [0]}, "`videos`: got `nowhere`, need a folder of pictures"),
        ({"videos": [["a.mp4"]], "seconds": [0]}, "`videos`: got the list `[['a.mp4']]`, need one list of pictures"),
        ({"videos": [["f/shot8.png", "f/9.png"]], "seconds": [0, 1]}, "`videos`: got `f/9.png`, which does not exist"),
        ({"videos": ["f"]}, "`videos`: got `f`, which is a folder of 5 pictures, need a video file"),
        ({"videos": [], "seconds": [0]}, "`seconds`: got the list `[0]`, need a clip of which it says something"),
    ],
)  # fmt: skip
def test_what_is_no_clip_of_frames_is_refused_with_its_column(folder, said, message):
    with pytest.raises(DataError) as caught:
        rows_of(folder, said)
    assert [f"rows.jsonl:1 {message}" in str(caught.value), len(caught.value.problems)] == [True, 1], caught.value


def test_frames_are_shown_to_the_bit_at_the_seconds_of_the_row(folder):
    with DecodeProcess() as process:
        clip = process.decode(spec_of(folder), sampling=EVERY)
        info = process.inspect(spec_of(folder), sampling=EVERY)
    assert np.array_equal(clip.frames, [draw_number(number, width=160, height=96) for number in range(5)])
    assert clip.timestamps_s.tolist() == list(SECONDS)
    assert (clip.num_frames_total, clip.avg_fps, clip.duration_s) == (5, 1.0, 5.0)
    assert clip.view == info.view == ClipView(SECONDS, (0, 1, 2, 3, 4), 5, 1.0, 96, 160, has_own_times=True)
    assert info.sha256 == hash_files(paths_in(folder))
    # the same rules as for any clip
    for sampling, expected in (
        (Sampling("uniform", 3), [0, 2, 4]),
        (Sampling("chat", 24), [0, 2, 3, 3, 4]),
        (Sampling("fps", 4, 0.5, 2), [0, 4]),
        (Sampling("segments", 2), [1, 3]),
    ):
        clip = decode_clip(spec_of(folder), sampling=sampling)
        assert [read_number(frame) for frame in clip.frames] == expected, sampling
        assert clip.timestamps_s.tolist() == [SECONDS[number] for number in expected]
    part = decode_clip(spec_of(folder, start_s=0.5, end_s=4), sampling=EVERY)
    assert ([read_number(frame) for frame in part.frames], part.timestamps_s.tolist()) == ([1, 2, 3], [0, 0.5, 2])
    quick = [number / 1000 for number in range(5)]  # of which some are nearer than 0.001 by rounding
    assert clip_of_frames(paths_in(folder), quick) == spec_of(folder, quick)
    alone = decode_clip(ClipSpec(paths_in(folder)[2], frames=paths_in(folder)[2:3], seconds=(0.0,)), sampling=EVERY)
    assert (alone.frames.shape, alone.duration_s) == ((1, 96, 160, 3), 1.0)


def test_pictures_that_are_none_are_refused_by_name(folder):
    first, second = paths_in(folder)[:2]
    asked = ClipSpec(first, frames=(first, second), seconds=(0.0, 1.0))
    picture = Image.open(second)
    picture.load()
    cases = []
    with DecodeProcess() as process:

        def told():
            with pytest.raises(ClipError) as caught:
                process.inspect(asked, sampling=EVERY)
            cases.append(str(caught.value).replace(f"{folder}/", ""))

        picture.resize((80, 48)).save(second)
        told()
        Image.new("1", (6000, 4000)).save(second)  # more pixels than any frame may have, in three kilobytes
        told()
        second.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
        told()
        second.write_bytes(b"GIF89a" + bytes(100))
        told()
        picture.save(second, "PNG", save_all=True, append_images=[Image.open(first).rotate(90)])
        told()
        Image.fromarray(np.zeros((96, 160), dtype=np.uint16)).save(second)
        told()
        second.unlink()
        told()
    assert [
        text in case
        for text, case in zip(
            (
                "f/shot9.png (decoder `pyav`): got a picture of 80 x 48 pixels after one of 160 x 96, need one size",
                "f/shot9.png (decoder `pyav`): got frames of 6000 x 4000 pixels, need at most 18,874,368 pixels",
                "f/shot9.png (decoder `pyav`): got a picture that is damaged or cut off",
                "f/shot9.png (decoder `pyav`): got a gif clip, need a picture: JPEG, PNG",
                "got 2 pictures in a file, need one picture of 8 bits a channel",
                "got pixels of kind `I;16`, need one picture of 8 bits a channel",
                "f/shot9.png (decoder `pyav`): got no such file, need a picture",
            ),
            cases,
            strict=True,
        )
    ] == [True] * 7, cases


def test_pictures_are_upright_as_viewers_show_them(folder):
    path = folder / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6  # shown turned by 90 degrees
    Image.fromarray(draw_number(1, width=160, height=96)).save(path, exif=exif)
    clip = decode_clip(ClipSpec(path, frames=(path,), seconds=(0.0,)), sampling=EVERY)
    assert clip.frames.shape == (1, 160, 96, 3)
    assert [oddity.kind for oddity in clip.oddities][-1:] == ["turned"]


def test_frames_are_known_by_their_bytes_and_seconds_and_found_where_they_moved(folder):
    asked = [spec_of(folder), spec_of(folder, (0, 1, 2, 3, 4))]
    with ClipCatalog(folder / "catalog", DecodeSettings(EVERY)) as catalog:
        found = inspect_clips(asked, sampling=EVERY, catalog=catalog)
        assert found.num_decoded == 2
        assert inspect_clips(asked, sampling=EVERY, catalog=catalog).num_decoded == 0
        contents = {content_of(clip, found.found[clip].sha256) for clip in asked}
        assert (len(contents), len({found.found[clip].sha256 for clip in asked})) == (2, 1)
        records = {clip: ClipRecord(info.sha256, info.view).seen_at(clip) for clip, info in found.found.items()}
        (folder / "clips.json").write_text(write_records(records))
        assert read_records(folder / "clips.json") == records
        files = files_of(asked[0])
        assert find_files(files, records[asked[0]], video_root=None) == (files, True)
        (folder / "new" / "place").mkdir(parents=True)
        (folder / "f").rename(folder / "new" / "place" / "f")
        moved = tuple((folder / "new" / "place" / "f" / path.name).resolve() for path in files)
        assert find_files(files, records[asked[0]], video_root=folder / "new" / "place") == (moved, True)
        assert find_files(files, records[asked[0]], video_root=None) is None
        Image.fromarray(draw_number(9, width=160, height=96)).save(moved[2])
        assert find_files(files, records[asked[0]], video_root=folder / "new" / "place") == (moved, False)
        changed = ClipSpec(moved[0], frames=moved, seconds=asked[0].seconds)
        assert inspect_clips([changed], sampling=EVERY, catalog=catalog).num_decoded == 1


def test_the_split_keeps_rows_about_the_same_frames_on_one_side(folder):
    names = [f"f/shot{number + 8}.png" for number in range(5)]
    rows = rows_of(
        folder,
        *({"query": f"{number}", "videos": [names[:3]], "seconds": [0, 1, 2]} for number in range(3)),
        *({"query": f"{number}", "videos": [names[2:]], "seconds": [0, 1, 2 + number]} for number in range(3)),
    )
    for seed in range(4):
        train, val = split_by_clip(rows, val_fraction=0.5, seed=seed)
        assert {len({row.videos[0].path for row in side}) for side in (train, val)} == {1}


def lay_out(view, style):
    inputs = qwen.Inputs("", 0, 0, 4, 16, 1000, "released", "exact", "released")
    tower = QwenTower(1, 32, 64, 2, 3, 14, 2, 2, 32, True, 0, (), 0, ())
    return qwen.lay_out_clip(view, inputs=inputs, tower=tower, style=STYLES[style], tokens_per_second=2.0)


def test_families_tell_the_seconds_of_the_row():
    own = ClipView((0.0, 0.5, 3.0, 4.0), (0, 1, 2, 3), 4, 0.75, 56, 56, has_own_times=True)
    counted = replace(own, has_own_times=False)
    assert lay_out(own, "qwen3_vl").seconds == (0.25, 3.5)
    assert lay_out(counted, "qwen3_vl").seconds == pytest.approx(
        (0.5 / 0.75, 2.5 / 0.75)
    )  # by their numbers, as makers do
    tower = GlmTower(1, 32, 2, 64, 3, 576, 14, 2, 2, 32, False)
    told = [glm.lay_out_clip(view, inputs=glm.Inputs("", 0, 0, 1000), tower=tower).seconds for view in (own, counted)]
    assert told == [(0, 3), (0, 2)]


def test_a_model_that_is_told_one_distance_takes_even_seconds_only():
    own = ClipView((0.0, 0.5, 1.0, 1.5), (0, 1, 2, 3), 4, 2.0, 56, 56, has_own_times=True)
    assert lay_out(own, "qwen2_5_vl").grid_step == 2.0  # two frames a grid, two positions a second
    rounded = replace(own, timestamps_s=(0.0, 0.33, 0.67, 1.0), avg_fps=3.0)
    assert lay_out(rounded, "qwen2_5_vl").grid_step == pytest.approx(4 / 3)
    with pytest.raises(ClipError, match=r"got seconds 0\.5 to 2 s apart, need even distances between the shown frames"):
        lay_out(replace(own, timestamps_s=(0.0, 0.5, 2.5, 3.0)), "qwen2_5_vl")
