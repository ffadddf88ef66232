"""Tar shards: samples become rows with their clips, and what a tar may hide is refused before anything is written."""

import io
import json
import random
import re
import tarfile
from pathlib import Path

import pytest

from cvft.data.doctor.check import DataFile, check_files
from cvft.data.formats.convert import convert_file
from cvft.data.formats.shards import CAPTION_QUESTION
from cvft.data.rows import read_rows, survey_rows
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.sample import Sampling
from cvft.errors import DataError
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare
from cvft.recipe import load_recipe
from tests.mutations import mutations
from tests.project import files_under, make_project
from tests.real_clips import real_clip

CLIP = b"any bytes"
TALK = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "A dog."}]
NATIVE = {"query": "Who?", "response": "A dog."}


def member(name: str, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write(path: Path, *members: tuple[str | tarfile.TarInfo, object]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else member(name)
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            info.size = len(raw) if info.isfile() else 0
            archive.addfile(info, io.BytesIO(raw))
    return path


def sample(key: str, columns: object = NATIVE, *, clip: bytes = CLIP) -> list[tuple[str, object]]:
    return [(f"{key}.mp4", clip), (f"{key}.json", columns)]


def told(path: Path, **options) -> list[str]:
    _, problems = survey_rows(path, **{"format": "auto", "clips": path.parent / "clips", **options})
    return [str(problem).replace(f"{path.parent}/", "") for problem in problems]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (NATIVE, [("Who?", "A dog.")]),
        ({"question": "Who?", "answer": "A dog.", "video": "clips/000.mp4"}, [("Who?", "A dog.")]),
        ({"q": "Who?", "a": "A dog.", "video_id": "000"}, [("Who?", "A dog.")]),
        ({"video": "000.mp4", "conversations": TALK * 2}, [("Who?", "A dog.")] * 2),
        (
            {"messages": [{"role": "user", "content": "<video>Who?"}, {"role": "assistant", "content": "A dog."}]},
            [("Who?", "A dog.")],
        ),
        ({"caption": "A dog.", "url": "https://host.org/000.mp4"}, [(CAPTION_QUESTION, "A dog.")]),
    ],
)
def test_a_sample_of_any_format_is_rows_of_its_clip(tmp_path, columns, said):
    path = write(tmp_path / "shard.tar", (member("./", type=tarfile.DIRTYPE), b""), *sample("000", columns))
    rows = read_rows(path, format="auto", clips=tmp_path / "clips")
    assert [(row.query, row.response) for row in rows] == said
    assert {(row.videos[0].read_bytes(), row.format) for row in rows} == {(CLIP, "webdataset")}
    assert all(row.id == "000" and row.location == f"{path}: item 1" for row in rows)
    assert [row.to_json() for row in read_rows(path, format="webdataset", clips=tmp_path / "clips")] == [
        row.to_json() for row in rows
    ]


def test_texts_are_answers(tmp_path):
    path = write(
        tmp_path / "shard.tar",
        ("a/000.mp4", CLIP),
        ("a/000.txt", "A dög.\n".encode()),
        *sample("a/001", {"question": "Who?", "id": 7}, clip=b"other"),
        ("a/001.txt", b"A cat."),
        *sample("a/002", {"caption": "A cow.", "duration": 2}),
        ("a/002.txt", b"A cow."),
    )
    rows = read_rows(path, format="auto", clips=tmp_path / "clips")
    assert [(row.id, row.query, row.response, dict(row.extra)) for row in rows] == [
        ("a/000", CAPTION_QUESTION, "A dög.", {}),
        ("7", "Who?", "A cat.", {}),
        ("a/002", CAPTION_QUESTION, "A cow.", {"duration": 2}),
    ]
    # named by its bytes, and so there once
    assert rows[0].videos[0] == rows[2].videos[0] != rows[1].videos[0]
    assert len([name for name in files_under(tmp_path / "clips") if name.endswith(".mp4")]) == 2


def test_clips_are_written_once_and_whole(tmp_path):
    path = write(tmp_path / "shard.tar", *sample("000"))
    (row,) = read_rows(path, format="auto", clips=tmp_path / "clips")
    written = row.videos[0].stat()
    read_rows(path, format="auto", clips=tmp_path / "clips")
    assert row.videos[0].stat().st_mtime_ns == written.st_mtime_ns
    row.videos[0].write_bytes(CLIP[:3])  # as a disk that was full leaves it
    read_rows(path, format="auto", clips=tmp_path / "clips")
    assert row.videos[0].read_bytes() == CLIP
    (tmp_path / "clips").rename(tmp_path / "old")
    (tmp_path / "clips").write_text("a file in the folder's place")
    with pytest.raises(DataError, match=r"`000.mp4` of 9 bytes, which cannot be written"):
        read_rows(path, format="auto", clips=tmp_path / "clips")


DANGEROUS = [
    (("../out.mp4", CLIP), "member `../out.mp4`: got a name that leads out of the archive"),
    (("/etc/cron.mp4", CLIP), "member `/etc/cron.mp4`: got a name that leads out of the archive"),
    (("a/../../b.mp4", CLIP), "member `a/../../b.mp4`: got a name that leads out of the archive"),
    (("..\\b.mp4", CLIP), "member `..\\b.mp4`: got a name that leads out of the archive"),
    (("C:\\b.mp4", CLIP), "member `C:\\b.mp4`: got a name that leads out of the archive"),
    ((member("a.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""), "member `a.mp4`: got a link to `/etc/passwd`"),
    ((member("a.mp4", type=tarfile.LNKTYPE, linkname="000.mp4"), b""), "member `a.mp4`: got a link to `000.mp4`"),
    ((member("a.mp4", type=tarfile.CHRTYPE), b""), "member `a.mp4`: got a device, a pipe or the like"),
    ((member("a.mp4", type=tarfile.FIFOTYPE), b""), "member `a.mp4`: got a device, a pipe or the like"),
    ((member("a.mp4", pax_headers={"GNU.sparse.major": "0", "GNU.sparse.size": "99999999999",
                                   "GNU.sparse.map": "0,0"}), b""), "got a sparse file"),
    (("._000.mp4", CLIP), "member `._000.mp4`: got a name without key and ending"),
    (("README", CLIP), "member `README`: got a name without key and ending"),
    (("000.txt", b"A dog."), "member `000.txt`: got a member of `000` apart from the others"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), DANGEROUS, ids=[message[:40] for _, message in DANGEROUS])
def test_what_a_tar_may_hide_is_refused_before_anything_is_written(tmp_path, bad, message):
    path = write(tmp_path / "shard.tar", *sample("000"), *sample("001"), bad)
    before = files_under(tmp_path)
    (problem,) = told(path)
    assert problem.startswith("shard.tar: ")
    assert message in problem
    assert files_under(tmp_path) == before


BAD = [
    ([("000.json", NATIVE)], "no clip beside `000.json`"),
    ([*sample("000"), ("000.webm", CLIP)], "got `000.mp4` and `000.webm`"),
    ([*sample("000"), ("000.mp4", CLIP)], "the member `000.mp4` more than once"),
    ([*sample("000"), ("000.npy", CLIP)], "the member `000.npy`"),
    ([("000.mp4", CLIP)], "item 1: got no column that holds a question"),
    ([("000.mp4", CLIP), ("000.json", b"{")], "item 1: got"),
    (sample("000", [1]), "`000.json`, which is no object"),
    ([("000.mp4", CLIP), ("000.txt", b"\xff")], "`000.txt`, which is no UTF-8 text"),
    ([*sample("000"), ("000.txt", b"A cat.")], "an answer in `response` of the `.json`, and another in `000.txt`"),
    (sample("000", {**NATIVE, "videos": ["../001.mp4"]}), "`../001.mp4` as the clip of a sample that has `000.mp4`"),
    (sample("000", {"q": "Who?", "a": "x", "video_id": "../../etc/000"}), "which leads out of the folder of the clips"),
]


@pytest.mark.parametrize(("members", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_sample_that_is_no_row_is_named(tmp_path, members, message):
    path = write(tmp_path / "shard.tar", *members)
    assert any(message in problem for problem in told(path)), told(path)
    assert not survey_rows(path, format="auto", clips=tmp_path / "clips")[0]


def test_no_tar_is_read_that_is_not_whole(tmp_path):
    """Cut at any byte, or a bit turned in any head: named, or read as it was; never fewer rows."""
    raw = write(tmp_path / "shard.tar", *sample("000"), *sample("001"), *sample("002")).read_bytes()
    path, ends = tmp_path / "bad.tar", len(raw.rstrip(b"\0"))
    chance = random.Random(0)
    cuts = [raw[:size] for size in [512, 1024, 3072, ends, ends + 512, *(chance.randrange(1, ends) for _ in range(60))]]
    turned = []
    for _ in range(100):
        bad = bytearray(raw)
        bad[chance.randrange(0, ends)] ^= 1 << chance.randrange(8)
        turned.append(bytes(bad))
    num_named = 0
    for bad in [*cuts, *turned]:
        path.write_bytes(bad)
        rows, problems = survey_rows(path, format="webdataset", clips=tmp_path / "clips")
        assert len(rows) == 3 or problems
        num_named += bool(problems)
    assert num_named >= len(cuts)
    path.write_bytes(raw[:3072])
    assert told(path) == [
        "bad.tar: got a tar without its end, at byte 3,072, need a whole one\n"
        "  hint: copy it again, or write it again: a writer that was stopped leaves half a tar"
    ]


def test_mutated_samples_are_read_or_named(tmp_path):
    """Samples in are rows out and samples named, whatever their `.json` says; 2,000 of them, many in a tar."""
    columns = {**NATIVE, "id": "7", "history": [["What?", "a dog"]], "start": 0, "end": 2.5, "category": "who"}
    made = [changed for changed, _ in mutations(columns, count=2000, seed=7)]
    num_read = num_named = 0
    for begin in range(0, len(made), 500):
        members = [
            pair for number, each in enumerate(made[begin : begin + 500]) for pair in sample(f"{number:03d}", each)
        ]
        path = write(tmp_path / f"shard{begin}.tar", *members)
        rows, problems = survey_rows(path, format="webdataset", clips=tmp_path / "clips")
        read = {row.line for row in rows}
        named = {int(re.match(rf"{re.escape(str(path))}: item (\d+)", problem.where)[1]) for problem in problems}
        assert not read & named
        assert read | named == set(range(1, 501))
        num_read, num_named = num_read + len(read), num_named + len(named)
    assert num_read > 200
    assert num_named > 200


def test_files_that_are_no_tar(tmp_path):
    path = tmp_path / "rows.tar"
    path.write_bytes(b"\x1f\x8b rest of a packed one")
    assert told(path, format="webdataset")[0].startswith(
        "rows.tar: got a file that is no tar, need an uncompressed tar"
    )
    shard = write(tmp_path / "shard.tar", *sample("000"))
    assert told(shard, format="native")[0].startswith("shard.tar: got a tar file")
    assert told(shard, clips=None) == [
        "shard.tar: item 1: got a clip inside the file (9 bytes), need the path of a clip\n"
        "  hint: `cvft convert FILE OUT.jsonl` writes the clips beside OUT.jsonl"
    ]


def test_convert_and_load_is_the_identity(tmp_path):
    path = write(tmp_path / "shard.tar", *sample("000", {"video": "000.mp4", "conversations": TALK}), *sample("001", {
        "video": "001.mp4", "conversations": TALK * 2}, clip=b"other"))  # fmt: skip
    rows = read_rows(path, format="auto", clips=tmp_path / "out_clips")
    done = convert_file(path, tmp_path / "new" / "rows.jsonl")
    again = read_rows(tmp_path / "new" / "rows.jsonl")
    assert [(row.query, row.response, row.history, row.id, row.videos[0].name) for row in again] == [
        (row.query, row.response, row.history, row.id, row.videos[0].name) for row in rows
    ]
    assert (done.num_rows, done.num_objects, done.clips) == (3, 2, tmp_path / "new" / "rows_clips")
    before = files_under(tmp_path)
    bad = write(tmp_path / "bad.tar", *sample("000"), *sample("001", [1]))
    with pytest.raises(DataError, match="which is no object"):
        convert_file(bad, tmp_path / "bad.jsonl")
    assert files_under(tmp_path) == sorted([*before, "bad.tar"])


def test_a_recipe_trains_from_shards(tmp_path):
    clip = real_clip("bikes.mp4").read_bytes()
    recipe = make_project(tmp_path)
    shards = [
        write(tmp_path / f"shard-{number}.tar", *sample("000", clip=clip), *sample(f"00{number + 1}", clip=clip))
        for number in range(2)
    ]
    train = f"data.train=[{', '.join(map(str, shards))}]"
    job = open_job(load_recipe(recipe, overrides=[train]), needs_weights=False)
    prepared = prepare(job)
    assert len(prepared.train_rows) == 4
    (video,) = {row.videos[0] for row in prepared.train_rows}
    assert video.parent.parent == tmp_path / "runs" / ".unpacked"
    assert f"{shards[0]} is read as `webdataset`: 2 rows" in prepared.notes
    how = DecodeSettings(Sampling())
    found = check_files([DataFile(shards[0])], how=how, clips=tmp_path / "runs" / ".unpacked")
    assert len(found.rows) == 2
    assert not found.count("error")
