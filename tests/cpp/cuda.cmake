# llama4rt_simt_tests: the CUDA kernels, their launchers and CUDA as ordinary C++ over
# tests/simt_emulator. Needs no CUDA of any kind.
#
# Kernel files (and tests with kernels of their own) are "instrumented": g++ -fsanitize=thread turns each load
# and store into a call, which tests/simt_emulator/tsan_hooks.cpp answers. The sanitizer itself is not linked.
set(instrumented OFF)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT LLAMA4RT_SANITIZE)
  set(instrumented ON)
endif()

add_library(llama4rt_simt_flags INTERFACE)
target_compile_definitions(llama4rt_simt_flags INTERFACE LLAMA4RT_SIMT_EMULATOR
                                                         $<$<BOOL:${instrumented}>:LLAMA4RT_SIMT_CHECKED>)
target_include_directories(llama4rt_simt_flags INTERFACE ${PROJECT_SOURCE_DIR}/csrc ${PROJECT_SOURCE_DIR}/tests
                                                         ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(llama4rt_simt_flags INTERFACE llama4rt_flags)

# Kernels view shared memory as several types, as CUDA allows. -O1 -g1: reports name lines.
set(kernel_options -fno-strict-aliasing -O1 -g1)
if(instrumented)
  list(APPEND kernel_options -fsanitize=thread --param=tsan-instrument-func-entry-exit=0)
endif()

file(GLOB emulator_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/simt_emulator/*.cpp)
file(GLOB device_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/cuda/cuda_*.cpp)
add_library(llama4rt_simt_emulator STATIC ${emulator_sources} ${device_sources})
target_link_libraries(llama4rt_simt_emulator PUBLIC llama4rt_runtime llama4rt_reference llama4rt_cpu
                                             PRIVATE llama4rt_simt_flags)

include(cuda/planted_bugs.cmake)
file(GLOB kernel_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/cuda/kernels/*.cu)
file(GLOB test_kernels CONFIGURE_DEPENDS cuda/*.cu)
list(APPEND kernel_sources ${test_kernels})
file(GLOB kernel_tests CONFIGURE_DEPENDS cuda/*_kernels_test.cpp)
file(GLOB planted_tests CONFIGURE_DEPENDS cuda/*_bugs_kernels_test.cpp)
if(NOT instrumented) # most planted bugs pass unseen without the checker
  list(REMOVE_ITEM kernel_tests ${planted_tests})
endif()
set_source_files_properties(${kernel_sources} PROPERTIES LANGUAGE CXX)
add_library(llama4rt_simt_kernels OBJECT ${kernel_sources})
add_library(llama4rt_simt_kernel_tests OBJECT ${kernel_tests})
foreach(target llama4rt_simt_kernels llama4rt_simt_kernel_tests)
  target_compile_options(${target} PRIVATE ${kernel_options})
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
  target_link_libraries(${target} PRIVATE llama4rt_simt_flags)
endforeach()
foreach(source IN LISTS kernel_sources)
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-x;c++")
endforeach()

# The tests of kernels that run on both executors: what is launched there is a kernel as it is.
set(both_tests cuda/attention_test.cpp cuda/engine_test.cpp cuda/experts_test.cpp cuda/layernorm_test.cpp
               cuda/linear_test.cpp cuda/many_rows_test.cpp cuda/rmsnorm_test.cpp cuda/route_test.cpp cuda/rows_test.cpp
               cuda/sampling_test.cpp cuda/tiles_test.cpp)
list(TRANSFORM both_tests PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
add_library(llama4rt_both_tests OBJECT ${both_tests})
target_link_libraries(llama4rt_both_tests PRIVATE llama4rt_runtime llama4rt_reference llama4rt_simt_flags)

file(GLOB simt_tests CONFIGURE_DEPENDS cuda/*_test.cpp)
list(REMOVE_ITEM simt_tests ${kernel_tests} ${planted_tests} ${both_tests})
# make_device.cpp is built in, so that "cuda:0" is the emulated device in these tests.
add_executable(llama4rt_simt_tests main.cpp runner_test.cpp poison_freed_memory.cpp ${simt_tests} ${PROJECT_SOURCE_DIR}/csrc/make_device.cpp
                                   $<TARGET_OBJECTS:llama4rt_simt_kernels> $<TARGET_OBJECTS:llama4rt_simt_kernel_tests>
                                   $<TARGET_OBJECTS:llama4rt_both_tests>)
target_link_libraries(llama4rt_simt_tests PRIVATE llama4rt_simt_emulator llama4rt_reference llama4rt_simt_flags)
add_test(NAME llama4rt_simt_tests COMMAND llama4rt_simt_tests)

# The same launchers and tests over tests/ptx_executor, which runs the PTX that nvcc makes of the kernels (make test-ptx).
# It is compiled so that float arithmetic is what it says: nothing fused.
file(GLOB ptx_executor_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/ptx_executor/*.cpp)
add_library(llama4rt_ptx_executor STATIC EXCLUDE_FROM_ALL ${ptx_executor_sources})
target_compile_options(llama4rt_ptx_executor PRIVATE -fno-strict-aliasing -ffp-contract=off)
target_link_libraries(llama4rt_ptx_executor PUBLIC llama4rt_simt_emulator PRIVATE llama4rt_simt_flags)
file(GLOB ptx_tests CONFIGURE_DEPENDS ptx/*_test.cpp)
add_executable(llama4rt_ptx_tests EXCLUDE_FROM_ALL main.cpp poison_freed_memory.cpp ptx/install.cpp ${ptx_tests}
                                  ${PROJECT_SOURCE_DIR}/csrc/make_device.cpp $<TARGET_OBJECTS:llama4rt_simt_kernels>
                                  $<TARGET_OBJECTS:llama4rt_both_tests>)
target_link_libraries(llama4rt_ptx_tests PRIVATE llama4rt_ptx_executor llama4rt_reference llama4rt_simt_flags)

# The results of every PTX function as JSON, to be compared with a GPU's (scripts/compare_conformance.py).
add_executable(llama4rt_ptx_conformance_emulated cuda/ptx_conformance_main.cpp cuda/ptx_conformance.cu)
target_compile_options(llama4rt_ptx_conformance_emulated PRIVATE -fno-strict-aliasing)
target_link_libraries(llama4rt_ptx_conformance_emulated PRIVATE llama4rt_simt_emulator llama4rt_simt_flags)
