"""A predictor: the base beside its adapter, scores in fp64 that leave no trace, answers piece by piece."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cvft.clips.source import DecodedClips
from cvft.data.rows import Row, read_rows
from cvft.errors import DataError
from cvft.families.answering import Answer
from cvft.families.cogvlm2_video.runtime import RUNTIME
from cvft.families.contract import CONTRACT_FILE
from cvft.families.runtime import Loading
from cvft.plan.job import Job, open_job
from cvft.predict.open import Predictors
from cvft.predict.predictor import Predictor
from cvft.recipe import load_recipe
from tests.project import ROWS, make_project, with_real_clips, write_jsonl
from tests.random_adapter import write_random_adapter
from tests.tiny import TINY

SHAPES_ROWS = Path(__file__).parent.parent / "datasets" / "tiny_shapes" / "val.jsonl"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[Row]:
    """Rows with clips and without, one of them with an earlier turn."""
    return read_rows(write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", with_real_clips(ROWS)))


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def job(request, tmp_path_factory) -> Job:
    """The job of a run whose adapter has random weights."""
    recipe = make_project(tmp_path_factory.mktemp("job"), model={"dtype": request.param})
    job = open_job(load_recipe(recipe))
    write_random_adapter(TINY, job.run.adapter, targets="all-linear", tower=True)
    (job.run.adapter / CONTRACT_FILE).write_text(job.contract.to_json())
    return job


@pytest.fixture(scope="module")
def predictors(job):
    models = Predictors(job)
    yield models
    models.close()


@pytest.fixture(scope="module")
def alone(job):
    """The base with no adapter near it."""
    model = RUNTIME.load(job.model.folder, job.preprocessing, Loading(job.recipe.model.dtype))
    encoder = RUNTIME.encoder(job.model.folder, job.preprocessing)
    clips = DecodedClips(encoder, job.preprocessing.decode)
    predictor = Predictor(model, runtime=RUNTIME, encoder=encoder, clips=clips)
    yield predictor
    predictor.close()


def own_logits(predictor: Predictor, rows: list[Row]) -> list[torch.Tensor]:
    """Logits of the label tokens in the model's own precision, as `answer` computes."""
    batches = [predictor.encoder.collate([predictor.encode(row, with_response=True)]) for row in rows]
    return [predictor.runtime.label_logits(predictor.model, batch) for batch in batches]


def are_equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def answers(predictor: Predictor, rows: list[Row]) -> list[Answer]:
    return predictor.answer(rows, batch_rows=2, max_new_tokens=8)


def test_the_base_beside_its_adapter_is_the_base_alone(predictors, alone, rows):
    expected = alone.score(rows)
    base = predictors.get("base")
    assert hasattr(base.model, "disable_adapter")  # the adapter is loaded
    assert are_equal(base.score(rows), expected)
    with base.model.disable_adapter():
        assert are_equal(own_logits(base, rows), own_logits(alone, rows))
    assert answers(base, rows) == answers(alone, rows)
    # one load for both; the adapter is off for the base alone
    adapter = predictors.get("adapter")
    assert adapter.model is base.model
    assert not any(torch.equal(one, other) for one, other in zip(adapter.score(rows), expected, strict=True))
    assert are_equal(predictors.get("base").score(rows), expected)


@pytest.mark.parametrize("variant", ["base", "adapter"])
def test_scoring_in_fp64_leaves_no_trace(predictors, rows, variant):
    predictor = predictors.get(variant)
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    buffers = {name: buffer.clone() for name, buffer in predictor.model.named_buffers()}
    said, logits = answers(predictor, rows), own_logits(predictor, rows)
    scored = predictor.score(rows)
    assert {row.dtype for row in scored} == {torch.float64}
    if predictor.model.dtype == torch.float32:  # they were computed in fp64, not only stored so
        assert not any(torch.equal(row.float().double(), row) for row in scored)
    after = predictor.model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in [*before.items(), *buffers.items()]:
        kept = after[name] if name in after else predictor.model.get_buffer(name)
        assert kept.dtype == tensor.dtype, name
        assert torch.equal(kept, tensor), name
    assert are_equal(own_logits(predictor, rows), logits)
    assert answers(predictor, rows) == said
    assert are_equal(predictor.score(rows), scored)


def test_a_score_that_fails_leaves_no_trace(predictors, rows):
    predictor = predictors.get("adapter")
    dtype = predictor.model.dtype
    logits = own_logits(predictor, rows[:1])

    def fail(count):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        predictor.score(rows, on_progress=fail)
    assert predictor.model.dtype == dtype
    assert are_equal(own_logits(predictor, rows[:1]), logits)


@pytest.mark.parametrize("variant", ["base", "adapter"])
def test_pieces_of_an_answer_are_the_answer(predictors, rows, variant):
    predictor = predictors.get(variant)
    asked = [*rows, *read_rows(SHAPES_ROWS)[::60]]
    num_pieces = []
    for row in asked:
        (answer,) = predictor.answer([row], batch_rows=1, max_new_tokens=12)
        assert not answer.is_cut
        pieces = list(predictor.stream(row, max_new_tokens=12))
        assert "".join(pieces) == answer.text
        assert all(pieces)
        num_pieces.append(len(pieces))
    assert max(num_pieces) > 1


def test_an_answer_without_its_end_is_said_to_be_cut(predictors, rows):
    predictor = predictors.get("base")
    (whole,) = predictor.answer(rows[:1], batch_rows=1, max_new_tokens=12)
    num_tokens = len(predictor.encoder.processor.encode_text(whole.text)) + 1  # and its end
    assert num_tokens > 2
    for limit in range(1, num_tokens + 2):
        (answer,) = predictor.answer(rows[:1], batch_rows=1, max_new_tokens=limit)
        assert answer.is_cut == (limit < num_tokens)
        assert whole.text.startswith(answer.text)
        assert (answer == whole) == (limit >= num_tokens)


def test_a_row_without_room_is_refused_before_it_is_answered(predictors, rows):
    predictor = predictors.get("base")
    query = "~" * 1950
    fits = replace(rows[5], query=query)
    room = 2048 - len(predictor.encode(fits)["input_ids"])
    assert 0 < room < 512
    assert predictor.answer([fits], batch_rows=1, max_new_tokens=None) == predictor.answer(
        [fits], batch_rows=1, max_new_tokens=room
    )
    long = replace(rows[5], query=query + query)
    for limit in (1, None):
        with pytest.raises(DataError, match=r"rows.jsonl:6: got 39.. tokens and .* for the answer, need at most 2048"):
            predictor.answer([rows[0], long], batch_rows=2, max_new_tokens=limit)
        with pytest.raises(DataError, match=r"rows.jsonl:6: got 39.. tokens"):
            list(predictor.stream(long, max_new_tokens=limit))
    with pytest.raises(DataError, match="and 2048 for the answer"):
        predictor.answer(rows[:1], batch_rows=1, max_new_tokens=2048)


def test_each_row_has_a_limit_of_its_own(alone, rows):
    asked, limits = rows[:3], [1, 12, 2]
    prompts = [alone.encode(row) for row in asked]
    together = RUNTIME.generate(alone.model, alone.encoder, prompts, max_new_tokens=limits)
    for answer, row, limit in zip(together, asked, limits, strict=True):
        assert alone.answer([row], batch_rows=1, max_new_tokens=limit) == [answer]
    assert [answer.is_cut for answer in together] == [True, False, True]


def test_a_stream_that_fails_tells_whoever_asks(predictors, rows):
    predictor = predictors.get("base")

    def fail(*args, **kwargs):
        raise ValueError("no answer")

    broken = Predictor(
        predictor.model,
        runtime=type("Broken", (), {"generate": staticmethod(fail)})(),
        encoder=predictor.encoder,
        clips=predictor.clips,
    )
    with pytest.raises(ValueError, match="no answer"):
        list(broken.stream(rows[0], max_new_tokens=2))
