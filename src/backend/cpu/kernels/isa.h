/* Names of the row kernels in one instruction set. Each file of this folder is compiled once per set with DD_ISA = baseline,
 * avx2 or avx512, so functions that cross files carry it as a suffix: DD_ISA_NAME(dd_kernel_norm) is dd_kernel_norm_avx512. */
#ifndef DD_BACKEND_CPU_KERNELS_ISA_H
#define DD_BACKEND_CPU_KERNELS_ISA_H

#include "backend/cpu/kernels.h"

#define DD_ISA_PASTE_(name, isa) name##_##isa
#define DD_ISA_PASTE(name, isa) DD_ISA_PASTE_(name, isa)
#define DD_ISA_NAME(name) DD_ISA_PASTE(name, DD_ISA)
#define DD_ISA_TEXT_(isa) #isa
#define DD_ISA_TEXT(isa) DD_ISA_TEXT_(isa)

/* Contracts: the fields of the same names in kernels.h. */
void DD_ISA_NAME(dd_kernel_norm)(const dd_norm_args *a, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_qk_norm_rope)(const dd_qk_norm_rope_args *a, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_affine)(const dd_cpu_affine_args *a, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_channel_affine)(const dd_cpu_channel_affine_args *a, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_norm_grad)(const dd_norm_grad_args *g, float *dscale, float *dshift, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_qk_norm_rope_grad)(const dd_qk_norm_rope_grad_args *g, float *dweight, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_activation_grad)(const dd_activation_grad_args *g, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_gate_grad)(const dd_gate_grad_args *g, float *dgate, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_channel_products)(float *weight, float *bias, const float *x, const float *z, int64_t channels,
                                             int64_t ld, int64_t count);
void DD_ISA_NAME(dd_kernel_column_stats)(double *mean, double *m2, const dd_tensor *x, int64_t begin, int64_t end);
void DD_ISA_NAME(dd_kernel_activate)(float *y, const float *x, size_t count, dd_activation activation);
void DD_ISA_NAME(dd_kernel_to_bf16)(uint16_t *y, const float *x, size_t count);
void DD_ISA_NAME(dd_kernel_from_bf16)(float *y, const uint16_t *x, size_t count);

#endif
