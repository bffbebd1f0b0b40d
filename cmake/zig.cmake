# Toolchain of scripts/dist.py: zig's C++ compiler, which brings the headers and symbols of any glibc and links its C++
# library in, so that a wheel runs on systems older than the one it was built on. Environment: LLAMA4RT_ZIG_BIN, the folder
# of its wrappers; LLAMA4RT_ZIG_PROCESSOR, x86_64 or aarch64.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $ENV{LLAMA4RT_ZIG_PROCESSOR})
set(CMAKE_C_COMPILER $ENV{LLAMA4RT_ZIG_BIN}/cc)
set(CMAKE_CXX_COMPILER $ENV{LLAMA4RT_ZIG_BIN}/c++)
set(CMAKE_AR $ENV{LLAMA4RT_ZIG_BIN}/ar CACHE FILEPATH "")
set(CMAKE_RANLIB $ENV{LLAMA4RT_ZIG_BIN}/ranlib CACHE FILEPATH "")
set(CMAKE_STRIP $ENV{LLAMA4RT_ZIG_BIN}/strip CACHE FILEPATH "")
set(CMAKE_MODULE_LINKER_FLAGS_INIT -s) # zig has no strip
