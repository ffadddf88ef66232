"""The run folder: whose it is, and what of it is read again."""

import json

import pytest

from cvft.errors import RunError
from cvft.runs import RunFolder, read_manifest
from tests.broken_json import MANIFEST, broken_forms


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
        "  manifest.json: got a file that cannot be read (No such file or directory), need the manifest that the training "
        "wrote\n"
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
