"""A checkpoint whose matrices have become codes by calibration: layer by layer, as their rows are asked for."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.calibrate.layer_feed import embedded, feed_layer, layer_of, within_layer
from llama4rt.convert.calibrate.text import CalibrationText
from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.formats.layer import CheckpointLayer
from llama4rt.convert.names import Piece, Target, TensorMapping
from llama4rt.convert.stored_rows import CodeLayout, Codes, Values

_POLL = 0.2  # seconds between two looks at native work: how fast Ctrl-C acts


class CalibratedCheckpoint(CheckpointLayer):
    """A Checkpoint: `base`, whose matrices in `layouts` are codes.

    Layers must be asked for in ascending order: the inputs of one come out of the quantised one before it.
    """

    def __init__(
        self,
        base: Checkpoint,
        mapping: TensorMapping,
        layouts: Mapping[str, CodeLayout],
        text: CalibrationText,
        calibration: _core.Calibration,
        advance: Callable[[int], None],
    ) -> None:
        """layouts: by engine tensor, all of whose pieces are plain numbers; advance(weights): of work done."""
        super().__init__(base)
        self._mapping = mapping
        self._layouts = layouts
        self._text = text
        self._calibration = calibration
        self._advance = advance
        self._places: dict[tuple[str, int | None], list[tuple[Target, Piece]]] = {}
        names = dict(base.names())
        for target in mapping.targets:
            if target.name not in layouts:
                continue
            for piece in target.pieces:
                source = piece.source
                self._places.setdefault((source.tensor, source.expert), []).append((target, piece))
                info = base.names()[source.tensor]
                names[source.tensor] = replace(
                    info, codes=layouts[target.name], stored=info.stored or (source.tensor,)
                )
        self._names = names
        self._layer = -1  # that is calibrated, and whose codes are there
        self._stream: NDArray[np.float32] | None = None
        self.reports: dict[int, list[_core.MatrixReport]] = {}

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
        self._calibrate_up_to(layer)
        codes, scales, offsets, error = self._calibration.codes(
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

    def _calibrate_up_to(self, layer: int) -> None:
        while self._layer < layer:
            if self._stream is None:
                embed = next(target for target in self._mapping.targets if target.role == "embed")
                ids = np.concatenate([np.array(window) for window in self._text.windows])
                self._stream = embedded(self._base, embed.pieces[0].source.tensor, ids)
            self._calibrate(self._layer + 1)

    def _calibrate(self, layer: int) -> None:
        targets = [target for target in self._mapping.targets if layer_of(target.name) == layer]
        self._calibration.begin(layer)
        feed_layer(self._calibration, self._base, targets, lambda weights: None)
        grids = {
            within_layer(target.name): _grid(self._layouts[target.name])
            for target in targets
            if target.name in self._layouts
        }
        assert self._stream is not None
        self.reports[layer] = run_pass(self._calibration, self._stream, grids, self._advance)
        self._layer = layer


def run_pass(
    calibration: _core.Calibration,
    stream: NDArray[np.float32],
    grids: Mapping[str, tuple[str, int, bool, str]],
    advance: Callable[[int], None],
) -> list[_core.MatrixReport]:
    """Calibration.run on a thread of its own, so that Ctrl-C is heard at once."""
    result: list[list[_core.MatrixReport]] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            result.append(calibration.run(stream, dict(grids)))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="calibration")
    thread.start()
    done = 0
    try:
        while thread.is_alive():
            thread.join(_POLL)
            now = calibration.weights_done
            advance(now - done)
            done = now
    finally:
        if thread.is_alive():
            calibration.cancel()
            thread.join()
    if failed:
        raise failed[0]
    return result[0]


def _grid(layout: CodeLayout) -> tuple[str, int, bool, str]:
    return layout.kind, layout.group_size, layout.offsets, layout.scale_dtype


def _stored(numbers: NDArray[np.float32], layout: CodeLayout) -> NDArray[np.generic]:
    """Numbers of the layout's type, as it stores them."""
    if layout.scale_dtype == "F32":
        return numbers
    return (numbers.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


__all__ = ["CalibratedCheckpoint", "run_pass"]
