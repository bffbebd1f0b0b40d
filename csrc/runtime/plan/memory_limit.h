// How much memory this process may still take: what the machine has available, within its cgroup's limit.
#pragma once

#include <cstdint>

namespace llama4rt {

// Bytes; a cautious guess (1 GiB) where the system does not say.
int64_t available_memory();

}  // namespace llama4rt
