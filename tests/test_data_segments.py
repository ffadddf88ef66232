"""Stretches of longer files: frames, seconds and names of a clip that is part of a file, through everything that names clips."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from cvft.cli.main import main
from cvft.data.catalog import ClipCatalog
from cvft.data.check import check_clips, inspect_clips
from cvft.data.formats.convert import convert_file
from cvft.data.rows import read_rows
from cvft.data.split import split_by_clip
from cvft.data.video import pyav
from cvft.data.video.decode import decode_clip
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import DecodeProcess
from cvft.data.video.sample import Sampling
from cvft.data.video.spec import ClipSpec, content_of, file_of, from_text, name_of, to_text
from cvft.errors import ClipError, DataError
from tests.fixtures_video import make_clip, read_number
from tests.project import write_jsonl

EVERY = Sampling("uniform", 1000)
HOW = DecodeSettings(EVERY)

# 6.4 seconds in bursts: the distance of two frames is 20, 40 or 100 ms
BURSTS = list(np.cumsum([0, *np.random.default_rng(5).choice([20, 40, 100], 119)]))

KINDS = {
    "no B-frames": {"num_b_frames": 0, "gop": 30},
    "B-frames": {"num_b_frames": 3, "gop": 30},
    "one key frame": {"num_b_frames": 2, "gop": 1000},
    "open GOP": {"num_b_frames": 3, "gop": 30, "options": {"x264-params": "open-gop=1:bframes=3"}},
    "open GOP, HEVC": {"codec": "libx265", "num_b_frames": 3, "gop": 30, "options": {"x265-params": "log-level=none"}},
    "VP9": {"codec": "libvpx-vp9", "num_b_frames": 0, "gop": 30, "options": {"cpu-used": "8", "deadline": "realtime"}},
    "variable rate": {"times": BURSTS, "time_base": Fraction(1, 1000), "num_b_frames": 2, "gop": 30},
    "23.976 per second": {"fps": Fraction(24000, 1001), "num_b_frames": 2, "gop": 30},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    endings = {"VP9": "webm", "open GOP, HEVC": "mkv"}
    made = {}
    for number, (name, options) in enumerate(KINDS.items()):
        path = folder / f"{number}.{endings.get(name, 'mp4')}"
        made[name] = make_clip(path, num_frames=120, **{"fps": 25, **options})
    return made


def count_keys(path):
    """How many key frames a clip has, and how many frames are shown before the key frame that they are stored after."""
    num_keys = num_leading = key = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.pts is not None:
                num_keys, key = (num_keys + 1, packet.pts) if packet.is_keyframe else (num_keys, key)
                num_leading += packet.pts < key
    return num_keys, num_leading


@pytest.mark.parametrize("name", KINDS)
def test_a_stretch_has_the_frames_of_the_whole_file_cut(clips, name):
    path = clips[name]
    whole = decode_clip(path, sampling=EVERY)
    num_keys, num_leading = count_keys(path)
    assert num_keys == 1 if name == "one key frame" else num_keys >= 4
    assert (num_leading > 0) == name.startswith("open GOP")
    for start_s, end_s in ((0.0, 1.0), (1.21, 2.8), (None, 0.5), (2.4, None), (3.003, 3.05)):
        clip = decode_clip(ClipSpec(path, start_s, end_s), sampling=EVERY)
        inside = (whole.timestamps_s >= np.float32(start_s or 0)) & (whole.timestamps_s < np.float32(end_s or 1e6))
        assert inside.any()
        assert np.array_equal(clip.frames, whole.frames[inside])
        assert [read_number(frame) for frame in clip.frames] == list(np.flatnonzero(inside))
        expected = whole.timestamps_s[inside] - whole.timestamps_s[inside][0]
        assert clip.timestamps_s == pytest.approx(expected, abs=1e-6)
        assert clip.timestamps_s[0] == 0
        assert (clip.num_frames_total, clip.frame_indices) == (inside.sum(), tuple(range(inside.sum())))


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling("base"), Sampling("fps", 8, 3.0, 4), Sampling("segments", 5)], ids=str
)
@pytest.mark.parametrize("name", ["B-frames", "variable rate", "23.976 per second"])
def test_a_stretch_is_sampled_like_the_file_that_it_would_be(tmp_path, clips, name, sampling):
    options = {"fps": 25, **KINDS[name]}
    whole = decode_clip(clips[name], sampling=EVERY)
    first, last = 31, 102
    if "times" in options:
        options["times"] = [time - BURSTS[first] for time in BURSTS[first:last]]
    path = make_clip(tmp_path / "cut.mp4", num_frames=last - first, numbers_from=first, **options)
    cut = decode_clip(path, sampling=sampling)
    asked = ClipSpec(clips[name], float(whole.timestamps_s[first]), float(whole.timestamps_s[last]))
    clip = decode_clip(asked, sampling=sampling)
    assert clip.timestamps_s.tobytes() == cut.timestamps_s.tobytes()
    assert clip.frame_indices == cut.frame_indices
    assert [read_number(frame) for frame in clip.frames] == [read_number(frame) for frame in cut.frames]
    assert (clip.num_frames_total, clip.avg_fps) == (cut.num_frames_total, pytest.approx(cut.avg_fps, rel=0.02))
    assert clip.duration_s == pytest.approx(cut.duration_s, abs=0.1 if "times" in options else 1e-3)


def test_a_stretch_is_decoded_from_the_key_frame_before_it(clips, monkeypatch):
    decoded = []

    def count(packet, *rest):
        frames = real(packet, *rest)
        decoded.extend(frames or ())
        return frames

    real = pyav.decode_packet
    monkeypatch.setattr(pyav, "decode_packet", count)
    clip = decode_clip(ClipSpec(clips["no B-frames"], 3.7, 3.9), sampling=EVERY)
    assert [read_number(frame) for frame in clip.frames] == [93, 94, 95, 96, 97]
    assert 5 <= len(decoded) <= 10  # the key frame is number 90


def test_damage_elsewhere_in_the_file_is_no_fault_of_a_stretch(tmp_path):
    path = make_clip(tmp_path / "a.mp4", num_frames=100, gop=25)
    raw = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.pts is not None]
    place, size = places[10]
    raw[place + 40 : place + size] = bytes(255 - byte for byte in raw[place + 40 : place + size])
    path.write_bytes(raw)
    with pytest.raises(ClipError, match="damaged frame"):
        decode_clip(path, sampling=EVERY)
    clip = decode_clip(ClipSpec(path, 2, 3), sampling=EVERY)
    assert [read_number(frame) for frame in clip.frames] == list(range(50, 75))


@pytest.mark.parametrize("ending", ["ts", "avi"])
def test_a_stretch_of_a_file_that_has_to_be_decoded_whole(tmp_path, ending):
    path = make_clip(tmp_path / f"a.{ending}", num_frames=75, gop=30)
    whole = decode_clip(path, sampling=EVERY)
    clip = decode_clip(ClipSpec(path, 1.0, 2.0), sampling=EVERY)
    inside = (whole.timestamps_s >= 1) & (whole.timestamps_s < 2)
    assert np.array_equal(clip.frames, whole.frames[inside])


def test_decord_shows_the_same_stretch(clips):
    pytest.importorskip("decord")
    asked = ClipSpec(clips["B-frames"], 1.2, 2.8)
    ours, theirs = (decode_clip(asked, sampling=EVERY, decoder=name) for name in ("pyav", "decord"))
    assert np.array_equal(ours.frames, theirs.frames)
    assert ours.timestamps_s == pytest.approx(theirs.timestamps_s, abs=1e-5)


@pytest.mark.parametrize(
    ("start_s", "end_s", "message"),
    [
        (5, None, "got the stretch 5 s to its end of 4.80 s, need seconds that the file has"),
        (1, 6, "got the stretch 1 s to 6 s of 4.80 s, need seconds that the file has"),
        (1.001, 1.002, "got no frame that starts in the stretch 1.001 s to 1.002 s, need at least one"),
    ],
)
def test_a_stretch_that_the_file_does_not_have(clips, start_s, end_s, message):
    with DecodeProcess() as process, pytest.raises(ClipError) as caught:
        process.inspect(ClipSpec(clips["B-frames"], start_s, end_s), sampling=EVERY)
    assert message in str(caught.value)
    assert "hint: `start` and `end` count seconds from the first frame of the file" in str(caught.value)


def test_a_stretch_may_end_with_the_second_that_has_begun(clips):
    assert decode_clip(ClipSpec(clips["B-frames"], 4, 5), sampling=EVERY).num_frames_total == 20


# --- rows


def rows_of(path, *rows):
    return read_rows(write_jsonl(path.parent / "rows.jsonl", [{"query": "q", "response": "r", **row} for row in rows]))


def test_rows_name_stretches_and_are_written_as_they_were_read(clips, tmp_path):
    path = clips["B-frames"]
    said = [{}, {"start": 1, "end": 2.5}, {"end": "2"}, {"start": "0.5", "end": None}, {"start": None}]
    rows = rows_of(tmp_path / "rows.jsonl", *({"videos": [str(path)], **each} for each in said))
    stretches = [path, ClipSpec(path, 1.0, 2.5), ClipSpec(path, None, 2.0), ClipSpec(path, 0.5, None), path]
    assert [row.videos[0] for row in rows] == stretches
    assert [from_text(to_text(row.videos[0])) for row in rows] == stretches
    assert [(row.to_json().get("start"), row.to_json().get("end")) for row in rows] == [
        (None, None), (1, 2.5), (None, 2), (0.5, None), (None, None)
    ]  # fmt: skip
    assert name_of(rows[1].videos[0]) == f"{path.name} (1 to 2.5 s)"
    again = convert_file(tmp_path / "rows.jsonl", tmp_path / "again.jsonl").target
    assert [row.to_json() for row in read_rows(again)] == [row.to_json() for row in rows]
    assert [row.videos[0] for row in read_rows(again)] == stretches


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"start": -1}, "`start`: got the number `-1`, need a number of seconds, 0 or more"),
        ({"start": True}, "`start`: got the boolean `true`, need a number of seconds, 0 or more"),
        ({"start": "0:12"}, "`start`: got the string `0:12`, need a number of seconds, 0 or more"),
        ({"end": [3]}, "`end`: got the list `[3]`, need a number of seconds, 0 or more"),
        ({"start": 3, "end": 3}, "`end`: got the number `3`, need more than `start` (3 s)"),
        ({"end": 0}, "`end`: got the number `0`, need more than `start` (0 s)"),
        ({"videos": [], "start": 3}, "`start`: got the number `3`, need a clip of which it says something"),
    ],
)  # fmt: skip
def test_what_is_no_stretch_is_refused_with_its_column(clips, tmp_path, said, message):
    with pytest.raises(DataError) as caught:
        rows_of(tmp_path / "rows.jsonl", {"videos": [str(clips["B-frames"])], **said})
    assert [f"rows.jsonl:1 {message}" in str(caught.value), len(caught.value.problems)] == [True, 1]


@pytest.mark.parametrize(
    "written",
    [
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "A dog."}], "videos": ["a.mp4"]},
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A dog."}], "videos": ["a.mp4"]},
        {"instruction": "Who?", "input": "", "output": "A dog.", "videos": ["a.mp4"]},
        {"id": "7", "video": "a.mp4", "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "A dog."}]},
        {"q": "Who?", "a": "A dog.", "video_id": "a"},
    ],
    ids=["messages", "sharegpt", "alpaca", "llava", "video_chatgpt"],
)  # fmt: skip
def test_every_format_keeps_the_stretch(clips, tmp_path, written):
    (tmp_path / "a.mp4").write_bytes(clips["B-frames"].read_bytes())
    source = write_jsonl(tmp_path / "rows.jsonl", [{**written, "start": 1.5, "end": 3}])
    rows = read_rows(source, format="auto")
    target = convert_file(source, tmp_path / "native.jsonl").target
    expected = [("Who?", "A dog.", (), ClipSpec((tmp_path / "a.mp4").resolve(), 1.5, 3.0))]
    for each in (rows, read_rows(target)):
        assert [(row.query, row.response, row.history, row.videos[0]) for row in each] == expected


def test_a_table_names_stretches(clips, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clips["B-frames"].read_bytes())
    (tmp_path / "rows.csv").write_text(
        "question,answer,video,start,end\nWho?,A dog.,a.mp4,1.5,3\nWho?,A cat.,a.mp4,,\n"
    )
    path = (tmp_path / "a.mp4").resolve()
    rows = read_rows(tmp_path / "rows.csv", format="auto")
    assert [(row.videos[0], dict(row.extra)) for row in rows] == [(ClipSpec(path, 1.5, 3.0), {}), (path, {})]


def test_parts_of_messages_name_stretches_as_qwen_does(clips, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clips["B-frames"].read_bytes())
    part = {"type": "video", "video": "a.mp4", "video_start": 1.5, "video_end": 3}
    said = [
        {"role": "user", "content": [part, {"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": "A dog."},
    ]
    (row,) = read_rows(write_jsonl(tmp_path / "rows.jsonl", [{"messages": said}]), format="auto")
    assert row.videos[0] == ClipSpec((tmp_path / "a.mp4").resolve(), 1.5, 3.0)


# --- what tells clips apart


def test_two_stretches_of_one_file_are_two_clips_of_one_content(clips, tmp_path):
    path = clips["B-frames"]
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    asked = [path, ClipSpec(path, 0, 2), ClipSpec(path, 2, 4), ClipSpec(copy, 2, 4)]
    with ClipCatalog(tmp_path / "catalog", HOW) as catalog:
        found = inspect_clips(asked, sampling=EVERY, catalog=catalog)
        assert found.num_decoded == 4
        again = inspect_clips(asked, sampling=EVERY, catalog=catalog)
        assert (again.num_decoded, dict(again.found)) == (0, dict(found.found))
        moved = ClipSpec(tmp_path / "moved.mp4", 0, 2)
        copy.rename(moved.path)
        assert inspect_clips([moved], sampling=EVERY, catalog=catalog).num_decoded == 0
        assert inspect_clips([ClipSpec(moved.path, 0, 1.9)], sampling=EVERY, catalog=catalog).num_decoded == 1
    contents = [content_of(clip, found.found[clip].sha256) for clip in asked]
    assert len({found.found[clip].sha256 for clip in asked}) == 1
    assert contents[0] == found.found[path].sha256
    assert len(set(contents)) == 3
    assert contents[2] == contents[3]
    assert [found.found[clip].num_frames for clip in asked] == [120, 50, 50, 50]


def test_the_split_keeps_stretches_of_one_file_on_one_side(tmp_path):
    said = []
    for name in "abcdef":
        make_clip(tmp_path / f"{name}.mp4", num_frames=50, numbers_from=ord(name))
        said += [{"videos": [f"{name}.mp4"], "start": 0.5 * number, "end": 0.5 * number + 0.4} for number in range(4)]
    rows = rows_of(tmp_path / "rows.jsonl", *said)
    for seed in range(8):
        train, val = split_by_clip(rows, val_fraction=0.3, seed=seed)
        assert not {file_of(row.videos[0]) for row in train} & {file_of(row.videos[0]) for row in val}
        assert len(val) == 8
    checked = check_clips(rows, sampling=EVERY)
    assert [checked.facts[row.videos[0]].num_frames for row in rows] == [10] * 24


def test_check_names_stretches_and_a_file_on_both_sides(clips, tmp_path, capsys):
    path = str(clips["B-frames"])
    row = {"query": "When?", "response": "At second 4.", "videos": [path], "start": 1, "end": 3}
    train = write_jsonl(tmp_path / "train.jsonl", [row, {**row, "response": "ok", "end": 9}])
    other = {"query": "Who?", "response": "A dog.", "videos": [path], "start": 3}
    val = write_jsonl(tmp_path / "val.jsonl", [other, {**other, "start": 3.5, "response": "A cat."}])
    assert main(["check", str(train), str(val), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    kinds = [(each["kind"], each["where"].replace(f"{tmp_path}/", "")) for each in found["findings"]]
    name = clips["B-frames"]
    assert kinds == [
        ("clip_refused", f"train.jsonl:2 `videos`: {name} (decoder `pyav`)"),
        ("time_beyond_clip", "train.jsonl:1 `response`"),
        ("clip_in_two_files", f"val.jsonl:1, 2 `videos`: {name}"),
    ]
