"""cvft from Python: what the docs promise, on a model that was really trained."""

import doctest
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cvft
from cvft.errors import CvftError, DataError, ModelError
from tests.project import ROWS, make_project, with_real_clips
from tests.real_clips import real_clip
from tests.trained import copy_of_trained_project


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run that knows its rows by heart."""
    recipe = copy_of_trained_project(tmp_path_factory)
    folder = cvft.run(recipe)  # finished, so that nothing is done again
    assert folder == recipe.parent / "runs" / "small"
    return folder


@pytest.fixture(scope="module")
def model(run) -> cvft.Model:
    with cvft.load(run) as loaded:
        yield loaded


def test_a_run_gives_its_merged_model_or_else_its_adapter(run, model, tmp_path):
    assert model.folder == run / "merged"
    copy = tmp_path / "small"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("merged", "train"), symlinks=True)
    for path in (copy, copy / "adapter"):
        with cvft.load(path) as loaded:
            assert loaded.folder == copy / "adapter"
            assert loaded.ask(real_clip("bikes.mp4"), "What is shown?") == "bikes"


def test_run_does_the_whole_job_and_takes_settings(tmp_path):
    recipe = make_project(tmp_path, train={"max_steps": 1})
    folder = cvft.run(recipe, "name=mine", "export.verify_rows=1")
    assert folder == tmp_path / "runs" / "mine"
    for name in (
        "adapter/cvft_contract.json",
        "merged/cvft_verification.json",
        "eval/merged/metrics.json",
        "report.html",
    ):
        assert (folder / name).is_file(), name


def test_a_question_is_answered_as_it_was_learnt(model):
    assert model.ask(real_clip("carphone_pristine.mp4"), "Where is he?") == "in a car"
    assert model.ask(None, "Say yes.") == "yes"
    history = [("What is shown?", "a man")]
    assert model.ask(real_clip("carphone_pristine.mp4"), "And now?", history=history) == "still a man"


@pytest.mark.parametrize("limit", [1, 2, 64])
def test_a_stream_is_the_answer_piece_by_piece(model, limit):
    clip = str(real_clip("bikes.mp4"))
    pieces = list(model.stream(clip, "When?", max_new_tokens=limit))
    assert "".join(pieces) == model.ask(clip, "When?", max_new_tokens=limit)
    assert all(pieces)
    if limit == 64:
        assert len(pieces) > 1


def test_rows_are_answered_in_order(model):
    rows = with_real_clips(ROWS)
    assert model.answer(rows) == [row["response"] for row in rows]
    assert model.answer(iter(rows[:1]), batch_rows=1) == ["a man"]


def test_every_unfit_row_is_reported_at_once(model):
    with pytest.raises(DataError) as raised:
        model.answer([{"querry": "x"}, {"query": "ok"}, {"query": "q", "videos": ["nowhere.mp4"]}])
    told = str(raised.value)
    assert "rows: item 1 `query`: got no such column" in told
    assert "rows: item 3 `videos`" in told
    assert "item 2" not in told


def test_a_clip_that_cannot_be_used_is_one_error(model, tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(CvftError, match=r"notes\.mp4"):
        model.ask(tmp_path / "notes.mp4", "What?")
    with pytest.raises(CvftError, match=r"notes\.mp4"):
        list(model.stream(tmp_path / "notes.mp4", "What?"))
    assert model.ask(None, "Say yes.") == "yes"


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_without_a_trained_model_is_refused(tmp_path, name):
    with pytest.raises(ModelError, match="need a merged folder, an adapter folder, or the folder of a run"):
        cvft.load(tmp_path / name)


def test_the_example_in_the_docstring_runs(run, model, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "my").symlink_to(run)
    (tmp_path / "clip.mp4").symlink_to(real_clip("bikes.mp4"))
    monkeypatch.chdir(tmp_path)
    (example,) = [
        test for test in doctest.DocTestFinder().find(cvft.load, "load", globs={"cvft": cvft}) if test.examples
    ]
    result = doctest.DocTestRunner().run(example)
    assert result.attempted >= 3
    assert result.failed == 0


def test_importing_cvft_imports_nothing_heavy_and_offers_what_it_lists():
    code = (
        "import sys, cvft\n"
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))\n"
        "print([name for name in cvft.__all__ if not hasattr(cvft, name)])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "False"]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cvft.nonsense
    assert (Path(cvft.__file__).parent / "py.typed").is_file()
