"""A finished run: what was edited since is refused, refused commands leave nothing, and it is something to go on from."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

import cvft
from cvft.cli.main import main
from cvft.shipped import SHIPPED
from tests.project import HANG_S, files_under, write_jsonl

CLIPS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "clips"
NAMES = ("train_000.mp4", "train_001.mp4", "val_000.mp4", "val_001.mp4")

RECIPE = {
    "model": {"path": "tiny", "dtype": "fp32"},
    "data": {"train": "train.jsonl", "val": "val.jsonl"},
    "video": {"max_frames": 3},
    "optim": {"learning_rate": 1e-3},
    "train": {
        "max_steps": 2,
        "save_steps": 1,
        "eval_steps": 1,
        "global_batch_rows": 2,
        "micro_batch_rows": 2,
        "logging_steps": 1,
        "num_workers": 0,
        "gradient_checkpointing": False,
    },
    "export": {"verify_rows": 1},
    "eval": {"max_new_tokens": 4, "batch_rows": 1},
    "parallel": {"device": "cpu"},
    "output": {"root": "runs"},
}


def row(query: str, response: str, clip: str) -> dict:
    return {"query": query, "response": response, "videos": [f"clips/{clip}"]}


TRAIN = [row("What colour?", "red", NAMES[0]), row("How many?", "2", NAMES[1]), row("What shape?", "a star", NAMES[1])]
VAL = [row("What colour?", "green", NAMES[2]), row("How many?", "1", NAMES[3]), row("What shape?", "a ring", NAMES[2])]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder with clips, rows, a recipe and its finished run; every test leaves it as it was."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "clips").mkdir()
    for name in NAMES:
        shutil.copy2(CLIPS / name, folder / "clips")
    write_jsonl(folder / "train.jsonl", TRAIN)
    write_jsonl(folder / "val.jsonl", VAL)
    recipe = {**RECIPE, "output": {"root": str(folder / "runs")}}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(folder / "small.yaml")]) == 0
    return folder


@pytest.fixture
def run(project, monkeypatch) -> Path:
    monkeypatch.chdir(project)
    return project / "runs" / "small"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_under(folder)}


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """Another content of a file for a while; afterwards it has its old content and time."""
    before, times = path.read_bytes(), path.stat()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def words_of(capsys, *words: object, code: int) -> str:
    """Runs a command in this process and returns what it prints as an error."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code, capsys.readouterr().err
    return capsys.readouterr().err


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def to_bytes(rows: list[dict]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


EDITS = {
    "edited": (lambda rows: [rows[0], {**rows[1], "response": "other"}, rows[2]], ":2 is the first that differs"),
    "removed": (lambda rows: rows[:2], "2 rows now, 3 then"),
    "added": (lambda rows: [*rows, rows[0]], ":4 is the first that differs, 4 rows now, 3 then"),
    "reordered": (lambda rows: rows[::-1], ":1 is the first that differs"),
    "other clip": (lambda rows: [{**rows[0], "videos": ["clips/val_001.mp4"]}, *rows[1:]], ":1 is the first"),
}


@pytest.mark.parametrize("name", ["train", "val"])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_rows_are_refused_after_the_training(project, run, capsys, name, edit):
    change, expected = EDITS[edit]
    before = contents(project / "runs")
    with replaced(project / f"{name}.jsonl", to_bytes(change({"train": TRAIN, "val": VAL}[name]))):
        for command in ("train", "run"):
            said = words_of(capsys, command, "small.yaml", code=2)
            assert f"data.{name}: got other rows, need the rows that this run was trained on" in said
            assert expected in said
        assert "hint: bring them back, or train on the new ones under another name" in said
    assert contents(project / "runs") == before
    assert main(["train", "small.yaml"]) == 0


def test_rows_that_are_only_written_in_another_way_are_the_same(project, run):
    text = to_bytes(TRAIN).replace(b'": "', b'":"').replace(b"\n", b"\n\n")
    with replaced(project / "train.jsonl", text):
        assert main(["train", "small.yaml"]) == 0


def test_a_replaced_clip_is_refused_wherever_it_would_be_shown(project, run, capsys):
    clip = project / "clips" / NAMES[2]
    with replaced(clip, (project / "clips" / NAMES[0]).read_bytes()):
        for words in (
            ("run", "small.yaml"),
            ("eval", run, "--model", "merged"),
            ("eval", run, "--model", "adapter", "eval.max_new_tokens=3"),
            ("export", run),
        ):
            said = words_of(capsys, *words, code=2)
            assert f"`{clip}`, which is another file by now" in said, words
    with replaced(project / "clips" / NAMES[0], (project / "clips" / NAMES[1]).read_bytes()):
        assert "train.jsonl:1 `videos`" in words_of(capsys, "train", "small.yaml", code=2)
    os.utime(clip)  # another time alone is another look, and the same clip
    assert main(["eval", str(run), "--model", "merged"]) == 0


def test_clips_may_move_when_they_are_the_same(project, run, capsys):
    before = contents(run)
    (project / "moved").mkdir()
    shutil.move(project / "clips", project / "moved" / "clips")
    try:
        said = words_of(capsys, "eval", run, "--model", "base", "eval.max_new_tokens=3", code=2)
        assert "which do not exist, need the clips of the run's rows" in said
        assert "data.video_root=FOLDER" in said
        assert main(["eval", str(run), "--model", "base", "eval.max_new_tokens=3", "data.video_root=moved"]) == 0
        assert main(["run", "small.yaml", "data.video_root=moved"]) == 0
        now = contents(run)
        assert [name for name in before if not name.startswith("report.") and now[name] != before[name]] == []
    finally:
        shutil.move(project / "moved" / "clips", project / "clips")
    assert main(["run", "small.yaml"]) == 0


def test_refused_commands_leave_nothing(project, run, capsys):
    before = contents(project)
    bad = [row("What colour?", "red", "gone.mp4")]
    for words in (
        ("export", run, "export.dtype=bf16"),
        ("eval", run, "--data", "nothing.jsonl"),
        ("eval", run, "--checkpoint", "9"),
        ("eval", run, "--checkpoint", "best", "--model", "merged"),
        ("eval", run, "--base", "clips"),
        ("eval", run, "eval.num_rows=2", "model.dtype=bf16"),
        ("eval", run, "eval.num_rows=2", "eval.max_new_tokens=4000"),
        ("train", run, "train.max_steps=3", "eval.num_rows=2"),
        ("train", "small.yaml", "train.resume_from=nowhere", "name=next"),
        ("train", "small.yaml", f"train.resume_from={run}", "name=next", "lora.rank=4"),
        ("features", run, "video.cache_features=off"),
        ("plan", run, "eval.max_new_tokens=4000"),
        ("push", run, "--to", "me", "--card", "card.md"),
        ("push", run, "--to", "me/my", "--card", "clips"),
        ("infer", "--model", run, "--data", "val.jsonl", "--output", "clips"),
    ):
        words_of(capsys, *words, code=2)
        now = contents(project)
        assert {name for name in now.keys() | before.keys() if now.get(name) != before.get(name)} == set(), words
    with replaced(project / "val.jsonl", to_bytes(bad)):
        words_of(capsys, "eval", run, "eval.num_rows=2", "--data", "val.jsonl", code=2)
    assert contents(project).keys() == before.keys()

    # one that ran for another number of rows does not change the run's own numbers
    assert main(["eval", str(run), "--model", "merged", "eval.num_rows=2"]) == 0
    capsys.readouterr()
    assert main(["run", "small.yaml"]) == 0
    assert re.search(r"^all .* 3$", capsys.readouterr().out, re.MULTILINE)
    assert contents(project)["runs/small/report.html"] == before["runs/small/report.html"]


def kill_when_begun(words: list[object], partial: Path, *, num_lines: int) -> None:
    """Kills a command when its partial file has some whole lines."""
    command = [sys.executable, "-m", "cvft", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + HANG_S
    while not partial.is_file() or partial.read_bytes().count(b"\n") < num_lines:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_infer_goes_on_and_ends_with_the_same_file(run, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    rows = [{**VAL[number % 3], "query": f"What colour at second {number}?"} for number in range(60)]
    data = write_jsonl(run.parent.parent / "many.jsonl", rows)
    words = ["infer", "--model", run / "merged", "--data", data]
    assert main([*map(str, words), "--output", str(tmp_path / "straight.jsonl")]) == 0
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.partial.jsonl"
    kill_when_begun([*words, "--output", output], partial, num_lines=4)
    assert not output.exists()
    kept = lines_of(partial)[1:]
    with partial.open("ab") as file:
        file.write(b'{"rows": [59], "answ')  # what a kill in the middle of a line leaves

    # other settings are named, and the answers stay
    write_jsonl(data, rows[:-1])
    assert "another `rows_sha256`" in words_of(capsys, *words, "--output", output, code=2)
    write_jsonl(data, rows)
    assert "another `adapter`" in words_of(
        capsys, "infer", "--model", run / "adapter", "--data", data, "--output", output, code=2
    ).replace("`model`, `base`, ", "")
    assert lines_of_whole(partial)[1:] == kept

    caplog.clear()
    assert main([*map(str, words), "--output", str(output)]) == 0
    num_kept = sum(len(line["rows"]) for line in kept)
    assert 0 < num_kept < 60
    assert f"{num_kept} of 60 are there from before" in caplog.text
    assert output.read_bytes() == (tmp_path / "straight.jsonl").read_bytes()
    assert files_under(tmp_path) == ["out.jsonl", "straight.jsonl"]
    data.unlink()


def lines_of_whole(path: Path) -> list[dict]:
    raw = path.read_bytes()
    return [json.loads(line) for line in raw[: raw.rfind(b"\n")].split(b"\n")]


def test_a_killed_eval_goes_on_and_ends_with_the_same_numbers(project, run, capsys, caplog):
    caplog.set_level("INFO")
    data = write_jsonl(project / "long.jsonl", [{**VAL[n % 3], "query": f"How many at {n}?"} for n in range(40)])
    words = ["eval", run, "--data", data, "--model", "merged"]
    assert main([*map(str, words)]) == 0
    metrics = capsys.readouterr().out
    (folder,) = (run / "eval").glob("merged-long-*")
    predictions = (folder / "predictions.jsonl").read_bytes()
    shutil.rmtree(folder)
    kill_when_begun(words, folder / "predictions.partial.jsonl", num_lines=3)
    assert not (folder / "metrics.json").exists()
    caplog.clear()
    assert main([*map(str, words)]) == 0
    assert "of 40 are there from before" in caplog.text
    assert capsys.readouterr().out == metrics
    assert (folder / "predictions.jsonl").read_bytes() == predictions
    assert files_under(folder) == ["metrics.json", "predictions.jsonl"]
    # a clip that was replaced since is answered about again
    with replaced(project / "clips" / NAMES[2], (project / "clips" / NAMES[0]).read_bytes()):
        assert main([*map(str, words)]) == 0
        assert (folder / "predictions.jsonl").read_bytes() != predictions
    shutil.rmtree(folder)
    data.unlink()


@pytest.fixture
def bad_clip(project) -> Iterator[Path]:
    path = project / "clips" / "cut.mp4"
    whole = (project / "clips" / NAMES[0]).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    yield path
    path.unlink()


def test_bad_clips_are_set_aside_and_the_others_answered(project, run, tmp_path, bad_clip, capsys):
    rows = [VAL[1], row("What colour?", "red", bad_clip.name), VAL[0]]
    data, output = write_jsonl(project / "mixed.jsonl", rows), tmp_path / "out.jsonl"
    said = words_of(capsys, "infer", "--model", run / "adapter", "--data", data, "--output", output, code=1)
    assert f"{data}:2: " in said
    assert "a file that was cut off" in said
    assert f"2 of 3 rows answered in {output}; the others are listed in {tmp_path / 'out.bad.jsonl'}" in said
    assert [line["query"] for line in lines_of(output)] == [VAL[1]["query"], VAL[0]["query"]]
    assert all(line["prediction"] for line in lines_of(output))
    (bad,) = lines_of(tmp_path / "out.bad.jsonl")
    assert (bad["line"], bad["row"]["videos"]) == (2, [str(bad_clip)])
    assert "cut off" in bad["reason"]

    # an evaluation has to have them all: the answers of the others wait for the clip
    said = words_of(capsys, "eval", run, "--data", data, code=2)
    assert f"{data}:2: " in said
    (folder,) = (run / "eval").glob("adapter-mixed-*")
    assert files_under(folder) == ["predictions.partial.jsonl"]
    with replaced(bad_clip, (project / "clips" / NAMES[0]).read_bytes()):
        assert main(["eval", str(run), "--data", str(data)]) == 0
    shutil.rmtree(folder)

    # of none that can be answered nothing is left
    write_jsonl(data, [rows[1]])
    gone = tmp_path / "none.jsonl"
    assert "no row could be answered" in words_of(
        capsys, "infer", "--model", run / "adapter", "--data", data, "--output", gone, code=2
    )
    assert files_under(tmp_path) == ["out.bad.jsonl", "out.jsonl"]
    data.unlink()


def test_mistakes_are_told_before_torch_is_loaded(project, run, tmp_path, bad_clip):
    (tmp_path / "there.jsonl").write_text("mine\n")
    file = ["--data", "val.jsonl", "--output"]
    cases = [
        (["--model", "runs/small", *file, "clips"], "--output: got the folder `clips`"),
        (["--model", "runs/small", *file, f"{tmp_path}/there.jsonl"], "which exists"),
        (["--model", "runs/small", *file, f"{tmp_path}/there.jsonl/out.jsonl"], "Not a directory"),
        (["--model", "runs/small", *file, f"{tmp_path}/{'n' * 300}"], "File name too long"),
        (["--model", "runs/nothing", "--query", "q"], "path: got `runs/nothing`, which does not exist"),
        (["--model", "cogvlm2-llama3-caption", "--query", "q"], "did you mean `hf:zai-org/cogvlm2-llama3-caption`?"),
        (["--model", "hf:zai-org/nothing", "--query", "q"], "model.path: zai-org/nothing: got"),
        (["--model", "clips", "--query", "q"], "need a merged folder, an adapter folder, or the folder of a run"),
        (["--model", "runs/small", "--query", "q", "--video", "no.mp4"], "the question has 1 problem\n  `videos`: got"),
        (["--model", "runs/small", "--query", "q", "--video", str(bad_clip)], "a file that was cut off"),
        (["--model", "runs/small", "--data", "no.jsonl", "--output", "o.jsonl"], "no.jsonl"),
        (["--model", "runs/small/adapter", "--base", "clips", "--query", "q"], "config.json: got no such file"),
    ]
    code = (
        "import io, json, sys, contextlib\n"
        "from cvft.cli.main import main\n"
        "for words, expected in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        code = main(['infer', *words])\n"
        "    assert (code, expected in said.getvalue()) == (2, True), (words, said.getvalue())\n"
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    before = files_under(project)
    done = subprocess.run([sys.executable, "-c", code, json.dumps(cases)], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
    assert files_under(project) == before
    assert files_under(tmp_path) == ["there.jsonl"]


def test_what_of_a_clip_is_not_shown_is_said(project, run, tmp_path, caplog):
    caplog.set_level("INFO")
    clip = f"clips/{NAMES[0]}"
    assert main(["infer", "--model", str(run), "--query", "What colour?", "--video", clip]) == 0
    assert f"note      {NAMES[0]}: clip is 7.4 s, `chat` sampling shows its first 3 s" in caplog.text
    caplog.clear()
    output = str(tmp_path / "out.jsonl")
    assert main(["infer", "--model", str(run), "--data", "val.jsonl", "--output", output]) == 0
    assert "note      2 clips are longer than what is shown of them" in caplog.text


@pytest.mark.parametrize("words", [["--data", "test.jsonl"], ["data.val=test.jsonl"]])
def test_other_rows_are_evaluated_beside_the_runs_own(project, run, capsys, words):
    before = contents(run)
    write_jsonl(project / "test.jsonl", TRAIN[:2])
    assert main(["eval", str(run), "--model", "merged", *words]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 2
    (folder,) = (run / "eval").glob("merged-test-*")
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored["settings"]["data"] == str(project / "test.jsonl")
    assert {name: data for name, data in contents(run).items() if not name.startswith("eval/merged-test-")} == before
    # edited rows are other rows: nothing old is shown for them
    write_jsonl(project / "test.jsonl", [{**TRAIN[0], "response": "nothing"}])
    assert main(["eval", str(run), "--model", "merged", *words]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 1
    for each in (run / "eval").glob("merged-test-*"):
        shutil.rmtree(each)
    (project / "test.jsonl").unlink()


def test_a_checkpoint_is_evaluated_merged_and_asked(project, run, capsys):
    before = contents(run)
    question = ["--query", "What colour?", "--video", f"clips/{NAMES[0]}"]
    assert main(["eval", str(run), "--checkpoint", "1"]) == 0
    first = load_file(run / "train" / "checkpoint-1" / "adapter_model.safetensors")
    assert load_file(run / "adapter-checkpoint-1" / "adapter_model.safetensors").keys() == first.keys()
    assert main(["export", str(run), "--checkpoint", "1"]) == 0
    assert main(["eval", str(run), "--checkpoint", "1", "--model", "merged"]) == 0
    for model in ("train/checkpoint-1", "adapter-checkpoint-1", "merged-checkpoint-1"):
        capsys.readouterr()
        assert main(["infer", "--model", str(run / model), *question]) == 0
        assert capsys.readouterr().out.strip()
    stored = json.loads((run / "eval" / "adapter-checkpoint-1" / "metrics.json").read_text())
    assert stored["settings"]["checkpoint"] == 1
    weights = [load_file(run / name / "model.safetensors") for name in ("merged", "merged-checkpoint-1")]
    assert any(not tensor.equal(weights[1][name]) for name, tensor in weights[0].items())
    now = contents(run)
    assert {name: now[name] for name in before} == before
    said = words_of(capsys, "eval", run, "--checkpoint", "7", code=2)
    assert "--checkpoint: got `7`, need the step of a checkpoint that was kept (1, 2), `best` or `last`" in said
    for name in (
        "adapter-checkpoint-1",
        "merged-checkpoint-1",
        "eval/adapter-checkpoint-1",
        "eval/merged-checkpoint-1",
    ):
        shutil.rmtree(run / name)


def test_a_base_may_move(project, run, tmp_path, capsys):
    base, other = tmp_path / "cogvlm2-video-llama3-base", tmp_path / "other"
    shutil.copytree(SHIPPED["tiny"].folder, base)
    shutil.copytree(base, other)
    weights = load_file(other / "model.safetensors")
    weights["lm_head.weight"] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    question = ["--query", "What colour?", "--video", f"clips/{NAMES[0]}"]
    for command in (["infer", "--model", str(run / "adapter"), *question], ["eval", str(run)]):
        assert main([*command, "--base", str(base)]) == 0
        assert main([*command, "--base", str(other)]) == 2
        assert "--base FOLDER says where" in capsys.readouterr().err
    moved = tmp_path / "moved.yaml"
    gone = {**RECIPE, "model": {**RECIPE["model"], "path": str(tmp_path / "gone")}}
    copy = tmp_path / "runs" / "moved"
    shutil.copytree(run, copy, symlinks=True)
    moved.write_text((run / "recipe.yaml").read_text().replace("path: tiny", f"path: {gone['model']['path']}"))
    shutil.copy(moved, copy / "recipe.yaml")
    shutil.copy(moved, copy / "adapter" / "recipe.yaml")
    said = words_of(capsys, "infer", "--model", copy / "adapter", *question, code=2)
    assert "--base FOLDER says where" in said
    assert main(["infer", "--model", str(copy / "adapter"), "--base", str(base), *question]) == 0
    shutil.rmtree(copy / "merged")
    assert "--base FOLDER says where" in words_of(capsys, "export", copy, code=2)
    assert main(["export", str(copy), "--base", str(base)]) == 0


def test_a_merge_without_clips_says_what_was_not_compared(project, run, capsys):
    shutil.move(run / "merged", run / "merged-before")
    shutil.move(project / "clips", project / "away")
    try:
        assert main(["export", str(run)]) == 0
        said = capsys.readouterr().out
        assert "logits were not compared: none of the 2 clips of the val rows is there any more" in said
        stored = json.loads((run / "merged" / "cvft_verification.json").read_text())
        assert stored["logits"] is None
        assert stored["tensors"]["num_compared"] > 0
    finally:
        shutil.move(project / "away", project / "clips")
        shutil.rmtree(run / "merged", ignore_errors=True)
        shutil.move(run / "merged-before", run / "merged")


def test_a_model_is_asked_by_its_name(project, run, capsys):
    clip = f"clips/{NAMES[0]}"
    assert main(["infer", "--model", "tiny", "--query", "What colour is shown?", "--video", clip]) == 0
    answer = capsys.readouterr().out.strip()
    assert answer
    with cvft.load("tiny") as model:
        assert model.ask(clip, "What colour is shown?") == answer
        assert model.folder == SHIPPED["tiny"].folder
    said = words_of(capsys, "infer", "--model", "tiny", "--base", "clips", "--query", "q", code=2)
    assert "--base: got it for a model without an adapter" in said


def test_a_run_starts_from_the_adapter_of_another(project, run, capsys):
    words = ["train", "small.yaml", "name=next", "train.max_steps=1"]
    # steps so small that no number moves: what was loaded is what is saved
    tiny_steps = [*words, f"train.resume_from={run}", "optim.learning_rate=1e-30"]
    assert main(tiny_steps) == 0
    own = project / "runs" / "next"
    saved = [path / "adapter_model.safetensors" for path in (run / "adapter", own / "start", own / "adapter")]
    assert saved[0].read_bytes() == saved[1].read_bytes()
    before, after = load_file(saved[0]), load_file(saved[2])
    assert before.keys() == after.keys()
    assert all(tensor.equal(after[name]) for name, tensor in before.items())
    manifest = json.loads((own / "manifest.json").read_text())
    assert manifest["start"]["path"] == str(run)
    assert main(tiny_steps) == 0  # done
    shutil.rmtree(own)

    said = words_of(capsys, *words, f"train.resume_from={run}", "lora.rank=4", code=2)
    assert f"lora.rank: got `4`, need `8`, as the adapter in {run} has" in said
    said = words_of(capsys, *words, "train.resume_from=clips", code=2)
    assert "train.resume_from: got" in said
    said = words_of(capsys, "train", "small.yaml", "train.max_steps=4", code=2)
    assert f"with train.resume_from={run} it starts from this run's adapter" in said
    said = words_of(capsys, "train", "small.yaml", "name=next", f"model.path={run / 'adapter'}", code=2)
    assert f"train.resume_from={run / 'adapter'} starts from that adapter" in said
    assert not own.exists()


def test_no_hint_says_to_remove_what_was_trained():
    package = Path(cvft.__file__).parent
    texts = [*package.rglob("*.py"), *(package.parent / "docs").glob("*.md"), package.parent / "README.md"]
    wrong = re.compile(r"(remove|delete) (the|that|this|its) (folder|run|adapter|merged)|or remove the folder")
    found = [f"{path.name}: {match.group()}" for path in texts for match in wrong.finditer(path.read_text())]
    # features are made again from clips; nothing in a store was trained
    assert [each for each in found if not each.startswith(("key.py", "troubleshooting.md: remove the folder"))] == []
