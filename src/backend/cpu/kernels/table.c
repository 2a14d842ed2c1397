#include "backend/cpu/kernels/isa.h"

const dd_cpu_kernels DD_ISA_NAME(dd_cpu_kernels) = {
    .name = DD_ISA_TEXT(DD_ISA),
    .norm = DD_ISA_NAME(dd_kernel_norm),
    .qk_norm_rope = DD_ISA_NAME(dd_kernel_qk_norm_rope),
    .affine = DD_ISA_NAME(dd_kernel_affine),
    .channel_affine = DD_ISA_NAME(dd_kernel_channel_affine),
    .norm_grad = DD_ISA_NAME(dd_kernel_norm_grad),
    .qk_norm_rope_grad = DD_ISA_NAME(dd_kernel_qk_norm_rope_grad),
    .activation_grad = DD_ISA_NAME(dd_kernel_activation_grad),
    .gate_grad = DD_ISA_NAME(dd_kernel_gate_grad),
    .channel_products = DD_ISA_NAME(dd_kernel_channel_products),
    .column_stats = DD_ISA_NAME(dd_kernel_column_stats),
    .activate = DD_ISA_NAME(dd_kernel_activate),
    .to_bf16 = DD_ISA_NAME(dd_kernel_to_bf16),
    .from_bf16 = DD_ISA_NAME(dd_kernel_from_bf16),
};
