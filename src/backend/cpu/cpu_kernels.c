#include "backend/cpu/kernels.h"

const dd_cpu_kernels *dd_cpu_kernels_best(void) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) return &dd_cpu_kernels_avx512;
    return avx2 ? &dd_cpu_kernels_avx2 : &dd_cpu_kernels_baseline;
}
