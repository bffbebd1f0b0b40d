"""Writes a GGUF model again with its matrices in another type, by the gguf package's own quantiser.

    python benchmarks/quality/gguf_kind.py model.gguf Q4_0 q40.gguf

So that the table has rows that are quantised as llama.cpp does it: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0, without an
importance matrix; the package cannot write k-quants. Matrices are taken from the file as the numbers they mean, to the
nearest bf16, as the table's other rows do. Embeddings and norms stay as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np


def write_kind(source: Path, kind: gguf.GGMLQuantizationType, out: Path) -> None:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=of)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or len(tensor.shape) < 2:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        bits = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).view(np.uint32)
        values = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).view(np.float32)
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("kind", type=lambda name: gguf.GGMLQuantizationType[name])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write_kind(arguments.source, arguments.kind, arguments.out)
