"""Rows that name their clips by URL, in every command that reads rows: fetched once, and bad clips like any others."""

import contextlib
import json
from pathlib import Path

import pytest

import cvft
from cvft.cli.main import main
from cvft.data.fetch.cache import ClipCache
from cvft.data.fetch.limits import FetchLimits
from cvft.data.rows import read_rows
from cvft.errors import ClipError, DataError, IncompleteError
from cvft.evaluate.run import evaluate_run
from cvft.plan.forecast import forecast
from cvft.plan.job import open_job
from cvft.plan.prepare import prepare
from cvft.plan.recorded import refuse_other_data
from cvft.plan.trained import open_trained_job
from cvft.predict.chat import open_chat
from cvft.predict.infer import infer_file
from cvft.recipe import load_recipe
from cvft.runs import RunFolder
from tests.clip_server import CLIPS, ClipServer
from tests.project import cvft as command
from tests.project import cvft_ok, make_project, write_jsonl

QUERY = "What is shown?"
LOCAL = CLIPS / "val_000.mp4"


@pytest.fixture(scope="module")
def server():
    with ClipServer() as running:
        yield running


def rows_of(server: ClipServer, *kinds: str) -> list[dict]:
    return [
        {"query": QUERY, "response": f"answer {number}", "videos": [f"{server.url}/{kind}/clip_{number}.mp4?key=KEY"]}
        for number, kind in enumerate(kinds)
    ]


@pytest.fixture
def project(server, tmp_path) -> Path:
    """Two good clips of one content, one of another, and three that are none."""
    rows = rows_of(server, "good", "good", "missing", "other", "page", "short")
    data = {"allow_hosts": ["127.0.0.1"]}
    train = {"max_steps": 1, "global_batch_rows": 2, "save_steps": 1, "eval_steps": 1}
    return make_project(tmp_path, rows=rows, val_rows=rows[:1], data=data, train=train)


def test_a_clip_that_cannot_be_fetched_is_a_bad_clip(server, project, tmp_path):
    with pytest.raises(DataError) as caught:
        prepare(open_job(load_recipe(project)))
    missing, page, short = sorted(caught.value.problems, key=lambda problem: problem.where)
    train = tmp_path / "train.jsonl"
    assert missing.where == f"{train}:3 `videos`: {server.url}/missing/clip_2.mp4?..."
    assert (missing.got, missing.need) == ("status 404", "status 200")
    assert page.where == f"{train}:5 `videos`: {server.url}/page/clip_4.mp4?..."
    assert short.where.startswith(f"{train}:6 `videos`: {tmp_path}/runs/.urls/urls/")
    assert short.got.startswith("a file that was cut off")
    assert "KEY" not in str(caught.value)
    with pytest.raises(DataError) as not_allowed:
        prepare(
            open_job(load_recipe(project, overrides=["data.allow_hosts=[]", f"data.cache={tmp_path / 'elsewhere'}"]))
        )
    assert len(not_allowed.value.problems) == 6
    assert all("need the port 80 or 443" in str(problem) for problem in not_allowed.value.problems)


def test_a_run_has_its_clips_and_says_where_they_came_from(server, project, tmp_path):
    cvft_ok("train", project, "data.on_bad_clip=quarantine")
    run = tmp_path / "runs" / "small"
    manifest = json.loads((run / "manifest.json").read_text())
    urls = sorted(clip["url"] for clip in manifest["clips"].values())
    assert urls == [f"{server.url}/{name}.mp4?..." for name in ("good/clip_0", "good/clip_1", "other/clip_3")]
    hashes = {clip["sha256"] for clip in manifest["clips"].values()}
    contents = {path.name for path in (tmp_path / "runs" / ".urls" / "content").iterdir()}
    assert len(hashes) == 2
    assert hashes < contents
    assert manifest["rows"] | {"train_sha256": "", "val_sha256": ""} == {
        **{"num_train": 3, "num_val": 1, "num_quarantined": 3},
        **{"train_sha256": "", "val_sha256": ""},
    }
    trained = [json.loads(line)["videos"][0] for line in (run / "data" / "train.jsonl").read_text().splitlines()]
    assert sorted(trained) == sorted(manifest["clips"])
    set_aside = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert [line["line"] for line in set_aside] == [3, 5, 6]
    assert set_aside[0]["row"]["videos"] == [f"{server.url}/missing/clip_2.mp4?key=KEY"]
    assert set_aside[0]["reason"] == f"{server.url}/missing/clip_2.mp4?...: got status 404, need status 200"
    # nothing of what is there is asked for again, and rows that stayed are the same whatever else changed in the file
    num_asked = len(server.asked)
    quarantine = ["data.on_bad_clip=quarantine"]
    (tmp_path / "train.jsonl").write_text((tmp_path / "train.jsonl").read_text() + "\n")
    loaded = load_recipe(project, overrides=quarantine)
    job = open_trained_job(loaded, RunFolder(tmp_path / "runs" / "small"))
    assert refuse_other_data(job.run, recipe=job.recipe, since="this run") == []
    assert len(server.asked) == num_asked
    probes = write_jsonl(tmp_path / "probes.jsonl", rows_of(server, "other"))
    with_probes = [*quarantine, f"eval.probes=[{probes}]"]
    prepared = prepare(open_job(load_recipe(project, overrides=with_probes)))
    assert [row.videos[0].is_file() for row in prepared.probes[probes]] == [True]
    assert [row.line for row in prepared.train_rows] == [1, 2, 4]
    assert {path for path, _ in server.asked[num_asked:]} == {
        "/other/clip_0.mp4?key=KEY",
        "/missing/clip_2.mp4?key=KEY",
        "/page/clip_4.mp4?key=KEY",
    }
    plan = forecast(load_recipe(project, overrides=quarantine), max_clips=3)
    assert plan is not None
    # rows of another file
    data = write_jsonl(tmp_path / "more.jsonl", rows_of(server, "other"))
    with_key = evaluate_run(job, variant="adapter", data=data)
    assert with_key.read_predictions()[0]["videos"] == [f"{server.url}/other/clip_0.mp4?key=KEY"]
    bad = write_jsonl(tmp_path / "bad.jsonl", rows_of(server, "good", "missing"))
    with pytest.raises(DataError, match=r"bad.jsonl:2: http://127.0.0.1:\d+/missing/clip_1.mp4\?...: got status 404"):
        evaluate_run(job, variant="adapter", data=bad)


def test_check_names_them_and_fix_keeps_the_urls(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = write_jsonl(tmp_path / "rows.jsonl", rows_of(server, "good", "missing", "short"))
    assert main(["check", str(rows), "--allow-host", "127.0.0.1", "--json", "--fix"]) == 2
    findings = json.loads(capsys.readouterr().out)["findings"]
    refused = {each["where"].partition(" ")[0]: each for each in findings if each["kind"] == "clip_refused"}
    assert sorted(refused) == [f"{rows}:2", f"{rows}:3"]
    place = refused[f"{rows}:3"]["where"].partition("`videos`: ")[2].partition(" (")[0]
    hint = f"copy or download it again; remove {place} to fetch it again from {server.url}/short/clip_2.mp4?..."
    assert refused[f"{rows}:3"]["hint"] == hint
    assert Path(place).is_relative_to(tmp_path / "runs" / ".urls")
    (kept,) = [json.loads(line) for line in (tmp_path / "rows.clean.jsonl").read_text().splitlines()]
    assert kept["videos"] == [f"{server.url}/good/clip_0.mp4?key=KEY"]
    assert main(["preview", "rows.clean.jsonl", "--allow-host", "127.0.0.1", "--output", "page.html"]) == 0
    assert "clip_0.mp4" in (tmp_path / "page.html").read_text()
    num_asked = len(server.asked)
    assert main(["convert", "rows.jsonl", "again.jsonl"]) == 0
    assert [row.urls[0] for row in read_rows(tmp_path / "again.jsonl", url_cache=tmp_path)] == [
        row["videos"][0] for row in rows_of(server, "good", "missing", "short")
    ]
    assert len(server.asked) == num_asked
    assert main(["check", "rows.jsonl", "--allow-host", "http://a/"]) == 2
    assert "allowed hosts: got `http://a/`, need a host alone" in capsys.readouterr().err


def test_questions_about_a_url_are_answered_like_those_about_its_file(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = ClipCache(tmp_path / "cache", limits=FetchLimits(allow_hosts=["127.0.0.1"], pause_s=0.0))
    url, bad = f"{server.url}/good/asked.mp4?key=KEY", f"{server.url}/missing/asked.mp4"
    with cvft.load("tiny", cache=tmp_path / "cache", allow_hosts=["127.0.0.1"]) as model:
        expected = model.ask(LOCAL, QUERY)
        assert model.ask(url, QUERY) == expected
        assert model.answer([{"query": QUERY, "videos": [url]}]) == [expected]
        with pytest.raises(ClipError, match="got status 404"):
            model.ask(bad, QUERY)
    output = tmp_path / "out.jsonl"
    data = write_jsonl(tmp_path / "rows.jsonl", [{"query": QUERY, "videos": [each]} for each in (url, bad)])
    with pytest.raises(IncompleteError, match="1 of 2 rows answered"):
        infer_file("tiny", data=data, output=output, cache=cache)
    (line,) = map(json.loads, output.read_text().splitlines())
    assert (line["videos"], line["prediction"]) == ([url], expected)
    (listed,) = map(json.loads, (tmp_path / "out.bad.jsonl").read_text().splitlines())
    assert listed["reason"] == f"{bad}: got status 404, need status 200"
    with contextlib.closing(open_chat("tiny", video=url, cache=cache)) as chat:
        assert "".join(chat.ask(QUERY)) == expected
        assert chat.clip_name == f"{server.url}/good/asked.mp4?..."
        chat.save(tmp_path / "saved.jsonl")
        with pytest.raises(ClipError, match="got status 404"):
            chat.show(bad)
        assert len(chat.turns) == 1
    (saved,) = read_rows(tmp_path / "saved.jsonl", url_cache=cache.folder)
    assert (saved.urls, saved.response) == ((url,), expected)
    assert server.counts["/good/asked.mp4?key=KEY"] == 1
    told = command("infer", "--model", "tiny", "--video", url, "--query", QUERY, cwd=tmp_path)
    assert (told.returncode, "KEY" in told.stderr) == (2, False)
    assert "need the port 80 or 443\n    hint: if you trust it, allow it by name: `127.0.0.1`" in told.stderr
