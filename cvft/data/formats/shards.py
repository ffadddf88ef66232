"""Tar shards as WebDataset and video2dataset write them: `webdataset`. Members of one key, side by side, are a sample.

    000123.mp4, 000123.json, 000123.txt  ->  the columns of the object, the text as the answer, the clip in `videos`

The whole archive is looked through before anything of it is written: a tar that was cut off, and members that a reader could be
led astray by, make it none. The object may be of any format; a text without a question answers `CAPTION_QUESTION`.

Source: webdataset's page on its file format (key and ending part at the first point of the name); video2dataset's output.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from cvft.data.formats.clips_inside import keep_clip, leaves_root, read_chunks
from cvft.data.formats.pairs import ENDINGS
from cvft.errors import DataError, Problem, ValueProblem, quote
from cvft.jsonl import parse_json

CAPTION_QUESTION = "Describe the video."
"""Asked where a sample has an answer and no question."""

MAX_TEXT_BYTES = 16 << 20
"""Largest `.json` or `.txt` of a sample that is read."""

_TALKS = ("messages", "conversations", "conversation")
_QUESTIONS = ("query", "question", "prompt", "q", "Q", "question_1", "Q1", "instruction", *_TALKS)
_ANSWERS = ("response", "answer", "output", "a", "A", *_TALKS)
"""Columns in which formats have questions and answers; those of a caption are answers of a table alone."""

_CLIPS = ("videos", "video", "video_path", "clip", "video_id", "video_name")

_MAGIC = b"ustar"
_MAGIC_AT = 257
_BLOCK_BYTES = 512
_END_BYTES = 2 * _BLOCK_BYTES
"""A tar ends with two empty blocks. Source: POSIX pax."""

_CLIP_NEED = f"one clip of a sample ({', '.join(ENDINGS[:3])}, ...) beside `.json` and `.txt`"


class _Member(NamedTuple):
    name: str
    ending: str
    start: int
    num_bytes: int


@dataclass(frozen=True)
class Shard:
    """What a tar holds.

    Args:
        objects: Columns of each sample with its number, from 1, or what is wrong with it.
        members: Name of the clip by the number of its sample.
        clips: Where that clip was written to.
    """

    objects: list[tuple[int, Any]] = field(default_factory=list)
    members: dict[int, str] = field(default_factory=dict)
    clips: dict[int, Path] = field(default_factory=dict)


def is_shard(path: Path) -> bool:
    """Tells whether a file is a tar, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except (OSError, ValueError):  # told by whoever reads it
        return False


def read_shard(path: Path, *, clips: Path | None) -> Shard:
    """Reads a tar, and writes its clips out.

    Args:
        path: The file.
        clips: Folder to write clips to; without one they are refused.

    Raises:
        DataError: It is no whole tar, it has members that are none of a sample, or clips cannot be written.
    """
    if not is_shard(path):
        need, hint = (
            "an uncompressed tar",
            "`gunzip`, `unzstd` or the like unpack one; data.format=auto finds what it is",
        )
        raise DataError(f"data {path}", [Problem(str(path), "a file that is no tar", need, hint)])
    with open(path, "rb") as file:
        samples = _list_samples(path, file)
        shard = Shard()
        for number, (key, members) in enumerate(samples, start=1):
            try:
                clip = _clip_of(members)
                columns = _read_columns(file, key, members)
                if clips is None:
                    hint = "`cvft convert FILE OUT.jsonl` writes the clips beside OUT.jsonl"
                    raise ValueProblem(f"a clip inside the file ({clip.num_bytes:,} bytes)", "the path of a clip", hint)
            except ValueProblem as problem:
                shard.objects.append((number, problem))
                continue
            shard.members[number] = clip.name
            shard.clips[number] = _write_out(file, clip, clips)
            if not any(name in columns for name in _CLIPS):
                columns["videos"] = [str(shard.clips[number])]
            shard.objects.append((number, columns))
    return shard


def put_clips(rows: Iterable[tuple[int, Any]], shard: Shard) -> list[tuple[int, Any]]:
    """Gives rows their clips: a sample may name its own, and no other one.

    Args:
        rows: Native columns with the number of their sample, or what is wrong with it.
        shard: The shard that they come from.
    """
    return [(number, _put_clip(row, number, shard) if isinstance(row, dict) else row) for number, row in rows]


def _put_clip(row: dict[str, Any], number: int, shard: Shard) -> dict[str, Any] | ValueProblem:
    clip, member, named = str(shard.clips[number]), Path(shard.members[number]), row.get("videos")
    if not named or named == [clip]:
        return {**row, "videos": [clip]}
    only = named[0] if isinstance(named, list) and len(named) == 1 else named
    # `clips/a.mp4` of the folder that the shard was made from
    if isinstance(only, str) and Path(only).name in (member.name, _split(member.name)[0]):
        return {**row, "videos": [clip]}
    got = f"{quote(only, most=40)} as the clip of a sample that has {quote(member)}"
    return ValueProblem(got, "the sample's own clip, or none that is named", "remove the name from the `.json`")


def _list_samples(path: Path, file: BinaryIO) -> list[tuple[str, list[_Member]]]:
    """Returns key and members of each sample, from the heads of the whole archive.

    Raises:
        DataError: with every member that is none of a sample.
    """
    samples: list[tuple[str, list[_Member]]] = []
    seen: set[str] = set()
    problems: list[Problem] = []
    hint = "copy it again, or write it again: a writer that was stopped leaves half a tar"
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the file is its caller's
        for info in archive:
            name = info.name.removeprefix("./")
            if fault := _find_fault(info, name):
                problems.append(fault.at(f"{path}: member {quote(info.name)}"))
                continue
            if not info.isfile():  # a folder
                continue
            key, ending = _split(name)
            if not samples or samples[-1][0] != key:
                if key in seen:
                    need = "the members of one key side by side"
                    got = f"a member of {quote(key)} apart from the others"
                    problems.append(
                        Problem(f"{path}: member {quote(name)}", got, need, "write it with `tar --sort=name`")
                    )
                seen.add(key)
                samples.append((key, []))
            samples[-1][1].append(_Member(name, ending, info.offset_data, info.size))
        whole = _is_end(file, archive.offset)
    except (tarfile.TarError, EOFError) as error:
        broken = Problem(str(path), f"a tar that cannot be read ({error})", "a whole one", hint)
        raise DataError(f"data {path}", [broken]) from error
    if not whole:
        got = "a tar without its end"
        problems.append(Problem(str(path), f"{got}, at byte {archive.offset:,}", "a whole one", hint))
    if problems:
        raise DataError(f"data {path}", problems)
    return samples


def _find_fault(info: tarfile.TarInfo, name: str) -> ValueProblem | None:
    """Says why a member may not be in a shard; None when it may."""
    need = "a file inside the archive's root"
    if leaves_root(info.name):
        return ValueProblem("a name that leads out of the archive", need)
    if info.issym() or info.islnk():
        return ValueProblem(f"a link to {quote(info.linkname)}", need, "write the tar with `--dereference`")
    if info.issparse():  # a few bytes can claim any size
        return ValueProblem("a sparse file", need, "write the tar without `--sparse`")
    if info.isdir():
        return None
    if not info.isfile():
        return ValueProblem("a device, a pipe or the like", need)
    if not _split(name)[0].rpartition("/")[2] or not _split(name)[1]:
        return ValueProblem("a name without key and ending", "names such as `000123.mp4`", "leave it out of the tar")
    return None


def _is_end(file: BinaryIO, offset: int) -> bool:
    """Tells whether nothing but empty blocks is left: tarfile stops at a broken head as it does at the end."""
    file.seek(0, 2)
    left = file.tell() - offset
    return left >= _END_BYTES and not any(any(chunk) for chunk in read_chunks(file, offset, left))


def _split(name: str) -> tuple[str, str]:
    """Returns key and ending of a member: `a/b.c.mp4` -> `a/b`, `.c.mp4`."""
    folder, slash, last = name.rpartition("/")
    stem, point, ending = last.partition(".")
    return f"{folder}{slash}{stem}", f"{point}{ending}".lower() if ending else ""


def _clip_of(members: Sequence[_Member]) -> _Member:
    """Returns the clip of a sample.

    Raises:
        ValueProblem: when it has none or several, or something that a row has no place for.
    """
    endings = [member.ending for member in members]
    twice = next((member for member in members if endings.count(member.ending) > 1), None)
    if twice is not None:
        raise ValueProblem(f"the member {quote(twice.name)} more than once", _CLIP_NEED)
    clips = [member for member in members if member.ending in ENDINGS]
    other = next((member for member in members if member.ending not in (*ENDINGS, ".json", ".txt")), None)
    if other is not None:
        hint = "leave it out of the tar: what a row has no place for is not ignored"
        raise ValueProblem(f"the member {quote(other.name)}", _CLIP_NEED, hint)
    if len(clips) != 1:
        got = (
            f"{' and '.join(quote(each.name) for each in clips)}"
            if clips
            else f"no clip beside {quote(members[0].name)}"
        )
        raise ValueProblem(got, _CLIP_NEED)
    return clips[0]


def _read_columns(file: BinaryIO, key: str, members: Sequence[_Member]) -> dict[str, Any]:
    """Returns the object of a sample, its text as the answer.

    Raises:
        ValueProblem: when they cannot be read, or contradict each other.
    """
    by_ending = {member.ending: member for member in members}
    columns: dict[str, Any] = {"id": key}
    if found := by_ending.get(".json"):
        value = parse_json(_read_member(file, found))
        if not isinstance(value, dict):
            raise ValueProblem(f"{quote(found.name)}, which is no object", "a JSON object")
        columns |= value
    if found := by_ending.get(".txt"):
        try:
            text = _read_member(file, found).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueProblem(f"{quote(found.name)}, which is no UTF-8 text", "UTF-8 text") from error
        _add_answer(columns, text, found.name)
    asks = any(columns.get(name) is not None for name in _QUESTIONS)
    if not asks and any(columns.get(name) is not None for name in ("caption", *_ANSWERS)):
        columns["query"] = CAPTION_QUESTION
    return columns


def _add_answer(columns: dict[str, Any], text: str, member: str) -> None:
    said = next((name for name in _ANSWERS if columns.get(name) is not None), None)
    if said is not None and str(columns[said]).strip() != text:
        got = f"an answer in {quote(said)} of the `.json`, and another in {quote(member)}"
        raise ValueProblem(got, "one answer", "leave the `.txt` out of the tar")
    if said is None:
        columns["response"] = text
    if str(columns.get("caption")).strip() == text:  # video2dataset writes it to both
        columns.pop("caption")


def _read_member(file: BinaryIO, member: _Member) -> bytes:
    if member.num_bytes > MAX_TEXT_BYTES:
        need = f"at most {MAX_TEXT_BYTES:,} bytes of text"
        raise ValueProblem(f"{quote(member.name)} of {member.num_bytes:,} bytes", need)
    return b"".join(read_chunks(file, member.start, member.num_bytes))


def _write_out(file: BinaryIO, member: _Member, folder: Path) -> Path:
    """Writes a clip to a folder.

    Raises:
        DataError: when it cannot be written.
    """
    try:
        return keep_clip(
            lambda: read_chunks(file, member.start, member.num_bytes), folder, ending=Path(member.ending).suffix
        )
    except OSError as error:
        got = f"{quote(member.name)} of {member.num_bytes:,} bytes, which cannot be written ({error.strerror})"
        raise DataError(f"data {file.name}", [Problem(str(folder), got, "a folder with room for the clips")]) from error
