"""The vision tower, trained first and alone: each of its tokens learns to say what it covers.

A throw-away head reads shape, colour, background, place on the tile and the object's box from the projected token.
Afterwards the tower is frozen, and the language part meets features that already mean something.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.demo_model.fast_model import FastModel
from tools.demo_model.pool import Pool

_PARTS = {"shape": 6, "colour": 7, "background": 3, "size": 2, "token": 9, "box": 4}


def pool_pixels(pool: Pool, tiles: Any) -> Tensor:
    """float32 [n, 3, side, side] of the given tiles; the pool keeps bf16 bits."""
    return torch.from_numpy(pool.pixels[tiles].view("int16")).view(torch.bfloat16).float()


def train_tower(
    fast: FastModel, pool: Pool, seconds: float, log: Any, batch: int = 64, rate: float = 2e-3
) -> None:
    """Trains tower, adapter and projector for a time, then scales the projector to the embeddings' spread."""
    model = fast.model
    head = nn.Linear(model.config.text_config.hidden_size, sum(_PARTS.values()))
    parameters = [
        *model.vision_model.parameters(),
        *model.multi_modal_projector.parameters(),
        *head.parameters(),
    ]
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    generator = torch.Generator().manual_seed(0)
    labels, boxes = torch.from_numpy(pool.labels), torch.from_numpy(pool.boxes)
    last = torch.from_numpy(pool.first[1:] - 1)
    place = torch.arange(9).expand(batch, 9)
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min((step + 1) / 80, 1, max(0.03, (1 - progress) / 0.5))
        # Mostly the tile that shows the whole picture: it answers most questions.
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        whole = last[torch.randint(len(last), (batch * 3 // 4,), generator=generator)]
        chosen[: len(whole)] = whole
        features = fast.tile_features(pool_pixels(pool, chosen.numpy()))
        # A common scale, so that the head cannot rely on a length that the later rescaling changes.
        shape, colour, background, size, token, box = head(features / features.detach().std()).split(
            list(_PARTS.values()), dim=-1
        )
        want = labels[chosen]
        seen = want[..., 0] > 0
        losses = {
            "shape": F.cross_entropy(shape.flatten(0, 1), want[..., 0].flatten(), ignore_index=-1),
            "colour": F.cross_entropy(colour.flatten(0, 1), want[..., 1].flatten(), ignore_index=-1),
            "background": F.cross_entropy(background.flatten(0, 1), want[..., 2].flatten()),
            "size": F.cross_entropy(size.flatten(0, 1), want[..., 3].flatten(), ignore_index=-1),
            "token": F.cross_entropy(token.flatten(0, 1), place.flatten()),
            "box": F.mse_loss(box[seen], boxes[chosen][seen]),
        }
        sum(losses.values()).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step % 50 == 0:
            right = {
                "shape": (shape.argmax(-1) == want[..., 0])[seen],
                "colour": (colour.argmax(-1) == want[..., 1])[seen],
                "background": background.argmax(-1) == want[..., 2],
                "size": (size.argmax(-1) == want[..., 3])[want[..., 3] >= 0],
                "token": token.argmax(-1) == place,
            }
            shown = " ".join(f"{k} {100 * v.float().mean():.1f}" for k, v in right.items())
            log(
                f"tower {step} {time.monotonic() - start:.0f} s: {shown} "
                f"box {losses['box'].item() ** 0.5:.3f} tokens"
            )
    with torch.no_grad():
        spread = fast.tile_features(pool_pixels(pool, slice(0, 256))).std()
        model.multi_modal_projector.linear_1.weight.mul_(0.5 / spread)


@torch.no_grad()
def pool_features(fast: FastModel, pool: Pool, batch: int = 256) -> Tensor:
    """bf16 [tiles, tokens, hidden], the projected features of every tile of the pool."""
    parts = [
        fast.tile_features(pool_pixels(pool, slice(i, i + batch))).bfloat16()
        for i in range(0, len(pool.pixels), batch)
    ]
    return torch.cat(parts)


def load_or(path: Path, make: Any) -> Any:
    """A cached torch.save file, or what make() gives, saved there."""
    if path.exists():
        return torch.load(path, weights_only=False)
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return value
