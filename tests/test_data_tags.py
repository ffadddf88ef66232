"""Tags that stand for the clip in a question: taken out where they fit the row's clips, else refused; answers stay."""

import json
from pathlib import Path

import pytest

from cvft.data.rows import make_rows, read_rows
from cvft.data.tags import without_tags
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling
from cvft.errors import DataError
from cvft.plan.notes import note_rows

CLIP = ClipInfo(
    num_frames=2,
    height_px=8,
    width_px=8,
    timestamps_s=(0.0, 1.0),
    num_frames_total=2,
    avg_fps=1.0,
    duration_s=2.0,
    decoder="pyav",
    sha256="",
    notes=(),
)


@pytest.fixture
def read(tmp_path):
    """Reads rows, each with a clip unless it says otherwise."""
    (tmp_path / "a.mp4").write_bytes(b"a clip")

    def read(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"response": "red", "videos": ["a.mp4"], **row}) + "\n" for row in rows))
        return read_rows(path)

    return read


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("<video>\nWhat is shown?", "What is shown?"),
        ("<video> What is shown?", "What is shown?"),
        ("<video>What is shown?", "What is shown?"),
        ("What is shown?\n<video>", "What is shown?"),
        ("What is shown? <video>", "What is shown?"),
        ("  \n<video>\n\n What is shown?", "What is shown?"),
        ("<video>", ""),
        ("Watch <video> and answer.", "Watch and answer."),
        ("Watch this:\n<video>\nWhat is it?", "Watch this:\nWhat is it?"),
        ("In <video>, what moves?", "In, what moves?"),
        ("one <video>two", "one two"),
        ("one<video>two", "one two"),
        ("请看<video>视频", "请看视频"),
        ("<|video|>What?", "What?"),
        ("<|vision_start|><|video_pad|><|vision_end|>What?", "What?"),
        ("<|begin_of_video|><|video|><|end_of_video|>\nWhat?", "What?"),
        ("(<video>./</video>)\nWhat?", "What?"),
    ],
)
def test_a_tag_for_the_one_clip_is_taken_out_with_the_space_around_it(read, written, asked):
    (row,) = read({"query": written})
    assert (row.query, row.history) == (asked, ())
    (row,) = read({"query": "And now?", "history": [[written, "<video>\nanswers stay"]]})
    assert (row.query, row.history) == ("And now?", ((asked, "<video>\nanswers stay"),))


@pytest.mark.parametrize(
    "query",
    [
        " What is shown?  ",
        "What does <video src='a.mp4' controls> do?",
        "Is it </video> or <videos> or <my video> or video>?",
        "1 < 2 and 3 > 2\n",
        "<Video>",
        "<|end_of_text|>",
    ],
)
def test_other_text_stays_to_the_letter(read, query):
    assert without_tags(query) == query
    assert [row.query for row in read({"query": query}, {"query": query, "videos": []})] == [query] * 2


def test_an_answer_stays_to_the_letter(read):
    answer = "Use <video>, not <image> and not <|video_pad|>."
    assert [row.response for row in read({"query": "Which tag?", "response": answer, "videos": []})] == [answer]


def test_html_in_a_row_without_a_clip_stays(read):
    query = "Why does <video><source src=a.mp4></video> show nothing?"
    assert [row.query for row in read({"query": query, "videos": []})] == [query]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "<video><video>What?"}, "`query`: got 2 tags such as `<video>`, need at most 1"),
        (
            {"query": "<video>a", "history": [["<video>b", "c"]]},
            "`query`: got 2 tags such as `<video>`, need at most 1",
        ),
        ({"query": "a", "history": [["<video>b<|video|>", "c"]]}, r"`history`: got 2 tags such as `<\|video\|>`, need"),
        ({"query": "<video>\nWhat?", "videos": []}, "`query`: got 1 tag such as `<video>`, need at most 0"),
        (
            {"query": "<image>\nWhat?"},
            "`query`: got `<image>` in a question, need no tag for what the row does not show",
        ),
        ({"query": "a", "history": [["<audio>b", "c"]]}, "`history`: got `<audio>` in a question"),
        ({"query": "<|image_pad|>\nWhat?"}, r"`query`: got `<\|image_pad\|>` in a question"),
        ({"query": "<video>a.mp4</video>\nWhat?"}, "`query`: got something between `<video>` and `</video>`"),
    ],
)
def test_a_tag_that_fits_no_clip_is_refused_with_its_line(read, row, message):
    with pytest.raises(DataError, match=r"rows\.jsonl:2 " + message):
        read({"query": "fine"}, row)


def test_every_path_to_a_row_has_the_rule():
    (row,) = make_rows([(1, {"query": "<|end_of_text|>", "response": "b"})], source=Path("api"), video_root=Path())
    assert row.query == "<|end_of_text|>"
    with pytest.raises(DataError, match="api: item 1 `query`: got 1 tag"):
        make_rows([(1, {"query": "<video>", "response": "b"})], source=Path("api"), video_root=Path())


def test_the_rows_say_so(read):
    rows = read({"query": "<video>\nWhat?"}, {"query": "And?", "history": [["<video>What?", "a"]]}, {"query": "What?"})
    assert [row.had_tags for row in rows] == [True, True, False]
    typed = read({"query": "What?", "response": "red<|end_of_text|>"}, {"query": "<|video|>What?"}, name="typed.jsonl")
    notes = note_rows([*rows, *typed], [], {rows[0].videos[0]: CLIP}, sampling=Sampling("chat", 24))
    tags, control = [note for note in notes if "tag" in note or "control" in note]
    assert tags.startswith(
        "the tags that stand for the clip are taken out of 3 rows (rows.jsonl:1, rows.jsonl:2, typed.jsonl:2)"
    )
    assert (
        control == "1 rows hold what looks like a control token (`<|end_of_text|>` in typed.jsonl:1): it is plain text"
    )
