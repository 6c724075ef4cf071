# One object library per ISA. Only isa_*.cc get ISA flags; everything else stays baseline, so that the
# library starts on any x86-64 and the table is chosen at run time (kernels/cpu/dispatch.cc must test for
# everything that is switched on here: the compiler may use it anywhere in the object).
set(TT_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(TT_ISA_FLAGS_avx_vnni ${TT_ISA_FLAGS_avx2} -mavxvnni)
set(TT_ISA_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c)
set(TT_ISA_FLAGS_avx512_bf16 ${TT_ISA_FLAGS_avx512} -mavx512bf16)
set(TT_ISA_FLAGS_amx ${TT_ISA_FLAGS_avx512_bf16} -mamx-tile -mamx-bf16 -mamx-int8)
set(TT_ISA_FLAGS_neon)  # AArch64 always has it
set(TT_ISA_FLAGS_neon_dot -march=armv8.2-a+dotprod)
set(TT_ISA_FLAGS_neon_i8mm -march=armv8.2-a+dotprod+i8mm)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(TT_ISAS avx2 avx_vnni avx512 avx512_bf16 amx)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(TT_ISAS neon neon_dot neon_i8mm)
else()
  set(TT_ISAS)
endif()

function(tt_add_isa target isa source)
  add_library(tt_isa_${isa} OBJECT ${source})
  target_include_directories(tt_isa_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/kernels/include)
  # Bodies never throw; with exceptions on, -O0 objects hold a weak reference to the personality routine.
  target_compile_options(tt_isa_${isa} PRIVATE ${TT_ISA_FLAGS_${isa}} -fno-exceptions)
  target_link_libraries(tt_isa_${isa} PRIVATE tt_options)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:tt_isa_${isa}>)
endfunction()

function(tt_add_isas target)
  foreach(isa IN LISTS TT_ISAS)
    tt_add_isa(${target} ${isa} cpu/isa_${isa}.cc)
  endforeach()
endfunction()

# For tests alone: AVX-VNNI's bodies with the same instruction of AVX512_VNNI on 256 bits, which machines have that
# lack the former. The bodies must not see AVX-512.
set(TT_ISA_FLAGS_avx_vnni_evex ${TT_ISA_FLAGS_avx2} -mavx512vl -mavx512vnni -U__AVX512F__)
function(tt_add_stand_ins target)
  if(TARGET tt_isa_avx_vnni)
    tt_add_isa(${target} avx_vnni_evex ${PROJECT_SOURCE_DIR}/kernels/cpu/isa_avx_vnni.cc)
  endif()
endfunction()
