// The dot products of the avx_vnni table with the same instructions in their encoding of AVX-512.
#pragma once

#include "cpu/x86/intrinsics.h"

#define _mm256_dpwssd_avx_epi32 _mm256_dpwssd_epi32
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#include "cpu/x86/dot_avx_vnni.h"
