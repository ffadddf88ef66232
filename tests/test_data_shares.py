"""Shares of a data set: processes that know nothing of each other check and encode its clips, each once, and together all."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cvft.cli.main import main
from cvft.data.catalog import FILE, ClipCatalog
from cvft.data.catalog_shares import share_file
from cvft.data.shares import Share, parse_share
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.data.video.sample import Sampling
from cvft.errors import ValueProblem
from tests.project import HANG_S, cvft_ok, make_project, write_jsonl
from tests.real_clips import real_clip

HOW = DecodeSettings(Sampling())
INFO = ClipInfo(2, 4, 6, (0.0, 0.1), 2, 10.0, 0.2, "pyav", "a" * 64, ("note",), ("file",), ())


def make_data(folder: Path) -> list[str]:
    """Two files of rows about five clips, one of which does not decode; one clip is in both."""
    for number in range(4):
        (folder / f"{number}.mp4").write_bytes(real_clip("bikes.mp4").read_bytes() + bytes([number]))
    (folder / "bad.mp4").write_bytes(b"no clip")
    clips = [["0.mp4", "1.mp4", "bad.mp4", "0.mp4"], ["2.mp4", "3.mp4", "0.mp4"]]
    return [
        str(write_jsonl(folder / f"{name}.jsonl", [{"query": f"{name} {at}?", "response": "n/a", "videos": [clip]}
                                                   for at, clip in enumerate(names)]))
        for name, names in zip("ab", clips, strict=True)
    ]  # fmt: skip


def shares_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "runs" / ".clips").glob("*.share-*"))


def test_two_shares_at_the_same_time_are_the_whole(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path)
    command = [sys.executable, "-m", "cvft", "check", *data, "--workers", "1", "--shard"]
    started = [
        subprocess.Popen([*command, f"{number}/2"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    said = [process.communicate(timeout=HANG_S)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]  # else a scheduler would not start what waits for them
    told = "when all shares are through, the same command without --shard says what they found\n"
    assert said == [
        f"share 0/2: 3 clips, 3 decoded now, 1 do not decode; {told}",
        f"share 1/2: 2 clips, 2 decoded now; {told}",
    ]
    assert shares_in(tmp_path) == ["clips-1.share-0-of-2.sqlite", "clips-1.share-1-of-2.sqlite"]
    assert not (tmp_path / "runs" / ".clips" / FILE).exists()
    monkeypatch.chdir(tmp_path)
    looked = []
    monkeypatch.setattr("cvft.data.video.process.DecodeProcess.look", lambda *_, **__: looked.append(1))
    assert main(["check", *data, "--json"]) == 2
    merged = json.loads(capsys.readouterr().out)
    assert merged.pop("num_decoded") == 1  # what does not decode is tried again
    assert (looked, shares_in(tmp_path)) == ([], [])
    monkeypatch.undo()
    alone = tmp_path / "alone"
    alone.mkdir()
    monkeypatch.chdir(alone)
    assert main(["check", *data, "--json"]) == 2
    straight = json.loads(capsys.readouterr().out)
    assert straight.pop("num_decoded") == 5
    assert merged == straight
    monkeypatch.chdir(tmp_path)
    assert main(["check", *data, "--shard", "0/2"]) == 0  # and a share knows what all shares have found
    assert capsys.readouterr().out.startswith("share 0/2: 3 clips, 1 decoded now, 1 do not decode;")


def record(folder: Path, name: str, share: Share | None, *, finish: bool) -> Path:
    path = folder / name
    path.write_bytes(name.encode())
    with ClipCatalog(folder / "c", HOW, share=share) as catalog:
        catalog.find([path])
        catalog.record(path, INFO)
        if finish:
            catalog.finish()
    return path


def test_a_share_that_was_killed_gives_what_it_has_and_goes_on(tmp_path):
    share = Share(0, 2)
    first = record(tmp_path, "a.mp4", share, finish=False)
    file = share_file(tmp_path / "c" / FILE, share)
    with ClipCatalog(tmp_path / "c", HOW) as catalog:
        assert catalog.find([first]) == {first: INFO}
    assert file.is_file()
    second = record(tmp_path, "b.mp4", share, finish=True)
    with ClipCatalog(tmp_path / "c", HOW) as catalog:
        assert catalog.find([first, second]) == {first: INFO, second: INFO}
    assert not file.exists()
    with ClipCatalog(tmp_path / "c", HOW, share=Share(1, 2)) as catalog:
        assert catalog.find([first, second]) == {first: INFO, second: INFO}


def test_what_changed_after_a_share_had_seen_it_is_not_taken_for_what_it_was(tmp_path):
    path = record(tmp_path, "a.mp4", Share(0, 1), finish=True)
    path.write_bytes(b"else")
    with ClipCatalog(tmp_path / "c", HOW) as catalog:
        assert catalog.find([path]) == {}
    newer = record(tmp_path, "a.mp4", None, finish=False)
    with sqlite3.connect(share_file(tmp_path / "c" / FILE, Share(0, 1))) as db:
        db.executescript(
            "CREATE TABLE files (path, num_bytes, mtime_ns, ctime_ns, sha256); CREATE TABLE clips (a, b, c, d);"
        )
        db.executescript("CREATE TABLE looks (a, b, c, d, e);")
        db.execute("INSERT INTO files VALUES (?, 4, 1, 1, 'old')", [str(newer)])
    db.close()
    with ClipCatalog(tmp_path / "c", HOW) as catalog:
        assert catalog.find([newer]) == {newer: INFO}


def test_a_damaged_share_costs_its_own_clips_alone(tmp_path, caplog):
    whole = record(tmp_path, "a.mp4", None, finish=False)
    good = record(tmp_path, "b.mp4", Share(1, 3), finish=True)
    bad = record(tmp_path, "c.mp4", Share(0, 3), finish=True)
    file = share_file(tmp_path / "c" / FILE, Share(0, 3))
    file.write_bytes(b"no database" * 999)
    with ClipCatalog(tmp_path / "c", HOW) as catalog:
        assert catalog.find([whole, good, bad]) == {whole: INFO, good: INFO}
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [f"clips     {file} cannot be read"]
    assert file.is_file()


def test_features_of_two_shares_at_the_same_time(tmp_path):
    recipe = make_project(tmp_path)
    command = [sys.executable, "-m", "cvft", "features", str(recipe), "--shard"]
    started = [
        subprocess.Popen([*command, f"{number}/2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    said = [process.communicate(timeout=HANG_S) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [out.partition(";")[0] for out, _ in said] == [
        f"share {n}/2: 1 clips encoded, 0 were there" for n in range(2)
    ]
    assert cvft_ok("features", recipe).stdout.startswith("0 clips encoded, 2 were there;")


def test_the_slurm_script_starts_every_share_and_then_the_whole(tmp_path):
    script = Path(__file__).parent.parent / "recipes" / "slurm" / "check_shares.sbatch"
    (tmp_path / "cvft").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "cvft").chmod(0o755)
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    for given, expected in (
        ({}, "check r.yaml name=x --shard 3/8"),
        ({"DO": "features"}, "features r.yaml name=x --shard 3/8"),
        ({"SHARES": "whole"}, "check r.yaml name=x"),
    ):
        environment = {**os.environ, **array, **given, "RECIPE": "r.yaml", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        result = subprocess.run(["bash", script, "name=x"], env=environment, capture_output=True, text=True, check=True)
        assert result.stdout.strip() == expected


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "0/0", "a/b", "0/2/3", "٠/٢", "0/2 "])
def test_what_is_no_share(text):
    with pytest.raises(ValueProblem):
        parse_share(text)


def test_a_share_tells_no_findings(tmp_path, capsys):
    assert main(["check", "rows.jsonl", "--shard", "2/2", "--json", "--fix", "--output", str(tmp_path / "c.json")]) == 2
    need = "neither: once all shares are through, the check without `--shard` says what they found"
    assert capsys.readouterr().err == (
        "command line has 4 problems\n"
        "  --shard: got `2/2`, need I/N such as `0/4`, I from 0 to N-1\n"
        f"  --json: got it beside `--shard`, need {need}\n"
        f"  --fix: got it beside `--shard`, need {need}\n"
        f"  --output: got it beside `--shard`, need {need}\n"
    )
    assert main(["features", "recipe.yaml", "--shard", "x"]) == 2
    assert "--shard: got `x`" in capsys.readouterr().err
