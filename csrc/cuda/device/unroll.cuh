// LLAMA4RT_UNROLL before a loop whose index picks registers: an array that is indexed at run time would lie
// in local memory.
#pragma once

#ifdef LLAMA4RT_SIMT_EMULATOR
#define LLAMA4RT_UNROLL
#define LLAMA4RT_ROLL
#else
#define LLAMA4RT_UNROLL _Pragma("unroll")
#define LLAMA4RT_ROLL _Pragma("unroll 1")
#endif
