"""The native module. Thin on purpose: convert, release the GIL, call. People use llama4rt.Engine and llama4rt.build."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Path = str | bytes | os.PathLike[str]

class Llama4RTError(Exception): ...
class DeviceLostError(Llama4RTError): ...
class EngineFileError(Llama4RTError): ...
class CheckpointError(Llama4RTError): ...
class ConfigError(Llama4RTError, ValueError): ...
class RequestError(Llama4RTError, ValueError): ...

def version() -> str: ...
def build_info() -> dict[str, Any]:
    """{"version", "compiler", "cpu_isas": [...], "selected_isa", "cuda": False, "asserts": bool}"""

def find_cuda() -> dict[str, Any]:
    """{"built", "driver", "runtime", "problem", "devices"}: what this build and machine have of CUDA. Never raises.

    Versions as 13000 for 13.0, 0 for none. devices: [{"name", "compute_capability", "multiprocessors", "memory",
    "peak_gbps", "peak_tflops", "problem"}]; a problem says why one cannot be used.
    """

def available_memory() -> int:
    """Bytes this process may still take of the machine's memory, within its cgroup's limit."""

def name_thread(name: str) -> None: ...
def available_cpus() -> int: ...
def json_shape(data: bytes, max_members: int) -> tuple[int, int, int, int, list[tuple[bytes, int, int]]]:
    """(depth, containers + strings + keys, values, text, members of the outermost object) of JSON text, in one pass
    that keeps nothing and never fails. values: at least the number of scalars in lists. text: bytes that the longest
    string has at least; data: URLs do not count. A member: its key with the quotes, and the begin and end of its value
    in data; of more than max_members the first.
    """

def xxh64(data: bytes | NDArray[np.uint8], seed: int = 0) -> int: ...

# --- format -----------------------------------------------------------------------------------------------------------

class SafetensorsFile:
    """A safetensors file, mapped and validated strictly (header size, bounds, overlap, holes, duplicate names).

    Raises CheckpointError naming the file, the field, what was found and what is allowed.
    """

    def __init__(self, path: _Path) -> None: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    def names(self) -> list[str]: ...
    def info(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        """(dtype name as in the file, shape, absolute byte offset, bytes)."""
    def raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes as a read-only view of the mapping (keeps the file open)."""
    def release(self, name: str) -> None:
        """Tells the kernel that the tensor's pages are no longer needed, so that a build does not keep them."""

class EngineFile:
    """An engine file, opened and validated. Raises EngineFileError."""

    def __init__(self, path: _Path) -> None: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    def names(self) -> list[str]: ...
    def info(self, name: str) -> tuple[str, tuple[int, ...], int, int]: ...
    def raw(self, name: str) -> NDArray[np.uint8]: ...
    def weight(self, name: str) -> dict[str, Any]:
        """{"kind", "layout", "experts", "n", "k", "group_size", "scale_dtype", "has_zeros", "has_offsets"} of a matrix.

        Of "table4" also "table".
        """
    def dequantize(
        self, name: str, expert: int = 0, first: int = 0, last: int | None = None
    ) -> NDArray[np.float32]:
        """float32 [rows, K]: the values every device means, of rows first..last (None: to the end) in stored order."""
    def verify(self, num_threads: int = 0) -> list[str]:
        """Names of tensors whose bytes do not match their checksum, in file order; empty when all is well.

        GIL released.
        """

class EngineWriter:
    """Streams tensors into a temporary file beside `path` and renames it in finish().

    The plan (every tensor's name, dtype, shape) is declared first, so that offsets and header size are known before a
    byte of payload is written. One writer per output path: a second one raises Llama4RTError (flock).
    """

    def __init__(self, path: _Path, num_threads: int = 0, target: str = "cpu") -> None:
        """target: "cpu" or "cuda", whose kernels the packed weights are laid out for."""
    def declare_tensor(self, name: str, dtype: str, shape: Sequence[int]) -> None:
        """A plain tensor: norms (F32), embed (BF16 row-major), files (U8)."""
    def declare_weight(
        self,
        name: str,
        kind: str,
        experts: int,
        n: int,
        k: int,
        group_size: int = 0,
        scale_dtype: str = "BF16",
        zeros: bool = False,
        offsets: bool = False,
        table: Sequence[int] | None = None,
        factor_dtype: str = "F32",
        row_factors: bool = False,
    ) -> None:
        """A packed matrix stack: declares `name`, and for scaled kinds `name.scales` and what else lies beside codes.

        table: the 16 numbers of "table4", and of it alone. factor_dtype, row_factors: "F16" or "F32" of the factors of
        scales of 8 bits, and whether a row has one or each 256 inputs.
        """
    def begin(self, resume: bool = False) -> bool:
        """Fixes the layout: creates the temporary file at its final size (fails early with ENOSPC).

        resume: goes on in the temporary that suspend() or a killed process left, where it has this size; true then.
        """
    def complete(self, name: str) -> tuple[dict[str, int], tuple[float, float, float]]:
        """(checksums of its stored tensors, sums of its error) of what is written completely."""
    def restore(self, name: str, checksums: dict[str, int], error: tuple[float, float, float]) -> bool:
        """Takes over what complete() said; False, and its bytes are zero, where the bytes found have others."""
    def write_tensor(self, name: str, data: NDArray[Any]) -> None: ...
    def quantize_rows(
        self,
        name: str,
        expert: int,
        rows: NDArray[np.int64],
        source: NDArray[Any],
        dtype: str,
        transposed: bool,
    ) -> None:
        """Quantises (or, for bf16, converts) and packs source rows into stored rows `rows` of `name`[expert].

        source: raw elements of `dtype` ("BF16" as uint16, "F16" as uint16, "F32"); [n, k], or [k, n] when transposed
        (may be a strided column slice of [k, m]). Adds to the weight's error report. Raises CheckpointError for NaN or
        Inf, naming the first position. GIL released, all threads.
        """
    def import_rows(
        self,
        name: str,
        expert: int,
        rows: NDArray[np.int64],
        codes: NDArray[np.uint8],
        scales: NDArray[Any],
        scale_dtype: str,
        zeros: NDArray[np.uint8] | None = None,
        offsets: NDArray[Any] | None = None,
        factors: NDArray[Any] | None = None,
        offset_factors: NDArray[Any] | None = None,
    ) -> None:
        """Packs ready codes bit for bit.

        codes: [n, k], one to a byte; scales, offsets: [n, groups] raw bits of scale_dtype; zeros: [n, groups]; factors
        of scales and offsets of 8 bits: [n, columns] of the declared type. Raises CheckpointError for what the kind
        does not have and for numbers that are not finite, naming the first.
        """
    def add_error(self, name: str, squared: float, weight_squared: float, max_abs: float) -> None:
        """Adds to the report of `name` what its codes had lost before they came here."""
    def report(self, name: str) -> tuple[float, float]:
        """(relative RMS error, maximum absolute error) of what has been packed into `name` so far."""
    def finish(self, metadata: dict[str, str]) -> int:
        """Returns the file's bytes.

        Checks that everything declared was written, writes the header, fsyncs, renames, fsyncs the directory.

        The writer adds `checksums`, `weights` (descriptors with rms_error and max_error) and `header_checksum` to the
        metadata.
        """
    def suspend(self) -> None:
        """Ends the writer without a file; what is written stays for begin(resume=True)."""
    def abort(self) -> None:
        """Removes the temporary file. Safe to call at any time, more than once."""

# --- calibration ------------------------------------------------------------------------------------------------------

_Grid = tuple[str, int, bool, str]  # kind, group size, whether groups have offsets, type of scales

class MatrixReport:
    """What became of one matrix of a layer, or of one expert of a stack."""

    @property
    def name(self) -> str:
        """In the layer: "attn.qkv"."""
    @property
    def expert(self) -> int: ...
    @property
    def tokens(self) -> int:
        """Rows of inputs that it was calibrated with."""
    @property
    def plain(self) -> bool:
        """Too few tokens: rounded without calibration."""
    @property
    def cost(self) -> float:
        """Mean squared error of the outputs of a token, summed over outputs; damping included."""
    @property
    def plain_cost(self) -> float:
        """The same, had all rows been rounded plainly."""
    @property
    def error(self) -> tuple[float, float, float]:
        """Sums of the weights' squared errors and squares, and the largest error."""

class Calibration:
    """Quantises one layer after the other for the inputs that a text gives them: begin(), load all, run(), codes().

    config: canonical JSON; lengths: tokens of each sequence of the text. One thread; but for cancel() and weights_done.
    """

    def __init__(
        self,
        config: str,
        lengths: Sequence[int],
        num_threads: int = 0,
        *,
        damping: float,
        importance: float,
        first_weight: float,
        fewest_tokens: int,
    ) -> None: ...
    def begin(self, layer: int) -> None:
        """Forgets the layer before."""
    def end(self) -> None: ...
    def load_rows(
        self,
        name: str,
        expert: int,
        rows: NDArray[np.int64],
        source: NDArray[Any],
        dtype: str,
        transposed: bool,
    ) -> None:
        """As EngineWriter.quantize_rows, into bf16."""
    def load_numbers(self, name: str, values: NDArray[np.float32]) -> None: ...
    def run(self, x: NDArray[np.float32], grids: dict[str, _Grid]) -> list[MatrixReport]:
        """x: [tokens, hidden], the residual stream before the layer; in place, after the quantised layer.

        grids: what becomes codes, by name. GIL released, all threads.
        """
    def measure(
        self, x: NDArray[np.float32], candidates: dict[str, list[_Grid]]
    ) -> list[tuple[str, list[float], float, float]]:
        """What matrices would lose: (name, costs of the candidates, plain cost of the first, harm of that) of each.

        x: as in run(), in place, after the exact layer. GIL released, all threads.
        """
    @property
    def weights_done(self) -> int:
        """How many weights run() or measure() has done in this layer."""
    def cancel(self) -> None:
        """run() or measure() raises Llama4RTError soon."""
    def codes(
        self, name: str, expert: int, rows: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None, tuple[float, float, float]
    ]:
        """Codes [rows, k], scales and offsets [rows, groups] of these rows, and their error as in MatrixReport."""
    def memory(self, layer: int) -> dict[str, int]:
        """Bytes that the layer takes beside its weights: "activations", "cache"."""

def gram(x: NDArray[np.float32], num_threads: int = 0) -> NDArray[np.float32]:
    """x^T x, as calibration sums it."""

def round_weights(
    w: NDArray[np.float32],
    h: NDArray[np.float32],
    importance: NDArray[np.float32],
    grid: _Grid,
    damping: float,
    num_threads: int = 0,
) -> tuple[
    NDArray[np.uint8],
    NDArray[np.float32],
    NDArray[np.float32] | None,
    NDArray[np.float64],
    NDArray[np.float64],
]:
    """Codes, scales and offsets of rows w [n, k] for inputs whose products sum to h; each row's cost, and that of plain
    rounding.
    """

# --- runtime ----------------------------------------------------------------------------------------------------------

class TokenMask:
    """Which tokens may come next in one sequence: bit i % 32 of the i // 32-th uint32 stands for token i.

    The engine samples the sequence's next token only once the mask was published, after the previous token's event.
    fail() ends the sequence with an error instead.
    """

    def __init__(self, vocab_size: int) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def publish(self) -> None: ...
    def fail(self, error: str) -> None: ...
    def will_offer(self, will: bool) -> None:
        """Before the request is submitted: an offer() follows each publish(), and the engine waits for it shortly."""
    @property
    def wanted_rows(self) -> int:
        """For how many guesses the masks behind them are worth computing."""
    def further_address(self, row: int) -> int:
        """Where the mask behind guess `row` (0..15) and those before it goes."""
    def offer(self, guesses: list[int], evidence: list[int], rows: int) -> None:
        """Guesses of the next tokens, each with its class of evidence (0..7); the masks of `rows` are there."""

class SuffixIndex:
    """A text of tokens that grows, and where its end occurred before."""

    def __init__(self) -> None: ...
    def append(self, tokens: list[int]) -> None: ...
    def read_on(self, most: int) -> tuple[list[int], list[int]]:
        """Up to `most` tokens that followed there, and the class of evidence of each; empty when there is no place."""

class Adapter:
    """Low-rank factors of one fine-tune, packed for a CPU; shared by the requests that name it."""

    def __init__(
        self,
        config: str,
        changes: Sequence[tuple[int, str, NDArray[np.float32], NDArray[np.float32], float]],
    ) -> None:
        """config: the model's, canonical (JSON). changes: (layer, "q", "k", "v" or "o", a [rank, in], b [out, rank],
        scale): scale * b @ a is added to that matrix. ConfigError for what does not fit, CheckpointError for NaN.
        """
    @property
    def num_bytes(self) -> int: ...
    @property
    def num_users(self) -> int:
        """Requests that hold it, outputs of running ones counted one by one."""
    @property
    def digest(self) -> bytes:
        """Of all that decides what it computes."""

class Request:
    """What one caller asked, in token ids. All numbers are checked again in Engine.submit (RequestError)."""

    prompt_token_ids: list[int]
    # (digest, tiles): bytes naming the content (equal digests mean equal tiles) and uint8 [tiles, S, S, 3], rows,
    # columns, RGB. Their tiles, in order, take the places of the prompt's patch tokens. Reads as (digest, bytes held).
    images: list[tuple[bytes, NDArray[np.uint8]]]
    adapter: Adapter | None  # RequestError in submit where the device has no kernels for it
    client: int  # requests of equal ones wait for each other, those of others take turns
    n: int
    max_tokens: int
    min_tokens: int
    temperature: float  # 0: greedy
    top_k: int  # 0: off
    top_p: float
    min_p: float
    typical_p: float  # 1: off
    allowed_token_ids: list[int]  # nothing else may come; empty: all may
    bad_words: list[list[int]]  # the last of each may not come after the others
    repetition_penalty: float  # 1: off; over prompt and output
    presence_penalty: float  # over output
    frequency_penalty: float
    logit_bias: dict[int, float]
    seed: int | None  # None: a random one
    stop_token_ids: list[int]  # beside the model's own end tokens
    ignore_eos: bool
    logprobs: int  # -1: none, 0: the chosen token's, n: and the n best
    prompt_logprobs: int  # -1: none
    return_logits: bool  # score(): float32 [tokens, vocab], no generation
    score_from: int  # not 0: scores of prompt tokens from this one on, no generation
    assume_computed: int  # with Engine.dummy: so many prompt tokens are taken as computed
    use_prefix_cache: bool
    continued_tokens: int  # the last so many of the prompt are output that this request goes on with
    report_progress: bool  # events with prompt_computed, of index 0
    prediction: list[int]  # what the output may be like; see docs/speculation.md
    masks: list[TokenMask]  # none, or one for each of the n outputs
    def __init__(self) -> None: ...

class Event:
    """What happened to one sequence of a request in a step."""

    request_id: int
    index: int  # which of the n
    token_ids: list[int]  # new ones, in order; empty: the event says something else
    logprobs: list[tuple[float, list[tuple[int, float]]]]  # of each token: its own, and the best first
    prompt_logprobs: (
        list[tuple[float, list[tuple[int, float]]]] | None
    )  # entry 0 is for token 1; first event of index 0
    logits: NDArray[np.float32] | None
    # Of one chunk: place of its first token, log-probabilities [tokens], best ids and theirs [tokens, prompt_logprobs].
    scores: tuple[int, NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]] | None
    prompt_computed: int  # -1, or prompt tokens done so far: the event then says only this, and cached_tokens
    cached_tokens: int  # prompt tokens found in the prefix cache (first event)
    finish_reason: str  # "", "stop", "length", "abort" or "error"
    stop_token_id: int  # the end token that stopped it, or -1; that token is not part of the output
    error: str
    guessed: int  # tokens that were guessed before this step
    guessed_right: int  # of those: the ones that came
    not_finite: bool  # the error is that logits held NaN or infinity
    only_token: int  # of an event with one token that says nothing else (but log-probabilities), else -1

class Engine:
    """Opens an engine file and runs it. submit/abort/stats: any thread. step: one thread at a time."""

    def __init__(
        self,
        path: _Path,
        *,
        device: str = "auto",
        num_threads: int = 0,
        max_model_len: int = 0,
        max_num_seqs: int = 0,
        kv_cache_bytes: int = 0,
        block_size: int = 16,
        max_batched_tokens: int = 0,
        kv_cache_dtype: str = "auto",
        kv_cache_dtype_local: str = "",
        activations: str = "auto",
        cuda_prefill: str = "auto",
        cuda_run_ahead: bool = True,
        cuda_overlap: bool = True,
        prefix_cache: bool = True,
        speculate: str = "off",
        always_guess: bool = False,
        max_waiting: int = 0,
        image_cache_bytes: int = 0,
        adapter_bytes: int = 0,
        memory_bytes: int = 0,
        kv_store: str = "",
        kv_store_bytes: int = 0,
    ) -> None:
        """memory_bytes: what may be taken of the device for everything; 0: on a GPU what is free, on a CPU no limit.

        kv_store: a directory for blocks of keys and values, of at most kv_store_bytes; empty: they live in memory only.
        """
    @staticmethod
    def dummy(config: str, **options: Any) -> Engine:
        """An engine with random weights of the canonical `config` (JSON), made in the device's memory.

        options: those of Engine and of list_weights.
        """
    def plan(self) -> dict[str, Any]:
        """What this engine has allocated; as the function plan."""
    def submit(self, request: Request) -> int:
        """Queues a request and returns its id. RequestError when it can never run (both numbers in the message)."""
    def abort(self, request_id: int) -> None:
        """Frees its blocks within one step; its sequences end with finish_reason "abort". Unknown ids are ignored."""
    def hold(self, request_id: int, held: bool) -> None:
        """A held request takes part in no step and gives its place and blocks to others; its tokens are kept."""
    def abort_sequence(self, request_id: int, index: int, reason: str) -> None:
        """Ends one sequence with `reason` ("stop" for a stop string found by the caller, or "abort")."""
    def step(self) -> list[Event]:
        """One step; returns at once with [] when there is no work. GIL released."""
    def encode_image(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The vision tower alone: uint8 [tiles, S, S, 3] to float32 [tiles * tokens_per_tile, hidden_size].

        Waits for a running step. GIL released. RequestError without a vision tower.
        """
    def has_work(self) -> bool: ...
    def stats(self) -> dict[str, Any]: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def device(self) -> str: ...
    def file_bytes(self, name: str) -> bytes | None:
        """A file kept in the engine ("tokenizer.model", "chat_template.jinja", ...), or None."""
    def file_names(self) -> list[str]: ...
    def take_store_notes(self) -> list[str]:
        """What people should hear of the store, since the last call."""
    def flush_store(self) -> None:
        """Waits until the blocks that the store was given are on disk."""
    def store_identity(self) -> str:
        """Of everything that decides a block's bits."""
    def file_identity(self) -> str:
        """SHA-256 of the engine file's header, which has checksums of all else."""
    def export_blocks(
        self, token_ids: Sequence[int], pictures: Sequence[tuple[bytes, int]], path: str
    ) -> int:
        """Writes the blocks of a text that the store has into a new file. pictures: (digest, tiles) of each."""
    def adopt_blocks(self, path: str) -> int:
        """Takes over such a file, which is gone then; how many of its blocks are this model's."""
    def close(self) -> None: ...

# --- planning ---------------------------------------------------------------------------------------------------------

def plan(file: EngineFile, **options: Any) -> dict[str, Any]:
    """What an engine of these options (Engine's) would take of its device, whether that is there or not.

    {"bytes": {"weights", "kv_global", "kv_local", "workspace", "logits", "vision", "images", "adapters", "batch",
    "sampling", "scratch", "driver", "total"}, "blocks": {"size", "global", "local"}, "max_model_len", "max_num_seqs",
    "max_batched_tokens", "full_sequences", "longest_context"}. ConfigError when it does not fit memory_bytes, with the
    longest context that would.
    """

def plan_config(config: str, **options: Any) -> dict[str, Any]:
    """The same of a model without a file: its canonical config (JSON), Engine's options and list_weights'."""

def block_rows() -> int:
    """Rows of a block of a packed matrix."""

class WeightFormat:
    """A row of csrc/weights/weight_formats.h."""

    name: str
    bits: int  # of a stored value
    is_scaled: bool  # values come in groups that share a scale
    may_have_zeros: bool
    may_have_offsets: bool
    zero: int  # the code of integers that stands for 0 without zero points and offsets
    from_values: bool  # a build can choose it; others come from checkpoints that hold such codes

def weight_formats() -> list[WeightFormat]: ...
def group_sizes() -> list[int]:
    """Inputs that may share a scale in an engine file, ascending; each divides the next."""

class KvFormat:
    """A row of csrc/ops/kv_formats.h."""

    name: str
    bits: int  # of a stored number
    on_gpu: bool

    def head_bytes(self, head_dim: int) -> int:
        """Bytes that the keys, or the values, of one token and one head take."""

def kv_formats() -> list[KvFormat]: ...
def auto_kv_format(device: str, head_dim: int) -> str:
    """The cache format that "auto" means on "reference", "cpu" or "cuda:N"."""

class TensorSpec:
    """One tensor of a model: csrc/model/shape.h."""

    name: str
    role: str
    experts: int
    n: int  # stored rows, padding included
    k: int
    parts: list[tuple[str, int]]  # name and rows of each matrix that is fused here; "": the only one
    plain_shape: list[int] | None  # of what is stored as fp32 numbers; None for a matrix
    shard: str  # "none", "rows" or "experts": how several devices would share it
    def stored_rows(self, part: int, start: int, stop: int) -> NDArray[np.int64]:
        """Where rows start..stop of a part are stored. IndexError when the part has no such rows."""

def list_tensors(config: str) -> list[TensorSpec]:
    """Every tensor of a model of this canonical config (JSON), in the order of an engine file. ConfigError."""

def list_weights(
    config: str,
    *,
    weights: str = "int4",
    group_size: int = 128,
    experts_only: bool = False,
    lm_head: str = "bf16",
    vision: str = "bf16",
) -> list[tuple[str, str, list[int], int]]:
    """(name, kind, [E, N, K], bytes with scales) of every weight that build() would store with such options."""

# --- quality ----------------------------------------------------------------------------------------------------------

class ObservedEngine:
    """An engine file that runs one prompt at a time and shows what its ops do. The GIL is held meanwhile."""

    def __init__(
        self,
        path: _Path,
        observer: Callable[[str, list[str], dict[str, NDArray[Any]], dict[str, NDArray[Any]]], None],
        **options: Any,
    ) -> None:
        """observer(op, names of the tensors it reads, operands before it, outputs after it): copies, for each op in
        turn; what it raises ends the run. Options of Engine.
        """
    @property
    def device(self) -> str: ...
    def run(self, token_ids: Sequence[int]) -> None:
        """The prompt in one step: it may have at most max_batched_tokens, and no more than an attention chunk."""
    def close(self) -> None: ...

def compare_logits(
    p: NDArray[np.float32], q: NDArray[np.float32], next: NDArray[np.int32], num_threads: int = 0
) -> dict[str, NDArray[Any]]:
    """Of each row of two models' logits [rows, vocab]: "divergence" of q from p in nats (float64), "p_logprob" and
    "q_logprob" of the token that follows, "p_best" and "q_best", and whether both are "finite". num_threads 0: all
    processors. GIL released.
    """

# --- ops, for tests ---------------------------------------------------------------------------------------------------

def rmsnorm(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    eps: float,
    device: str = "cpu",
) -> NDArray[np.float32]:
    """[T, H] rows normalised by the named device."""

def linear(
    file: EngineFile, name: str, x: NDArray[np.float32], expert: int = 0, device: str = "cpu"
) -> NDArray[np.float32]:
    """x [T, K] times the stored matrix: float32 [T, N]."""

def measure_machine(num_threads: int = 0) -> dict[str, float]:
    """{"read_gbps", "fma_gflops", "int8_gops"} of this machine now, by num_threads threads (a second). GIL released."""
