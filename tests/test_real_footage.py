"""Real footage through the whole job: four clips of odd sizes, 25 and 29.97 fps, with rows written by hand.

The tiny model never saw anything like them. It has to learn them by heart, and the merged model has to answer from the
clip: most questions are asked about several clips, with other answers.
"""

import json

import pytest

from tests.project import cvft_ok, make_project
from tests.real_clips import real_clip

BIKES, BUNNY = "bikes.mp4", "bigbuckbunny.mp4"
CAR, CAR_DISTORTED = "carphone_pristine.mp4", "carphone_distorted.mp4"

FOOTAGE = [
    (BIKES, "What is shown?", "city traffic and bicycles"),
    (BUNNY, "What is shown?", "a big grey rabbit"),
    (CAR, "What is shown?", "a man in a car"),
    (CAR_DISTORTED, "What is shown?", "a man in a car"),
    (BIKES, "Where is it?", "in a street"),
    (BUNNY, "Where is it?", "on a green hill"),
    (CAR, "Where is it?", "in a car"),
    (BIKES, "Is it drawn or filmed?", "filmed"),
    (BUNNY, "Is it drawn or filmed?", "drawn"),
    (CAR, "Is the picture clean?", "yes"),
    (CAR_DISTORTED, "Is the picture clean?", "no"),
    (BUNNY, "Is the picture clean?", "yes"),
    (CAR, "What does the man wear?", "a dark suit and a red bow tie"),
    (BIKES, "At what second is the taxi sign seen?", "3"),
    (BIKES, "At what second does the cyclist in black appear?", "5"),
    (BIKES, "When is the fence with the parked bicycle seen?", "from 6 to 7"),
    (BIKES, "At what second does a person walk past the bicycle?", "8"),
    (BUNNY, "At what second does the rabbit stand up?", "2"),
    (BUNNY, "Where is the rabbit at second 0?", "in its burrow"),
    (CAR, "At what second does the man open his mouth wide?", "2"),
    (CAR_DISTORTED, "At what second does the man open his mouth wide?", "2"),
    (BIKES, "How many seconds are shown?", "11"),
    (BUNNY, "How many seconds are shown?", "6"),
    (CAR, "How many seconds are shown?", "5"),
    (CAR, "What colour is the bow tie?", "red"),
    (BUNNY, "What colour is the rabbit?", "grey"),
    (BIKES, "What is seen first?", "the roof of a white van"),
]


@pytest.mark.long
def test_real_clips_are_memorised_and_answered_by_the_merged_model(tmp_path):
    rows = [
        {"query": query, "response": answer, "videos": [str(real_clip(clip))], "category": clip}
        for clip, query, answer in FOOTAGE
    ]
    assert len(rows) >= 24
    recipe = make_project(
        tmp_path,
        rows=rows,
        val_rows=rows,
        lora={"targets": "all-linear", "train_projector": True, "rank": 16, "alpha": 16, "dropout": 0.0},
        optim={"learning_rate": 3e-3, "warmup_ratio": 0.1, "weight_decay": 0.0, "adam_beta2": 0.99},
        train={
            "max_steps": 200,
            "global_batch_rows": 27,
            "micro_batch_rows": 27,
            "save_steps": 200,
            "eval_steps": 200,
            "logging_steps": 10,
        },
        eval={"max_new_tokens": 48, "batch_rows": 9, "compare_base": True},
        export={"verify_rows": 27},
    )
    result = cvft_ok("run", recipe)
    run = tmp_path / "runs" / "small"
    tuned = json.loads((run / "eval" / "merged" / "metrics.json").read_text())["metrics"]
    base = json.loads((run / "eval" / "base" / "metrics.json").read_text())["metrics"]
    wrong = [
        (row["query"], row["prediction"])
        for row in map(json.loads, (run / "eval" / "merged" / "predictions.jsonl").read_text().splitlines())
        if not row["is_exact_match"]
    ]
    assert tuned["exact_match"] == 1.0, wrong
    assert base["exact_match"] < 0.5
    assert json.loads((run / "merged" / "cvft_verification.json").read_text())["logits"]["num_equal_answers"] == 27
    assert "clips of the val rows are trained on too" in result.stderr
