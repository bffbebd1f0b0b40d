"""A checkpoint whose matrices have become codes by calibration: layer by layer, as their rows are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.calibrate.layer_feed import layer_of, within_layer
from llama4rt.convert.calibrate.options import FEWEST_EXPERT_TOKENS
from llama4rt.convert.calibrate.state import State, StateFile
from llama4rt.convert.calibrate.walk import LayerWalk
from llama4rt.convert.calibrate.widths import grid_of
from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.layer import CheckpointLayer
from llama4rt.convert.names import Piece, Target, TensorMapping
from llama4rt.convert.stored_rows import CodeLayout, Codes, Values

_MOST_NAMED = 40  # lines of experts; more are counted
# (name within the layer, expert, tokens, whether it was rounded plainly, cost, plain cost)
_Report = Sequence[str | int | bool | float]


class CalibratedCheckpoint(CheckpointLayer):
    """A Checkpoint: `base`, whose matrices in `layouts` are codes.

    Layers are best asked for in ascending order: the inputs of one come out of the quantised one before it.
    """

    def __init__(
        self,
        base: Checkpoint,
        mapping: TensorMapping,
        layouts: Mapping[str, CodeLayout],
        walk: LayerWalk,
        state: StateFile,
        found: State | None,
        measured: Sequence[object],
        remarks: Sequence[str],
    ) -> None:
        """layouts: by engine tensor, all of whose pieces are plain numbers; found: where an interrupted build was, with
        what it had measured; remarks: sentences on the calibration, for notes().
        """
        super().__init__(base)
        self._layouts = layouts
        self._walk = walk
        self._state = state
        self._measured = list(measured)
        self._remarks = remarks
        self._targets: dict[int, list[Target]] = {}
        self._places: dict[tuple[str, int | None], list[tuple[Target, Piece]]] = {}
        names = dict(base.names())
        for target in mapping.targets:
            layer = layer_of(target.name)
            if target.name not in layouts or layer is None:
                continue
            self._targets.setdefault(layer, []).append(target)
            for piece in target.pieces:
                source = piece.source
                self._places.setdefault((source.tensor, source.expert), []).append((target, piece))
                info = base.names()[source.tensor]
                names[source.tensor] = replace(
                    info, codes=layouts[target.name], stored=info.stored or (source.tensor,)
                )
        self._names = names
        self._loaded = -1  # the layer whose codes are there
        self._reports: dict[int, list[_Report]] = {}
        if found is not None:
            walk.go_to(found.layer, found.stream)
            self._reports = dict(enumerate(found.reports))

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return self._base.problems(name, shape)

    def release(self, name: str) -> None:
        self._base.release(name)

    def nbytes(self, name: str) -> int:
        return self._base.nbytes(name)

    def rows(
        self, name: str, first: int = 0, last: int | None = None, expert: int | None = None
    ) -> Values | Codes:
        places = self._places.get((name, expert))
        if places is None:
            return self._base.rows(name, first, last, expert)
        target, piece = next(
            (target, piece) for target, piece in places if piece.first <= first < piece.first + piece.count
        )
        end = piece.first + piece.count if last is None else last
        layer = layer_of(target.name)
        assert layer is not None and end <= piece.first + piece.count
        self._calibrate(layer)
        codes, scales, offsets, error = self._walk.calibration.codes(
            within_layer(target.name),
            piece.expert,
            piece.stored_rows(first - piece.first, end - piece.first),
        )
        layout = self._layouts[target.name]
        return Codes(
            layout,
            codes,
            _stored(scales, layout),
            offsets=None if offsets is None else _stored(offsets, layout),
            error=error,
        )

    def notes(self) -> Sequence[str]:
        """Complete once every row was asked for. What an interrupted build did not write down is calibrated again."""
        for layer in sorted(self._targets):
            if layer not in self._reports:
                self._calibrate(layer)
        return (*self._base.notes(), *self._remarks, *self._outcome(), *self._plain_experts())

    def _calibrate(self, layer: int) -> None:
        if self._loaded == layer:
            return
        if self._walk.layer > layer:
            self._walk.go_to(0, None)
        while self._walk.layer <= layer:
            now = self._walk.layer
            if all(earlier in self._reports for earlier in range(now)):
                reports = [self._reports[earlier] for earlier in range(now)]
                self._state.save(State("round", now, self._walk.stream, self._measured, reports))
            grids = {
                within_layer(target.name): grid_of(self._layouts[target.name])
                for target in self._targets.get(now, ())
            }
            done = self._walk.step(lambda stream, grids=grids: self._walk.calibration.run(stream, grids))  # type: ignore[misc]
            self._reports[now] = [_report(report) for report in done]
            self._loaded = now

    def _outcome(self) -> list[str]:
        reports = [report for reports in self._reports.values() for report in reports]
        plain = sum(float(report[5]) for report in reports)
        if plain <= 0:
            return []
        part = sum(float(report[4]) for report in reports) / plain
        return [
            f"on the calibration text, outputs of its matrices err by {100 * part:.0f} % of plain rounding's squares"
        ]

    def _plain_experts(self) -> list[str]:
        lines = []
        for layer, reports in sorted(self._reports.items()):
            few: dict[str, list[str]] = {}
            for name, expert, tokens, plain, _, _ in reports:
                if plain:
                    few.setdefault(str(name), []).append(f"{expert} ({tokens})")
            lines += [
                f"layers.{layer}.{name}: experts that saw fewer than {FEWEST_EXPERT_TOKENS} tokens of the calibration "
                f"text (how many) and were rounded without it: {', '.join(experts)}"
                for name, experts in few.items()
            ]
        if len(lines) > _MOST_NAMED:
            lines[_MOST_NAMED:] = [f"and experts of {len(lines) - _MOST_NAMED} further stacks saw as few"]
        return lines


def _report(report: _core.MatrixReport) -> _Report:
    return [report.name, report.expert, report.tokens, report.plain, report.cost, report.plain_cost]


def _stored(numbers: NDArray[np.float32], layout: CodeLayout) -> NDArray[np.generic]:
    """Numbers of the layout's type, as it stores them."""
    if layout.scale_dtype == "F32":
        return numbers
    halves: NDArray[np.uint16] = (numbers.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return halves


__all__ = ["CalibratedCheckpoint"]
