// Names of this program's own functions. A kernel compiled by g++ and by nvcc has the same mangled name, so the address
// that a launcher passes leads to the kernel's PTX.
#pragma once

#include <string>

namespace llama4rt::ptx_executor {

// The mangled name of the function at `address`; throws when there is none, or more than one.
const std::string& name_of_function(const void* address);

// A mangled name with anonymous namespaces spelled as g++ does: nvcc puts a hash and the file into theirs.
std::string as_the_host_spells(std::string name);

}  // namespace llama4rt::ptx_executor
