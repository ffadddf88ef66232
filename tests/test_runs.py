"""The run folder: whose it is, and what of it is read again."""

import json
from pathlib import Path

import pytest

from cvft.data.records import read_records
from cvft.errors import CvftError, RunError
from cvft.export import VERIFICATION_FILE
from cvft.export.run import read_verification
from cvft.manifest import read_manifest
from cvft.recipe import load_recipe
from cvft.runs import RunFolder, claim_run_folder, is_claimed, read_metrics, read_notes
from tests.broken_json import MANIFEST, broken_forms
from tests.project import make_project


def test_a_manifest_is_read_with_whatever_else_it_holds(tmp_path):
    folder = RunFolder(tmp_path)
    folder.manifest_file.write_text(json.dumps({**MANIFEST, "notes": ["a"], "seed": 42}))
    manifest = read_manifest(folder)
    assert (manifest.rows.num_train, manifest.rows.val_sha256) == (2, None)
    assert manifest.clips["/clips/a.mp4"].duration_s == 3.5
    assert manifest.base.hub is None


def test_a_missing_manifest_is_one_error(tmp_path):
    with pytest.raises(RunError) as caught:
        read_manifest(RunFolder(tmp_path))
    assert str(caught.value) == (
        f"run folder {tmp_path} has 1 problem\n"
        "  manifest.json: got no such file, need the manifest that the training wrote\n"
        "    hint: bring manifest.json back from a copy of the folder, or train under another name (name=...)"
    )


def test_a_manifest_of_any_other_form_is_one_error_and_never_another_exception(tmp_path):
    folder = RunFolder(tmp_path)
    num_refused = 0
    for form in broken_forms(json.dumps(MANIFEST).encode(), seed=7):
        folder.manifest_file.write_bytes(form)
        refusal = refusal_of(folder)
        if refusal is None:
            assert json.loads(form).keys() == MANIFEST.keys(), "a key that is gone must be missed"
            continue
        assert len(refusal.problems) == 1
        num_refused += 1
    assert num_refused > 200


def refusal_of(folder: RunFolder) -> RunError | None:
    try:
        read_manifest(folder)
    except RunError as error:
        return error
    return None


def test_notes_of_any_other_form_are_one_error(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_notes(folder) == []
    folder.train.mkdir()
    folder.notes_file.write_text('["one"]')
    assert read_notes(folder) == ["one"]
    for form in (b"", b"{", b"{}", b"null", b'"text"', b"[1]", b"[null]", b"[" * 10**5, b"\xff"):
        folder.notes_file.write_bytes(form)
        with pytest.raises(RunError, match="need a list of sentences"):
            read_notes(folder)


def test_a_folder_in_which_a_claim_was_killed_is_as_good_as_empty(tmp_path):
    loaded = load_recipe(make_project(tmp_path))
    folder = RunFolder(tmp_path / "runs" / "small")
    folder.path.mkdir(parents=True)
    (folder.path / ".recipe.yaml.123456789.tmp").write_text("half a rec")
    assert not is_claimed(loaded)
    claim_run_folder(loaded)
    assert [path.name for path in folder.path.iterdir()] == ["recipe.yaml"]
    folder.recipe_file.rename(folder.path / "notes.txt")
    with pytest.raises(RunError, match="files that no run of cvft wrote"):
        claim_run_folder(loaded)


def run_of(notes: Path) -> RunFolder:
    return next(run for run in map(RunFolder, notes.parents) if run.notes_file == notes)


SMALL_FILES = {
    "metrics": (
        {"settings": {"template": "chat"}, "metrics": {"num_rows": 2, "exact_match": 0.5}},
        lambda path: read_metrics(path.parent),
        "metrics.json",
    ),
    "notes": (["the val loss rose"], lambda path: read_notes(run_of(path)), ""),
    "clips": ({"/a.mp4": ["ab" * 32, [0.0, 1.0], 5, 6], "/b.mp4": ["cd" * 32, [0.0]]}, read_records, "clips.json"),
    "verification": (
        {
            "dtype": "bf16",
            "tensors": {"num_changed": 2, "num_compared": 3, "max_error_share": 0.5},
            "logits": None,
            "note": "no clips",
        },
        lambda path: read_verification(path.parent),
        VERIFICATION_FILE,
    ),
}
"""Whole files, how they are read, and their names."""


@pytest.mark.parametrize("kind", SMALL_FILES)
def test_other_files_of_a_run_are_read_or_one_error(tmp_path, kind):
    whole, read, name = SMALL_FILES[kind]
    path = tmp_path / name
    if kind == "notes":
        path = RunFolder(tmp_path).notes_file
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole))
    assert read(path)
    num_refused = 0
    for form in broken_forms(json.dumps(whole).encode(), seed=8):
        path.write_bytes(form)
        try:
            read(path)
        except CvftError as error:
            num_refused += 1
            if path.name not in str(error):
                raise AssertionError("the message does not name the file") from error
    assert num_refused > 40
