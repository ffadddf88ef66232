"""The tokenizer of an official folder: digits stay whole, whatever transformers 5 takes it for; text stays text."""

import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cvft.data.rows import Row
from cvft.data.video.loader import DecodeSettings
from cvft.errors import DataError, ModelError
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.cogvlm2_video.layout import special_tokens
from cvft.families.cogvlm2_video.network.load import load_tokenizer
from cvft.families.cogvlm2_video.tokenizer import load_encoder
from cvft.families.family import Preprocessing
from cvft.plan.lengths import check_texts
from cvft.weights.folder import ModelFolder
from tests.golden_files import golden_files
from tests.llama3 import llama3_encode, write_tokenizer_json
from tests.official_folder import CONFIG
from tests.test_families_layout import LLAMA3, lay_out, unroll
from tests.tiny import TINY

DECODE = DecodeSettings.of("chat", max_frames=24, decoder="pyav")
PREPROCESSING = Preprocessing("chat", DECODE, 2048, {"num_tokens_per_frame": 66})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What transformers 5 takes for a Mistral folder: a config of transformers 4 without a `model_type`."""
    folder = tmp_path_factory.mktemp("official")
    write_tokenizer_json(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_layouts_with_the_folders_tokenizer_equal_the_published_code(folder):
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer) == 128256
    assert tokenizer.convert_tokens_to_ids("<|reserved_special_token_0|>") == 128002
    encode = load_encoder(folder)
    for path in golden_files("token_layout*.json"):
        for case in json.loads(path.read_text())["cases"]:
            asked = {key: case[key] for key in ("template", "num_frames", "query", "history", "answer")}
            for encoder in (encode, lambda text: tokenizer.encode(text, add_special_tokens=False)):
                assert lay_out(**asked, encode=encoder).input_ids == unroll(case["input_ids_rle"])


def test_the_fix_that_transformers_offers_splits_digits_and_would_be_refused(folder, tmp_path):
    fixed = PreTrainedTokenizerFast.from_pretrained(str(folder), fix_mistral_regex=True)
    assert fixed.encode("10", add_special_tokens=False) == [16, 15]
    assert load_tokenizer(folder).encode("10", add_special_tokens=False) == [605]
    fixed.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    shutil.copy(folder / "config.json", tmp_path)
    encode, row = load_encoder(tmp_path), {"template": "chat", "query": "What?"}
    with pytest.raises(ModelError, match="got `10` in 2 tokens, need one token for each integer"):
        lay_out(num_frames=11, encode=encode, **row)
    # clips that are too short for such a number, and templates that write none, are as good as ever
    assert lay_out(num_frames=10, encode=encode, **row).input_ids.count(LLAMA3.vision) == 10 * 66
    assert lay_out(num_frames=24, encode=encode, **row | {"template": "base"}).input_ids.count(LLAMA3.vision) == 24 * 66


def special_tokens_of(folder):
    added = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    return {number: token.content for number, token in added.items()}


def texts_with(tokens):
    """Text with every control token at the start, in the middle, at the end, beside others, and in random company."""
    chance = random.Random(0)
    words = ["", " ", "\n", "Question: ", " Answer:", "red", "红色。", "é", "<", "|>", "<|", "0", " 12"]
    for token in tokens:
        yield from (
            token,
            f"{token} a",
            f"a {token} b",
            f"a{token}",
            token * 3,
            token + chance.choice(tokens),
            f"{token[:-1]}",
        )
    yield "".join(tokens)
    for _ in range(300):
        yield "".join(
            chance.choice((chance.choice(tokens), chance.choice(words))) for _ in range(chance.randrange(1, 9))
        )


@pytest.fixture(params=["llama3", "tiny"])
def any_folder(request, folder):
    return TINY if request.param == "tiny" else folder


def test_control_tokens_that_are_typed_are_text(any_folder):
    special = special_tokens_of(any_folder)
    assert len(special) == (3 if any_folder == TINY else 256)
    encode = load_encoder(any_folder)
    sent = pickle.loads(pickle.dumps(encode))
    tokenizer = load_tokenizer(any_folder)
    texts = list(texts_with(list(special.values())))
    for text in texts:
        ids = encode(text)
        assert special.keys().isdisjoint(ids), text
        assert sent(text) == ids
        assert any_folder == TINY or ids == llama3_encode()(text)
    written = [encode(text) for text in texts]
    for skip in (False, True):  # what a model says as text stays text, too
        assert tokenizer.batch_decode(written, skip_special_tokens=skip, clean_up_tokenization_spaces=False) == texts


def test_a_layout_has_the_control_ids_that_it_writes_itself_and_no_others(any_folder):
    special = special_tokens_of(any_folder)
    lay_out_row = COGVLM2_VIDEO.layouts(ModelFolder.of(any_folder), PREPROCESSING)
    marks = special_tokens(ModelFolder.of(any_folder).config)
    for text in texts_with(list(special.values())[:20]):
        row = Row(text, text, ((text, text),), (), Path("rows.jsonl"), 1)
        assert [number for number in lay_out_row(row, ()).input_ids if number in special] == [marks.bos, marks.eos]


def test_added_tokens_in_brackets_are_control_tokens_whatever_the_file_says(tmp_path):
    values = json.loads((TINY / "tokenizer.json").read_text())
    for number, content in ((765, "<tool_call>"), (766, "[INST]"), (767, "two words")):
        token = {"id": number, "content": content, "special": False, "normalized": True}
        values["added_tokens"].append({**values["added_tokens"][0], **token})
    values["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    shutil.copy(TINY / "config.json", tmp_path)
    encode, plain = load_encoder(tmp_path), load_encoder(TINY)
    for text in ("<tool_call> a", "a [INST]", "[INST]<tool_call><|end_of_text|>", "no such token, and not cut at all"):
        assert encode(text) == plain(text)
    assert encode("two words") == [767]


def test_a_text_that_only_a_control_id_can_write_is_refused_with_its_line(tmp_path):
    """A vocabulary of whole words, in which the end of an answer is a word."""
    words = {"[UNK]": 0, "red": 1, "<end>": 2, "Question:": 3, "Answer:": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((TINY / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 2))
    )
    lay_out_row = COGVLM2_VIDEO.layouts(ModelFolder.of(tmp_path), PREPROCESSING)
    rows = [
        Row(query, "red", (), (), Path("rows.jsonl"), line)
        for line, query in enumerate(["red", "a <end> b", "<end>"], 1)
    ]
    with pytest.raises(DataError, match="has 2 problems") as refused:
        check_texts(rows, lay_out=lay_out_row)
    assert "rows.jsonl:2 the text: got `<end>`, for which tokenizer.json has a control id alone" in str(refused.value)
    assert "rows.jsonl:3" in str(refused.value)
