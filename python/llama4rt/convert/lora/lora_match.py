"""Which tensors of the base an adapter's tensors change: by names with prefixes taken off, and by shapes.

PEFT's names are a module's path and the kind of the factor. Experts come as one matrix each, or as a stack that is a
parameter of their module; then nothing says which of the two stacks it is but the shapes, and in and out may have
changed places. Every tensor of the adapter must find its place, else the adapter is refused with the list.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llama4rt.convert.checkpoint import TensorInfo, raise_problems
from llama4rt.convert.formats.renamed import plain_name
from llama4rt.convert.lora.lora_deltas import (
    Delta,
    Factors,
    Floats,
    Replacement,
    only_of,
    plain_factors,
    stacked_factors,
    swapped_factors,
)
from llama4rt.convert.lora.lora_files import LoraFiles
from llama4rt.convert.lora.lora_stacks import EXPERT, PARAMETERS, BaseExperts, Place, base_experts
from llama4rt.errors import CheckpointError

_ROOT = "base_model.model."
_FACTOR = re.compile(
    r"(?P<path>.+)\.(?P<kind>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.(?!weight$|bias$)\w+)?(?:\.weight)?"
)
_SAVED = re.compile(r"(?P<path>.+?)(?:\.modules_to_save\.\w+|\.base_layer)?\.(?P<end>weight|bias)")
Changes = dict[str, list[Delta | Replacement]]


@dataclass
class _Module:
    """The adapter's tensors of one module."""

    path: str  # in the trained model, `.base_layer` taken off
    a: str = ""
    b: str = ""
    embedding: bool = False
    magnitude: str = ""
    level: int = 0  # how many `.base_layer` there were


def match(files: LoraFiles, names: Mapping[str, TensorInfo], weight: float) -> Changes:
    """Tensor of the base -> what changes in it. Raises one CheckpointError that lists all problems."""
    matcher = _Matcher(files, names, weight)
    matcher.run()
    raise_problems(matcher.problems, f"problems with the adapter {files.name}")
    return matcher.changes


@dataclass
class _Matcher:
    files: LoraFiles
    names: Mapping[str, TensorInfo]
    weight: float
    changes: Changes = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.by_name = {_bare(name): name for name in self.names}

    def run(self) -> None:
        modules: dict[str, _Module] = {}
        whole = []
        for tensor in self.files.infos:
            found = _FACTOR.fullmatch(tensor)
            if found is None:
                whole.append(tensor)
                continue
            path = found["path"].removeprefix(_ROOT)
            module = modules.setdefault(path, _Module(path.replace(".base_layer", "")))
            module.level = path.count(".base_layer")
            kind = found["kind"]
            module.embedding = module.embedding or "embedding" in kind
            if kind == "lora_magnitude_vector":
                module.magnitude = tensor
            elif kind.endswith("A"):
                module.a = tensor
            else:
                module.b = tensor
        for tensor in whole:  # first: a factor is added to what takes the base's place
            self._whole(tensor)
        for module in modules.values():
            self._module(module)

    def _whole(self, tensor: str) -> None:
        found = _SAVED.fullmatch(tensor.removeprefix(_ROOT))
        name = self.by_name.get(_bare(f"{found['path']}.{found['end']}")) if found else None
        info = self.files.infos[tensor]
        if name is None:
            self.problems.append(f"{tensor}: is {info}; no such tensor is in the base model")
        elif self.names[name].shape != info.shape:
            grown = " (a vocabulary that grew needs its config.json too: merge with PEFT, and build what that saves)"
            self.problems.append(
                f"{tensor}: is {info}; {self.names[name].stored_name(name)} is {self.names[name]}"
                + (grown if "embed_tokens" in tensor or "lm_head" in tensor else "")
            )
        elif self.weight != 1:
            self.problems.append(
                f"{tensor}: takes the place of the base's, and so cannot have weight {self.weight:g}"
            )
        else:
            self.changes.setdefault(name, []).append(Replacement(self.files.name, self.files, tensor))

    def _module(self, module: _Module) -> None:
        if not module.a or not module.b:
            there = module.a or module.b or module.magnitude
            self.problems.append(f"{there}: its other factor is missing")
            return
        a, b = self.files.infos[module.a], self.files.infos[module.b]
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            self.problems.append(
                f"{module.a}: is {a}, and {module.b} is {b}; expected [rank, in] and [out, rank]"
            )
            return
        bare = _bare(module.path)
        try:
            if module.embedding:
                self._embedding(module, bare)
            elif f"{bare}.weight" in self.by_name:
                self._linear(module, self.by_name[f"{bare}.weight"])
            elif expert := EXPERT.fullmatch(bare):
                self._expert(module, expert["stack"], int(expert["expert"]), expert["part"])
            elif bare.endswith(".feed_forward.experts"):
                self._stack(module, bare)
            else:
                raise CheckpointError(f"no {bare}.weight is in the base model")
        except CheckpointError as error:
            self.problems.append(f"{module.a}: {error}")

    def _embedding(self, module: _Module, bare: str) -> None:
        """A [rank, vocabulary] and B [hidden, rank]."""
        name = self.by_name.get(f"{bare}.weight")
        a, b = self.files.infos[module.a].shape, self.files.infos[module.b].shape
        if name is None or self.names[name].shape != (a[1], b[0]):
            raise CheckpointError(f"changes an embedding [{a[1]}, {b[0]}], which is not in the base model")
        if module.magnitude:
            raise CheckpointError("is of DoRA on an embedding, which llama4rt does not merge")
        factors = swapped_factors(self.files, module.a, module.b)
        self._add(Place(name, 0, a[1], 0, None), self._scale(module.path, a[0]), factors, None)

    def _linear(self, module: _Module, name: str) -> None:
        """A matrix [out, in] of its own."""
        a, b = self.files.infos[module.a].shape, self.files.infos[module.b].shape
        info = self.names[name]
        if info.shape != (b[0], a[1]):
            raise CheckpointError(f"changes a matrix [{b[0]}, {a[1]}]; {info.stored_name(name)} is {info}")
        factors = plain_factors(self.files, module.a, module.b)
        place = Place(name, 0, b[0], 0, None)
        self._add(place, self._scale(module.path, a[0]), factors, self._magnitude(module, b[0]))

    def _expert(self, module: _Module, stack: str, expert: int, part: str) -> None:
        """A matrix of one expert, which the base has in a stack [experts, in, out]."""
        experts = base_experts(stack, self.by_name, self.names)
        if experts is None:
            raise CheckpointError(f"no {stack} is in the base model")
        place = experts.place_of(expert, part)
        into = self.names[place.tensor].shape[1]
        a, b = self.files.infos[module.a].shape, self.files.infos[module.b].shape
        if (place.rows, into) != (b[0], a[1]):
            raise CheckpointError(f"changes a matrix [{b[0]}, {a[1]}]; the base's is [{place.rows}, {into}]")
        self._add(
            place,
            self._scale(module.path, a[0]),
            only_of(expert, plain_factors(self.files, module.a, module.b)),
            self._magnitude(module, place.rows),
        )

    def _stack(self, module: _Module, bare: str) -> None:
        """A stack of experts that was trained as one parameter."""
        experts = base_experts(bare, self.by_name, self.names)
        if experts is None:
            raise CheckpointError(f"no {bare} is in the base model")
        if module.magnitude:
            raise CheckpointError("is of DoRA on a stack of experts, which PEFT does not train either")
        parameter, swapped = self._parameter(module, experts)
        a = self.files.infos[module.a].shape
        scale = self._scale(f"{module.path}.{parameter}", a[0] // experts.experts)
        for place in experts.places(parameter):
            factors = stacked_factors(
                self.files, module.a, module.b, experts.experts, swapped, place.begin, only=place.expert
            )
            self._add(place, scale, factors, None)

    def _parameter(self, module: _Module, experts: BaseExperts) -> tuple[str, bool]:
        """(name of the parameter, whether in and out have changed places): by shapes, and where they fit both
        parameters by the names in the settings.
        """
        a, b = self.files.infos[module.a].shape, self.files.infos[module.b].shape
        fits = [
            (parameter, swapped)
            for parameter, (into, out) in experts.sizes.items()
            for swapped, wanted in ((False, (into, out)), (True, (out, into)))
            if (a[1], b[0]) == wanted
        ]
        if len({parameter for parameter, _ in fits}) > 1:
            fits = [fit for fit in fits if fit[0] in self._parameters_at(module)]
        if not fits or a[0] % experts.experts:
            raise CheckpointError(
                f"changes matrices [{b[0]}, {a[1]}] with {a[0]} ranks in all; the base has {experts.described()}"
            )
        if len(fits) > 1:
            raise CheckpointError(
                f"may be {' or '.join(sorted({name for name, _ in fits}))} with in and out either way round, by its "
                "shapes; merge this adapter with PEFT"
            )
        return fits[0]

    def _parameters_at(self, module: _Module) -> tuple[str, ...]:
        """PEFT wraps a module's parameters in the order of the module: gate_up_proj inside, down_proj around it."""
        targets = self.files.config.target_parameters
        trained = [name for name in PARAMETERS if any(target.split(".")[-1] == name for target in targets)]
        if len(trained) < len(PARAMETERS):
            return tuple(trained)
        return ("down_proj",) if module.level == 0 else ("gate_up_proj",)

    def _scale(self, path: str, rank: int) -> float:
        return self.files.config.scale(path, rank) * self.weight

    def _magnitude(self, module: _Module, rows: int) -> Callable[[int, int], Floats] | None:
        """DoRA's lengths of rows, where the module has them."""
        tensor = module.magnitude
        if not tensor:
            return None
        if self.files.infos[tensor].shape != (rows,):
            raise CheckpointError(f"{tensor} is {self.files.infos[tensor]}; expected {rows} lengths")
        if self.weight != 1:
            raise CheckpointError(f"is of DoRA, which cannot have weight {self.weight:g}")
        return lambda first, last: self.files.numbers(tensor, (slice(first, last),))

    def _add(
        self,
        place: Place,
        scale: float,
        factors: Callable[[int | None], Factors | None],
        magnitude: Callable[[int, int], Floats] | None,
    ) -> None:
        delta = Delta(self.files.name, place.first, place.rows, scale, factors, magnitude)
        self.changes.setdefault(place.tensor, []).append(delta)


def _bare(name: str) -> str:
    """Of whichever class: the decoder of the multimodal one has a prefix."""
    return plain_name(name).removeprefix("language_model.")


__all__ = ["Changes", "match"]
