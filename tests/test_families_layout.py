"""Token layout: ids, types, labels and positions against the published code, with the real Llama-3 vocabulary."""

import json

import pytest
import torch

from cvft.families.cogvlm2_video.layout import TEMPLATES, SpecialTokens, build_layout
from cvft.families.cogvlm2_video.network.positions import position_ids_from_types
from tests.golden_files import SHIPPED, golden_files
from tests.llama3 import llama3_encode

LLAMA3 = SpecialTokens(bos=128000, eos=128001, vision=128002)


def unroll(pairs):
    return [value for value, count in pairs for _ in range(count)]


def lay_out(*, template, num_frames, query, history=(), answer=None, encode=None, special=LLAMA3, num_tokens=66):
    return build_layout(
        encode or llama3_encode(),
        template=TEMPLATES[template],
        special=special,
        num_tokens_per_frame=num_tokens,
        time_indices=range(num_frames),
        query=query,
        history=[tuple(turn) for turn in history],
        response=answer,
    )


@pytest.mark.parametrize("path", golden_files("token_layout*.json"), ids=lambda p: p.stem)
def test_layout_equals_the_published_code(path):
    cases = json.loads(path.read_text())["cases"]
    assert len(cases) >= (90 if path.parent == SHIPPED else 1)
    for case in cases:
        layout = lay_out(**{k: case[k] for k in ("template", "num_frames", "query", "history", "answer")})
        assert layout.input_ids == unroll(case["input_ids_rle"])
        assert layout.token_type_ids == unroll(case["token_type_ids_rle"])
        positions = position_ids_from_types(torch.tensor([layout.token_type_ids]))
        assert positions[0].tolist() == unroll(case["position_ids_rle"])
        if case["labels_rle"] is not None:
            assert layout.labels == unroll(case["labels_rle"])
        else:
            assert set(layout.labels) == {-100}


def test_the_swift_template_loses_time():
    """What ms-swift 4.6 feeds: no digits, one position for all frames, no space before an earlier answer."""
    layout = lay_out(template="swift", num_frames=3, query="When?", history=[("What?", "it is red.")])
    chat = lay_out(template="chat", num_frames=3, query="When?", history=[("What?", "it is red.")])
    assert sum(layout.token_type_ids) == sum(chat.token_type_ids) == 3 * 66
    positions = position_ids_from_types(torch.tensor([layout.token_type_ids]))[0].tolist()
    assert positions[1] == 1
    assert set(positions[2 : 3 * 66]) == {2}
    assert positions[3 * 66] == 3
    assert "Answer:it is red." in TEMPLATES["swift"].write_prompt("q", [("What?", "it is red.")])
    assert "Answer: it is red." in TEMPLATES["chat"].write_prompt("q", [("What?", "it is red.")])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_move_positions(side):
    types = torch.tensor([[0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0]])
    alone = position_ids_from_types(types)
    pad = (4, 0) if side == "left" else (0, 4)
    mask = torch.nn.functional.pad(torch.ones_like(types), pad)
    padded = position_ids_from_types(torch.nn.functional.pad(types, pad), mask)
    assert torch.equal(padded[mask.bool()], alone[0])


def test_labels_are_the_answer_and_eos_only():
    encode = {"Question: a Answer:": [5, 6], "b": [7, 8], "0": [1], "1": [2]}.__getitem__
    layout = lay_out(
        template="chat",
        num_frames=2,
        query="a",
        answer="b",
        encode=encode,
        special=SpecialTokens(90, 91, 92),
        num_tokens=3,
    )
    assert layout.input_ids == [90, 92, 92, 92, 1, 92, 92, 92, 2, 5, 6, 7, 8, 91]
    assert layout.token_type_ids == [0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert layout.labels == [-100] * 11 + [7, 8, 91]
