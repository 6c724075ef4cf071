// Between dispatch.cc, compute.cc and the ISA files only.
#pragma once

#include "trimtok/kernels.h"

namespace trimtok {

// Each replaces the entries of simd/served.def with its own bodies and records itself in served_by.
void install_avx2(KernelTable& table);
void install_avx512(KernelTable& table);
void install_neon(KernelTable& table);
// These replace matmul only, and hand what they do not do better to the body that they find in the table.
void install_avx_vnni(KernelTable& table);
void install_avx512_bf16(KernelTable& table);
void install_amx(KernelTable& table);
void install_neon_dot(KernelTable& table);
void install_neon_i8mm(KernelTable& table);
// In the parity program alone: the bodies of install_avx_vnni on a machine with AVX512_VNNI.
void install_avx_vnni_evex(KernelTable& table);

// Whether vdpbf16ps multiplies faster than f32 FMA here: twice as fast on AMD, slower on Intel, where it is
// meant to be used beside AMX. False without AVX512_BF16.
bool bf16_beats_f32();

}  // namespace trimtok
