"""The model card of a published adapter or merged model: what it was made of and held to. Pure: values in, text out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from cvft.tables import Cell, Table, percent, to_markdown


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Args:
        model_id: Where the model is published.
        kind: `adapter` or `merged`.
        base: What the recipe calls the base; a name, never a path of the machine that trained.
        base_id: Its id on a hub, or None for a folder that nobody else has.
        base_commit: The commit that it was fetched at, or None.
        recipe_text: The recipe as YAML, without paths of the machine that trained.
        contract: How rows reach the model.
        rows: Numbers and hashes of the rows, as the run's manifest has them.
        metrics: Metrics per model by `base`, `adapter`, `merged`; those that were measured.
        verification: What the merge was held to, or None for an adapter.
        versions: Packages that trained it.
        tags: Words to find it by on a hub, beside those of every model that cvft makes; its family, say.
    """

    model_id: str
    kind: str
    base: str
    base_id: str | None
    base_commit: str | None
    recipe_text: str
    contract: Mapping[str, Any]
    rows: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    verification: Mapping[str, Any] | None
    versions: Mapping[str, str | None]
    tags: tuple[str, ...] = ()


def make_card(facts: CardFacts) -> str:
    """Writes the card.

    Args:
        facts: What it says.

    Returns:
        Markdown with the hubs' YAML head.
    """
    sections = [_summary(facts), _metrics(facts), _use(facts)]
    if facts.verification is not None:
        sections.append(_verification(facts.verification))
    sections += [_contract(facts), _data(facts), f"## Recipe\n\n```yaml\n{facts.recipe_text.strip()}\n```"]
    body = "\n\n".join(sections)
    return str(ModelCard(f"---\n{_head(facts).to_yaml()}\n---\n\n{body}\n"))


def _head(facts: CardFacts) -> ModelCardData:
    is_adapter = facts.kind == "adapter"
    data = ModelCardData(
        license="other",
        license_name="that-of-the-base-model",
        library_name="peft" if is_adapter else "cvft",
        pipeline_tag="video-text-to-text",
        tags=["video", *facts.tags, "cvft", *(["lora"] if is_adapter else [])],
    )
    if facts.base_id is not None:
        data.base_model = facts.base_id
        data.base_model_relation = "adapter" if is_adapter else "finetune"
    return data


def _summary(facts: CardFacts) -> str:
    what = "LoRA adapter for" if facts.kind == "adapter" else "merged fine-tuning of"
    commit = f" at commit `{facts.base_commit}`" if facts.base_commit else ""
    return (
        f"# {facts.model_id.rpartition('/')[2]}\n\n"
        f"A {what} `{facts.base_id or facts.base}`{commit}, made with cvft. The base's licences hold for this one too.\n\n"
        f"Base weights: sha256 `{facts.contract['base_fingerprint']}` (of names, sizes and samples of its files)."
    )


def _metrics(facts: CardFacts) -> str:
    if not facts.metrics:
        return "## Evaluation\n\nNot evaluated."
    names = [name for name in ("base", "adapter", "merged") if name in facts.metrics]
    first = facts.metrics[names[0]]
    rows = []
    labels = {"exact_match": "exact match", "token_f1": "token F1", "rouge_l": "ROUGE-L"}
    for key, label in labels.items():
        if key in first:
            rows.append([Cell(label), *(Cell(percent(facts.metrics[name].get(key))) for name in names)])
    for category, values_of_first in first.get("categories", {}).items():
        groups = [facts.metrics[name].get("categories", {}).get(category, {}) for name in names]
        label = f"exact match, {category} ({values_of_first['num_rows']} rows)"
        rows.append([Cell(label), *(Cell(percent(group.get("exact_match"))) for group in groups)])
    return "## Evaluation\n\n" + to_markdown(Table([f"val rows: {first['num_rows']}", *names], rows))


def _use(facts: CardFacts) -> str:
    lines = [
        "## Use",
        "",
        "```",
        f"hf download {facts.model_id} --local-dir model",
        'cvft infer --model model --video clip.mp4 --query "What happens at second 4?"',
        "```",
    ]
    if facts.kind == "merged":
        lines += [
            "",
            "```python",
            "import cvft",
            "from transformers import AutoModelForCausalLM",
            "",
            f'model = AutoModelForCausalLM.from_pretrained("{facts.model_id}")',
            "```",
        ]
    return "\n".join(lines)


def _verification(checked: Mapping[str, Any]) -> str:
    tensors, logits = checked["tensors"], checked["logits"]
    text = (
        f"## Merge\n\nAll {tensors['num_compared']} tensors are in {checked['dtype']} and were checked: {tensors['num_changed']} "
        "are base + adapter, recomputed number by number, and the others are the base's. "
    )
    if logits is None:
        return text + f"{checked['note'].capitalize()}."
    told = "" if logits.get("can_tell") else ", too wide to tell a damaged model: the tensors are the proof"
    return text + (
        f"On {logits['num_rows']} rows, {logits['num_equal_answers']} answers of adapter and merged model are identical and "
        f"logits differ by at most {logits['max_logit_error']:.2g} (limit {logits['max_logit_error_allowed']:.2g}{told})."
    )


def _contract(facts: CardFacts) -> str:
    contract = facts.contract
    return (
        "## How it is fed\n\n"
        f"Template `{contract['template']}`, sampling `{contract['sampling']}`, up to {contract['max_frames']} frames of "
        f"{contract['image_size']} pixels with {contract['num_tokens_per_frame']} tokens each, decoder {contract['decoder']} "
        f"{contract['decoder_version']}, rotary table `{contract['rope_precision']}`. `cvft_contract.json` says it to "
        "programs, and cvft refuses to feed it otherwise."
    )


def _data(facts: CardFacts) -> str:
    rows = facts.rows
    lines = [f"* train: {rows['num_train']} rows, sha256 `{rows['train_sha256']}`"]
    if rows["num_val"]:
        lines.append(f"* val: {rows['num_val']} rows, sha256 `{rows['val_sha256']}`")
    if rows["num_quarantined"]:
        lines.append(f"* set aside because their clip could not be used: {rows['num_quarantined']} rows")
    packages = ", ".join(f"{name} {version}" for name, version in facts.versions.items() if version)
    return "\n".join(["## Data and software", "", *lines, f"* {packages}"])
