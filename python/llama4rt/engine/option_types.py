"""What Engine may be told, as types: a checker then finds a misspelt option or value, and an editor completes it."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from llama4rt.convert.build_options import GroupSize, WeightKind
    from llama4rt.images.limits import ImageLimits

Device = Literal[
    "auto", "cpu", "reference", "cuda",
    "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7",
    "cuda:8", "cuda:9", "cuda:10", "cuda:11", "cuda:12", "cuda:13", "cuda:14", "cuda:15",
]  # fmt: skip
KvCacheDtype = Literal["auto", "bf16", "f32", "fp8", "int8", "int16", "int4"]
Activations = Literal["auto", "int8", "int16"]
CudaPrefill = Literal["auto", "medium"]


class EngineOptions(TypedDict, total=False):
    """The options of Engine and AsyncEngine; Engine's docstring says what each does."""

    device: Device
    max_model_len: int | None
    max_num_seqs: int | None
    kv_cache_memory: int | str | None
    num_threads: int | None
    block_size: int
    max_batched_tokens: int | None
    kv_cache_dtype: KvCacheDtype
    kv_cache_dtype_local: KvCacheDtype | None
    activations: Activations
    cuda_prefill: CudaPrefill
    cuda_run_ahead: bool
    cuda_overlap: bool
    prefix_cache: bool
    speculate: str | os.PathLike[str]  # "off", "auto", "ngram", or a path
    image_cache_memory: int | str | None
    adapter_memory: int | str | None
    gpu_memory: int | str | None
    kv_store: str | os.PathLike[str] | None
    kv_store_size: int | str
    allow_image_urls: bool
    image_limits: "ImageLimits | None"
    weights: "WeightKind | None"
    group_size: "GroupSize | None"
    mmproj: str | os.PathLike[str] | None
    build_progress: Callable[[int, int], None] | None


class BuildChoices(TypedDict, total=False):
    """Those of them that say how a checkpoint is built."""

    weights: "WeightKind | None"
    group_size: "GroupSize | None"
    mmproj: str | os.PathLike[str] | None
