"""Rows of one clip as one sequence: the same losses and gradients as the rows apart, whatever is beside them."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from cvft.clips.source import DecodedClips
from cvft.data.rows import read_rows
from cvft.data.video.loader import DecodeSettings
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.cogvlm2_video.runtime import RUNTIME
from cvft.families.family import IGNORED_LABEL
from cvft.families.network.grouping import group_rows
from cvft.families.network.loss import label_loss
from cvft.predict.predictor import Predictor
from tests.tiny import TINY, tiny_encoder, tiny_processor

VAL_ROWS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "val.jsonl"

LARGEST_NLL_ERROR = {torch.float64: 1e-12, torch.float32: 1e-5}
LARGEST_GRADIENT_ERROR = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Of a token's negative log-likelihood, relative where it is above 1 (random answers surprise the model by 28 nats); of all
adapter gradients, relative to their norm."""

WORDS = ("what", "colour", "is", "the", "circle", "red", "blue", "when", "does", "it", "appear", "how", "many")


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["fp64", "fp32"])
def model(request):
    torch.manual_seed(0)
    targets = ["language_expert_query_key_value", "down_proj"]
    # random, so that all of it gets gradients, and small, so that the model still knows what it says
    config = LoraConfig(r=8, lora_alpha=1, target_modules=targets, init_lora_weights=False)
    return get_peft_model(load_model(TINY, dtype=request.param), config).train()


def make_clip_rows(*, num_rows, num_frames, seed, template="chat", history=True):
    """Rows about one random clip, of different length, some with earlier turns; num_frames 0 for rows without a clip."""
    processor = tiny_processor(template)
    generator = torch.Generator().manual_seed(seed)

    def words(most):
        count = int(torch.randint(1, most, (), generator=generator))
        return " ".join(WORDS[int(i)] for i in torch.randint(len(WORDS), (count,), generator=generator))

    pixels = torch.randn(num_frames, 3, 56, 56, generator=generator) if num_frames else None
    return [
        processor.encode(
            words(9),
            pixel_values=pixels,
            time_indices=range(num_frames),
            history=[(words(5), words(4))] * (number % 3) if history else [],
            response=words(6),
        )
        for number in range(num_rows)
    ]


def token_nlls(model, batch):
    """The negative log-likelihood of each label token, sequence by sequence."""
    labels = batch["labels"]
    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    nlls = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    return nlls[labels[:, 1:].flatten() != IGNORED_LABEL]


def losses_and_gradients(model, batches):
    """Token losses of batches in a row, and the gradient of their mean over all tokens."""
    model.zero_grad()
    nlls = [token_nlls(model, batch) for batch in batches]
    num_tokens = sum(len(values) for values in nlls)
    for values in nlls:
        (values.sum() / num_tokens).backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat(nlls).detach(), torch.cat(gradients)


def relative_error(got, expected):
    return float((got - expected).norm() / expected.norm())


def largest_error(got, expected):
    return float(((got - expected).abs() / expected.abs().clamp(min=1)).max())


def to_dtype(batch, dtype):
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}


def separate_and_grouped(model, groups, *, change=lambda batch: batch):
    processor, dtype = tiny_processor(), model.dtype
    apart = [to_dtype(processor.collate([row]), dtype) for rows in groups for row in rows]
    together = change(to_dtype(processor.collate([group_rows(rows) for rows in groups]), dtype))
    return losses_and_gradients(model, apart), losses_and_gradients(model, [together])


@pytest.mark.parametrize("num_rows", [1, 2, 3, 8, 32])
def test_a_group_equals_its_rows(model, num_rows):
    rows = make_clip_rows(num_rows=num_rows, num_frames=5, seed=num_rows)
    (nlls, gradients), (grouped_nlls, grouped_gradients) = separate_and_grouped(model, [rows])
    assert largest_error(grouped_nlls, nlls) <= LARGEST_NLL_ERROR[model.dtype]
    assert relative_error(grouped_gradients, gradients) <= LARGEST_GRADIENT_ERROR[model.dtype]


def test_a_batch_of_groups_of_any_size_equals_its_rows(model):
    """Clips of different length, a group of one, a row without a clip: all padded to one length."""
    groups = [
        make_clip_rows(num_rows=num_rows, num_frames=num_frames, seed=10 + num_rows)
        for num_rows, num_frames in ((3, 7), (1, 24), (5, 1), (1, 0), (2, 3))
    ]
    (nlls, gradients), (grouped_nlls, grouped_gradients) = separate_and_grouped(model, groups)
    assert largest_error(grouped_nlls, nlls) <= LARGEST_NLL_ERROR[model.dtype]
    assert relative_error(grouped_gradients, gradients) <= LARGEST_GRADIENT_ERROR[model.dtype]


def test_groups_of_real_rows_equal_their_rows(model):
    encoder = tiny_encoder()
    clips = DecodedClips(encoder, DecodeSettings.of("chat", max_frames=24, decoder="pyav"))
    predictor = Predictor(model, runtime=RUNTIME, encoder=encoder, clips=clips)
    groups = defaultdict(list)
    known = [row for row in read_rows(VAL_ROWS) if row.extra["category"] != "interval"]
    for row in known[:40]:
        groups[row.videos[0]].append(predictor.encode(row, with_response=True))
    predictor.close()
    assert max(map(len, groups.values())) > 3
    (nlls, gradients), (grouped_nlls, grouped_gradients) = separate_and_grouped(model, list(groups.values()))
    assert float((grouped_nlls - nlls).abs().max()) <= LARGEST_NLL_ERROR[model.dtype]
    assert relative_error(grouped_gradients, gradients) <= LARGEST_GRADIENT_ERROR[model.dtype]


def test_the_order_of_a_group_does_not_matter(model):
    rows = make_clip_rows(num_rows=6, num_frames=4, seed=3)
    order = [4, 2, 0, 5, 1, 3]
    processor = tiny_processor()
    one, other = (
        losses_and_gradients(model, [to_dtype(processor.collate([group_rows(some)]), model.dtype)])
        for some in (rows, [rows[number] for number in order])
    )
    lengths = [int((row["labels"] != IGNORED_LABEL).sum()) for row in rows]
    back = torch.cat([torch.split(other[0], [lengths[n] for n in order])[order.index(n)] for n in range(6)])
    assert largest_error(back, one[0]) <= LARGEST_NLL_ERROR[model.dtype]
    assert relative_error(other[1], one[1]) <= LARGEST_GRADIENT_ERROR[model.dtype]


@pytest.mark.parametrize("template", ["chat", "base", "vqa", "swift"])
def test_every_template_restarts_after_its_prefix(template):
    """Without time indices the prefix ends with a frame's marker, whose position depends on what follows it."""
    model = load_model(TINY, dtype=torch.float64)
    processor = tiny_processor(template)
    history = template != "base"
    rows = make_clip_rows(num_rows=3, num_frames=2, seed=1, template=template, history=history)
    group = group_rows(rows)
    with torch.no_grad():
        alone = torch.cat([token_nlls(model, to_dtype(processor.collate([row]), torch.float64)) for row in rows])
        grouped = token_nlls(model, to_dtype(processor.collate([group]), torch.float64))
    assert largest_error(grouped, alone) <= 1e-12


def test_eager_attention_takes_groups_too():
    rows = make_clip_rows(num_rows=4, num_frames=3, seed=2)
    batch = to_dtype(tiny_processor().collate([group_rows(rows)]), torch.float64)
    with torch.no_grad():
        of_kernels = [
            token_nlls(load_model(TINY, dtype=torch.float64, attention=name), batch) for name in ("sdpa", "eager")
        ]
    assert largest_error(of_kernels[0], of_kernels[1]) <= 1e-12


def continue_positions(batch):
    length = batch["input_ids"].shape[1]
    prefix = int((batch["segment_ids"][0] == 0).sum())
    positions = batch["position_ids"].clone()
    positions[:, prefix:] = positions[:, prefix] + torch.arange(length - prefix)
    return {**batch, "position_ids": positions}


def leak_mask(batch):
    return {key: value for key, value in batch.items() if key != "segment_ids"}


@pytest.mark.parametrize("change", [continue_positions, leak_mask])
def test_a_wrong_group_is_told_apart(model, change):
    rows = make_clip_rows(num_rows=4, num_frames=5, seed=4)
    (nlls, gradients), (wrong_nlls, wrong_gradients) = separate_and_grouped(model, [rows], change=change)
    assert largest_error(wrong_nlls, nlls) > 1e-2
    assert relative_error(wrong_gradients, gradients) > 1e-2


def test_a_mean_of_means_is_told_apart(model):
    rows = make_clip_rows(num_rows=4, num_frames=5, seed=5)
    batches = [to_dtype(tiny_processor().collate([row]), model.dtype) for row in rows]
    _, gradients = losses_and_gradients(model, batches)
    model.zero_grad()
    for batch in batches:
        (token_nlls(model, batch).mean() / len(batches)).backward()
    wrong = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])
    assert relative_error(wrong, gradients) > 1e-2


@pytest.mark.parametrize("chunk_tokens", [1, 3, 256])
def test_the_loss_of_label_tokens_equals_that_of_all_logits(model, chunk_tokens):
    groups = [make_clip_rows(num_rows=3, num_frames=2, seed=6), make_clip_rows(num_rows=1, num_frames=4, seed=7)]
    batch = to_dtype(tiny_processor().collate([group_rows(rows) for rows in groups]), model.dtype)
    inner = model.get_base_model()

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])

    inputs = {key: value for key, value in batch.items() if key != "labels"}
    # not the loss of transformers, which is computed in fp32 whatever the logits are
    expected_nll = token_nlls(model, batch).sum()
    expected = gradient(expected_nll)
    logits = model(**inputs).logits
    right = (logits[:, :-1].argmax(-1) == batch["labels"][:, 1:]).sum()
    states = inner.model(**inputs).last_hidden_state
    nll, num_right = label_loss(states, labels=batch["labels"], lm_head=inner.lm_head, chunk_tokens=chunk_tokens)
    torch.testing.assert_close(nll, expected_nll, rtol=LARGEST_NLL_ERROR[model.dtype], atol=0)
    assert num_right == right > 0
    assert relative_error(gradient(nll), expected) <= LARGEST_GRADIENT_ERROR[model.dtype]


def test_label_logits_only_gives_the_loss_and_no_logits(model):
    batch = to_dtype(tiny_processor().collate(make_clip_rows(num_rows=2, num_frames=2, seed=8)), model.dtype)
    whole, only = (model(**batch, num_items_in_batch=7, label_logits_only=only) for only in (False, True))
    torch.testing.assert_close(only.loss.float(), whole.loss.float())
    assert only.logits is None
    with pytest.raises(ValueError, match="needs labels"):
        model(**{key: value for key, value in batch.items() if key != "labels"}, label_logits_only=True)


def test_a_batch_without_labels_has_zero_loss_and_zero_gradients(model):
    batch = to_dtype(tiny_processor().collate(make_clip_rows(num_rows=2, num_frames=2, seed=9)), model.dtype)
    batch["labels"] = torch.full_like(batch["labels"], IGNORED_LABEL)
    model.zero_grad()
    outputs = model(**batch, num_items_in_batch=5, label_logits_only=True)
    outputs.loss.backward()
    assert outputs.loss == 0
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_a_first_token_with_a_label_and_rows_of_two_clips_are_refused():
    rows = make_clip_rows(num_rows=2, num_frames=2, seed=1)
    labelled = {**rows[1], "labels": rows[1]["input_ids"]}
    with pytest.raises(AssertionError, match="first token"):
        group_rows([rows[0], labelled])
    with pytest.raises(AssertionError, match="different clips"):
        group_rows([rows[0], *make_clip_rows(num_rows=1, num_frames=3, seed=1)])
