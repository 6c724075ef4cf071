// Which tables this machine can run, and the layers they are made of: ref <- avx2 <- avx512 <- avx512_bf16 <-
// amx, avx2 <- avx_vnni, ref <- neon <- neon_dot <- neon_i8mm.
#include "kernels/cpu/isa_tables.h"
#include "trimtok/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace trimtok {
namespace {

struct Tables {
  KernelTable table[kNumIsas];
  bool available[kNumIsas] = {};
};

void add_table(Tables& t, Isa isa, Isa below, void (*install)(KernelTable&)) {
  KernelTable& table = t.table[static_cast<int32_t>(isa)];
  table = t.table[static_cast<int32_t>(below)];
  table.isa = isa;
  install(table);
  t.available[static_cast<int32_t>(isa)] = true;
}

void install_ref(KernelTable& table) {
#define TT_OP(name, Args) \
  table.name = ref::name; \
  table.served_by[static_cast<int32_t>(Op::k_##name)] = Isa::kRef;
#include "trimtok/ops.def"
#undef TT_OP
}

#if defined(__x86_64__)

struct X86Features {
  bool avx2 = false;
  bool avx_vnni = false;
  bool avx512 = false;
  bool avx512_bf16 = false;
  bool amx = false;
  bool amd = false;
};

bool is_amd() {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  return __get_cpuid(0, &eax, &ebx, &ecx, &edx) != 0 && ebx == signature_AMD_ebx &&
         ecx == signature_AMD_ecx && edx == signature_AMD_edx;
}

// Linux hands out the 8 KiB of tile registers on request only, to a whole process at once, threads of the
// host application included; virtual machines and containers may refuse. Its answer counts, whatever CPUID
// says.
bool kernel_grants_tiles() {
#if defined(__linux__)
  constexpr long kGetPermission = 0x1022;  // ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM: since Linux 5.16
  constexpr long kAskPermission = 0x1023;
  constexpr long kTileData = 18;  // XFEATURE_XTILEDATA
  uint64_t granted = 0;
  return syscall(SYS_arch_prctl, kAskPermission, kTileData) == 0 &&
         syscall(SYS_arch_prctl, kGetPermission, &granted) == 0 && (granted >> kTileData & 1) != 0;
#else
  return false;
#endif
}

// Eight tiles of 16 rows of 64 bytes, palette 1: what kernels/cpu/simd/gemm_amx.inl.h is written for.
bool has_known_tiles() {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  if (__get_cpuid_count(0x1d, 0, &eax, &ebx, &ecx, &edx) == 0 || eax < 1) return false;
  if (__get_cpuid_count(0x1d, 1, &eax, &ebx, &ecx, &edx) == 0) return false;
  return eax == (1024u << 16 | 8192u) && ebx == (8u << 16 | 64u) && (ecx & 0xffff) == 16;
}

// The bits of every flag in cmake/isa.cmake, and XCR0: without the operating system's consent to save
// the wide registers their instructions fault whatever CPUID says.
X86Features detect_x86() {
  X86Features features;
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return features;
  const uint32_t kLeaf1 = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((ecx & kLeaf1) != kLeaf1) return features;
  uint32_t xcr0 = 0;
  uint32_t xcr0_high = 0;
  __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
  const uint32_t kSseAvxState = 0x06;
  const uint32_t kAvx512State = 0xe0;  // opmask, upper halves of zmm0-15, zmm16-31
  if ((xcr0 & kSseAvxState) != kSseAvxState) return features;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return features;
  features.avx2 = (ebx & bit_AVX2) != 0;
  const uint32_t kAvx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  const uint32_t kAmx = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  const uint32_t kTileState = 0x60000;                   // configuration and data
  const bool tiles = (edx & kAmx) == kAmx && (xcr0 & kTileState) == kTileState;
  features.avx512 = features.avx2 && (ebx & kAvx512) == kAvx512 && (ecx & bit_AVX512VNNI) != 0 &&
                    (xcr0 & kAvx512State) == kAvx512State;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0) return features;
  const uint32_t kAvxVnni = 1u << 4;
  features.avx_vnni = features.avx2 && (eax & kAvxVnni) != 0;
  features.avx512_bf16 = features.avx512 && (eax & bit_AVX512BF16) != 0;
  features.amx = features.avx512_bf16 && tiles && has_known_tiles() && kernel_grants_tiles();
  features.amd = is_amd();
  return features;
}

const X86Features& x86_features() {
  static const X86Features kFeatures = detect_x86();
  return kFeatures;
}

void add_native_tables(Tables& t) {
  const X86Features& features = x86_features();
  if (features.avx2) add_table(t, Isa::kAvx2, Isa::kRef, install_avx2);
  if (features.avx_vnni) add_table(t, Isa::kAvxVnni, Isa::kAvx2, install_avx_vnni);
  if (features.avx512) add_table(t, Isa::kAvx512, Isa::kAvx2, install_avx512);
  if (features.avx512_bf16) add_table(t, Isa::kAvx512Bf16, Isa::kAvx512, install_avx512_bf16);
  if (features.amx) add_table(t, Isa::kAmx, Isa::kAvx512Bf16, install_amx);
}

#elif defined(__aarch64__)

bool has_dot_product() {
#if defined(__linux__)
  constexpr unsigned long kHwcapAsimdDp = 1ul << 20;
  return (getauxval(AT_HWCAP) & kHwcapAsimdDp) != 0;
#else
  return false;
#endif
}

bool has_byte_matrices() {
#if defined(__linux__)
  constexpr unsigned long kHwcap2I8mm = 1ul << 13;
  return (getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0;
#else
  return false;
#endif
}

// Advanced SIMD is part of the AArch64 baseline: nothing to ask.
void add_native_tables(Tables& t) {
  add_table(t, Isa::kNeon, Isa::kRef, install_neon);
  if (!has_dot_product()) return;
  add_table(t, Isa::kNeonDot, Isa::kNeon, install_neon_dot);
  if (has_byte_matrices()) add_table(t, Isa::kNeonI8mm, Isa::kNeonDot, install_neon_i8mm);
}

#else

void add_native_tables(Tables&) {}

#endif

Tables build_tables() {
  Tables t;
  add_table(t, Isa::kRef, Isa::kRef, install_ref);
  add_native_tables(t);
  return t;
}

const Tables& tables() {
  static const Tables kTables = build_tables();
  return kTables;
}

}  // namespace

bool bf16_beats_f32() {
#if defined(__x86_64__)
  return x86_features().avx512_bf16 && x86_features().amd;
#else
  return false;
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kRef:
      return "ref";
    case Isa::kNeon:
      return "neon";
    case Isa::kNeonDot:
      return "neon_dot";
    case Isa::kNeonI8mm:
      return "neon_i8mm";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avx_vnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
    case Isa::kCuda:
      return "cuda";
    case Isa::kCudaHost:
      return "cuda_host";
    case Isa::kNone:
      return "none";
  }
  return "unknown";
}

const char* op_name(Op op) {
  switch (op) {
#define TT_OP(name, Args) \
  case Op::k_##name:      \
    return #name;
#include "trimtok/ops.def"
#undef TT_OP
    case Op::kCount:
      break;
  }
  return "unknown";
}

const KernelTable* cpu_table(Isa isa) {
  const auto i = static_cast<int32_t>(isa);
  if (i < 0 || i >= kNumIsas || !tables().available[i]) return nullptr;
  return &tables().table[i];
}

Isa best_cpu_isa() {
  Isa best = Isa::kRef;
  for (int32_t i = 0; i < kNumIsas; ++i) {
    if (tables().available[i]) best = static_cast<Isa>(i);
  }
  return best;
}

}  // namespace trimtok
