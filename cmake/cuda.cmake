# The CUDA table, in one of three forms: absent (stubs that say so), compiled by nvcc (TRIMTOK_CUDA), or the
# same sources as C++ over kernels/cuda_host (TRIMTOK_CUDA_HOST), which needs NVIDIA's headers but no GPU.
set(TT_CUDA_SOURCES
  cuda/attention.cu
  cuda/attention_few.cu
  cuda/attention_many.cu
  cuda/convert.cu
  cuda/device.cu
  cuda/gemm_f32.cu
  cuda/gemm_int8.cu
  cuda/gemm_int8_blocks256.cu
  cuda/gemm_int8_blocks32.cu
  cuda/gemm_mma.cu
  cuda/gemm_mma_blocks256.cu
  cuda/gemm_mma_blocks32.cu
  cuda/gemm_mma_dense.cu
  cuda/gram.cu
  cuda/greedy.cu
  cuda/greedy_wide.cu
  cuda/matmul.cu
  cuda/matvec.cu
  cuda/matvec_dense.cu
  cuda/prune_rows.cu
  cuda/rows.cu
)
# Machine code for every generation from sm_75, the oldest that nvcc 13 knows, to sm_120, and PTX for those to
# come. The kernels know two kinds, before and from sm_80 on, so the front end runs twice and not six times.
set(TT_CUDA_GENCODE -gencode=arch=compute_75,code=sm_75
                    -gencode=arch=compute_80,code=[sm_80,sm_86,sm_89,sm_90,sm_120,compute_80])

if(TRIMTOK_CUDA)
  if(DEFINED CMAKE_CUDA_ARCHITECTURES)  # the caller's choice, "native" for one
    set(TT_CUDA_GENCODE)
  else()
    set(CMAKE_CUDA_ARCHITECTURES OFF)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # the library starts, and says what is missing, without any CUDA
  enable_language(CUDA)
endif()

function(tt_add_cuda target)
  if(TRIMTOK_CUDA AND TRIMTOK_CUDA_HOST)
    message(FATAL_ERROR "TRIMTOK_CUDA and TRIMTOK_CUDA_HOST exclude each other: choose one")
  elseif(TRIMTOK_CUDA)
    tt_add_cuda_device(${target})
  elseif(TRIMTOK_CUDA_HOST)
    tt_add_cuda_host(${target})
  else()
    target_sources(${target} PRIVATE cuda/no_cuda.cc)
  endif()
endfunction()

function(tt_add_cuda_device target)
  add_library(tt_cuda OBJECT ${TT_CUDA_SOURCES})
  target_include_directories(tt_cuda PRIVATE include ${PROJECT_SOURCE_DIR})
  target_compile_options(tt_cuda PRIVATE ${TT_CUDA_GENCODE} -Werror all-warnings -Xcompiler=-Wall,-Wextra)
  find_package(CUDAToolkit REQUIRED)
  target_sources(${target} PRIVATE cuda/table.cc $<TARGET_OBJECTS:tt_cuda>)
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
endfunction()

# cuda_fp16.h and its company: a toolkit, or the PyPI wheels nvidia-cuda-runtime, -crt and -cccl.
function(tt_find_cuda_headers)
  set(hints $ENV{CUDA_HOME}/include /usr/local/cuda/include)
  find_package(Python QUIET COMPONENTS Interpreter)
  if(Python_SITELIB)
    list(APPEND hints ${Python_SITELIB}/nvidia/cu13/include)
  endif()
  find_path(TRIMTOK_CUDA_INCLUDE_DIR cuda_fp16.h HINTS ${hints} DOC "NVIDIA's CUDA headers")
  if(NOT TRIMTOK_CUDA_INCLUDE_DIR)
    message(FATAL_ERROR "TRIMTOK_CUDA_HOST needs NVIDIA's headers: set TRIMTOK_CUDA_INCLUDE_DIR, or install "
                        "nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl (13.0) from PyPI")
  endif()
endfunction()

# The .cu files named after the target are C++ in it.
function(tt_compile_as_host_cuda target)
  # CUDA's pragmas (unroll) mean nothing to a C++ compiler.
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-Wno-unknown-pragmas")
  target_include_directories(${target} SYSTEM PRIVATE ${TRIMTOK_CUDA_INCLUDE_DIR})
  target_compile_definitions(${target} PRIVATE TT_CUDA_HOST)
endfunction()

function(tt_add_cuda_host target)
  tt_find_cuda_headers()
  # The layer itself is never sanitized: see kernels/cuda_host/machine.h.
  add_library(tt_cuda_host OBJECT
    cuda_host/collectives.cc
    cuda_host/memory.cc
    cuda_host/runtime_api.cc
    cuda_host/scheduler.cc
    cuda_host/tensor_core.cc
  )
  target_link_libraries(tt_cuda_host PRIVATE tt_warnings)
  target_include_directories(tt_cuda_host SYSTEM PRIVATE ${TRIMTOK_CUDA_INCLUDE_DIR})
  # Loops must not become calls of memset and memcpy, which sanitizers intercept.
  target_compile_options(
    tt_cuda_host
    PRIVATE -O2 $<$<CXX_COMPILER_ID:GNU>:-fno-tree-loop-distribute-patterns>
            $<$<CXX_COMPILER_ID:Clang,AppleClang>:-fno-builtin>)
  # The seam is apart, so that tests of the layer build without the kernels.
  set(kernels ${TT_CUDA_SOURCES})
  list(REMOVE_ITEM kernels cuda/device.cu)
  add_library(tt_cuda_seam OBJECT cuda/device.cu)
  add_library(tt_cuda OBJECT ${kernels})
  foreach(part tt_cuda_seam tt_cuda)
    target_include_directories(${part} PRIVATE include)
    target_link_libraries(${part} PRIVATE tt_options)
    tt_compile_as_host_cuda(${part} ${TT_CUDA_SOURCES})
  endforeach()
  target_sources(${target} PRIVATE cuda/table.cc $<TARGET_OBJECTS:tt_cuda> $<TARGET_OBJECTS:tt_cuda_seam>
                                   $<TARGET_OBJECTS:tt_cuda_host>)
  target_compile_definitions(${target} PRIVATE TT_CUDA_HOST)
endfunction()
