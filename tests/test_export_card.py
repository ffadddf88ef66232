"""The card of a published model: its head as hubs read it, and its table."""

from typing import Any

import yaml
from huggingface_hub import ModelCard

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


def test_the_head_says_what_a_hub_asks():
    card = make_card(facts(tags=("some-family",)))
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "license": "other",
        "license_name": "that-of-the-base-model",
        "library_name": "peft",
        "pipeline_tag": "video-text-to-text",
        "tags": ["video", "some-family", "cvft", "lora"],
        "base_model": "someone/base",
        "base_model_relation": "adapter",
    }
    assert ModelCard(card).data.base_model == "someone/base"
    assert card.split("---\n", 2)[2].startswith("\n# tuned\n\nA LoRA adapter for `someone/base` at commit `c0ffee`")
    assert card.endswith("```yaml\nname: tuned\n```\n")


def test_a_base_that_nobody_else_has_is_not_in_the_head():
    checked = {"dtype": "bf16", "tensors": {"num_changed": 1, "num_compared": 2, "max_error_share": 0.5}}
    changes = {
        "kind": "merged",
        "base_id": None,
        "base": "folder",
        "verification": {**checked, "logits": None, "note": "x"},
    }
    head = yaml.safe_load(make_card(facts(**changes)).split("---\n")[1])
    assert head["library_name"] == "cvft"
    assert head["tags"] == ["video", "cvft"]  # no model family that the caller did not name
    assert not {"base_model", "base_model_relation"} & head.keys()


def test_words_that_yaml_reads_otherwise_stay_words():
    head = yaml.safe_load(make_card(facts(base_id="1e3", tags=("no", "a: b"))).split("---\n")[1])
    assert (head["base_model"], head["tags"][1:3]) == ("1e3", ["no", "a: b"])


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
