"""The card of a published model: its head as hubs read it, and its table."""

from typing import Any

from cvft.evaluate.metrics import compute_metrics
from cvft.export.card import CardFacts, make_card


def facts(**changes: Any) -> CardFacts:
    contract = {
        "base_fingerprint": "f00",
        "template": "chat",
        "sampling": "chat",
        "max_frames": 24,
        "image_size": 224,
        "num_tokens_per_frame": 66,
        "decoder": "pyav",
        "decoder_version": "17.1",
        "rope_precision": "fp32",
    }
    values: dict[str, Any] = {
        "model_id": "me/tuned",
        "kind": "adapter",
        "base": "someone/base",
        "base_id": "someone/base",
        "base_commit": "c0ffee",
        "recipe_text": "name: tuned\n",
        "contract": contract,
        "rows": {
            "num_train": 3,
            "train_sha256": "a1",
            "num_val": 2,
            "val_sha256": "b2",
            "num_quarantined": 0,
        },
        "metrics": {},
        "verification": None,
        "versions": {"cvft": "0.1.0", "torch": None},
    }
    return CardFacts(**{**values, **changes})


def section(card: str, heading: str) -> str:
    return card.split(f"## {heading}\n\n")[1].split("\n\n##")[0]


def test_the_table_shows_each_measured_model_over_all_rows_and_per_category():
    said = {"merged": ["red", "2 s"], "base": ["blue", "2 s"]}
    metrics = {
        name: compute_metrics(answers, expected=["red", "2 s"], categories=["colour", "a|b"])
        for name, answers in said.items()
    }
    assert section(make_card(facts(metrics=metrics)), "Evaluation") == (
        "| val rows: 2 | base | merged |\n"
        "|---|---|---|\n"
        "| exact match | 50.0 % | 100.0 % |\n"
        "| token F1 | 50.0 % | 100.0 % |\n"
        "| ROUGE-L | 50.0 % | 100.0 % |\n"
        "| exact match, a\\|b (1 rows) | 100.0 % | 100.0 % |\n"
        "| exact match, colour (1 rows) | 0.0 % | 100.0 % |"
    )


def test_what_one_model_was_not_asked_is_a_dash():
    metrics = {
        "base": compute_metrics(["red"], expected=["red"], categories=["colour"]),
        "adapter": compute_metrics(["red"], expected=["red"]),
    }
    table = section(make_card(facts(metrics=metrics)), "Evaluation")
    assert table.endswith("| exact match, colour (1 rows) | 100.0 % | – |")
    assert section(make_card(facts()), "Evaluation") == "Not evaluated."
