"""The vision tower, trained first and alone: each of its tokens learns to say what it covers.

A throw-away head reads from each projected token what pool.py's labels say, which token of its tile it is, and the
object's box. Afterwards the tower is frozen (train.py --tower-rate lets it move along), and the language part meets
features that already mean something. A tower that has been trained before goes on, held to what it said.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.demo_model.fast_model import FastModel
from tools.demo_model.pool import LABELS, Pool

_PARTS = {**LABELS, "token": 9, "box": 4}  # what the throw-away head says, and in how many numbers
_HEAD_STEPS = 150  # of a trained tower, in which only the new head learns
_KEEP = 10.0  # weight of what a trained tower said before
# How much louder places and counts are made at the end, and in how many directions. Colours and shapes take most of
# the features' variance by themselves, and a quiet feature is learned late by the language part.
_LOUDER = {"place": (2.2, 8), "rank": (1.8, 2), "total": (1.5, 2)}


def pool_pixels(pool: Pool, tiles: Any) -> Tensor:
    """float32 [n, 3, side, side] of the given tiles; the pool keeps bf16 bits."""
    return torch.from_numpy(pool.pixels[tiles].view("int16")).view(torch.bfloat16).float()


def train_tower(
    fast: FastModel,
    pool: Pool,
    seconds: float,
    log: Any,
    batch: int = 64,
    rate: float = 2e-3,
    teacher: FastModel | None = None,
) -> None:
    """Trains tower, adapter and projector for `seconds` of CPU time; scales the projector to the embeddings' spread.

    teacher: the same tower as it was, where it has been trained before: what it said is kept as far as may be, since
    a language part has learned to read it, and there is no scaling. At the end places and counts are made louder.
    """
    model = fast.model
    head = nn.Linear(model.config.text_config.hidden_size, sum(_PARTS.values()))
    tower = [*model.vision_model.parameters(), *model.multi_modal_projector.parameters()]
    optimiser = torch.optim.AdamW(
        [{"params": tower}, {"params": head.parameters()}],
        lr=rate,
        betas=(0.9, 0.95),
        weight_decay=0.02,
        fused=True,
    )
    generator = torch.Generator().manual_seed(0)
    labels, boxes = torch.from_numpy(pool.labels), torch.from_numpy(pool.boxes)
    last = torch.from_numpy(pool.first[1:] - 1)
    place = torch.arange(9).expand(batch, 9)
    start, step, threads = time.process_time(), 0, torch.get_num_threads()
    while (progress := (time.process_time() - start) / threads / seconds) < 1:
        falling = min((step + 1) / 80, 1, max(0.03, (1 - progress) / 0.5))
        optimiser.param_groups[0]["lr"] = 0.0 if teacher and step < _HEAD_STEPS else rate * falling
        optimiser.param_groups[1]["lr"] = rate * falling
        # Mostly the tile that shows the whole picture: it answers most questions.
        chosen = torch.randint(len(labels), (batch,), generator=generator)
        whole = last[torch.randint(len(last), (batch * 3 // 4,), generator=generator)]
        chosen[: len(whole)] = whole
        pixels = pool_pixels(pool, chosen.numpy())
        features = fast.tile_features(pixels)
        # A common scale, so that the head cannot rely on a length that the later rescaling changes.
        parts = head(features / features.detach().std()).split(list(_PARTS.values()), dim=-1)
        said = dict(zip(_PARTS, parts, strict=True))
        want = {name: labels[chosen][..., i] for i, name in enumerate(LABELS)} | {"token": place}
        seen = want["shape"] > 0
        losses = {
            name: F.cross_entropy(said[name].flatten(0, 1), classes.flatten(), ignore_index=-1)
            for name, classes in want.items()
        }
        losses["box"] = F.mse_loss(said["box"][seen], boxes[chosen][seen])
        if teacher:
            with torch.no_grad():
                before = teacher.tile_features(pixels)
            losses["drift"] = _KEEP * F.mse_loss(features, before) / before.var()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_([*tower, *head.parameters()], 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step % 50 == 0:
            shown = []
            for name, classes in want.items():
                # "Nothing" is the easy answer of these four: only what is there counts.
                known = classes > 0 if name in ("shape", "colour", "place", "rank") else classes >= 0
                right = (said[name].argmax(-1) == classes)[known].float().mean()
                shown.append(f"{name} {100 * right:.1f}")
            shown += [
                f"{name} {losses[name].item() ** 0.5:.3f}" for name in ("box", "drift") if name in losses
            ]
            log(f"tower {step} {progress * seconds:.0f} s: {' '.join(shown)}")
    with torch.no_grad():
        if not teacher:
            spread = fast.tile_features(pool_pixels(pool, slice(0, 256))).std()
            model.multi_modal_projector.linear_1.weight.mul_(0.5 / spread)
        make_louder(fast, pool)


@torch.no_grad()
def make_louder(fast: FastModel, pool: Pool, pictures: int = 3000) -> None:
    """Stretches the projector's output along what tells places, ranks and counts apart, and nothing else.

    The directions are those between the classes' means; what shapes, colours, sizes and backgrounds use is left out.
    """
    whole = pool.first[1 : pictures + 1] - 1
    parts = [fast.tile_features(pool_pixels(pool, whole[i : i + 256])) for i in range(0, len(whole), 256)]
    features = torch.cat(parts).flatten(0, 1)
    labels = torch.from_numpy(pool.labels[whole]).flatten(0, 1)
    names = list(LABELS)
    is_object = labels[:, names.index("place")] > 0

    def between(name: str) -> Tensor:
        """[classes, hidden]: the classes' means about their own mean."""
        classes = labels[:, names.index(name)]
        chosen = torch.ones_like(is_object) if name in ("background", "total") else is_object
        means = [features[chosen & (classes == c)].mean(0) for c in classes[chosen].unique() if c >= 0]
        return torch.stack(means) - torch.stack(means).mean(0)

    def directions(rows: Tensor, count: int) -> Tensor:
        return torch.linalg.svd(rows, full_matrices=False)[2][:count]

    plain = [between(name) for name in ("shape", "colour", "size", "background")]
    taken = directions(torch.cat(plain), sum(len(means) - 1 for means in plain))
    weight = fast.model.multi_modal_projector.linear_1.weight
    for name, (gain, count) in _LOUDER.items():
        own = directions(between(name), count)
        own = torch.linalg.qr((own - (own @ taken.T) @ taken).T)[0].T
        weight += (gain - 1) * own.T @ (own @ weight)
        taken = torch.linalg.qr(torch.cat([taken, own]).T)[0].T


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
