# Instruction-set flags, one set per file of csrc/cpu/isa; nothing else in the project is built with any of them.
set(LLAMA4RT_ISA_FLAGS_scalar "")
set(LLAMA4RT_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(LLAMA4RT_ISA_FLAGS_avx_vnni ${LLAMA4RT_ISA_FLAGS_avx2} -mavxvnni)
set(LLAMA4RT_ISA_FLAGS_avx512 ${LLAMA4RT_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq
                              -mprefer-vector-width=512)
set(LLAMA4RT_ISA_FLAGS_avx512_vnni ${LLAMA4RT_ISA_FLAGS_avx512} -mavx512vnni)
set(LLAMA4RT_ISA_FLAGS_amx ${LLAMA4RT_ISA_FLAGS_avx512_vnni} -mamx-tile -mamx-int8)

function(llama4rt_isa_flags directory)
  file(GLOB files CONFIGURE_DEPENDS ${directory}/*.cpp)
  foreach(file IN LISTS files)
    get_filename_component(isa ${file} NAME_WE)
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${LLAMA4RT_ISA_FLAGS_${isa}}")
  endforeach()
endfunction()
