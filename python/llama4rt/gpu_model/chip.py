"""What a GPU can do: constants of the speed model, each with its source and how sure it is."""

from dataclasses import dataclass, fields

from llama4rt.errors import ConfigError


@dataclass(frozen=True)
class Constant:
    """A number, where it comes from, and its relative error. silicon: it has to be measured on a GPU; the model's
    largest doubt.
    """

    value: float
    unit: str
    source: str
    error: float = 0.0
    silicon: bool = False


_WHITE_PAPER = "NVIDIA H100 architecture white paper"
_GUIDE = (
    "CUDA C++ Programming Guide, arithmetic throughput and technical specifications of compute capability 9.0"
)


@dataclass(frozen=True)
class Chip:
    """One kind of GPU. Times in seconds, rates per second; `cycles` are of a multiprocessor's clock."""

    name: str
    processors: Constant
    clock: Constant
    memory_rate: Constant  # of the data sheet: the limit that predictions are held against
    memory_share: Constant  # of it that a copy reaches
    cache_rate: Constant  # from the second cache, all multiprocessors together
    hand_over: (
        Constant  # from a kernel's last store to the next one's first use of it, with programmatic launch
    )
    ticket: Constant  # an atomic add that orders, reading what other blocks wrote
    load: Constant  # of global memory, nothing else in flight
    barrier: Constant  # of a block
    alu_cycles: Constant = Constant(2, "cycles", _GUIDE + ": 64 integer lanes a multiprocessor")
    imad_cycles: Constant = Constant(2, "cycles", _GUIDE + ": 64 lanes")
    fma_cycles: Constant = Constant(1, "cycles", _GUIDE + ": 128 lanes")
    xu_cycles: Constant = Constant(8, "cycles", _GUIDE + ": 16 lanes")
    wgmma_rate: Constant = Constant(
        512, "bf16 multiply-adds a cycle and scheduler", _WHITE_PAPER + ": 989 TFLOP/s at 1830 MHz, dense"
    )
    mma_share: Constant = Constant(
        0.62,
        "of wgmma's rate",
        "Luo et al. 2024, Dissecting the NVIDIA Hopper Architecture: mma.sync on H100",
        0.05,
    )
    shared_bytes: Constant = Constant(233472, "bytes a multiprocessor", _GUIDE)
    peak_flops: Constant = Constant(989e12, "bf16 operations/s, dense", _WHITE_PAPER)

    def constants(self) -> dict[str, Constant]:
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Constant)}

    @property
    def copy_rate(self) -> float:
        """Bytes a second that memory gives at most."""
        return self.memory_rate.value * self.memory_share.value


def _hopper(name: str, memory_rate: float, memory_source: str) -> Chip:
    return Chip(
        name=name,
        processors=Constant(132, "multiprocessors", _WHITE_PAPER + ": SXM5"),
        clock=Constant(1.755e9, "Hz", "usual clock under load; at most 1.98e9", 0.08),
        memory_rate=Constant(memory_rate, "bytes/s", memory_source),
        memory_share=Constant(0.896, "of the sheet", "copy rates published for H200: 4.3 TB/s", 0.03),
        cache_rate=Constant(6.2e12, "bytes/s", "published for H100: 5.5 to 7 TB/s", 0.12, silicon=True),
        hand_over=Constant(
            1.0e-6, "s", "estimated from published traces of dependent launches", 0.4, silicon=True
        ),
        ticket=Constant(
            1.6e-6, "s", "a fence of GPU scope, an atomic and a read: estimated", 0.3, silicon=True
        ),
        load=Constant(
            0.6e-6, "s", "Luo et al. 2024: some 500 to 900 cycles for memory behind both caches", 0.2
        ),
        barrier=Constant(0.05e-6, "s", "some 30 cycles, and the skew of warps that it waits for", 0.5),
    )


CHIPS = {
    "h200": _hopper("H200", 4.8e12, "NVIDIA H200 data sheet"),
    "h100": _hopper("H100", 3.35e12, "NVIDIA H100 SXM data sheet"),
}


def chip(name: str) -> Chip:
    """The GPU of that name; ConfigError lists those known."""
    if name not in CHIPS:
        raise ConfigError(f"no constants are known for the GPU {name!r:.40}; known: {', '.join(CHIPS)}")
    return CHIPS[name]
