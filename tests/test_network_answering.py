"""Batches that run: rows join and leave at any step, and each says what it says alone."""

import random

import pytest
import torch

from cvft.families.answering import Drawing
from cvft.families.cogvlm2_video.network.load import load_model
from cvft.families.network.answering import RunningRows
from cvft.families.network.cache import join_caches
from cvft.families.network.detokenize import Detokenizer
from cvft.families.network.drawing import TokenDraw
from cvft.families.network.prefixes import KeptPrefixes
from tests.opened import Opened
from tests.tiny import make_endless, tiny_processor

FAMILIES = ("qwen3_vl", "qwen3_5", "internvl3_5")
RECURRENT = "qwen3_5"
ROOM = 2**30


class Asking:
    """A model, and rows about clips of different length, some of them about one clip and one about none.

    Args:
        model: The model.
        batcher: What encodes rows.
        prompts: The rows.
        clips: What tells their clips apart.
    """

    def __init__(self, model, batcher, prompts, clips):
        self.model, self.batcher, self.prompts, self.clips = model, batcher, prompts, clips
        rng = random.Random(0)
        self.limits = [rng.choice((1, 3, 6, 9)) for _ in prompts]
        drawings = [None, Drawing(1.5, 1.0, 3), None, Drawing(0.7, 0.8, -4)]
        self.drawings = [drawings[number % len(drawings)] for number in range(len(prompts))]
        self.alone = [self.answer_alone(number) for number in range(len(prompts))]

    def start(self, kept=None):
        return RunningRows(self.model, self.batcher, kept=kept)

    def join(self, running, numbers):
        return running.join(
            [self.prompts[number] for number in numbers],
            max_new_tokens=[self.limits[number] for number in numbers],
            clips=[self.clips[number] for number in numbers],
            drawings=[self.drawings[number] for number in numbers],
        )

    def answer_alone(self, number):
        """What a row says with nothing beside it, by pieces and as a whole."""
        running = self.start()
        tokens, pieces = self.join(running, [number]), []
        while True:
            (token,) = tokens
            pieces.append(token.piece)
            if token.answer is not None:
                return "".join(pieces), token.answer
            tokens = running.step()


def prompts_of_tiny():
    processor, generator = tiny_processor(), torch.Generator().manual_seed(0)
    prompts, clips = [], []
    for clip, num_frames in enumerate((3, 1, 6, 0, 3)):
        pixels = torch.randn(num_frames, 3, 56, 56, generator=generator) if num_frames else None
        for query in ("What colour is the circle?", "When is the red square visible?", "What?"):
            prompts.append(processor.encode(query, pixel_values=pixels, time_indices=range(num_frames)))
            clips.append(clip)
    return processor, prompts, clips


@pytest.fixture(scope="module", params=("tiny", *FAMILIES))
def asking(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    if request.param == "tiny":
        processor, prompts, clips = prompts_of_tiny()
        return Asking(load_model(make_endless(folder), dtype=torch.float32), processor, prompts, clips)
    opened = Opened(folder / "model", request.param)
    prompts, clips = [], []
    for clip, num_frames in enumerate((4, 2, 6, 0, 4)):
        shown = opened.clip(num_frames=num_frames, seed=clip) if num_frames else None
        prompts += opened.rows(num_rows=3, clip=shown, seed=clip, with_response=False)
        clips += [clip] * 3
    assert opened.encoder.pads_questions == (request.param != RECURRENT)
    return Asking(opened.load(), opened.encoder, prompts, clips)


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_that_join_and_leave_at_any_step_say_what_they_say_alone(asking, seed):
    rng, kept = random.Random(seed), KeptPrefixes(ROOM)
    running = asking.start(kept)
    waiting = list(range(len(asking.prompts)))
    rng.shuffle(waiting)
    rows, pieces, answers, left, most = {}, {}, {}, {}, 0
    while waiting or rows:
        tokens = []
        if waiting and (not rows or rng.random() < 0.6):
            joining = [waiting.pop() for _ in range(min(len(waiting), rng.randint(1, 4)))]
            first = asking.join(running, joining)
            rows |= {token.row: number for token, number in zip(first, joining, strict=True)}
            tokens += first
        else:
            tokens += running.step()
            assert {token.row for token in tokens} == set(rows)
        most = max(most, len(rows))
        for token in tokens:
            number = rows[token.row]
            pieces[number] = pieces.get(number, "") + token.piece
            if token.answer is not None:
                answers[number] = token.answer
                del rows[token.row]
            elif rng.random() < 0.05:
                left[number] = running.leave(token.row)
                del rows[token.row]
    assert most > 4
    assert left
    assert running.step() == []
    for number, (whole, answer) in enumerate(asking.alone):
        if number in left:
            assert left[number].is_cut
            assert answer.text.startswith(left[number].text.strip("\ufffd"))
        else:
            assert (pieces[number], answers[number]) == (whole, answer)
    # each clip was computed once: the others found it
    num_clips = len(set(asking.clips)) - 1
    assert kept.num_asked - kept.num_found == num_clips


def test_clips_of_different_lengths_are_computed_in_one_call_as_each_alone(asking):
    shapes = []
    hook = asking.model.register_forward_pre_hook(
        lambda model, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    together, alone = KeptPrefixes(ROOM), KeptPrefixes(ROOM)
    asking.join(asking.start(together), [0, 3, 6])
    hook.remove()
    lengths = {int((asking.prompts[number]["segment_ids"] == 0).sum()) for number in (0, 3, 6)}
    assert len(lengths) == 3
    prefixes, questions = shapes[:-1], shapes[-1:]
    if asking.batcher.pads_questions:
        assert (prefixes, questions[0][0]) == ([(3, max(lengths))], 3)
    else:
        assert set(prefixes) >= {(1, length) for length in lengths}
    for number in (0, 3, 6):
        asking.join(asking.start(alone), [number])
    assert together._kept.keys() == alone._kept.keys()
    for clip, (cache, num_bytes) in together._kept.items():
        own, own_bytes = alone._kept[clip]
        assert num_bytes == own_bytes
        for layer, expected in zip(cache.layers, own.layers, strict=True):
            if getattr(expected, "keys", None) is not None:
                assert torch.allclose(layer.keys, expected.keys, atol=1e-5)
                assert torch.allclose(layer.values, expected.values, atol=1e-5)


def test_a_kept_prefix_is_not_changed_by_those_who_use_it(asking):
    kept = KeptPrefixes(ROOM)
    for _ in range(2):
        running = asking.start(kept)
        said = {token.row: token.answer for token in asking.join(running, [0, 3, 1])}
        rows = list(said)
        while tokens := running.step():
            said |= {token.row: token.answer for token in tokens}
        assert [said[row] for row in rows] == [asking.alone[number][1] for number in (0, 3, 1)]
    assert (kept.num_asked, kept.num_found) == (4, 2)


def test_prefixes_beyond_their_room_are_forgotten(asking):
    kept = KeptPrefixes(1)
    for _ in range(2):
        (token,) = asking.join(asking.start(kept), [0])
    assert (kept.num_asked, kept.num_found) == (2, 0)
    del token


def test_rows_that_cannot_join_leave_those_that_run_as_they_are(asking):
    running = asking.start()
    number = asking.limits.index(9)
    (token,) = asking.join(running, [number])
    pieces = [token.piece]
    broken = {**asking.prompts[0], "input_ids": asking.prompts[0]["input_ids"] + 10**6}
    with pytest.raises(IndexError):
        running.join([broken], max_new_tokens=[3], clips=["broken"], drawings=[None])
    while token.answer is None:
        (token,) = running.step()
        pieces.append(token.piece)
    assert ("".join(pieces), token.answer) == asking.alone[number]


def test_the_cache_shrinks_when_the_longest_row_leaves(tmp_path):
    processor, prompts, clips = prompts_of_tiny()
    asking = Asking(load_model(make_endless(tmp_path), dtype=torch.float32), processor, prompts, clips)
    asking.limits = [50] * len(prompts)
    longest, shortest = 6, 5
    num_long, num_short = (len(prompts[number]["input_ids"]) for number in (longest, shortest))
    assert num_long > 2 * num_short
    running = asking.start()
    (long,) = asking.join(running, [longest])
    asking.join(running, [shortest])
    for lengths in ((2, num_long + 1), (1, num_short + 2)):
        running.step()
        assert running._batch.seen.shape == lengths
        for layer in running._batch.cache.layers:
            assert (layer.keys.shape[0], layer.keys.shape[2]) == lengths
        if lengths[0] == 2:
            running.leave(long.row)


def test_layers_that_keep_a_window_are_not_joined():
    from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

    cache = DynamicCache()
    cache.layers = [DynamicSlidingWindowLayer(4)]
    cache.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    with pytest.raises(AssertionError, match="DynamicSlidingWindowLayer cannot be answered together"):
        join_caches([cache, cache])


def test_tokens_are_drawn_by_their_shares():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draw = TokenDraw(Drawing(1.0, 1.0, 0))
    counts = torch.bincount(torch.tensor([draw.draw(logits) for _ in range(4000)]), minlength=4) / 4000
    assert torch.allclose(counts, logits.exp(), atol=0.03)
    # half is reached by the first token alone, and a little more takes the second in; the order of ids does not matter
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        shuffled = logits[order]
        for top_p, expected in ((1e-6, {0}), (0.5, {0}), (0.51, {0, 1}), (0.81, {0, 1, 2})):
            draw = TokenDraw(Drawing(1.0, top_p, 1))
            assert {order[draw.draw(shuffled)] for _ in range(300)} == expected
    cold = TokenDraw(Drawing(1e-6, 1.0, 2))
    assert {cold.draw(logits) for _ in range(50)} == {0}
    hot = TokenDraw(Drawing(100.0, 1.0, 2))
    assert {hot.draw(logits) for _ in range(200)} == {0, 1, 2, 3}


def test_what_is_drawn_follows_from_the_seed_alone():
    logits = torch.zeros(50)

    def drawn(seed):
        draw = TokenDraw(Drawing(1.0, 1.0, seed))
        torch.manual_seed(seed + 1)  # of no effect
        return [draw.draw(logits) for _ in range(20)]

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)


def test_text_is_handed_out_with_the_token_that_makes_it_certain():
    tokenizer = tiny_processor().tokenizer
    rng = random.Random(0)
    texts = ("from 3 to 7", "从第2秒到第4秒", "\u00e9 \U0001f389\U0001f389 x", "  a\n\nb ", "")
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    drawn = [[rng.randrange(len(tokenizer)) for _ in range(rng.randint(1, 30))] for _ in range(500)]
    for ids in [*written, *drawn]:
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.add(token, is_last=number == len(ids)) for number, token in enumerate(ids, start=1)]
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert "".join(pieces) == whole
        if ids in written:
            assert "\ufffd" not in "".join(pieces)
            # a token that ends a character brings it at once
            ends = [not tokenizer.decode(ids[: number + 1]).endswith("\ufffd") for number in range(len(ids))]
            assert [bool(piece) for piece in pieces] == ends
