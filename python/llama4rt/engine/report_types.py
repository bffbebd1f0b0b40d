"""The forms of what an engine says of itself: EngineStats and ModelConfig."""

from typing import TypedDict


class ImageCounts(TypedDict):
    cached: int
    encoded_tiles: int
    reused: int


class BlockCounts(TypedDict):
    """Of one layer group's part of the cache."""

    total: int
    free: int
    used: int
    cached: int
    bytes: int


class SpeculationCounts(TypedDict):
    """Of guesses (docs/speculation.md)."""

    sequence_steps: int
    sequence_steps_drafted: int
    tokens: int
    drafted: list[int]  # by place behind the latest token
    accepted: list[int]
    seconds_saved: float


class StoreCounts(TypedDict):
    """Of a store of keys and values (docs/sessions.md)."""

    blocks: int
    bytes: int
    written_blocks: int
    written_bytes: int
    read_blocks: int
    read_bytes: int
    damaged: int
    pending: int


class WithStore(TypedDict, total=False):
    store: StoreCounts  # with kv_store


class EngineStats(WithStore):
    """Counters since the engine was opened, and the state of this moment."""

    images: ImageCounts
    running: int
    waiting: int
    preemptions: int
    prefix_queries: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    prompt_tokens: int
    generated_tokens: int
    prompt_tokens_per_second: float
    generated_tokens_per_second: float
    block_size: int
    blocks: dict[str, BlockCounts]  # "global" and "local"
    bytes: dict[str, int]  # by component
    speculation: SpeculationCounts
    expert_tokens: list[list[int]]  # [layer][expert]; empty on a GPU
    expert_reads: list[int]
    steps: int


class VisionConfig(TypedDict):
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    adapter_hidden_size: int
    output_dim: int
    image_size: int
    patch_size: int
    rope_theta: float
    norm_eps: float
    patch_token_id: int


class ModelConfig(TypedDict):
    """The numbers of the architecture, in Hugging Face names where those have them."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    intermediate_size_mlp: int
    num_local_experts: int
    num_experts_per_tok: int
    rope_layers: list[int]  # 1 for each layer that has it; likewise the two below
    chunked_layers: list[int]
    moe_layers: list[int]
    attention_chunk_size: int  # 0: none
    use_qk_norm: bool
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, float] | None
    attn_temperature_tuning: bool
    attn_scale: float
    floor_scale: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int  # -1: none
    eos_token_ids: list[int]
    vision: VisionConfig | None
