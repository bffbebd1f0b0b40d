# llama4rt_gpu_tests: the kernels' tests on a real GPU, and the results of every PTX function. The tests of the
# emulator itself (probes, teeth, planted bugs) stay where it is.
set(gpu_sources cuda/linear_test.cpp cuda/rmsnorm_test.cpp cuda/ptx_conformance.cu)
llama4rt_as_cuda(${gpu_sources} cuda/ptx_conformance_main.cpp)

add_executable(llama4rt_gpu_tests main.cpp ${gpu_sources})
add_executable(llama4rt_ptx_conformance cuda/ptx_conformance_main.cpp cuda/ptx_conformance.cu)
foreach(target llama4rt_gpu_tests llama4rt_ptx_conformance)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${target} PRIVATE llama4rt_cuda llama4rt_reference llama4rt_cuda_flags)
endforeach()
