"""One launch of a kernel, as the speed model sees it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Launch:
    """What one launch has to do."""

    kernel: (
        str  # with template arguments: its loop is in machine_code.json ("": only bytes and latencies count)
    )
    role: str  # what it is in the step: "qkv", "attention, global layers"
    blocks: int
    warps: int = 8  # of a block
    resident: int = 1  # blocks that a multiprocessor holds
    rounds: float = 0.0  # of the main loop, of one warp of a block
    working_warps: float = 0.0  # warps of a block that run the main loop; 0: all
    round_latency: float = 0.0  # cycles that a round takes when nothing else runs beside it
    memory_bytes: float = 0.0
    early_bytes: float = 0.0  # of them those that may be loaded while the kernel before runs
    cache_bytes: float = 0.0  # from the second cache, memory's included where they pass through it once
    chain: dict[str, float] = field(
        default_factory=dict
    )  # latencies one after the other: "load", "barrier", "ticket"
    extra_cycles: float = 0.0  # of work on the chain that no pipe's count has
    count: int = 1  # of such launches in the step
    flops: float = 0.0
