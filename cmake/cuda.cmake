# LLAMA4RT_CUDA=ON builds csrc/cuda for GPUs and fails without nvcc; AUTO builds it where nvcc of a CUDA toolkit is found
# (CUDACXX, CUDA_HOME, PATH), and says so in one line where not; OFF does not look. ON also takes the compiler of the
# PyPI packages (nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl, all of one minor
# version) from the Python that builds. cudart is linked statically and nothing links the driver. Machine code for Hopper,
# PTX for the others. Afterwards LLAMA4RT_CUDA is ON or OFF.
if(LLAMA4RT_CUDA STREQUAL "AUTO" OR LLAMA4RT_CUDA)
  find_program(
    LLAMA4RT_NVCC nvcc
    HINTS "${CMAKE_CUDA_COMPILER}" "$ENV{CUDACXX}" "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin"
    PATHS /usr/local/cuda/bin)
  if(NOT LLAMA4RT_NVCC AND NOT LLAMA4RT_CUDA STREQUAL "AUTO")
    find_package(Python COMPONENTS Interpreter)
    execute_process(COMMAND "${Python_EXECUTABLE}" -c "import sysconfig; print(sysconfig.get_path('purelib'))"
                    OUTPUT_VARIABLE purelib OUTPUT_STRIP_TRAILING_WHITESPACE)
    set(wheels "${purelib}/nvidia/cu13")
    find_program(LLAMA4RT_NVCC nvcc HINTS "${wheels}/bin" NO_DEFAULT_PATH)
    # Their libraries are in lib, where nvcc looks for lib64.
    set(CMAKE_CUDA_FLAGS "-L${wheels}/lib" CACHE STRING "flags of nvcc")
  endif()
  if(LLAMA4RT_NVCC)
    set(CMAKE_CUDA_COMPILER "${LLAMA4RT_NVCC}")
    set(LLAMA4RT_CUDA ON)
    message(STATUS "llama4rt: with CUDA, compiled by ${LLAMA4RT_NVCC}")
  elseif(LLAMA4RT_CUDA STREQUAL "AUTO")
    set(LLAMA4RT_CUDA OFF)
    message(STATUS "llama4rt: without CUDA, because there is no nvcc (LLAMA4RT_CUDA=ON insists)")
  else()
    message(FATAL_ERROR "LLAMA4RT_CUDA=ON, but there is no nvcc: install the CUDA toolkit 13, or pip install "
                        "'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' "
                        "'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' and build without isolation")
  endif()
endif()
if(NOT LLAMA4RT_CUDA)
  return()
endif()

enable_language(CUDA)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know that nvcc has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_ARCHITECTURES OFF) # named below: "90a" and plain PTX in one list confuse older CMakes

add_library(llama4rt_cuda_flags INTERFACE)
target_compile_options(
  llama4rt_cuda_flags
  INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_80,code=compute_80
            -Xcompiler=-Wall,-Wextra,-fstack-protector-strong -lineinfo>)

function(llama4rt_as_cuda)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CUDA)
endfunction()
