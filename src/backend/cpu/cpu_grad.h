/* The backward passes of the cpu backend (contracts in op/op_grad.h) and what they need set aside. Private to the room. */
#ifndef DD_BACKEND_CPU_CPU_GRAD_H
#define DD_BACKEND_CPU_CPU_GRAD_H

#include "backend/cpu/cpu_state.h"
#include "op/op_grad.h"

extern const dd_grad_ops dd_cpu_grad_ops;

/* cpu_grad_linear.c */
ddit_status dd_cpu_input_grad(dd_backend *b, const dd_input_grad_args *g, ddit_err *err);
ddit_status dd_cpu_weight_grad(dd_backend *b, const dd_weight_grad_args *g, ddit_err *err);
/* cpu_grad_attention.c */
ddit_status dd_cpu_attention_grad(dd_backend *b, const dd_attention_grad_args *g, ddit_err *err);
/* cpu_grad_rows.c */
ddit_status dd_cpu_norm_grad(dd_backend *b, const dd_norm_grad_args *g, ddit_err *err);
ddit_status dd_cpu_qk_norm_rope_grad(dd_backend *b, const dd_qk_norm_rope_grad_args *g, ddit_err *err);
ddit_status dd_cpu_activation_grad(dd_backend *b, const dd_activation_grad_args *g, ddit_err *err);
ddit_status dd_cpu_gate_grad(dd_backend *b, const dd_gate_grad_args *g, ddit_err *err);
ddit_status dd_cpu_cells_scatter_grad(dd_backend *b, const dd_cells_scatter_grad_args *g, ddit_err *err);

/* For dd_cpu_reserve: plans for the backward pass of a problem of this size, and the bytes of scratch (dd_cpu_scratch) that it
 * needs per thread and shared. The row ops take what they need (sums per thread) from the slices of a call of as many rows. */
ddit_status dd_cpu_weight_grad_prepare(dd_cpu *cpu, int64_t rows, size_t *per_thread, size_t *shared, ddit_err *err);
ddit_status dd_cpu_attention_grad_prepare(dd_cpu *cpu, int64_t queries, int64_t keys, int heads, int64_t width,
                                          size_t *per_thread, size_t *shared, ddit_err *err);

/* Bytes of shared scratch for sums over `rows` rows of `width` values: 2 * the model's width covers every row op. */
size_t dd_cpu_row_sums_bytes(int64_t rows, int64_t width);

#endif
