"""Second stage of the pre-training: the language model behind the frozen tower.

Packed questions about fresh random clips, short clips first. Beside the answers, two dense losses read from the second
decoder layer: behind each step of the clip what is present, new and gone there, and where a look-up begins what is to be
looked up. With both at hand, finding a second is one look-up for the layers above; without them it takes hours to emerge.

The world uses a fraction of the vocabulary. A last small loss keeps every token sayable: its embedding, through a linear map,
must lead the output layer back to it. Without it the rows of unused tokens all point the same way, and no adapter that
leaves the output layer frozen could ever teach the model a user's own words.

Muon lets queries and keys grow without end. At attention logits of several hundred, rounding in fp32 shows in the third digit
of an attention weight, and no merged model could equal its adapter. A loss on what is above 25 keeps that from happening.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cvft.tiny.architecture import Architecture
from cvft.tiny.batches import TOPIC_SIZES, PackedBatch, Packer, frame_targets
from cvft.tiny.questions import BASE_CATEGORIES
from cvft.tiny.schedule import Settings, TwoOptimizers, rate_factor
from cvft.tiny.world import MAX_SECONDS, NUM_KINDS, Scene, SpriteBank, sample_scene, scene_cells

CATEGORY_WEIGHTS: dict[str, float] = {
    "colour": 0.4,
    "shape": 0.4,
    "count": 2.5,
    "colour_at": 1.2,
    "what_at": 1.2,
    "visible_at": 1.0,
    "appear": 0.7,
    "disappear": 0.8,
    "change": 0.9,
    "first_seen": 0.9,
    "last_seen": 1.2,
    "change_how": 1.0,
    "event_at": 1.2,
    "event_order": 1.0,
    "end": 0.2,
    "first_and_last": 3.0,
}
"""Share of each category among the questions: finding a second is the hard part, so it is asked most."""


@contextmanager
def captured_outputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the outputs of some decoder layers of the one forward pass inside the block, lowest layer first."""
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class RenderedClips:
    """Clips of one length with their frozen features.

    Args:
        scenes: B scenes.
        features: As the architecture's `features` returns them.
        targets: (B, S, 72) as `frame_targets` returns them.
        step_seconds: (S,) the second that each step shows.
    """

    scenes: list[Scene]
    features: Tensor
    targets: Tensor
    step_seconds: Tensor


def curriculum_seconds(rng: np.random.Generator, *, progress: float) -> int:
    """Draws a clip length: 2..3 s at first, up to 5 s until an eighth of the stage, then 2..8 s, mostly 4..7."""
    if progress < 0.04:
        return int(rng.integers(2, 4))
    if progress < 0.125:
        return int(rng.integers(2, 6))
    return int(rng.choice(np.arange(2, MAX_SECONDS + 1), p=(0.05, 0.12, 0.17, 0.18, 0.18, 0.17, 0.13)))


def render(architecture: Architecture, scenes: list[Scene], *, bank: SpriteBank) -> RenderedClips:
    """Renders scenes of one length and runs the frozen tower over them; a step shows what its last frame does."""
    frame_seconds = architecture.frame_seconds(scenes[0].num_seconds)
    step_seconds = frame_seconds[architecture.frames_per_step - 1 :: architecture.frames_per_step]
    cells = scene_cells(scenes)
    with torch.no_grad():
        features = architecture.features(torch.from_numpy(bank.render(cells[:, frame_seconds])))
    targets = frame_targets(cells[:, step_seconds], num_kinds=NUM_KINDS)
    return RenderedClips(scenes, features, targets, torch.from_numpy(step_seconds))


def run_model(architecture: Architecture, batch: PackedBatch, *, features: Tensor) -> Tensor:
    """Returns the logits (N, V) at the label places."""
    hidden = architecture.hidden_states(
        batch.input_ids,
        batch.token_type_ids,
        batch.position_ids,
        batch.mask.expand(len(batch.input_ids), -1, -1, -1),
        features,
    )
    return architecture.logits(hidden.flatten(0, 1)[batch.label_places])


def exact_match(
    architecture: Architecture, packer: Packer, clips: list[RenderedClips], *, seed: int
) -> dict[str, tuple[int, int]]:
    """Scores whole answers; with the right answer fed, all tokens right means that greedy generation gives it too.

    Args:
        architecture: The model.
        packer: Makes the questions.
        clips: Held-out clips.
        seed: Seed of the questions.

    Returns:
        Per category (right, asked).
    """
    rng = np.random.default_rng(seed)
    score: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for group in clips:
        batch = packer.pack(group.scenes, rng=rng, weights=dict.fromkeys(BASE_CATEGORIES, 1.0))
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            right = run_model(architecture, batch, features=group.features).argmax(-1) == batch.label_ids
        wrong_per_block = torch.zeros(len(batch.categories)).index_add_(0, batch.label_block, (~right).float())
        for category, wrong in zip(batch.categories, wrong_per_block.tolist(), strict=True):
            if category:
                score[category][0] += wrong == 0
                score[category][1] += 1
    return {category: (right, asked) for category, (right, asked) in sorted(score.items())}


class LanguageStage:
    """The language-model stage with everything that a resume needs.

    Args:
        architecture: Model whose tower is trained.
        packer: Makes the packed batches.
        settings: Numbers of the stage.
    """

    def __init__(self, architecture: Architecture, packer: Packer, *, settings: Settings) -> None:
        self.architecture, self.packer, self.settings = architecture, packer, settings
        architecture.freeze_tower()
        torch.manual_seed(settings.seed + 1)
        width = architecture.embeddings.shape[1]
        self.present_head = nn.Linear(width, NUM_KINDS)
        self.event_head = nn.Linear(width, 3 * NUM_KINDS)
        self.topic_head = nn.Linear(width, sum(TOPIC_SIZES))
        self.vocab_map = nn.Linear(width, width)
        self.second_head = nn.Linear(width, MAX_SECONDS)
        heads = [p for head in self._heads() for p in head.parameters()]
        trained = [(name, p) for name, p in architecture.model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if p.dim() == 2 and ".layers." in name]
        kept = {id(p) for p in matrices}
        self.optimizer = TwoOptimizers(
            matrices, [p for _, p in trained if id(p) not in kept] + heads, settings=settings
        )
        self.step, self.seconds_run = 0, 0.0
        self.bank = SpriteBank(settings.seed + 1, architecture.look)
        self.held_out = self._held_out_clips()
        self.pool: list[RenderedClips] = []

    def _heads(self) -> list[nn.Linear]:
        heads = [self.present_head, self.event_head, self.topic_head, self.vocab_map]
        return [*heads, self.second_head] if self.architecture.frames_per_step > 1 else heads

    def _vocab_loss(self) -> Tensor:
        """Cross-entropy of finding each token from its own embedding, through the output layer."""
        embeddings = self.architecture.embeddings
        logits = self.architecture.logits_before_norm(self.vocab_map(embeddings))
        return F.cross_entropy(logits, torch.arange(len(embeddings)))

    def _attention_loss(self, outputs: list[Tensor]) -> Tensor:
        """What squared queries and keys, scaled so that their product is the logit, have above the limit; by layer.

        Every fourth token is looked at. The first layer is left out: it reads embeddings, and its logits stay small.
        """
        total = torch.zeros(())
        limit = self.settings.max_attention_logit
        for layer, hidden in zip(self.architecture.layers[1:], outputs, strict=True):
            total = total + self.architecture.attention_excess(layer, hidden[:, ::4], limit)
        return total

    def _held_out_clips(self) -> list[RenderedClips]:
        rng, bank = np.random.default_rng(10**6), SpriteBank(10**6, self.architecture.look)
        return [
            render(self.architecture, [sample_scene(rng, num_seconds=seconds) for _ in range(40)], bank=bank)
            for seconds in range(3, MAX_SECONDS + 1)
        ]

    def _next_clips(self, rng: np.random.Generator) -> RenderedClips:
        seconds = curriculum_seconds(rng, progress=self.step / self.settings.lm_steps)
        usable = [place for place, clips in enumerate(self.pool) if clips.scenes[0].num_seconds == seconds]
        if len(usable) >= 12 and rng.random() > 1 / self.settings.reuse:
            return self.pool[usable[int(rng.integers(len(usable)))]]
        scenes = [sample_scene(rng, num_seconds=seconds) for _ in range(self.settings.clips)]
        fresh = render(self.architecture, scenes, bank=self.bank)
        if len(usable) >= 12:
            # the oldest goes: a clip is asked `reuse` times on average
            del self.pool[usable[0]]
        self.pool.append(fresh)
        return fresh

    def train_step(self) -> tuple[float, float]:
        """Runs one step; returns the answer loss and the dense loss."""
        rng = np.random.default_rng((self.settings.seed, 7, self.step))
        clips = self._next_clips(rng)
        batch = self.packer.pack(clips.scenes, rng=rng, weights=CATEGORY_WEIGHTS)
        below_last = list(self.architecture.layers)[:-1]
        with captured_outputs(below_last) as outputs, torch.autocast("cpu", torch.bfloat16):
            logits = run_model(self.architecture, batch, features=clips.features)
            attention_loss = self._attention_loss(outputs)
        first, second = (output.float() for output in outputs[:2])
        present = self.present_head(first[:, batch.step_places])
        events = self.event_head(second[:, batch.step_places])
        topics = self.topic_head(second.flatten(0, 1)[batch.topic_places]).split(TOPIC_SIZES, dim=-1)
        answer_loss = F.cross_entropy(logits.float(), batch.label_ids)
        dense_loss = 24 * (
            F.binary_cross_entropy_with_logits(events, clips.targets)
            + 0.3 * F.binary_cross_entropy_with_logits(present, clips.targets[..., :NUM_KINDS])
        )
        dense_loss = dense_loss + sum(
            F.cross_entropy(logits, classes) for logits, classes in zip(topics, batch.topics.T, strict=True)
        )
        if self.architecture.frames_per_step > 1:
            # what is written is the time between a step's frames, so the second that its last one shows has to be found
            seconds = self.second_head(first[:, batch.step_places]).flatten(0, 1)
            dense_loss = dense_loss + F.cross_entropy(seconds, clips.step_seconds.repeat(len(first)))
        settings = self.settings
        loss = answer_loss + settings.event_loss * dense_loss + settings.vocab_loss * self._vocab_loss()
        loss = loss + settings.attention_loss * attention_loss
        loss.backward()
        self.optimizer.step(rate_factor(self.step, num_steps=settings.lm_steps, decay_share=settings.decay_share))
        self.step += 1
        return answer_loss.item(), dense_loss.item()

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resume needs; the pool of clips is drawn anew."""
        return {
            "model": self.architecture.model.state_dict(),
            "heads": [head.state_dict() for head in self._heads()],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds_run": self.seconds_run,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.architecture.model.load_state_dict(state["model"])
        for head, head_state in zip(self._heads(), state["heads"], strict=True):
            head.load_state_dict(head_state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds_run = state["step"], state["seconds_run"]
