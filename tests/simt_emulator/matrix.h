// Warp matrix instructions: ldmatrix, mma.sync and wgmma, with the fragment maps of the PTX manual.
// Products are exact and summed in fp32 in the order of k; hardware uses another order and truncates, so
// results are compared with a tolerance, never bit for bit.
#pragma once

#include <cstdint>
#include <string>

#include "simt_emulator/site.h"

namespace llama4rt::simt {

// Four (or 1, 2) 8x8 matrices of 16-bit elements; row addresses come from lanes 8m..8m+7.
void ldmatrix(uint32_t* out, int matrices, uint32_t row_address, bool transposed, Site site);
// d = a * b + c.  a: 16x16 bf16, b: 16x8 bf16, c and d: 16x8 fp32.
void mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c, Site site);

// --- wgmma: d[64][n] (+)= a[64][16] * b[16][n], bf16 into fp32. Accumulators are NaN from issue to wait.
void wgmma_fence();
void wgmma_m64k16_bf16(float* d, int n, const uint32_t* a_registers, uint64_t a_descriptor,
                       uint64_t b_descriptor, bool accumulate, Site site);
void wgmma_commit(Site site);
void wgmma_wait(int groups_left, Site site);

// --- for the executor
struct Block;
void begin_matrix(Block& b);
std::string wgmma_in_flight(const Block& b);

}  // namespace llama4rt::simt
