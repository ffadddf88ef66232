"""Before any training: the model folder is recognised, every row and every clip is proved usable, lengths are counted.

recipe -> `ModelFacts` + rows that will train, rows held out, facts per clip, tokens per row -> files under RUN/data

Imports no torch: lengths come from the tokenizer alone, clips are decoded in processes of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cvft.data.check import ClipCheck, Quarantined, check_clips
from cvft.data.features.key import FeatureKey
from cvft.data.groups import RowShape
from cvft.data.rows import Row, extra_columns, read_rows, write_rows
from cvft.data.split import split_by_clip
from cvft.data.video.loader import DecodeSettings
from cvft.data.video.process import ClipInfo
from cvft.errors import DataError, ModelError, Problem, quote
from cvft.families.cogvlm2_video.architecture import Architecture
from cvft.families.cogvlm2_video.layout import IGNORED_LABEL, TEMPLATES, SpecialTokens, build_layout, time_indices
from cvft.families.cogvlm2_video.network.quantization import find_unfit_width
from cvft.families.cogvlm2_video.tokenizer import TOKENIZER_FILE, load_encoder
from cvft.families.contract import CONTRACT_FILE, Contract
from cvft.files import hash_file, write_whole
from cvft.plan.batching import Feeding, ModelFacts, RowFacts, decide_feeding
from cvft.recipe import Recipe
from cvft.runs import RunFolder
from cvft.weights.folder import (
    OFFICIAL_ARCHITECTURE,
    read_config_json,
    tower_fingerprint,
    weights_fingerprint,
)
from cvft.weights.hub import Source, locate_model
from cvft.weights.shards import read_shards


@dataclass(frozen=True)
class PreparedRows:
    """What is known of rows and clips before training.

    Args:
        model: Facts of the model folder.
        feeding: How rows reach the model.
        train_rows: Rows to train on.
        val_rows: Rows held out.
        quarantined: Rows set aside because of their clip.
        clips: Facts per clip.
        row_facts: Lengths and clips of the train and val rows.
        notes: Sentences worth reading before training: columns that no setting uses, cut clips, shared clips.
    """

    model: ModelFacts
    feeding: Feeding
    train_rows: Sequence[Row]
    val_rows: Sequence[Row]
    quarantined: Sequence[Quarantined]
    clips: Mapping[Path, ClipInfo]
    row_facts: RowFacts
    notes: Sequence[str]


@dataclass(frozen=True)
class Prepared(PreparedRows):
    """What is known before training, the weights included.

    Args:
        contract: How rows reach the model, as it is stored beside the weights.
    """

    contract: Contract


def find_model(recipe: Recipe, *, needs_weights: bool = True) -> Source:
    """Finds, or fetches, the model that a recipe names; see `locate_model`."""
    model = recipe.model
    return locate_model(model.path, hub=model.hub, revision=model.revision, needs_weights=needs_weights)


def inspect_model(folder: Path) -> ModelFacts:
    """Reads what the plan needs to know from a model folder's config.json.

    Raises:
        ModelError: when config.json cannot be used.
    """
    config = read_config_json(folder)
    vision = config["vision_config"]
    patches_per_side = vision["image_size"] // vision["patch_size"]
    return ModelFacts(
        path=folder,
        template_version=config.get("template_version", "base"),
        is_official=config["architectures"] == [OFFICIAL_ARCHITECTURE] and not (folder / CONTRACT_FILE).is_file(),
        max_tokens=config["max_position_embeddings"],
        num_tokens_per_frame=(patches_per_side // 2) ** 2 + 2,
        image_size=vision["image_size"],
        architecture=Architecture.from_config(config),
    )


def special_tokens(folder: Path) -> SpecialTokens:
    """Reads the ids that the layout writes itself from a model folder's config.json."""
    config = read_config_json(folder)
    return SpecialTokens(bos=config["bos_token_id"], eos=config["eos_token_id"], vision=config["pad_token_id"])


def make_contract(recipe: Recipe, *, model: ModelFacts, feeding: Feeding) -> Contract:
    """States everything between a row and the model's inputs."""
    from importlib.metadata import version

    package = {"pyav": "av", "decord": "decord"}[recipe.video.decoder]
    return Contract(
        template=feeding.template,
        sampling=feeding.sampling,
        max_frames=feeding.max_frames,
        decoder=recipe.video.decoder,
        decoder_version=version(package),
        image_size=model.image_size,
        num_tokens_per_frame=model.num_tokens_per_frame,
        rope_precision=recipe.model.rope_precision,
        base_fingerprint=weights_fingerprint(model.path),
        tokenizer_sha256=hash_file(model.path / TOKENIZER_FILE),
    )


def make_feature_key(recipe: Recipe, *, contract: Contract, model: ModelFacts, device: str) -> FeatureKey:
    """States everything but the clip that decides what its features are."""
    return FeatureKey(
        sampling=contract.sampling,
        max_frames=contract.max_frames,
        decoder=contract.decoder,
        decoder_version=contract.decoder_version,
        image_size_px=contract.image_size,
        tower_sha256=tower_fingerprint(model.path),
        dtype={"bf16": "BF16", "fp32": "F32"}[recipe.model.dtype],
        device=device,
        attention="sdpa",  # the tower has no other
    )


def prepare(
    recipe: Recipe, *, quarantine_file: Path, on_progress: Callable[[int, int], None] | None = None
) -> Prepared:
    """Proves model, rows and clips usable, and writes nothing but the quarantine file.

    Args:
        recipe: The recipe.
        quarantine_file: Where rows that are set aside are listed.
        on_progress: Called with clips done and clips in all.

    Returns:
        Everything that plan and worker need.

    Raises:
        CvftError: with all problems of the model, or of the rows, or of the clips, or of the lengths.
    """
    model = inspect_model(find_model(recipe).folder)
    read_shards(model.path, read_config_json(model.path))
    contract = make_contract(recipe, model=model, feeding=decide_feeding(recipe, model))

    def check(rows: Sequence[Row], decode: DecodeSettings) -> ClipCheck:
        return check_clips(
            rows,
            sampling=decode.sampling,
            decoder=decode.decoder,
            on_bad_clip=recipe.data.on_bad_clip,
            quarantine_file=quarantine_file,
            timeout_s=decode.timeout_s,
            memory_limit_gib=decode.memory_gib,
            on_progress=on_progress,
        )

    rows = prepare_rows(recipe, model=model, check=check)
    return Prepared(**{field.name: getattr(rows, field.name) for field in fields(rows)}, contract=contract)


def prepare_rows(
    recipe: Recipe, *, model: ModelFacts, check: Callable[[Sequence[Row], DecodeSettings], ClipCheck]
) -> PreparedRows:
    """Reads rows and measures them; needs config.json and tokenizer of the model, but no weights.

    Args:
        recipe: The recipe.
        model: Facts of its model folder.
        check: Finds out about the clips of rows.

    Returns:
        Rows, clips and lengths.

    Raises:
        CvftError: with all problems of the rows, or of the clips, or of the lengths.
    """
    feeding = decide_feeding(recipe, model)
    _refuse_missing_code(recipe, model.path)
    _refuse_unfit_widths(recipe, model)
    rows = read_rows(recipe.data.train, video_root=recipe.data.video_root)
    held_out = read_rows(recipe.data.val, video_root=recipe.data.video_root) if recipe.data.val else []
    _refuse_lost_history([*rows, *held_out], template=feeding.template)
    decode = DecodeSettings.of(
        feeding.sampling,
        max_frames=feeding.max_frames,
        decoder=recipe.video.decoder,
        timeout_s=recipe.video.timeout_s,
        memory_gib=recipe.video.memory_gib,
    )
    checked = check([*rows, *held_out], decode)
    set_aside = {id(item.row) for item in checked.quarantined}
    rows = [row for row in rows if id(row) not in set_aside]
    held_out = [row for row in held_out if id(row) not in set_aside]
    if not recipe.data.val and recipe.data.val_fraction:
        rows, held_out = split_by_clip(rows, val_fraction=recipe.data.val_fraction, seed=recipe.seed)
    shapes = measure_rows([*rows, *held_out], model=model, feeding=feeding, clips=checked.facts)
    _refuse_long_rows([*rows, *held_out], shapes, max_tokens=feeding.max_tokens)
    return PreparedRows(
        model=model,
        feeding=feeding,
        train_rows=rows,
        val_rows=held_out,
        quarantined=checked.quarantined,
        clips=checked.facts,
        row_facts=RowFacts(shapes[: len(rows)], shapes[len(rows) :]),
        notes=_note(rows, held_out, checked.facts),
    )


def measure_rows(
    rows: Sequence[Row], *, model: ModelFacts, feeding: Feeding, clips: Mapping[Path, ClipInfo]
) -> list[RowShape]:
    """Counts the tokens of each row, answer and EOS included, exactly as training lays them out.

    Clips are told apart by their content: two files with the same bytes are one clip.
    """
    encode, special = load_encoder(model.path), special_tokens(model.path)
    numbers: dict[str, int] = {}
    shapes = []
    for row in rows:
        clip = None if row.video is None else clips[row.video]
        layout = build_layout(
            encode,
            template=TEMPLATES[feeding.template],
            special=special,
            num_tokens_per_frame=model.num_tokens_per_frame,
            time_indices=() if clip is None else time_indices(clip.timestamps_s, sampling=feeding.sampling),
            query=row.query,
            history=row.history,
            response=row.response,
        )
        number = None if clip is None else numbers.setdefault(clip.sha256, len(numbers))
        shapes.append(
            RowShape(
                number,
                num_prefix_tokens=layout.num_prefix_tokens,
                num_question_tokens=len(layout) - layout.num_prefix_tokens,
                num_label_tokens=sum(label != IGNORED_LABEL for label in layout.labels),
                num_frames=0 if clip is None else clip.num_frames,
            )
        )
    return shapes


def write_row_files(prepared: Prepared, folder: RunFolder) -> None:
    """Writes the rows of a run, for cvft as rows and for ms-swift as messages; each file whole or not at all."""
    (folder.data / "swift").mkdir(parents=True, exist_ok=True)
    for path, rows in ((folder.train_rows, prepared.train_rows), (folder.val_rows, prepared.val_rows)):
        if rows:
            write_rows(rows, path)
            lines = [json.dumps(_as_messages(row), ensure_ascii=False) for row in rows]
            write_whole(folder.data / "swift" / path.name, "".join(f"{line}\n" for line in lines))
    records = {str(path): [info.sha256, info.timestamps_s] for path, info in prepared.clips.items()}
    write_whole(folder.clip_records, json.dumps(records) + "\n")
    write_whole(folder.row_shapes, prepared.row_facts.to_json())


def _as_messages(row: Row) -> dict[str, object]:
    turns = [*row.history, (row.query, row.response)]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return {"messages": messages, "videos": [] if row.video is None else [str(row.video)]}


def _refuse_missing_code(recipe: Recipe, folder: Path) -> None:
    if recipe.export.keep_remote_code and not any(folder.glob("*.py")):
        hint = "remove `export.keep_remote_code`, or give a folder with the whole published repository"
        problem = Problem("export.keep_remote_code", f"no *.py file in {folder}", "the code to keep", hint)
        raise ModelError(f"model {folder}", [problem])


def _refuse_unfit_widths(recipe: Recipe, model: ModelFacts) -> None:
    widths = (model.architecture.hidden_size, model.architecture.intermediate_size)
    if problem := find_unfit_width(recipe.model.quantize, widths):
        raise ModelError(f"model {model.path}", [problem])


def _refuse_lost_history(rows: Sequence[Row], *, template: str) -> None:
    if TEMPLATES[template].has_history:
        return
    hint = "use model.template=chat, or remove the earlier turns"
    problems = [
        Problem(
            f"{row.location} `history`",
            f"{len(row.history)} turns",
            f"none: template {quote(template)} has no place for it",
            hint,
        )
        for row in rows
        if row.history
    ]
    if problems:
        raise DataError("the rows", problems)


def _note(rows: Sequence[Row], held_out: Sequence[Row], clips: Mapping[Path, ClipInfo]) -> list[str]:
    """Sentences that a user should read before training: nothing is wrong, but it may not be what they think."""
    all_rows = [*rows, *held_out]
    notes = [
        f"column {quote(name)} ({count} rows) is kept but not trained on"
        for name, count in extra_columns(all_rows).items()
    ]
    used = {row.video for row in all_rows if row.video is not None}
    notes += [f"{path.name}: {note}" for path in sorted(used) for note in clips[path].notes]
    trained_on = {clips[row.video].sha256 for row in rows if row.video is not None}
    shared = {row.video for row in held_out if row.video is not None and clips[row.video].sha256 in trained_on}
    if shared:
        notes.append(f"{len(shared)} clips of the val rows are trained on too: the val numbers will flatter the model")
    return notes


def _refuse_long_rows(rows: Sequence[Row], shapes: Sequence[RowShape], *, max_tokens: int) -> None:
    hint = "lower video.max_frames, shorten the text, or raise data.max_tokens; rows are never cut"
    problems = [
        Problem(row.location, f"{shape.num_tokens} tokens", f"at most {max_tokens}", hint)
        for row, shape in zip(rows, shapes, strict=True)
        if shape.num_tokens > max_tokens
    ]
    if problems:
        raise DataError("the rows", problems)
