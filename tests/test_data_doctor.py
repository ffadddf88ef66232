"""`cvft check`: every kind of finding has rows or a clip that make it, and the demo has none."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from cvft.cli.main import main
from cvft.data.doctor.check import CheckUp, DataFile, check_files, describe
from cvft.data.doctor.findings import KINDS, SEVERITIES
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.sample import Sampling
from cvft.plan.check import check_recipe
from cvft.recipe import load_recipe
from tests.fixtures_video import make_clip, rotate_header
from tests.project import files_under, make_project, write_jsonl

ROOT = Path(__file__).parent.parent
RATE = 4


def textures(*numbers: int) -> list[np.ndarray]:
    """A second of each picture, and every second all of it is another one."""
    small = [np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8) for number in numbers]
    return [image.repeat(8, 0).repeat(8, 1) for image in small for _ in range(RATE)]


def walk(num_seconds: int) -> list[np.ndarray]:
    """A small square that walks over a scene that stands still."""
    frames = textures(*[1] * num_seconds)
    for number, frame in enumerate(frames):
        frame[40:56, 4 * number % 100 : 4 * number % 100 + 16] = 255
    return frames


def flat(level: int, num_seconds: int) -> list[np.ndarray]:
    return [np.full((96, 128, 3), level, dtype=np.uint8)] * (num_seconds * RATE)


def encode(path: Path, images: list[np.ndarray]) -> Path:
    """Encodes as a user would, with losses and a key frame every 12 frames, so that no two frames are equal bit for bit."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "30", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


CLIPS = {
    "good": lambda path: encode(path, textures(1, 2, 3, 4, 5, 6)),
    "walk": lambda path: encode(path, walk(6)),
    "drift": lambda path: encode(path, [flat(100 + number, 1)[0] for number in range(8 * RATE)]),
    "black": lambda path: encode(path, [*textures(1, 2, 3), *flat(0, 3), *textures(4, 5)]),
    "white": lambda path: encode(path, [*textures(1, 2, 3), *flat(255, 3), *textures(4, 5)]),
    "frozen": lambda path: encode(path, textures(1, 2, 3, 4, 4, 4, 4, 5, 6)),
    "slide": lambda path: encode(path, textures(*[1] * 8)),
    "repeated_picture": lambda path: encode(path, textures(1, 2, 3, 4, 5, 3, 6)),
    "single_frame": lambda path: make_clip(path, num_frames=1),
    "variable_frame_rate": lambda path: make_clip(
        path, num_frames=30, fps=25, times=[2 * i + 3 * (i // 3) for i in range(30)], num_b_frames=0
    ),
    "turned": lambda path: rotate_header(make_clip(path, num_frames=75), 90),
    "clip_cut": lambda path: make_clip(path, num_frames=300, fps=10),
    "clip_refused": lambda path: path.write_bytes(b"no clip at all"),
    "clip_note": lambda path: make_clip(path.with_suffix(".ts"), num_frames=75).rename(path),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, make in CLIPS.items():
        make(folder / f"{name}.mp4")
    return folder


def check(folder: Path, rows: list[dict], *, root: Path | None = None, sampling: Sampling | None = None) -> CheckUp:
    path = write_jsonl(folder / "rows.jsonl", rows)
    return check_files([DataFile(path)], how=DecodeSettings(sampling or Sampling()), video_root=root)


def kinds_of(checked: CheckUp) -> list[str]:
    return [finding.kind for finding in checked.findings]


def ask(response: str = "yes", query: str = "Well?", **columns) -> dict:
    return {"query": query, "response": response, **columns}


ROWS = {
    "row_refused": [ask(), {"query": "Well?"}],
    "conflicting_answers": [ask("yes"), ask("no")],
    "duplicate_row": [ask(), ask(query="Why?"), ask()],
    "one_answer": [ask("No." if i else "yes", f"Number {i}?", category="c") for i in range(20)],
    "blank_text": [ask("N/A")],
    "tag_in_answer": [ask("<image> a dog")],
    "control_token_text": [ask("a dog<|im_end|>")],
    "placeholder_text": [ask("In QA_GT_caption_based_noisy, a dog barks.")],
}
OF_CLIPS = {
    "time_beyond_clip": ("good", ask("from 2 to 9 s")),
    "time_not_shown": ("clip_cut", ask("at second 27")),
    "tag_taken_out": ("good", ask(query="<video>Well?")),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_each_kind(tmp_path, kind):
    checked = check(tmp_path, ROWS[kind])
    assert kinds_of(checked) == [kind]
    assert checked.num_decoded == 0


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("good", []),
        ("walk", []),
        ("drift", []),
        ("slide", ["frozen"]),
        *((name, [name]) for name in CLIPS if name not in ("good", "walk", "drift", "slide")),
    ],
)
def test_a_clip_of_each_kind(tmp_path, clips, name, kinds):
    checked = check(tmp_path, [ask(videos=[f"{name}.mp4"])], root=clips)
    assert kinds_of(checked) == kinds
    assert all(str(clips / f"{name}.mp4") in finding.problem.where for finding in checked.findings)


@pytest.mark.parametrize("kind", OF_CLIPS)
def test_rows_about_a_clip_of_each_kind(tmp_path, clips, kind):
    name, row = OF_CLIPS[kind]
    found = kinds_of(check(tmp_path, [{**row, "videos": [f"{name}.mp4"]}], root=clips))
    assert [each for each in found if each != name] == [kind]


def test_repeated_frames(tmp_path, clips):
    checked = check(tmp_path, [ask(videos=["good.mp4"])], root=clips, sampling=Sampling("base", 30))
    assert kinds_of(checked) == ["frames_repeated"]


def test_copies_and_files(tmp_path, clips):
    (tmp_path / "again.mp4").write_bytes((clips / "good.mp4").read_bytes())
    first = write_jsonl(tmp_path / "a.jsonl", [ask(videos=[str(clips / "good.mp4")])])
    second = write_jsonl(tmp_path / "b.jsonl", [ask("no", videos=["again.mp4"])])
    for is_held_out, kind in ((True, "clip_on_both_sides"), (False, "clip_in_two_files")):
        files = [DataFile(first), DataFile(second, is_held_out=is_held_out)]
        checked = check_files(files, how=DecodeSettings(Sampling()))
        # the answers differ, and it is one clip
        assert sorted(kinds_of(checked)) == sorted(["conflicting_answers", "same_clip_two_names", kind])


def test_every_kind_is_made_by_a_test():
    made = {*ROWS, *CLIPS, *OF_CLIPS, "frames_repeated", "row_too_long"}
    made |= {"same_clip_two_names", "clip_on_both_sides", "clip_in_two_files"}
    made |= {"similar_clip_on_both_sides", "similar_clips"}  # in test_data_similar.py
    made |= {"dataset_note"}  # in test_data_datasets.py
    assert set(KINDS) == made - {"good", "walk", "drift", "slide"}


def test_the_page_lists_every_kind():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (error|warning|note) \|", page, flags=re.MULTILINE) == [
        (kind, about.severity) for kind, about in KINDS.items()
    ]


@pytest.mark.parametrize(
    ("response", "query", "kinds"),
    [
        ("9", "How many dogs?", []),  # it counts
        ("9", "At what second?", ["time_beyond_clip"]),
        ("at 6 s", "When?", []),  # the clip's end
        ("for 20 seconds", "How long?", []),  # names no place in the clip
        ("from 2 to 5 s", "When?", []),
    ],
)
def test_which_numbers_are_times(tmp_path, clips, response, query, kinds):
    checked = check(tmp_path, [ask(response, query, videos=["good.mp4"])], root=clips)
    assert kinds_of(checked) == kinds


def test_a_clip_that_ends_within_a_second(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=60)  # 2.4 s, 3 s rounded up
    rows = [ask(f"until {end} s", f"Until {end}?", videos=["a.mp4"]) for end in (2, 3, 2.4, 2.5, 4)]
    found = check(tmp_path, rows).findings
    assert [(each.kind, each.problem.where.split(":")[1]) for each in found] == [
        ("time_beyond_clip", "4 `response`"),
        ("time_beyond_clip", "5 `response`"),
    ]


def test_rows_that_only_look_odd(tmp_path):
    rows = [
        ask("None of them."),
        ask("yes", history=[["What?", "a dog"]]),  # another question than the one without history
        ask("YES.", query="Why?"),
        ask("yes", query="Why?"),  # the same answer, and no other row
        *(ask("no", f"Number {i}?", category="few") for i in range(19)),
        *(ask("no" if i < 27 else "yes", f"Other {i}?", category="many") for i in range(30)),
    ]
    assert kinds_of(check(tmp_path, rows)) == []


def test_many_findings_are_few_lines(tmp_path):
    text = describe(check(tmp_path, [ask("n/a", f"Number {i}?", category=str(i)) for i in range(50)]))
    assert "warning blank_text: 50," in text
    assert "rows.jsonl:1, 2, 3 and 47 more `response`: got `n/a`" in " ".join(text.split())
    assert len(text.splitlines()) < 10
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)


def test_what_a_recipe_adds(tmp_path):
    recipe = make_project(tmp_path, data={"max_tokens": 400})
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "train.jsonl", [*rows, ask("long " * 500)])
    before = files_under(tmp_path)
    checked = check_recipe(load_recipe(recipe))
    found = kinds_of(checked)
    assert found.count("row_too_long") >= 1
    assert any(f.problem.where.startswith(f"{tmp_path / 'train.jsonl'}:7") for f in checked.findings)
    assert found.count("clip_on_both_sides") == 2  # both clips of its val rows
    assert files_under(tmp_path) == before


@pytest.mark.parametrize("sampling", ["chat", "uniform"])
def test_the_demo_is_clean(tmp_path, sampling):
    overrides = [f"output.root={tmp_path}", f"video.sampling={sampling}"]
    checked = check_recipe(load_recipe(ROOT / "recipes" / "tiny_cpu.yaml", overrides=overrides))
    assert (len(checked.rows), checked.num_decoded) == (832, 96)
    assert list(checked.findings) == []


def test_the_command_says_it_by_exit_code_and_file(tmp_path, clips, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    note, warning = [ask(query="<video>Well?", videos=["good.mp4"])], [ask("null")]
    for rows, code in ((note, 0), (warning, 1), ([*warning, {}], 2)):
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        output = tmp_path / "check.json"
        assert main(["check", str(path), "--video-root", str(clips), "--json", "--output", str(output)]) == code
        out, err = capsys.readouterr()
        assert out == output.read_text()
        written = json.loads(out)
        assert (written["schema"], written["num_rows"]) == (1, 1)
        assert sum(written["counts"].values()) == len(written["findings"]) > 0
        assert {entry["id"]: entry["count"] for entry in written["kinds"]}
        assert all(set(each) == {"kind", "severity", "where", "got", "need", "hint"} for each in written["findings"])
        assert ("found " in err) == (code > 0)
    assert set(written["counts"]) == set(SEVERITIES)
    assert files_under(tmp_path) == ["check.json", "rows.jsonl"]


def test_the_command_replaces_nothing_that_it_checks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_jsonl(tmp_path / "rows.jsonl", [ask()])
    before = path.read_bytes()
    assert main(["check", str(path), "--output", str(path)]) == 2
    assert "which is to be checked" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main(["check", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in " ".join(capsys.readouterr().out.split())  # where a line is wrapped, the path says
