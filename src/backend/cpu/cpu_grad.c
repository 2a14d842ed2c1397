/* The list of backward passes. */
#include "backend/cpu/cpu_grad.h"

#include "backend/ref/ref.h"

/* Until the cpu backend's own are there. */
#define FROM_REF(slot, args)                                                                                                 \
    __attribute__((weak)) ddit_status dd_cpu_##slot##_grad(dd_backend *b, const args *g, ddit_err *err) {                     \
        return dd_ref_grad_ops.slot(b, g, err);                                                                              \
    }
FROM_REF(attention, dd_attention_grad_args)
FROM_REF(norm, dd_norm_grad_args)
FROM_REF(qk_norm_rope, dd_qk_norm_rope_grad_args)
FROM_REF(activation, dd_activation_grad_args)
FROM_REF(gate, dd_gate_grad_args)
FROM_REF(cells_scatter, dd_cells_scatter_grad_args)

__attribute__((weak)) ddit_status dd_cpu_attention_grad_prepare(dd_cpu *cpu, int64_t queries, int64_t keys, int heads,
                                                                int64_t width, size_t *per_thread, size_t *shared,
                                                                ddit_err *err) {
    (void)cpu, (void)queries, (void)keys, (void)heads, (void)width, (void)err;
    *per_thread = *shared = 0;
    return DDIT_OK;
}

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
