// The keyword arguments that everything which opens or plans an engine takes.
#pragma once

#include <pybind11/pybind11.h>

#include "model/shape.h"
#include "runtime/engine/engine.h"

namespace llama4rt {

// Of Engine(), Engine.dummy(), ObservedEngine() and plan(); `model` takes those of WeightOptions too.
EngineOptions engine_options(const pybind11::kwargs& given, WeightOptions* model = nullptr);

}  // namespace llama4rt
