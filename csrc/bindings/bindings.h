// The parts of the native module llama4rt._core, one function per file. The bindings are thin: convert,
// release the GIL, call. Errors need no care here: module.cpp maps every llama4rt::Error to its Python class.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "weights/pack.h"
#include "weights/weight.h"

namespace llama4rt {

void bind_format(pybind11::module_& m);     // files: SafetensorsFile, EngineFile, EngineWriter
void bind_adapter(pybind11::module_& m);    // Adapter, before what takes one
void bind_requests(pybind11::module_& m);   // Request, TokenMask, SuffixIndex
void bind_engine(pybind11::module_& m);     // Event, Engine
void bind_calibrate(pybind11::module_& m);  // Calibration, and its arithmetic for tests
void bind_ops(pybind11::module_& m);        // single ops for tests, and the machine's limits
void bind_observed_engine(pybind11::module_& m);
void bind_quality(pybind11::module_& m);  // logits of two models compared

// The file system's own bytes of a str, bytes or os.PathLike. Throws kEngineFile for a str that names no
// file, TypeError for other types.
std::string file_path(const pybind11::object& path);

// source is [rows, columns], or [columns, rows] when transposed; any strides.
SourceMatrix source_matrix(const pybind11::array& source, const std::string& dtype, bool transposed);

// "int4", "int8" or "bf16"; throws kConfig for anything else.
WeightKind weight_kind(const std::string& name);

// For every class_: where there is no memory for an instance, pybind11 (3.1) writes to null; with this it is MemoryError.
pybind11::custom_type_setup checked_instances();

}  // namespace llama4rt
