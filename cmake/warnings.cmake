# Warnings, numerics flags and sanitizers shared by every C++ target of the project.
add_library(llama4rt_flags INTERFACE)
target_compile_options(
  llama4rt_flags
  INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wcast-qual -Werror
            # GCC 12 sees an overlap in "text" + std::string that is not there (GCC bug 105651).
            $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
            # Results are the same bits on every instruction set: the compiler may not fuse a*b+c by itself.
            -ffp-contract=off -fno-math-errno)
target_compile_definitions(llama4rt_flags INTERFACE LLAMA4RT_VERSION="${LLAMA4RT_VERSION}"
                                                    $<$<BOOL:${LLAMA4RT_ASSERTS}>:LLAMA4RT_ASSERTS>)
if(LLAMA4RT_SANITIZE)
  foreach(sanitizer IN LISTS LLAMA4RT_SANITIZE)
    target_compile_options(llama4rt_flags INTERFACE -fsanitize=${sanitizer} -fno-sanitize-recover=all)
    target_link_options(llama4rt_flags INTERFACE -fsanitize=${sanitizer})
  endforeach()
  # Sanitized code keeps GCC from seeing what an empty std::optional holds, and it warns of that (GCC bug 105562).
  target_compile_options(llama4rt_flags INTERFACE -fno-omit-frame-pointer -g
                                                  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
  # The library opens files from strangers. Buffers and containers check their bounds where the compiler cannot, indirect
  # jumps land only where they may, and the tables of imported functions are read-only.
  target_compile_options(
    llama4rt_flags INTERFACE -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -D_GLIBCXX_ASSERTIONS
                             $<$<CXX_COMPILER_ID:Clang>:-U_LIBCPP_HARDENING_MODE>
                             $<$<CXX_COMPILER_ID:Clang>:-D_LIBCPP_HARDENING_MODE=_LIBCPP_HARDENING_MODE_FAST>)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    target_compile_options(llama4rt_flags INTERFACE -fcf-protection=full)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    target_compile_options(llama4rt_flags INTERFACE -mbranch-protection=standard)
  endif()
  target_link_options(llama4rt_flags INTERFACE -Wl,-z,relro,-z,now)
endif()
