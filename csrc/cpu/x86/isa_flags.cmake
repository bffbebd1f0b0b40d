# Instruction-set flags of each table beside this file.
set(LLAMA4RT_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(LLAMA4RT_ISA_FLAGS_avx_vnni ${LLAMA4RT_ISA_FLAGS_avx2} -mavxvnni)
set(LLAMA4RT_ISA_FLAGS_avx512 ${LLAMA4RT_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq
                              -mprefer-vector-width=512 $<$<CXX_COMPILER_ID:Clang>:-mevex512>)
set(LLAMA4RT_ISA_FLAGS_avx512_vnni ${LLAMA4RT_ISA_FLAGS_avx512} -mavx512vnni)
set(LLAMA4RT_ISA_FLAGS_amx ${LLAMA4RT_ISA_FLAGS_avx512_vnni} -mamx-tile -mamx-int8)
