/* The list of backward passes. */
#include "backend/cpu/cpu_grad.h"

const dd_grad_ops dd_cpu_grad_ops = {
    .input = dd_cpu_input_grad,
    .weight = dd_cpu_weight_grad,
    .attention = dd_cpu_attention_grad,
    .norm = dd_cpu_norm_grad,
    .qk_norm_rope = dd_cpu_qk_norm_rope_grad,
    .activation = dd_cpu_activation_grad,
    .gate = dd_cpu_gate_grad,
    .cells_scatter = dd_cpu_cells_scatter_grad,
};
