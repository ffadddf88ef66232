"""What logits and answers say of a merge: accepted in every pair of precisions when right, refused where tensors show nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cvft.export.merge as merging
from cvft.errors import VerifyError
from cvft.export.logits import Outputs, Reference, Scoring
from cvft.export.run import describe_verification, export_run
from cvft.export.verify import choose_scoring, compare, free_memory
from cvft.plan.job import open_job
from cvft.recipe import load_recipe
from tests.project import cvft_ok, make_project
from tests.trained import copy_of_trained_project

BF16 = Scoring("bf16", "fp32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run trained in each precision, not merged yet."""
    fp32 = copy_of_trained_project(tmp_path_factory).parent / "runs" / "small"
    recipe = make_project(
        tmp_path_factory.mktemp("bf16"),
        model={"dtype": "bf16"},
        lora={"targets": "all-linear", "rank": 8, "alpha": 16, "dropout": 0.0},
        optim={"learning_rate": 3e-3},
        train={"max_steps": 30, "save_steps": 30, "eval_steps": 30, "global_batch_rows": 6, "micro_batch_rows": 6},
    )
    cvft_ok("train", recipe)
    shutil.rmtree(fp32 / "merged")
    return {"fp32": fp32, "bf16": recipe.parent / "runs" / "small"}


PAIRS = [(trained, merged) for trained in ("fp32", "bf16") for merged in ("fp32", "bf16")]


def export(run: Path, dtype: str) -> dict:
    shutil.rmtree(run / "merged", ignore_errors=True)
    export_run(open_job(load_recipe(run / "recipe.yaml", overrides=[f"export.dtype={dtype}"])))
    return json.loads((run / "merged" / "cvft_verification.json").read_text())


@pytest.mark.parametrize(("trained", "merged"), PAIRS)
def test_a_right_merge_is_accepted_and_its_limit_can_tell(runs, trained, merged):
    verification = export(runs[trained], merged)
    logits = verification["logits"]
    assert verification["dtype"] == merged
    assert logits["dtype"] == ("fp64" if trained == merged == "fp32" else "fp32")
    assert logits["max_logit_error"] <= logits["max_logit_error_allowed"] < logits["adapter_effect"] / 2
    assert logits["max_logit_error_allowed"] <= (1e-4 if trained == merged == "fp32" else 1.0)
    assert logits["can_tell"]
    assert describe_verification(verification).startswith(
        "all 93 tensors are base + adapter (25 changed); logits within "
    )


@pytest.mark.parametrize(("trained", "merged"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_damage_that_no_tensor_shows_is_refused(runs, monkeypatch, trained, merged):
    honest = merging.merge_adapter

    def damaged(*args, output, **kwargs):
        honest(*args, output=output, **kwargs)
        config = json.loads((output / "config.json").read_text())
        (output / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))

    monkeypatch.setattr(merging, "merge_adapter", damaged)
    with pytest.raises(VerifyError, match=r"val row 1: logits: got a difference of .*, need at most .* in"):
        export(runs[trained], merged)
    assert not (runs[trained] / "merged").exists()
    assert not list(runs[trained].glob("*.partial"))


def outputs(*answers: str, logits) -> Outputs:
    ids = {"a": [0, 3], "b": [1, 3], "c": [1, 2, 3]}
    return Outputs([torch.tensor(row) for row in logits], list(answers), [ids[answer] for answer in answers])


def reference(*answers: str, logits, answer_logits=None, rounding=1e-6, effect=9.0, computing=0.0) -> Reference:
    spoken = logits if answer_logits is None else answer_logits
    return Reference(
        outputs(*answers, logits=logits), [torch.tensor(row) for row in spoken], rounding, effect, computing
    )


LOGITS = [[[1.0, 2.0, 0.0, 0.0]], [[3.0, 4.0, 0.0, 0.0]]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "row 2: logits: got a difference of nan, need at most 0.0001 in bf16"),
        (4.001, "row 2: logits: got a difference of 0.001, need at most 0.0001 in bf16"),
    ],
)
def test_a_logit_that_rounding_does_not_explain_is_refused(value, message):
    other = [LOGITS[0], [[3.0, value, 0.0, 0.0]]]
    with pytest.raises(VerifyError) as raised:
        compare(
            reference("a", "b", logits=LOGITS),
            outputs("a", "b", logits=other),
            locations=["row 1", "row 2"],
            scoring=BF16,
        )
    assert message in str(raised.value)


@pytest.mark.parametrize(("lead", "is_refused"), [(0.01, False), (0.6, False), (1.5, True), (float("nan"), True)])
def test_another_answer_is_refused_where_the_adapter_is_clearly_for_its_own(lead, is_refused):
    """Rounding explains 2 * (4 * 0.05 + 4 * 0.02) = 0.56 and the margin is the lead over the other's token."""
    spoken = [LOGITS[0], [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, lead - 0.1]]]
    mine = reference("a", "b", logits=LOGITS, answer_logits=spoken, rounding=0.05, computing=0.02)
    theirs = outputs("a", "c", logits=LOGITS)
    spoken[1][1][2] = -0.1
    mine = replace(mine, answer_logits=[torch.tensor(row) for row in spoken])
    arguments = {"locations": ["row 1", "row 2"], "scoring": BF16}
    if is_refused or lead > 0.56:
        with pytest.raises(
            VerifyError, match="row 2: answer: got `c`, need `b` as the adapter answers: its token 1 is"
        ):
            compare(mine, theirs, **arguments)
        return
    check = compare(mine, theirs, **arguments)
    assert check.num_equal_answers == 1
    assert [(found.row, found.token) for found in check.differences] == [("row 2", 1)]
    assert abs(check.differences[0].margin - lead) < 1e-6


@pytest.mark.parametrize(
    ("rounding", "effect", "can_tell"),
    [(0.05, 9.0, True), (0.2, 1.7, True), (0.2, 1.5, False), (0.3, 90.0, False), (1e-6, 1e-4, False)],
)
def test_a_limit_tells_when_it_is_narrow_and_the_adapter_moves_more(rounding, effect, can_tell):
    mine = reference("a", "b", logits=LOGITS, rounding=rounding, effect=effect)
    check = compare(mine, outputs("a", "b", logits=LOGITS), locations=["row 1", "row 2"], scoring=BF16)
    assert check.can_tell is can_tell
    tensors = {"num_changed": 1, "num_compared": 2, "max_error_share": 0.5}
    text = describe_verification({"dtype": "bf16", "tensors": tensors, "logits": check.to_dict(), "note": ""})
    assert text.startswith("by its tensors alone: all 2 tensors") is not can_tell
    assert ("Its logits tell nothing" in text) is not can_tell


@pytest.mark.parametrize(
    ("dtypes", "bytes_each", "expected"),
    [
        (("fp32", "fp32"), 8, Scoring("fp32", "fp64")),
        (("fp32", "fp32"), 4, Scoring("fp32", "fp32")),
        (("bf16", "bf16"), 4, Scoring("bf16", "fp32")),
        (("bf16", "bf16"), 2, Scoring("bf16", "bf16")),
        (("bf16", "fp32"), 8, Scoring("bf16", "fp32")),
        (("fp32", "bf16"), 6, Scoring("bf16", "bf16")),
    ],
)
def test_the_finest_precision_with_room_is_taken(dtypes, bytes_each, expected):
    room = free_memory("cpu")
    num_values = int((room + (64 << 30)) / (bytes_each * 1.03))
    found = choose_scoring(dtypes, num_values=num_values, device="cpu", loaded_bytes=66 << 30)
    assert found == expected
    without = choose_scoring(dtypes, num_values=num_values, device="cpu", loaded_bytes=-room)
    assert str(without).startswith("logits were not compared: that takes ")
