// The reference backend: every op as plain fp32 loops, slow on purpose. It is the definition the others are
// tested against.
#pragma once

#include <memory>

#include "ops/backend.h"

namespace llama4rt {

std::unique_ptr<Backend> make_reference_backend();

}  // namespace llama4rt
