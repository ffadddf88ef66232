"""What must hold of the model beside the goldens: batches, padding, generation, checkpointing, keys, loading."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cvft.errors import ModelError
from cvft.families.answering import Answer
from cvft.families.cogvlm2_video.family import COGVLM2_VIDEO
from cvft.families.cogvlm2_video.network.configuration import CogVLM2VideoConfig
from cvft.families.cogvlm2_video.network.load import load_config, load_model
from cvft.families.cogvlm2_video.network.modeling import CogVLM2VideoForCausalLM
from cvft.families.cogvlm2_video.network.processor import CogVLM2VideoProcessor
from cvft.families.network.generation import generate_answers
from cvft.weights.folder import make_clean_view, read_config_json
from tests.tiny import TINY, copy_tiny, tiny_processor

SPEC = Path(__file__).parent / "golden" / "state_dict.json"


@pytest.fixture(scope="module")
def model():
    return load_model(TINY, dtype=torch.float32)


@pytest.fixture(scope="module")
def processor() -> CogVLM2VideoProcessor:
    return tiny_processor()


def make_rows(processor, *, with_response=True, seed=0):
    """Rows with clips of different length, one of them without a clip."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for num_frames, query in ((3, "What colour is the circle?"), (1, "What?"), (0, "Text only?"), (6, "When?")):
        pixels = torch.randn(num_frames, 3, 56, 56, generator=generator) if num_frames else None
        response = "red at second 2" if with_response else None
        rows.append(processor.encode(query, pixel_values=pixels, time_indices=range(num_frames), response=response))
    return rows


def forward(model, batch):
    return model(**{k: v for k, v in batch.items() if k != "labels"}, labels=batch["labels"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_clips_of_different_length_equals_the_rows_alone(processor, side):
    model = load_model(TINY, dtype=torch.float64)
    rows = make_rows(processor)
    batch = processor.collate(rows, padding_side=side)
    with torch.no_grad():
        together = forward(model, batch).logits
        for i, row in enumerate(rows):
            alone = forward(model, processor.collate([row])).logits[0]
            kept = together[i][batch["attention_mask"][i].bool()]
            # close, not equal: a padded row goes through another attention kernel
            torch.testing.assert_close(kept, alone, rtol=0, atol=1e-10)


def test_batched_generation_equals_single_rows(model, processor):
    rows = make_rows(processor, with_response=False)
    together = generate_answers(model, processor, rows, max_new_tokens=8)
    assert together == [generate_answers(model, processor, [row], max_new_tokens=8)[0] for row in rows]


def test_generation_with_and_without_cache_agree(model, processor):
    batch = processor.collate(make_rows(processor, with_response=False), padding_side="left")
    batch.pop("labels")
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    cached = model.generate(**batch, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(**batch, use_cache=False, **settings))


def test_generation_needs_neither_positions_nor_mask(model, processor):
    """The placeholder under vision tokens is the padding id: a mask made from ids would hide the clip."""
    (row, *_) = make_rows(processor, with_response=False)
    batch = processor.collate([row])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    full = model.generate(**{k: v for k, v in batch.items() if k != "labels"}, **settings)
    bare = model.generate(**{k: batch[k] for k in ("input_ids", "token_type_ids", "pixel_values")}, **settings)
    assert torch.equal(full, bare)
    other_clip = {**{k: batch[k] for k in ("input_ids", "token_type_ids")}, "pixel_values": -batch["pixel_values"]}
    logits = [model(**inputs).logits for inputs in (other_clip, {**other_clip, "pixel_values": batch["pixel_values"]})]
    assert not torch.equal(*logits)


def test_gradient_checkpointing_changes_no_gradient(processor):
    def gradients(checkpointing):
        model = load_model(TINY, dtype=torch.float32).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        forward(model, processor.collate(make_rows(processor))).loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    without = [name for name, gradient in checkpointed.items() if gradient is None]
    assert without == [name for name, gradient in plain.items() if gradient is None] == []
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


def test_logits_to_keep_takes_a_count_or_a_mask(model, processor):
    batch = processor.collate(make_rows(processor)[:1])
    batch.pop("labels")
    with torch.no_grad():
        full = model(**batch).logits
        # close, not equal: a smaller matrix product may add in another order
        torch.testing.assert_close(model(**batch, logits_to_keep=3).logits, full[:, -3:], rtol=0, atol=1e-4)
        mask = torch.zeros(full.shape[1], dtype=torch.bool)
        mask[[2, 7]] = True
        torch.testing.assert_close(model(**batch, logits_to_keep=mask).logits, full[:, mask], rtol=0, atol=1e-4)


def test_loss_is_the_sum_over_the_step_divided_by_its_tokens(model, processor):
    rows = make_rows(processor)
    num_items = sum((row["labels"] != -100).sum() for row in rows)
    with torch.no_grad():
        together = forward(model, processor.collate(rows)).loss
        parts = [model(**processor.collate([row]), num_items_in_batch=num_items).loss.item() for row in rows]
    assert sum(parts) == pytest.approx(together.item(), abs=1e-5)


def test_too_few_frames_for_the_placeholders_is_an_error(model, processor):
    batch = processor.collate(make_rows(processor)[:1])
    with pytest.raises(ValueError, match=r"vision tokens: got 12 from the frames, need 18"):
        forward(model, {**batch, "pixel_values": batch["pixel_values"][:2]})


def test_full_size_has_the_published_keys_and_shapes():
    published = json.loads(SPEC.read_text())
    with torch.device("meta"):
        model = CogVLM2VideoForCausalLM(CogVLM2VideoConfig()).to(torch.bfloat16)
    names = {torch.bfloat16: "BF16"}
    state = {name: [names[tensor.dtype], list(tensor.shape)] for name, tensor in model.state_dict().items()}
    assert len(state) == 1029
    assert state == published
    assert sum(p.numel() for p in model.parameters()) == 12_507_530_496


def test_the_table_of_the_checkpoint_is_what_rotates(tmp_path, processor):
    """transformers 5 would drop such keys silently if the model kept one shared table."""
    from safetensors.torch import load_file, save_file

    folder = copy_tiny(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith("rotary_emb.inv_freq"):
            weights[name] = weights[name] * 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    batch = processor.collate(make_rows(processor)[:1])
    with torch.no_grad():
        changed = forward(load_model(folder, dtype=torch.float32), batch).logits
        usual = forward(load_model(TINY, dtype=torch.float32), batch).logits
        exact = forward(load_model(folder, dtype=torch.float32, rope_precision="fp32"), batch).logits
    assert (changed - usual).abs().max() > 0.1
    torch.testing.assert_close(exact, changed, rtol=0, atol=1e-5)  # in full precision the table is exact as it is


def rewrite(folder, *, config=None, edit=None) -> None:
    """Changes config.json and the weights of a folder."""
    from safetensors.torch import load_file, save_file

    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | (config or {})))
    if edit is not None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def tables_of(theta, dtype):
    """Gives every decoder block the table of a base, as a checkpoint stores it."""

    def edit(weights):
        for name, table in weights.items():
            if name.endswith("rotary_emb.inv_freq"):
                exact = theta ** -(torch.arange(len(table), dtype=torch.float64) / len(table))
                weights[name] = exact.to(dtype)

    return edit


def widen(weights) -> None:
    weights.update({name: tensor.float() for name, tensor in weights.items()})


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_the_exact_table_is_that_of_the_checkpoints_base(tmp_path, processor, stored):
    folder = copy_tiny(tmp_path / "model")
    rewrite(folder, config={"rope_theta": 10_000}, edit=tables_of(10_000.0, stored))
    full = copy_tiny(tmp_path / "full")
    rewrite(full, edit=tables_of(10_000.0, torch.float32))
    widened = copy_tiny(tmp_path / "widened")  # as a merge in full precision writes it
    rewrite(
        widened,
        config={"rope_theta": 10_000},
        edit=lambda weights: tables_of(10_000.0, stored)(weights) or widen(weights),
    )
    batch = processor.collate(make_rows(processor)[:1])
    with torch.no_grad():
        exact = forward(load_model(folder, dtype=torch.float32, rope_precision="fp32"), batch).logits
        of_full = forward(load_model(full, dtype=torch.float32, rope_precision="fp32"), batch).logits
        wanted = forward(load_model(full, dtype=torch.float32), batch).logits
        other = forward(load_model(TINY, dtype=torch.float32), batch).logits
        of_widened = forward(load_model(widened, dtype=torch.float32, rope_precision="fp32"), batch).logits
    torch.testing.assert_close(exact, wanted, rtol=0, atol=1e-4)
    assert torch.equal(of_widened, exact)
    torch.testing.assert_close(of_full, wanted, rtol=0, atol=1e-5)  # nobody states the base, but the table is exact
    assert (wanted - other).abs().max() > 0.1


@pytest.mark.parametrize(
    ("config", "stored", "rope_precision", "message"),
    [
        ({"rope_theta": 10_000.0}, None, "checkpoint", "a table of base 500,000, by its last entry, need base 10,000"),
        ({"rope_theta": 10_000.0}, None, "fp32", "a table of base 500,000, by its last entry, need base 10,000"),
        ({}, torch.bfloat16, "fp32", "need one of base 500,000: in BF16 it does not say exactly which it is"),
    ],
)
def test_a_table_of_another_base_is_refused(tmp_path, config, stored, rope_precision, message):
    folder = copy_tiny(tmp_path / "model")
    rewrite(folder, config=config, edit=None if stored is None else tables_of(20_000.0, stored))
    with pytest.raises(ModelError, match=message):
        load_model(folder, dtype=torch.float32, rope_precision=rope_precision)


def test_a_table_of_another_base_is_refused_where_transformers_loads_too(tmp_path, processor):
    from transformers import AutoModelForCausalLM

    folder = copy_tiny(tmp_path / "model")
    rewrite(folder, config={"rope_precision": "fp32"}, edit=tables_of(20_000.0, torch.float32))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with pytest.raises(ValueError, match="rope_theta 500000: the checkpoint's rotary table is of another base"):
        forward(model, processor.collate(make_rows(processor)[:1]))


def tie(folder) -> None:
    rewrite(folder, config={"tie_word_embeddings": True}, edit=lambda weights: weights.pop("lm_head.weight"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_checkpoint_has_no_output_layer_of_its_own(tmp_path, processor, dtype):
    tied, untied = copy_tiny(tmp_path / "tied"), copy_tiny(tmp_path / "untied")
    tie(tied)
    rewrite(
        untied, edit=lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    )
    model, same = load_model(tied, dtype=dtype), load_model(untied, dtype=dtype)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    batch = processor.collate(make_rows(processor)[:2])
    with torch.no_grad():
        assert torch.equal(forward(model, batch).logits, forward(same, batch).logits)


def test_an_output_layer_that_is_missing_or_too_much_is_told(tmp_path):
    missing, too_much = copy_tiny(tmp_path / "missing"), copy_tiny(tmp_path / "too_much")
    rewrite(missing, edit=lambda weights: weights.pop("lm_head.weight"))
    rewrite(too_much, config={"tie_word_embeddings": True})
    with pytest.raises(ModelError, match=r"`lm_head\.weight` missing"):
        load_model(missing, dtype=torch.float32)
    with pytest.raises(ModelError, match=r"`lm_head\.weight` unknown"):
        load_model(too_much, dtype=torch.float32)


def test_every_stop_token_of_the_folder_ends_an_answer(tmp_path, processor):
    """generation_config.json may name more than the one that training writes."""
    from cvft.families.network.generation import generate_answers

    rows = [processor.encode("What is it?")]
    model = load_model(TINY, dtype=torch.float32)
    with torch.no_grad():
        (first,) = forward(model, processor.collate(rows)).logits[:, -1].argmax(dim=-1).tolist()
    folder = copy_tiny(tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, first]}))
    (answer,) = generate_answers(load_model(folder, dtype=torch.float32), processor, rows, max_new_tokens=4)
    (usual,) = generate_answers(model, processor, rows, max_new_tokens=4)
    assert answer.is_cut is False
    assert usual.text.startswith(answer.text)
    assert usual.text != answer.text or not usual.is_cut


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_is_loaded_in_the_precision_asked_for(dtype):
    state = load_model(TINY, dtype=dtype).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {dtype}


def test_missing_and_unexpected_tensors_are_told_together(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_tiny(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.vision.extra"] = weights.pop("model.vision.boi")
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as raised:
        load_model(folder, dtype=torch.float32)
    text = str(raised.value)
    assert "3 problems" in text
    for line in (
        "weights: got `model.vision.boi` missing, need exactly the published tensors",
        "weights: got `model.vision.extra` unknown, need exactly the published tensors",
        "model.safetensors: model.norm.weight: got shape [127], need [128], by config.json",
    ):
        assert line in text


def test_plain_transformers_loads_the_model_after_import_cvft(tmp_path):
    config = COGVLM2_VIDEO.clean_config(read_config_json(TINY))
    folder = make_clean_view(TINY, tmp_path / "view", config=config)
    code = (
        "import sys, cvft\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "from transformers import AutoModelForCausalLM\n"
        "print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1])).__name__)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "CogVLM2VideoForCausalLM"


def test_a_part_of_the_model_may_be_imported_before_all_else():
    code = (
        "from cvft.families.cogvlm2_video.network.layers import Attention\n"
        "from transformers import CONFIG_MAPPING\n"
        "print(CONFIG_MAPPING['cogvlm2_video'].__name__)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "CogVLM2VideoConfig"


def test_a_clean_view_of_an_official_folder_has_no_code(tmp_path):
    folder = copy_tiny(tmp_path / "official")
    config = json.loads((folder / "config.json").read_text())
    config.pop("model_type")
    config |= {
        "architectures": ["CogVLMVideoForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_cogvlm.CogVLMConfig"},
        "template_version": "base",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_cogvlm.py").write_text("raise SystemExit('ran')\n")
    config = COGVLM2_VIDEO.clean_config(read_config_json(folder))
    view = make_clean_view(folder, tmp_path / "view", config=config)
    assert not list(view.glob("*.py"))
    seen = read_config_json(view)
    assert seen["model_type"] == "cogvlm2_video"
    assert "auto_map" not in seen
    assert load_config(folder).vision_config.image_size == 56


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "config.json: architectures: got `['LlamaForCausalLM']`, need"),
        (
            {"num_multi_query_heads": 3},
            "config.json: num_attention_heads: got `4`, need a multiple of num_multi_query_heads, 3",
        ),
        ({"hidden_size": "wide"}, 'config.json: hidden_size: got `"wide"`, need a whole number from 1 to 131,072'),
    ],
)
def test_an_unfit_config_is_one_clear_error(tmp_path, change, message):
    folder = copy_tiny(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match="problem") as raised:
        load_config(folder)
    assert message in str(raised.value)


def test_an_empty_frame_adds_nothing_and_gives_the_tower_gradients_of_zero(processor):
    model = load_model(TINY, dtype=torch.float32)
    text_only = processor.collate([make_rows(processor)[2]])
    with torch.no_grad():
        before = forward(model, text_only).logits
    weight = model.model.vision.linear_proj.linear_proj.weight.requires_grad_(True)
    forward(model, text_only).loss.backward()
    assert weight.grad is None
    model.model.runs_tower_always = True
    outputs = forward(model, text_only)
    outputs.loss.backward()
    assert torch.equal(outputs.logits, before)
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("template", ["chat", "base", "vqa", "swift"])
def test_rows_of_one_clip_share_its_prefix_and_answer_as_alone(template):
    """Prefixes and questions of different length in one batch; the tower sees each clip once."""
    model = load_model(TINY, dtype=torch.float64)
    processor = tiny_processor(template)
    generator = torch.Generator().manual_seed(2)
    clips = {count: torch.randn(count, 3, 56, 56, generator=generator) for count in (2, 5)}
    asked = [(5, "What colour is it?"), (2, "When?"), (5, "What?"), (0, "Say."), (2, "How many red shapes are there?")]
    rows = [processor.encode(query, pixel_values=clips.get(count), time_indices=range(count)) for count, query in asked]
    alone = [generate_answers(model, processor, [row], max_new_tokens=8)[0] for row in rows]
    seen = []
    hook = model.model.vision.patch_embedding.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    together = generate_answers(model, processor, rows, max_new_tokens=8, clips=[count for count, _ in asked])
    hook.remove()
    assert together == alone
    assert sum(seen) == 2 + 5
    assert len(set(alone)) > 2


def test_an_answer_that_follows_the_clip_at_once_is_the_same_alone_in_a_batch_and_by_the_stock_way():
    """An empty question under a template without words of its own: nothing stands between prefix and answer."""
    model = load_model(TINY, dtype=torch.float64)
    processor = tiny_processor("base")
    generator = torch.Generator().manual_seed(3)
    clips = {count: torch.randn(count, 3, 56, 56, generator=generator) for count in (2, 5)}
    asked = [(5, ""), (2, "When?"), (5, "What?"), (2, ""), (0, ""), (5, ""), (0, "Say.")]
    rows = [processor.encode(query, pixel_values=clips.get(count), time_indices=range(count)) for count, query in asked]
    stock = []
    for row in rows:
        batch = processor.collate([row])
        batch.pop("labels")
        ids = model.generate(**batch, max_new_tokens=8, do_sample=False, eos_token_id=processor.special.eos)
        new_ids = ids[0, len(row["input_ids"]) :].tolist()
        text = processor.tokenizer.decode(new_ids, skip_special_tokens=True).strip()
        stock.append(Answer(text, is_cut=processor.special.eos not in new_ids))
    assert [generate_answers(model, processor, [row], max_new_tokens=8)[0] for row in rows] == stock
    assert generate_answers(model, processor, rows, max_new_tokens=8, clips=[count for count, _ in asked]) == stock
    assert len({answer.text for answer in stock}) > 2


def test_an_embedding_on_the_host_changes_nothing_and_stays_there(processor):
    batch = processor.collate(make_rows(processor))
    plain = load_model(TINY, dtype=torch.float32)
    hosted = load_model(TINY, dtype=torch.float32, embeddings_on_cpu=True)
    assert torch.equal(forward(hosted, batch).logits, forward(plain, batch).logits)
    assert hosted.double().model.embed_tokens.weight.dtype == torch.float64
    moved = hosted.to("meta")  # stands for a GPU
    assert moved.model.embed_tokens.weight.device.type == "cpu"
    assert {name for name, weight in moved.named_parameters() if weight.device.type == "cpu"} == {
        "model.embed_tokens.weight"
    }
    assert moved.device.type == "meta"
