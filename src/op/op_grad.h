/* The backward passes that training needs, one slot per op of op.h on the transformer's path. The conventions of op.h hold.
 *
 * "dy" is the gradient of the loss with respect to an op's output y, "dx" with respect to its input x. A result said to be
 * "added to" is accumulated into; "written" replaces what was there. Sums over rows (weight gradients, per-column gradients)
 * are float32 or better, in an order that depends on the shapes alone: the same bytes for any number of threads.
 *
 * Residual stream and its gradient are F32; what goes through matrix products has the backend's activation dtype (act).
 */
#ifndef DD_OP_OP_GRAD_H
#define DD_OP_OP_GRAD_H

#include "op/op.h"

/* dx (+)= scale * dy W: the input gradient of y = x W^T + b. */
typedef struct dd_input_grad_args {
    dd_tensor dx;       /* [M, K]: F32 added to; with `replace` F32 or act, written */
    dd_tensor dy;       /* [M, N] the weight's input dtype; gradient before any activation */
    const dd_weight *w; /* [N, K], made with DD_WEIGHT_INPUT_GRADIENT */
    float scale;
    bool replace;
} dd_input_grad_args;

/* dw += scale * dy^T x;  db += scale * the sum of dy's rows. The weight and bias gradients of y = x W^T + b. */
typedef struct dd_weight_grad_args {
    const dd_tensor *dw; /* [N, K] F32, added to, or NULL */
    const dd_tensor *db; /* [N] F32, added to, or NULL */
    dd_tensor dy;        /* [M, N] act or F32 */
    const dd_tensor *x;  /* [M, K] the same dtype as dy; NULL if dw is */
    float scale;
} dd_weight_grad_args;

/* Attention without bias. P = softmax(scale q k^T) is recomputed from lse.
 * dS = P (dP - rowsum(dout * out)); dv = P^T dout; dq = scale dS k; dk = scale dS^T q.
 * Source: FlashAttention-2 (Dao 2023), 3.1.2. */
typedef struct dd_attention_grad_args {
    dd_tensor dq, dk, dv; /* [Nq, A*E], [Nk, A*E] act, written */
    dd_tensor dout, out;  /* [Nq, A*E] act */
    dd_tensor q, k, v;    /* act, as in the forward pass */
    dd_tensor lse;        /* [A, Nq] F32 from the forward pass */
    int heads;
    float scale;
    bool causal;
} dd_attention_grad_args;

/* Layer norm with modulation, y = LN(x) * (1 + scale) + shift:
 *   dx += d/dx;  dscale += sum over rows of dy * LN(x);  dshift += sum over rows of dy. */
typedef struct dd_norm_grad_args {
    dd_tensor dx;             /* [M, D] F32, added to */
    dd_tensor dy;             /* [M, D] F32 or act */
    dd_tensor x;              /* [M, D] F32, the forward pass's input */
    float eps;
    const dd_tensor *scale;   /* [D] F32, or NULL for 0 */
    const dd_tensor *dscale;  /* [D] F32, added to, or NULL */
    const dd_tensor *dshift;  /* [D] F32, added to, or NULL */
} dd_norm_grad_args;

/* The per-head RMS norm with weight, then rotation. dx may be dy. */
typedef struct dd_qk_norm_rope_grad_args {
    dd_tensor dx;            /* [M, A*E] act, written */
    dd_tensor dy;            /* [M, A*E] act */
    dd_tensor x;             /* [M, A*E] act: the values BEFORE norm and rotation */
    int heads;
    const dd_tensor *weight; /* [E] F32 */
    const dd_tensor *rope;   /* [M, E] F32 or NULL */
    float eps;
    const dd_tensor *dweight; /* [E] F32, added to, or NULL */
} dd_qk_norm_rope_grad_args;

/* dx = dy * activation'(x), x being the value before the activation. dx may be dy. All three of one dtype, act or F32. */
typedef struct dd_activation_grad_args {
    dd_tensor dx, dy, x; /* [M, N]; rows may be strided */
    dd_activation activation;
} dd_activation_grad_args;

/* The gated residual sum x += gate * y: dy = gate * dx (per column);  dgate += sum over rows of dx * y. */
typedef struct dd_gate_grad_args {
    dd_tensor dy;           /* [M, N] act, written */
    dd_tensor dx;           /* [M, N] F32 */
    const dd_tensor *gate;  /* [N] F32 */
    const dd_tensor *y;     /* [M, N] F32 or act; needed for dgate */
    const dd_tensor *dgate; /* [N] F32, added to, or NULL */
} dd_gate_grad_args;

/* cells_scatter: dx[m, (c, i, j)] = dvelocity at the cell's pixel, 0 where the cell hangs over the edge. For the pixel-linear
 * residual, over the pixels of these cells: dpixel_weight[c, e] += sum dvelocity[c] z[e];
 * dpixel_bias[c] += sum dvelocity[c]. */
typedef struct dd_cells_scatter_grad_args {
    dd_tensor dx;        /* [M, C*n*n] act or F32, written */
    dd_tensor dvelocity; /* [C, h, w] F32 */
    dd_tensor origin;    /* [M, 2] I32 */
    int n;
    const dd_tensor *z;             /* [C, h, w] F32, needed by the next */
    const dd_tensor *dpixel_weight; /* [C, C] F32 or NULL */
    const dd_tensor *dpixel_bias;   /* [C] F32 or NULL */
} dd_cells_scatter_grad_args;

struct dd_grad_ops {
    ddit_status (*input)(dd_backend *b, const dd_input_grad_args *g, ddit_err *err);
    ddit_status (*weight)(dd_backend *b, const dd_weight_grad_args *g, ddit_err *err);
    ddit_status (*attention)(dd_backend *b, const dd_attention_grad_args *g, ddit_err *err);
    ddit_status (*norm)(dd_backend *b, const dd_norm_grad_args *g, ddit_err *err);
    ddit_status (*qk_norm_rope)(dd_backend *b, const dd_qk_norm_rope_grad_args *g, ddit_err *err);
    ddit_status (*activation)(dd_backend *b, const dd_activation_grad_args *g, ddit_err *err);
    ddit_status (*gate)(dd_backend *b, const dd_gate_grad_args *g, ddit_err *err);
    ddit_status (*cells_scatter)(dd_backend *b, const dd_cells_scatter_grad_args *g, ddit_err *err);
};

/* Checked calls, with the errors of those in op.h. */
ddit_status dd_op_input_grad(dd_backend *b, const dd_input_grad_args *g, ddit_err *err);
ddit_status dd_op_weight_grad(dd_backend *b, const dd_weight_grad_args *g, ddit_err *err);
ddit_status dd_op_attention_grad(dd_backend *b, const dd_attention_grad_args *g, ddit_err *err);
ddit_status dd_op_norm_grad(dd_backend *b, const dd_norm_grad_args *g, ddit_err *err);
ddit_status dd_op_qk_norm_rope_grad(dd_backend *b, const dd_qk_norm_rope_grad_args *g, ddit_err *err);
ddit_status dd_op_activation_grad(dd_backend *b, const dd_activation_grad_args *g, ddit_err *err);
ddit_status dd_op_gate_grad(dd_backend *b, const dd_gate_grad_args *g, ddit_err *err);
ddit_status dd_op_cells_scatter_grad(dd_backend *b, const dd_cells_scatter_grad_args *g, ddit_err *err);

#endif
