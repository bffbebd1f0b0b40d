# LLAMA4RT_CUDA=ON: csrc/cuda for real GPUs, with nvcc (CMAKE_CUDA_COMPILER; the PyPI packages need
# -DCMAKE_CUDA_FLAGS=-L<site-packages>/nvidia/cu13/lib as well). cudart is linked statically and nothing links the
# driver. Machine code for Hopper, PTX for the others.
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_ARCHITECTURES OFF) # named below: "90a" and plain PTX in one list confuse older CMakes

add_library(llama4rt_cuda_flags INTERFACE)
target_compile_options(
  llama4rt_cuda_flags
  INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_80,code=compute_80
            -Xcompiler=-Wall,-Wextra -lineinfo>)

function(llama4rt_as_cuda)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CUDA)
endfunction()
