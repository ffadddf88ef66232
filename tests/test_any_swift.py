"""Models that are trained through ms-swift's templates: inputs held to ms-swift's and transformers' own, groups proven or not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from cvft.clips.source import ClipInputs
from cvft.data.rows import Row
from cvft.data.video.decode import Clip
from cvft.errors import DataError, ModelError
from cvft.families.any_swift.layouts import LayoutProcess
from cvft.families.family import IGNORED_LABEL
from cvft.families.network.proof import prove_features, prove_groups
from cvft.families.proof import FeatureProof, GroupProof, Proofs, judge, judge_features
from cvft.families.table import find_family
from cvft.plan.proofs import keep_proofs, read_proofs
from cvft.weights.folder import ModelFolder
from tests.any_swift_tiny import CLASSES, KINDS
from tests.opened import Opened

INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_sizes", "pixel_attention_mask")


@pytest.fixture(scope="module", params=KINDS)
def opened(request, tmp_path_factory):
    """A tiny folder, its model, and encoded rows: of two clips of different size, and without any."""
    it = Opened(tmp_path_factory.mktemp("model") / "it", request.param)
    clip, small = it.clip(num_frames=3), it.clip(num_frames=2, height=60, width=30, seed=2)
    it.clips = clip, small
    it.encoded = [
        *it.rows(num_rows=2, clip=clip, seed=0),
        *it.rows(num_rows=1, clip=None, seed=4),
        *it.rows(num_rows=1, clip=small, seed=5),
    ]
    it.model = it.load()
    it.kind = request.param
    return it


def loss_of(it, rows):
    return it.runtime.loss(it.model, it.encoder.collate(rows), num_items=1).loss.item()


def prove(it, rows):
    return prove_groups(
        it.model, it.runtime, it.encoder, rows, layers=it.family.parts.layers, dtype="fp32", device="cpu"
    )


def test_a_row_has_the_loss_of_transformers_own_forward(opened):
    stock = getattr(transformers, CLASSES[opened.kind]).from_pretrained(opened.folder.path).eval()
    for row in opened.encoded:
        batch = opened.encoder.collate([row])
        with torch.inference_mode():
            logits = stock(**{key: value for key, value in batch.items() if key in INPUTS}).logits[0, :-1]
        nll = F.cross_entropy(logits, batch["labels"][0, 1:], reduction="sum", ignore_index=IGNORED_LABEL)
        assert loss_of(opened, [row]) == pytest.approx(nll.item(), rel=1e-6)


def test_a_batch_of_clips_of_different_size_has_the_losses_of_its_rows(opened):
    apart = sum(loss_of(opened, [row]) for row in opened.encoded)
    assert loss_of(opened, opened.encoded) == pytest.approx(apart, rel=1e-6)


def test_blank_frames_of_a_size_are_laid_out_as_the_real_ones(opened):
    """As the process does that lays out rows: pixels are made once per size, and ids for each row."""
    planner = opened.runtime.encoder(opened.folder, opened.how)
    for num_frames, height, width in ((3, 64, 96), (3, 64, 96), (2, 60, 30)):
        blank = Clip(
            *(np.zeros((num_frames, height, width, 3), np.uint8), np.zeros(num_frames, np.float32)),
            *(tuple(range(num_frames)), num_frames, 1.0, 1.0, "pyav"),
        )
        for query in ("What is it?", "Where does the red dog go?"):
            row = Row(query, "left", (), (), source=Path(), line=1)
            clip = opened.clip(num_frames=num_frames, height=height, width=width)
            encoded = opened.encoder.encode(row, [clip], with_response=True)
            layout = planner.lay_out(row, blank)
            assert layout.input_ids == encoded["input_ids"].tolist()
            assert layout.labels == encoded["labels"].tolist()
            assert 0 < sum(layout.token_type_ids) < layout.num_prefix_tokens < len(layout)


def test_a_row_without_a_clip_can_pass_through_the_tower(opened, monkeypatch):
    """So that all ranks, and all steps, have a gradient for what is trained of it."""
    (bare,) = opened.encoded[2:3]
    before = loss_of(opened, [bare])
    monkeypatch.setattr(opened.model, "runs_tower_always", True)
    weight = next(opened.model.get_submodule(opened.family.model.projector).parameters())
    weight.grad = None
    weight.requires_grad_(True)
    loss = opened.runtime.loss(opened.model, opened.encoder.collate([bare]), num_items=1).loss
    loss.backward()
    assert loss.item() == before
    assert (weight.grad == 0).all()
    weight.requires_grad_(False)


def test_what_is_trained_is_the_last_answer_and_what_ends_it(opened):
    row = Row("What is it?", "a red dog", (("Where?", "left"),), (), source=Path(), line=1)
    encoded = opened.encoder.encode(row, [opened.clips[0]], with_response=True)
    trained = encoded["labels"][encoded["labels"] != IGNORED_LABEL]
    text = opened.encoder.tokenizer.decode(trained)
    assert text.startswith("a red dog") or text.startswith(" a red dog")
    assert trained[-1] in opened.encoder.template.stop_ids or trained[-2] in opened.encoder.template.stop_ids
    prompt = opened.encoder.encode(row, [opened.clips[0]], with_response=False)["input_ids"]
    assert torch.equal(prompt, encoded["input_ids"][: len(prompt)])
    assert encoded["labels"][len(prompt)] != IGNORED_LABEL
    assert (encoded["labels"][: len(prompt)] == IGNORED_LABEL).all()


@pytest.mark.parametrize("text", ["a <image> here", "{{ROUND0}}", "<video>", "end\n<bbox>"])
def test_text_that_ms_swift_would_read_as_more_than_text_is_refused(opened, text):
    row = Row(text, "yes", (), (), source=Path("rows.jsonl"), line=7)
    with pytest.raises(DataError, match=r"rows\.jsonl:7 the text: got .* need text without it"):
        opened.encoder.encode(row, (), with_response=True)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4])
@pytest.mark.parametrize("query", ["What?", "\n\nWhat?", " ", "; Frame1: What?"])
def test_no_text_costs_the_clip_a_token(opened, num_frames, query):
    """ms-swift's template of Idefics3 looks for the text behind each frame, and can find it too early."""
    clip = opened.clip(num_frames=num_frames)
    row = Row(query, "yes", (), (), source=Path("rows.jsonl"), line=7)
    encoded = opened.encoder.encode(row, [clip], with_response=True)
    device_free = {key: value for key, value in encoded.items() if key in ("pixel_values", "image_sizes")}
    with torch.inference_mode():
        features = opened.model.model.get_image_features(**device_free, return_dict=True).pooler_output
    num_places = sum(each.shape[:-1].numel() for each in features)
    assert (encoded["input_ids"] == opened.encoder.template.image_id).sum() == num_places
    assert query.strip() in opened.encoder.tokenizer.decode(encoded["input_ids"])


def test_a_question_that_changes_what_stands_before_it_is_refused(opened, monkeypatch):
    clip = opened.clips[0]
    row = Row("Why?", "yes", (), (), source=Path("rows.jsonl"), line=7)
    ids = opened.encoder.encode(row, [clip], with_response=True)["input_ids"].tolist()
    size = (*clip.tensors["frames"].shape, opened.encoder._system)
    monkeypatch.setattr(opened.encoder, "_prefixes", {size: [9, *ids]})
    with pytest.raises(DataError, match=r"rows\.jsonl:7 the text: got one that makes \d+ tokens .* need the \d+ that"):
        opened.encoder.encode(row, [clip], with_response=True)


@pytest.mark.parametrize("opened", ["idefics3"], indirect=True)
def test_places_without_tiles_are_refused(opened, monkeypatch):
    """Frames side by side, of which ms-swift's template leaves one out; transformers' model would say nothing."""
    template = opened.encoder.template
    monkeypatch.setattr(template, "_model", replace(template._model, frame="<image>"))
    row = Row("What?", "yes", (), (), source=Path("rows.jsonl"), line=7)
    with pytest.raises(DataError, match=r"rows\.jsonl:7 the text: got 1 tokens of its clip, need 40, for 10 tiles"):
        opened.encoder.encode(row, [opened.clip(num_frames=2)], with_response=True)


def test_groups_are_proven_on_the_model_itself(opened):
    proof = prove(opened, opened.encoded[:2])
    assert proof.holds
    assert "limit 0.0001" in str(proof)


def test_a_joined_sequence_holds_the_clip_once(opened):
    first, second = opened.encoded[:2]
    joined = opened.encoder.join([first, second])
    image = opened.encoder.template.image_id
    assert (joined["input_ids"] == image).sum() == (first["input_ids"] == image).sum() > 0
    assert torch.equal(joined["pixel_values"], first["pixel_values"])
    assert len(joined["input_ids"]) < len(first["input_ids"]) + len(second["input_ids"])


def test_groups_of_a_model_that_sees_more_are_refused_with_the_reason(opened, monkeypatch):
    """One that pays no heed to who may see whom: as with layers of its own kind, or an own mask."""
    monkeypatch.setattr(
        type(opened.model),
        "_attention",
        lambda self, attention_mask, segment_ids, group_lengths: {"attention_mask": attention_mask},
    )
    proof = prove(opened, opened.encoded[:2])
    assert not proof.holds
    assert "rows train apart: two rows of its first shared clip" in str(proof)


def test_rows_without_a_common_prefix_are_a_finding(opened):
    proof = prove(opened, [opened.encoded[0], opened.encoded[3]])
    assert not proof.holds
    assert "one sequence of two rows fails" in proof.finding


def test_a_proof_that_shows_nothing_does_not_hold():
    equal = {"nll": 1e-6, "gradient": 1e-6, "dtype": "fp32"}
    assert judge(**equal, seeing_nll=0.5, seeing_gradient=0.8).holds
    assert not judge(**equal, seeing_nll=1e-6, seeing_gradient=1e-6).holds
    assert not judge(**{**equal, "nll": float("nan")}, seeing_nll=0.5, seeing_gradient=0.8).holds
    assert not judge(**{**equal, "gradient": 0.01}, seeing_nll=0.5, seeing_gradient=0.8).holds


@pytest.fixture(scope="module")
def cached(opened):
    """The clips of `opened` as their features."""
    tower = opened.runtime.tower(opened.folder, dtype="fp32", device="cpu")
    return [ClipInputs({"vision_features": tower(clip.tensors)}, clip.view) for clip in opened.clips]


def test_cached_features_give_the_same_bits_with_and_without_the_tower(opened, cached):
    losses = []
    for clips, model in (
        (opened.clips, opened.model),
        (cached, opened.model),
        (cached, opened.load(with_tower=False)),
    ):
        groups = [opened.encoder.join(opened.rows(num_rows=3, clip=clip, seed=4)) for clip in clips]
        losses.append(opened.runtime.loss(model, opened.encoder.collate(groups), num_items=1).loss)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_prompts_are_answered_alike_from_cached_features(opened, cached):
    answers = []
    for clips, model in ((opened.clips, opened.load()), (cached, opened.load(with_tower=False))):
        prompts = [row for clip in clips for row in opened.rows(num_rows=2, clip=clip, seed=6, with_response=False)]
        answers.append(opened.runtime.generate(model, opened.encoder, prompts, max_new_tokens=5, clips=[0, 0, 1, 1]))
    assert answers[0] == answers[1]
    assert len({answer.text for answer in answers[0]}) > 1


def prove_cached(it, features):
    live, cached = (it.rows(num_rows=1, clip=clip, seed=4)[0] for clip in (it.clips[0], features))
    return prove_features(it.model, it.runtime, it.encoder, live, cached, layers=it.family.parts.layers, device="cpu")


def test_features_are_proven_on_the_model_itself(opened, cached):
    assert prove_cached(opened, cached[0]).holds
    tensors = {"vision_features": cached[0].tensors["vision_features"] * (1 + 1e-6)}
    nearly = prove_cached(opened, replace(cached[0], tensors=tensors))
    assert not nearly.holds
    assert "from its cached features, the loss of a row differs by" in str(nearly)
    short = prove_cached(opened, replace(cached[0], tensors={"vision_features": tensors["vision_features"][:-1]}))
    assert not short.holds


def test_a_proof_of_features_that_shows_nothing_does_not_hold():
    assert judge_features(loss=0, gradient=0, blind_loss=0.5).holds
    assert not judge_features(loss=0, gradient=0, blind_loss=0).holds
    assert not judge_features(loss=1e-9, gradient=0, blind_loss=0.5).holds
    assert not judge_features(loss=0, gradient=float("nan"), blind_loss=0.5).holds


def test_kept_proofs_are_read_back_and_broken_ones_made_again(tmp_path):
    path = tmp_path / ".proofs" / "x.json"
    assert read_proofs(path) is None
    for proofs in (Proofs(GroupProof(False, "why"), None), Proofs(None, FeatureProof(True, "equal"))):
        keep_proofs(path, proofs)
        assert read_proofs(path) == proofs
    for broken in ("{", '{"groups": {"holds": "yes", "finding": "so"}, "features": null}'):
        path.write_text(broken)
        assert read_proofs(path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_config": {"model_type": "gemma2"}}, 'text_config.model_type: got `"gemma2"`, need `llama`'),
        ({"vision_config": None}, "vision_config: got `null`, need an object"),
    ],
)
def test_a_config_that_cannot_be_carried_out_is_refused(opened, tmp_path, change, said):
    (tmp_path / "config.json").write_text(json.dumps({**opened.folder.config, **change}))
    with pytest.raises(ModelError, match=said):
        find_family(ModelFolder.of(tmp_path))


def test_another_id_under_frames_than_ms_swift_states_is_refused(opened):
    key = "image_token_id" if "image_token_id" in opened.folder.config else "image_token_index"
    folder = ModelFolder(opened.folder.path, {**opened.folder.config, key: 7})
    with pytest.raises(
        ModelError, match=rf"config\.json: {key}: got `7`, need \d+, which stands in ms-swift's template"
    ):
        opened.runtime.encoder(folder, opened.how)


@pytest.mark.parametrize("opened", KINDS[:1], indirect=True)
def test_the_process_that_lays_out_rows_says_why_it_cannot(opened, tmp_path):
    process = LayoutProcess(opened.family.name, str(tmp_path), opened.how)  # no model lies there
    with pytest.raises(ModelError, match=r"config\.json: got no such file"):
        process.ask(Row("a", "b", (), (), source=Path(), line=0), None)
