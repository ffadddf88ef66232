"""Plans for families whose groups are proven on each model: together where that holds, else apart, with the reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from cvft.data.groups import RowShape
from cvft.data.rows import Row
from cvft.data.video.process import ClipInfo
from cvft.errors import RecipeError
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.family import Capabilities, make_clip
from cvft.families.proof import FeatureProof, GroupProof, Proofs
from cvft.plan.plan import compile_plan
from cvft.plan.proofs import request_proofs, wanted_proofs
from tests.test_plan import MODEL, ROWS, SHARED, make_job

HOLDS, FAILS = GroupProof(True, "equal"), GroupProof(False, "two rows differ by 0.5")


class Doubted:
    """A family whose groups have to be proven; all else is borrowed."""

    capabilities = Capabilities(groups="proven", features="proven", label_logits=True)

    def __getattr__(self, name):
        return getattr(COGVLM2_VIDEO, name)


def doubted_job(**sections):
    return make_job(model_opened=replace(MODEL, family=Doubted()), **sections)


def most_rows(proof, **train):
    plan = compile_plan(doubted_job(train={"global_batch_rows": 32, **train}), SHARED, proofs=Proofs(groups=proof))
    return plan.worker.limits.max_rows_per_group


def test_rows_train_together_only_where_the_proof_holds():
    assert most_rows(HOLDS) == 8
    assert most_rows(FAILS) == most_rows(None) == 1
    assert most_rows(HOLDS, group_by_clip="off") == 1


def test_groups_that_are_asked_for_and_disproven_are_refused_with_the_reason():
    assert most_rows(HOLDS, group_by_clip="on") == 8
    with pytest.raises(
        RecipeError, match=r"train\.group_by_clip: got `on`, need `auto` or `off`: two rows differ by 0\.5"
    ):
        most_rows(FAILS, group_by_clip="on")


def caches(proof, cache_features="auto"):
    job = doubted_job(video={"cache_features": cache_features})
    return compile_plan(job, SHARED, proofs=Proofs(features=proof)).worker.features is not None


def test_features_are_cached_only_where_the_proof_holds():
    same, other = FeatureProof(True, "equal"), FeatureProof(False, "a loss differs by 0.5")
    assert caches(same)
    assert caches(same, "on")
    assert not caches(same, "off")
    assert not caches(other)
    assert not caches(None)
    with pytest.raises(
        RecipeError, match=r"video\.cache_features: got `on`, need `auto`, `pixels` or `off`: a loss differs by 0\.5"
    ):
        caches(other, "on")


def test_a_proof_is_wanted_only_where_it_decides_something():
    apart, live = {"train": {"group_by_clip": "off"}}, {"video": {"cache_features": "off"}}
    assert wanted_proofs(doubted_job(), rows=SHARED) == ["groups", "features"]
    assert wanted_proofs(doubted_job(**live), rows=SHARED) == ["groups"]
    assert wanted_proofs(doubted_job(**apart), rows=SHARED) == ["features"]
    assert wanted_proofs(doubted_job(), rows=ROWS) == ["features"]  # no two rows share a clip
    assert (
        wanted_proofs(doubted_job(lora={"targets": "all-linear", "train_vision_tower": True}, **apart), rows=SHARED)
        == []
    )
    assert (
        wanted_proofs(
            doubted_job(model={"path": "cogvlm2-video-llama3-chat", "attention": "flash_attention_2"}, **live),
            rows=SHARED,
        )
        == []
    )
    assert wanted_proofs(make_job(), rows=SHARED) == []  # known of the whole family


def test_the_first_clip_with_two_questions_is_chosen():
    def row(number, clip):
        return Row(f"q{number}", f"a{number}", (), (clip,), source=Path("rows"), line=number)

    first, second = Path("first.mp4"), Path("second.mp4")
    rows = [row(1, None), row(2, first), row(3, second), row(4, second), row(5, second), row(6, first)]
    bare = RowShape((1,), 10, 3, 3)  # no text before its answer
    shapes = [RowShape((), 1, 9, 3), RowShape((0,), 10, 9, 3), RowShape((1,), 10, 9, 3), bare, RowShape((1,), 10, 9, 3)]
    shapes.append(RowShape((0,), 10, 9, 3))
    info: ClipInfo = make_clip(2, height_px=8, width_px=8, decoder="pyav")
    clips = {first: replace(info, sha256="1"), second: replace(info, sha256="2")}

    def ask(*wanted):
        return request_proofs(doubted_job(), wanted, rows=rows, shapes=shapes, clips=clips)

    asked = ask("groups", "features")
    assert (asked.clip, asked.clip_sha256) == (second, "2")
    assert asked.rows == [("q3", "a3"), ("q5", "a5")]
    assert asked.groups
    assert asked.features
    alone = ask("features")
    assert (alone.clip, alone.rows, alone.groups) == (first, [("q2", "a2")], False)
