"""LayerWalk: the residual stream of a calibration text through the layers of a checkpoint, one after the other."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.convert.calibrate.layer_feed import embedded, feed_layer, layer_of
from llama4rt.convert.calibrate.native_pass import on_a_thread
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.names import Target, TensorMapping

_Result = TypeVar("_Result")
Windows = Sequence[Sequence[int]]  # token ids


class LayerWalk:
    """Where the stream is, and what moves it on."""

    def __init__(
        self,
        base: Checkpoint,
        mapping: TensorMapping,
        windows: Windows,
        calibration: _core.Calibration,
        advance: Callable[[int], None],
    ) -> None:
        """calibration: of these windows; advance(weights) as native work on them is done."""
        self.calibration = calibration
        self._base = base
        self._windows = windows
        self._advance = advance
        self._targets: dict[int, list[Target]] = {}
        for target in mapping.targets:
            layer = layer_of(target.name)
            if layer is not None:
                self._targets.setdefault(layer, []).append(target)
        self._embedding = next(target for target in mapping.targets if target.role == "embed")
        self.layer = 0  # in front of which the stream is
        self._stream: NDArray[np.float32] | None = None

    @property
    def layers(self) -> int:
        return len(self._targets)

    @property
    def stream(self) -> NDArray[np.float32]:
        if self._stream is None:
            ids = np.concatenate([np.array(window, dtype=np.int64) for window in self._windows])
            self._stream = embedded(self._base, self._embedding.pieces[0].source.tensor, ids)
            self.layer = 0
        return self._stream

    def go_to(self, layer: int, stream: NDArray[np.float32] | None) -> None:
        """None: the embedding's, in front of layer 0."""
        self.layer, self._stream = layer, stream

    def step(self, work: Callable[[NDArray[np.float32]], _Result]) -> _Result:
        """work(stream) moves the stream from before this layer, which is loaded, to behind it, in place."""
        stream = self.stream
        self.calibration.begin(self.layer)
        feed_layer(self.calibration, self._base, self._targets[self.layer], lambda weights: None)
        try:
            result = on_a_thread(self.calibration, lambda: work(stream), self._advance)
        except BaseException:
            self._stream = None  # neither before nor behind the layer
            raise
        self.layer += 1
        return result


__all__ = ["LayerWalk", "Windows"]
