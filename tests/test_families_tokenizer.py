"""The tokenizer of an official folder: digits stay whole, whatever transformers 5 takes the folder for."""

import json
import shutil

import pytest
from transformers import PreTrainedTokenizerFast

from cvft.errors import ModelError
from cvft.families.cogvlm2_video.network.load import load_tokenizer
from cvft.families.cogvlm2_video.tokenizer import load_encoder
from tests.golden_files import golden_files
from tests.llama3 import write_tokenizer_json
from tests.official_folder import CONFIG
from tests.test_families_layout import LLAMA3, lay_out, unroll


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
