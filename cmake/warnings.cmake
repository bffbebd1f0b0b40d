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
  # _FORTIFY_SOURCE, stack protector and full RELRO: the library opens files from strangers.
  target_compile_options(llama4rt_flags INTERFACE -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
  target_link_options(llama4rt_flags INTERFACE -Wl,-z,relro,-z,now)
endif()
