"""cvft against unmodified `swift sft` on Qwen3-VL: the same checkpoint, clips, rows, LoRA and steps, in one run on one CPU.

    python benchmarks/stock_qwen.py SIDE

SIDE is a folder with what the stock path needs and cvft does not, made once and used by its processes alone:
    pip install --no-deps --target SIDE torchvision==0.28.0 qwen-vl-utils==0.0.14

First the inputs: what ms-swift's template gives for every row, beside what ours gives. Ids have to be the same but for what is
listed, pixels but for the precision in which frames are resized, down to the bit; and our model on the stock inputs has to give
the loss that stock training logs. Then the time of both, each in a process of its own, from the first step's wait for rows to the
end of the last step, with the encoding of clips where they are cached. All rows are one step: grouping changes not which meet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from job import write_result
from workload import make_rows

MAX_LOSS_DIFFERENCE = 1e-4
REPEATS = 1
EPOCHS = 3
MICRO_BATCH_ROWS = 2
VIDEO = {"fps": 1.0, "min_frames": 4, "max_frames": 24, "min_frame_tokens": 16, "max_frame_tokens": 64}
VARIABLES = {
    "FPS": "1.0",
    "FPS_MIN_FRAMES": "4",
    "FPS_MAX_FRAMES": "24",
    "VIDEO_MIN_TOKEN_NUM": "16",
    "VIDEO_MAX_TOKEN_NUM": "64",
    "FORCE_QWENVL_VIDEO_READER": "decord",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
"""The same frames by the names that stock training reads. Source: qwen-vl-utils 0.0.14."""
TARGETS = r"^model\.language_model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj)$"
SPECIAL = {
    **{151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>", 151652: "<|vision_start|>"},
    **{151653: "<|vision_end|>", 151654: "<|vision_pad|>", 151655: "<|image_pad|>", 151656: "<|video_pad|>"},
}
"""The published ids: ms-swift's template knows no others."""
CHAT = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{%- if m.content is string %}{{ m.content }}{%- else %}{%- for c in "
    "m.content %}{%- if c.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{%- elif c.type == 'text' %}{{ c.text }}"
    "{%- endif %}{%- endfor %}{%- endif %}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{%- endif %}"
)


# --- processes of the stock side, with SIDE on their path


def declare_operators() -> Any:
    """Declares what torchvision's Python needs beside a torch without its kernels."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def make_checkpoint(folder: Path) -> None:
    """Writes a random Qwen3-VL of 12 M parameters, most of them the vocabulary, with the makers' processor beside it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(alphabet)} | {name: id_ for id_, name in SPECIAL.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL.values()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    torch.manual_seed(0)
    text = {
        **{"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 151936, "max_position_embeddings": 32768},
        "rope_parameters": {
            **{"rope_type": "default", "rope_theta": 5000000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        },
        **{"tie_word_embeddings": True, "bos_token_id": 151643, "eos_token_id": 151645},
    }
    vision = {
        **{"depth": 4, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "out_hidden_size": 64},
        **{"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304},
        "deepstack_visual_indexes": [0, 1, 2],
    }
    ids = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652}
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, vision_end_token_id=151653, tie_word_embeddings=True, **ids
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, merge_size=2),
        tokenizer=fast,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)


def dump_inputs(folder: Path, rows: Path, output: Path) -> None:
    """Writes what ms-swift's template feeds for every row."""
    from swift import get_model_processor, get_template

    model, processor = get_model_processor(str(folder), torch_dtype=torch.float32, model_type="qwen3_vl")
    template = get_template(processor, template_type="qwen3_vl", loss_scale="last_round", max_length=8192)
    template.set_mode("train")
    template.model = model
    encoded = []
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        inputs = template.encode({"messages": row["messages"], "videos": row["videos"]})
        kept = ("pixel_values_videos", "video_grid_thw")
        encoded.append(
            {"input_ids": inputs["input_ids"], "labels": inputs["labels"], **{key: inputs[key] for key in kept}}
        )
    torch.save(encoded, output)


def train_stock(arguments: Path) -> None:
    """Runs `swift sft` as it is."""
    from swift import SftArguments, sft_main

    sft_main(SftArguments(**json.loads(arguments.read_text())))


def run_side(side: Path, *words: object) -> None:
    """Starts one of the above in a process of its own."""
    environment = {
        **os.environ,
        **VARIABLES,
        "PYTHONPATH": os.pathsep.join([str(side), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, __file__, *map(str, words)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stdout[-4000:] + result.stderr[-4000:])


# --- the comparison


def write_stock_rows(rows: Path, clips: Path, output: Path) -> int:
    """Writes rows as ms-swift reads them; returns their number."""
    lines = []
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        videos = [str(clips / name) for name in row["videos"]]
        turns = [
            {"role": "user", "content": f"<video>{row['query']}"},
            {"role": "assistant", "content": row["response"]},
        ]
        lines.append(json.dumps({"messages": turns, "videos": videos}))
    output.write_text("".join(f"{line}\n" for line in lines))
    return len(lines)


def open_ours(model: Path) -> Any:
    """Opens the checkpoint as a worker of cvft does, with the frames of the stock path."""
    from cvft.families.runtime import Loading, load_runtime
    from cvft.families.table import find_family
    from cvft.recipe import recipe_from_dict
    from cvft.weights.folder import ModelFolder

    folder = ModelFolder.of(model)
    family = find_family(folder)
    video = {**VIDEO, "decoder": "decord"}
    values = {"model": {"path": str(model), "clip_tags": "transformers5"}, "data": {"train": "x"}, "video": video}
    how = family.preprocessing(recipe_from_dict(values), folder)
    runtime = load_runtime(family)
    return runtime, runtime.encoder(folder, how), how, runtime.load(folder, how, Loading("fp32"))


def resized_in_fp32(frames: Any, grid: list[int]) -> torch.Tensor:
    """Makes patches of frames that are resized as qwen-vl-utils does it: in fp32, then rounded."""
    num_grids, rows, columns = grid
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    size = (rows * 16, columns * 16)
    pixels = torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    patches = ((pixels - 127.5) / 127.5).view(num_grids, 2, 3, rows // 2, 2, 16, columns // 2, 2, 16)
    return patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(num_grids * rows * columns, -1)


def compare_inputs(model: Path, rows: Path, dumped: Path) -> dict[str, Any]:
    """Holds our inputs to the stock ones, row by row; returns what differs and the loss of the stock labels."""
    from cvft.clips.source import DecodedClips
    from cvft.data.rows import read_rows
    from cvft.data.video.decode import decode_clip

    runtime, encoder, how, net = open_ours(model)
    clips = DecodedClips(encoder, how.decode)
    nll = num_labels = largest = 0.0
    num_off = num_values = 0
    with torch.inference_mode():
        for row, theirs in zip(read_rows(rows), torch.load(dumped), strict=True):
            (asked,) = row.videos
            ours = encoder.encode(row, [clips.load(asked)], with_response=True)
            clip = decode_clip(asked, sampling=how.decode.sampling, decoder="decord")
            pixels = theirs["pixel_values_videos"]
            assert torch.equal(resized_in_fp32(clip.frames, ours["video_grid_thw"][0].tolist()), pixels), "pixels"
            off = (ours["pixel_values_videos"] - pixels).abs() * 127.5
            largest = max(largest, float(off.max()))
            num_off, num_values = num_off + int((off > 0).sum()), num_values + off.numel()
            assert torch.equal(ours["video_grid_thw"], theirs["video_grid_thw"].long()), "grids"
            ids, labels = ours["input_ids"].tolist(), ours["labels"].tolist()
            assert theirs["input_ids"][:-1] == ids, "ids but for a newline at the end"
            assert [-100 if label is None else label for label in theirs["labels"][:-1]] == labels, "labels but for it"
            longer = {
                **ours,
                "pixel_values_videos": pixels,
                "input_ids": torch.tensor(theirs["input_ids"]),
                "labels": torch.tensor(theirs["labels"]),
                "position_ids": torch.cat([ours["position_ids"], ours["position_ids"][-1:] + 1]),
                "segment_ids": torch.cat([ours["segment_ids"], ours["segment_ids"][-1:]]),
            }
            nll += float(runtime.loss(net, encoder.collate([longer]), num_items=1).loss)
            num_labels += sum(label != -100 for label in theirs["labels"])
    return {
        "loss_of_stock_labels": nll / num_labels,
        "share_of_values_resized_otherwise": num_off / num_values,
        "largest_of_these_differences": f"{largest:.0f} of 255",
        "differences": [
            "stock trains one newline behind the end of each answer; ours ends with the token that ends it",
            "stock writes an outer pair of tags around a clip, as transformers 5 does; here model.clip_tags: transformers5",
            "stock resizes in fp32 and rounds (qwen-vl-utils); ours in uint8, as the makers' processors that serve the model",
        ],
    }


def time_stock(side: Path, model: Path, rows: Path, root: Path, *, num_rows: int) -> dict[str, Any]:
    """Trains with `swift sft` and reads its log."""
    steps = -(-num_rows // MICRO_BATCH_ROWS)
    arguments = {
        **{"model": str(model), "model_type": "qwen3_vl", "template": "qwen3_vl", "dataset": [str(rows)]},
        **{"split_dataset_ratio": 0.0, "output_dir": str(root), "add_version": False, "check_model": False},
        **{"strict": True, "use_cpu": True, "fp16": False, "torch_dtype": "float32", "tuner_type": "lora"},
        **{"target_regex": TARGETS, "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.0, "learning_rate": 1e-4},
        **{"num_train_epochs": EPOCHS, "per_device_train_batch_size": MICRO_BATCH_ROWS, "seed": 42},
        **{"gradient_accumulation_steps": steps, "logging_steps": 1, "save_strategy": "no", "eval_strategy": "no"},
        **{"report_to": ["none"], "max_length": 8192, "truncation_strategy": "raise", "loss_scale": "last_round"},
        **{"lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "weight_decay": 0.1, "adam_beta2": 0.95},
        **{"dataloader_num_workers": 1, "lazy_tokenize": True, "disable_tqdm": True, "load_from_cache_file": False},
    }
    file = root.with_suffix(".json")
    file.write_text(json.dumps(arguments))
    start = time.perf_counter()
    run_side(side, "--train", file)
    whole_s = time.perf_counter() - start
    log = [json.loads(line) for line in (root / "logging.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    seconds = next(line["train_runtime"] for line in log if "train_runtime" in line)
    return {"losses": losses, "seconds": seconds, "whole_process_s": whole_s}


def time_ours(model: Path, rows: Path, root: Path, *, num_rows: int) -> dict[str, Any]:
    """Trains with `cvft train` and reads what the worker has told."""
    settings = {
        **{"model.path": model, "model.dtype": "fp32", "model.clip_tags": "transformers5"},
        **{f"video.{key}": value for key, value in VIDEO.items()},
        **{"video.decoder": "decord", "data.val_fraction": 0, "lora.targets": "qkv", "lora.dropout": 0.0},
        **{"train.epochs": EPOCHS, "train.micro_batch_rows": MICRO_BATCH_ROWS, "train.logging_steps": 1},
        **{"train.global_batch_rows": -(-num_rows // MICRO_BATCH_ROWS) * MICRO_BATCH_ROWS},
        **{"parallel.device": "cpu", "output.root": root, "name": "run", "train.num_workers": 1},
    }
    recipe = root.with_suffix(".yaml")
    recipe.write_text(f"model: {{path: {model}}}\ndata: {{train: {rows}}}\n")
    words = [f"{key}={value}" for key, value in settings.items()]
    start = time.perf_counter()
    command = [sys.executable, "-m", "cvft", "train", str(recipe), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr[-4000:])
    whole_s = time.perf_counter() - start
    run = root / "run"
    told = [json.loads(line) for line in (run / "train" / "progress.jsonl").read_text().splitlines()]
    encoded = [line["time_s"] for line in told if "encoded" in line]
    steps = [line for line in told if "step" in line]
    encoding_s = encoded[-1] - encoded[0] if encoded else 0.0
    log = (run / "train" / "logging.jsonl").read_text().splitlines()
    return {
        "losses": [line["loss"] for line in map(json.loads, log) if "loss" in line],
        "seconds": max(line["time_s"] for line in steps if "waited_s" in line) - steps[0]["time_s"] + encoding_s,
        "encoding_s": encoding_s,
        "whole_process_s": whole_s,
    }


def run_case(side: Path, model: Path, root: Path, *, num_clips: int, rows_per_clip: float) -> dict[str, Any]:
    """Compares inputs, then times both sides in turns."""
    rows = make_rows(root / "rows", num_clips=num_clips, rows_per_clip=rows_per_clip)
    stock_rows = root / "stock.jsonl"
    num_rows = write_stock_rows(rows, rows.parent, stock_rows)
    run_side(side, "--dump", model, stock_rows, root / "inputs.pt")
    inputs = compare_inputs(model, rows, root / "inputs.pt")
    stock = [time_stock(side, model, stock_rows, root / f"stock{n}", num_rows=num_rows) for n in range(1)]
    first = stock[0]["losses"][0]
    error = abs(first - inputs["loss_of_stock_labels"])
    assert error <= MAX_LOSS_DIFFERENCE, (first, inputs["loss_of_stock_labels"])
    print(f"{num_rows} rows: inputs explained, stock's first loss {first:.6f} is met within {error:.1e}", flush=True)
    ours = []
    for number in range(1, REPEATS):
        stock.append(time_stock(side, model, stock_rows, root / f"stock{number}", num_rows=num_rows))
    for number in range(REPEATS):
        ours.append(time_ours(model, rows, root / f"ours{number}", num_rows=num_rows))
    rates = {
        name: sorted(num_rows * EPOCHS / each["seconds"] for each in runs)
        for name, runs in (("stock", stock), ("ours", ours))
    }
    ratio = rates["ours"][REPEATS // 2] / rates["stock"][REPEATS // 2]
    print(
        f"{num_rows} rows, {EPOCHS} epochs: stock {rates['stock']} rows/s, ours {rates['ours']}, x{ratio:.2f}",
        flush=True,
    )
    return {
        "num_rows": num_rows,
        "num_clips": num_clips,
        "epochs": EPOCHS,
        **inputs,
        "stock_first_loss": first,
        "first_loss_difference": error,
        "rows_per_s": rates,
        "ratio_of_medians": ratio,
        "stock": stock,
        "ours": ours,
    }


def main() -> None:
    """Runs both cases and writes the result."""
    if sys.argv[1] in SIDE_COMMANDS:
        library = declare_operators()
        SIDE_COMMANDS[sys.argv[1]](*map(Path, sys.argv[2:]))
        del library
        return
    side = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run_side(side, "--make", root / "model")
        (root / "many").mkdir()
        (root / "single").mkdir()
        cases = {
            "7.5 rows per clip": run_case(side, root / "model", root / "many", num_clips=8, rows_per_clip=7.5),
            "1 row per clip": run_case(side, root / "model", root / "single", num_clips=12, rows_per_clip=1),
        }
    path = write_result(
        "stock_qwen",
        command="python benchmarks/stock_qwen.py SIDE",
        timed_region="training alone: from the first step's wait for rows to the end of the last step, and encoding of clips",
        cases=cases,
    )
    print(path)


SIDE_COMMANDS = {"--make": make_checkpoint, "--dump": dump_inputs, "--train": train_stock}

if __name__ == "__main__":
    main()
