"""Trains the demo model: `python -m tools.demo_model.train`.

Stops and goes on: the state is saved every two minutes, and the same command resumes it. The learning rate follows
the minutes of CPU time trained so far, so a pause or other work on the machine changes nothing but the pace.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from tools.demo_model.batches import NEEDLE_STAGES, Batch, Batches, Progress, move_on
from tools.demo_model.chat import default_chat
from tools.demo_model.export import save_checkpoint
from tools.demo_model.fast_model import FastModel
from tools.demo_model.model import keep_neighbour_heads, new_model
from tools.demo_model.pool import Pool, make_pool
from tools.demo_model.tower import load_or, pool_features, pool_pixels, train_tower

BALANCE = 0.01  # weight of the term that keeps experts in use


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    check_init(args.state, args.init)
    log = Log(args.state / "train.log")
    chat = default_chat()
    model = new_model(args.size, chat.tokenizer.vocab_size, chat.special, args.seed)
    fast = FastModel(model)
    fast.bf16 = args.bf16
    pool = load_or(args.state / "pool.pt", lambda: make_pool(args.pictures, args.seed + 1))

    if args.init:
        model.load_state_dict(load_file(args.init / "model.safetensors"))

    def tower() -> Any:
        train_tower(
            fast, pool, args.tower_seconds, log, teacher=FastModel(deepcopy(model)) if args.init else None
        )
        return {
            name: value
            for name, value in model.state_dict().items()
            if name.startswith(("vision_model", "multi_modal"))
        }

    features, frozen = torch.empty(0), {}
    if not args.text_only:
        frozen = load_or(args.state / "tower.pt", tower)
        model.load_state_dict(frozen, strict=False)
        features = load_or(args.state / "features.pt", lambda: pool_features(fast, pool))
    trainer = Trainer(args, fast, features, pool, log)
    if args.init:
        trainer.go_on()
    trainer.resume()
    if frozen and not trainer.tower_moved:
        model.load_state_dict(frozen, strict=False)  # a run begun without pictures saved an untrained tower
    trainer.run(Batches(chat, pool, np.random.default_rng(args.seed + trainer.step), trainer.progress))
    if trainer.stopping:
        return
    save_checkpoint(model, chat, args.out)
    log(f"saved {args.out}")


def check_init(state: Path, init: Path | None) -> None:
    """Notes in a new state folder which checkpoint its run begins with, and holds a resumed run to that.

    Raises SystemExit where the folder's own model would silently take the place of the one asked for.
    """
    note = state / "init.txt"
    asked = sha256((init / "model.safetensors").read_bytes()).hexdigest() if init else "nothing"
    begun = [state / name for name in ("state.pt", "tower.pt") if (state / name).exists()]
    if begun and (note.read_text() if note.exists() else "nothing") != asked:
        raise SystemExit(
            f"{begun[0]} is of a run that began with another model than {f'--init {init}' if init else 'a new one'}: "
            "name an empty folder with --state, or go on with that run by giving the --init it began with"
        )
    state.mkdir(parents=True, exist_ok=True)
    note.write_text(asked)


class Log:
    """Lines on the terminal and in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {line}"
        print(line, flush=True)  # noqa: T201
        with self.path.open("a") as file:
            file.write(line + "\n")


class Trainer:
    """The language part's training: optimiser, schedule, saved state."""

    def __init__(
        self, args: argparse.Namespace, fast: FastModel, features: torch.Tensor, pool: Pool, log: Log
    ) -> None:
        self.args, self.fast, self.features, self.pool, self.log = args, fast, features, pool, log
        self.progress = Progress()
        self.parameters = list(fast.model.language_model.parameters())
        self.tower = [*fast.model.vision_model.parameters(), *fast.model.multi_modal_projector.parameters()]
        self.tower_optimiser = torch.optim.AdamW(self.tower, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        self.tower_moved = False  # whether the tower has been trained together with the language part
        matrices = [p for p in self.parameters if p.dim() >= 2]
        others = [p for p in self.parameters if p.dim() < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            lr=args.rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        keep_neighbour_heads(fast.model)
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self.losses: dict[str, float] = {}
        self.stopping = False  # set by SIGTERM: the run saves its state and ends

    @property
    def path(self) -> Path:
        return Path(self.args.state) / "state.pt"

    def go_on(self) -> None:
        """Starts with a trained model: the last stage of each curriculum."""
        self.progress.objects, self.progress.needle_stage = 3, len(NEEDLE_STAGES) - 1

    def resume(self) -> None:
        if self.path.exists():
            state = torch.load(self.path, weights_only=False)
            self.fast.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.progress, self.step = state["progress"], state["step"]
            self.seconds, self.tokens = state["seconds"], state["tokens"]
            self.tower_moved = state.get("tower_moved", False)
            if self.tower_moved:
                self.tower_optimiser.load_state_dict(state["tower_optimiser"])
            self.log(f"resumed at step {self.step}, {self.seconds / 60:.1f} min")

    def save(self) -> None:
        state = {
            "model": self.fast.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": self.progress,
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tower_moved": self.tower_moved,
            "tower_optimiser": self.tower_optimiser.state_dict(),
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def rate(self, progress: float) -> float:
        """Learning rate: 80 steps up, constant, then linear down to 3 % over the last part of the run."""
        flat = self.args.flat
        falling = 1.0 if progress < flat else max(0.03, 1 - 0.97 * (progress - flat) / (1 - flat))
        return float(self.args.rate * min(1.0, (self.step + 1) / 80) * falling)

    def run(self, batches: Batches) -> None:
        saved = time.monotonic()
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        while not self.stopping and (progress := self.seconds / 60 / self.args.minutes) < 1:
            start = time.process_time()
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(progress)
            scene_share = 0.0 if self.args.text_only else self.args.scene_share
            small_share = 0.75 if self.progress.objects < 3 else 0.55
            self.accumulate("short", batches.short(self.args.short, scene_share, small_share))
            budget = self.args.needle_tokens * (2 if self.progress.needle_stage >= 4 else 1)
            full_length = self.progress.needle_stage == len(NEEDLE_STAGES) - 1
            if not full_length or self.step % self.args.needle_every == 0:
                needle, _ = batches.needle(budget)
                self.accumulate("needle", needle)
            if scene_share and self.progress.objects == 3 and random.random() < 0.3:
                self.accumulate("long", batches.long(4), 0.5)
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            if self.args.tower_rate:
                for group in self.tower_optimiser.param_groups:
                    group["lr"] = self.args.tower_rate * self.rate(progress)
                nn.utils.clip_grad_norm_(self.tower, 0.3)
                self.tower_optimiser.step()
                self.tower_optimiser.zero_grad()
                self.tower_moved = True
            move_on(self.progress, self.log)
            self.step += 1
            self.seconds += (time.process_time() - start) / self.args.threads
            if self.step % 25 == 0:
                self.report()
            if time.monotonic() - saved > 120:
                self.save()
                saved = time.monotonic()
        self.save()

    def accumulate(self, name: str, batch: Batch, weight: float = 1.0) -> None:
        """Adds one batch's gradients, and notes which answers came out whole."""
        ids = torch.from_numpy(batch.ids)
        features = None
        if len(batch.tiles) and (self.args.tower_rate or self.tower_moved):
            features = self.fast.tile_features(pool_pixels(self.pool, batch.tiles)).flatten(0, 1)
        elif len(batch.tiles):
            features = self.features[torch.from_numpy(batch.tiles)].flatten(0, 1).float()
        hidden, balance = self.fast.hidden(ids, features)
        answer = torch.from_numpy(batch.answer)[:, 1:]
        supervised = answer >= 0
        logits = self.fast.logits(hidden[:, :-1][supervised])
        target = ids[:, 1:][supervised]
        loss = F.cross_entropy(logits, target)
        (weight * (loss + BALANCE * balance)).backward()
        wrong = (logits.argmax(-1) != target).numpy()
        missed = set(answer[supervised].numpy()[wrong].tolist())
        for k, kind in enumerate(batch.spans):
            self.progress.update(kind, k not in missed)
        self.tokens += ids.numel()
        self.losses[name] = self.losses.get(name, loss.item()) * 0.95 + loss.item() * 0.05

    def report(self) -> None:
        losses = " ".join(f"{k} {v:.3f}" for k, v in self.losses.items())
        exact = " ".join(
            f"{k} {100 * v:.0f}" for k, v in self.progress.exact.items() if self.progress.seen[k]
        )
        loads = " ".join("/".join(f"{100 * s:.0f}" for s in load) for load in self.fast.loads)
        self.log(
            f"step {self.step} {self.seconds / 60:.1f} min {self.tokens / 1e6:.2f} M "
            f"({self.tokens / self.seconds:.0f}/s) lr {self.optimiser.param_groups[0]['lr']:.2e} | {losses} | {exact} "
            f"| experts {loads}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=210, help="CPU time of the whole run, of each thread")
    add("--flat", type=float, default=0.55, help="part of the run before the learning rate falls")
    add("--threads", type=int, default=1)
    add("--init", type=Path, help="a trained checkpoint to go on from, such as unpack.py --dequantize writes")
    add("--size", default="medium", help="small or medium, see model.py")
    add("--state", type=Path, default=Path("build/demo_model"), help="where a run keeps what it resumes from")
    add("--out", type=Path, default=Path("tools/demo_model/checkpoint"))
    add("--tower-rate", type=float, default=0.0, help="the tower's rate as part of --rate; 0: frozen")
    add(
        "--bf16", action="store_true", help="large products from bf16 operands: faster where the CPU has them"
    )
    add("--pictures", type=int, default=24_000)
    add("--tower-seconds", type=float, default=1620)
    add("--rate", type=float, default=1.5e-3)
    add("--short", type=int, default=16, help="conversations of one chunk in a step")
    add("--scene-share", type=float, default=0.75, help="of them, those about pictures")
    add("--needle-tokens", type=int, default=1024)
    add("--needle-every", type=int, default=3, help="steps per batch of needles of every length")
    add(
        "--text-only",
        action="store_true",
        help="without pictures, while the tower is still in training elsewhere",
    )
    add("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
