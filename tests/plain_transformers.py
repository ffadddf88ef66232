"""A merged folder opened by transformers alone, as where cvft is not installed."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import torch

from cvft.data.rows import Row
from cvft.predict.open import open_trained

ASK = """
import json, sys
sys.modules["cvft"] = None  # as where it is not installed
import torch, transformers
folder, prompts = sys.argv[1:]
model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
answers = []
for prompt in torch.load(prompts):
    length = prompt["input_ids"].shape[1]
    with torch.inference_mode():
        ids = model.generate(**prompt, max_new_tokens=8, do_sample=False, repetition_penalty=1.0)[0, length:]
    answers.append(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip())
print(json.dumps(answers))
"""


def prompt_of(predictor, video, query):
    encoded = predictor.encode(Row(query, "", (), (Path(video),), source=Path(), line=0))
    batch = predictor.encoder.collate([encoded], padding_side="left")
    return predictor.encoder.model_inputs(batch)


def predictions_of(run):
    lines = (run / "eval" / "merged" / "predictions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_answers_without_cvft(run: Path, folder: Path) -> str:
    """Asks the merged model what the evaluation of a run has asked; returns what transformers says besides."""
    rows = predictions_of(run)
    assert len(rows) > 1
    with closing(open_trained(run / "merged")) as predictor:
        prompts = [prompt_of(predictor, row["videos"][0], row["query"]) for row in rows]
    torch.save(prompts, folder / "prompts.pt")
    command = [sys.executable, "-c", ASK, str(run / "merged"), str(folder / "prompts.pt")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert json.loads(said.stdout) == [row["prediction"] for row in rows]
    return said.stderr
