/* The op table: everything that model code asks of a processor. Model rooms call dd_op_* (op.c), which checks shapes and dtypes
 * once for all backends and then calls the slot; slots may assume that their arguments fit.
 *
 * Conventions
 *   - Matrices are row-major; a "row" is a token or a pixel. linear is y = x W^T + b with W [out, in].
 *   - "act" below is the backend's activation dtype (dd_backend.activation): BF16 or F32. Accumulation is float32 always.
 *   - The residual stream, latents, modulation tables, biases, norm weights and rope tables are F32.
 *   - Every pointer in an argument is backend memory; the host reads only through dd_op_download and dd_op_patch_stats.
 *   - One call at a time per backend. Nothing is allocated in a call once dd_op_reserve was told the largest sizes.
 *   - The same arguments give the same bytes for any number of threads.
 */
#ifndef DD_OP_OP_H
#define DD_OP_OP_H

#include "tensor/tensor.h"

typedef struct dd_backend dd_backend;
typedef struct dd_weight dd_weight; /* opaque: only the backend that made it looks inside */
typedef struct dd_grad_ops dd_grad_ops; /* op_grad.h */

/* ------------------------------------------------------------------------------------------------ weights */

typedef enum dd_weight_use {
    DD_WEIGHT_FORWARD = 1,
    DD_WEIGHT_INPUT_GRADIENT = 2, /* dx = dy W */
    DD_WEIGHT_UPDATES = 4,        /* its values may be replaced: dd_op_weight_update */
} dd_weight_use;

typedef enum dd_weight_kind {
    DD_WEIGHT_LINEAR, /* [out, in] */
    DD_WEIGHT_CONV2D, /* [out, in, kh, kw], as in the file */
} dd_weight_kind;

/* What dd_op_weight_prepare is given. `data` and `bias` are host memory (the mapped file, any alignment). `data` must outlive
 * the weight only if the backend keeps a view of it (dd_weight_info.is_view); the bias is always copied. */
typedef struct dd_weight_desc {
    const char *name; /* for error sentences; borrowed during the call */
    dd_weight_kind kind;
    dd_dtype dtype;   /* of data: F32, BF16, F16, Q8_0 … */
    int64_t out, in;
    int kh, kw;       /* CONV2D */
    const void *data;
    const void *bias; /* [out], or NULL */
    dd_dtype bias_dtype;
    bool full_precision; /* compute with float32 weights and activations even on a bf16 backend */
    unsigned uses;       /* dd_weight_use bits; 0 = forward */
} dd_weight_desc;

typedef struct dd_weight_info {
    int64_t out, in;
    int kh, kw;
    dd_weight_kind kind;
    dd_dtype input_dtype; /* what x must be: the backend's activation dtype, or F32 if full_precision */
    size_t bytes;         /* memory of its own; 0 for a pure view */
    bool is_view;         /* refers to desc.data */
} dd_weight_info;

/* ------------------------------------------------------------------------------------------------ ops */

typedef enum dd_activation {
    DD_ACTIVATION_NONE,
    DD_ACTIVATION_SILU,
    DD_ACTIVATION_GELU_TANH,
    DD_ACTIVATION_GELU_ERF,
    DD_ACTIVATION_QUICK_GELU,
} dd_activation;

/* A low-rank overlay on rows [row_begin, row_end) of a linear: y += scale * (x down^T) up^T, before bias and activation. */
typedef struct dd_lora {
    const dd_weight *down; /* [r, in], no bias */
    const dd_weight *up;   /* [out, r], no bias */
    float scale;
    int64_t row_begin, row_end;
} dd_lora;

/* y[M,N] = f(x[M,K] W^T + b + lora), where f is, in this order:
 *   activation; then * mul (elementwise, if given); then * gate (per column, if given); then + add (if given).
 * y may be F32 or act; `add` must be F32 and may be y itself (residual stream update: y += gate * linear(x)). */
typedef struct dd_linear_args {
    dd_tensor y;             /* [M, N] F32 or act */
    dd_tensor x;             /* [M, K] weight's input dtype */
    const dd_weight *w;
    dd_activation activation;
    const dd_tensor *mul;    /* [M, N] act or F32, or NULL */
    const dd_tensor *gate;   /* [N] F32, or NULL */
    const dd_tensor *add;    /* [M, N] F32, or NULL */
    const dd_lora *lora;
    int lora_count;
} dd_linear_args;

typedef enum dd_norm_kind { DD_NORM_LAYER, DD_NORM_RMS } dd_norm_kind;

/* y = norm(x) * weight + bias, then * (1 + scale) + shift; each of the four [D] F32 vectors may be NULL.
 * LAYER: (x - mean) / sqrt(var + eps), biased variance. RMS: x / sqrt(mean(x^2) + eps). */
typedef struct dd_norm_args {
    dd_tensor y; /* [M, D] F32 or act; may be x */
    dd_tensor x; /* [M, D] F32 or act */
    dd_norm_kind kind;
    float eps;
    const dd_tensor *weight, *bias, *scale, *shift;
} dd_norm_args;

/* In place per row and head: RMS norm over the head's E values with weight, then rotation of the pairs (2j, 2j+1).
 * rope [M, E]: E/2 pairs (cos, sin) per row, F32; NULL = no rotation. Source: FLUX.1's QKNorm and apply_rope. */
typedef struct dd_qk_norm_rope_args {
    dd_tensor x; /* [M, A*E] act */
    int heads;
    const dd_tensor *weight; /* [E] F32 */
    const dd_tensor *rope;   /* [M, E] F32 or NULL */
    float eps;
} dd_qk_norm_rope_args;

/* out = softmax(scale * q k^T + bias) v per head; never materialises Nq x Nk for all heads. */
typedef struct dd_attention_args {
    dd_tensor out;  /* [Nq, A*E] act */
    dd_tensor q;    /* [Nq, A*E] act */
    dd_tensor k, v; /* [Nk, A*E] act */
    int heads;
    float scale;
    bool causal;           /* key j is seen by query i only if j <= i */
    const dd_tensor *bias; /* [A, Nq, Nk] F32 or NULL (T5) */
    const dd_tensor *lse;  /* [A, Nq] F32: receives log-sum-exp for the backward pass; NULL = not wanted */
} dd_attention_args;

/* 3x3 or 1x1 convolution on rows = pixels: y[h*w, out] = conv(x[h*w, in]) + bias (+ add).
 * stride 1: zero padding kh/2 on all sides. stride 2: 3x3, even height and width, zero padding of one row below and one column
 * on the right, none above and left; y and add have H/2 * W/2 rows. Source: Downsample2D of diffusers 0.42 with padding 0. */
typedef struct dd_conv2d_args {
    dd_tensor y; /* [H*W, out] act or F32 */
    dd_tensor x; /* [H*W, in] act */
    int64_t height, width; /* of x */
    const dd_weight *w;
    const dd_tensor *add; /* [H*W, out] same dtype as y, or NULL */
    int stride;           /* 1 or 2; 0 = 1 */
} dd_conv2d_args;

/* y = activation(group_norm(x) * weight + bias) over all pixels and the channels of one group; act in, act out. */
typedef struct dd_group_norm_args {
    dd_tensor y, x; /* [H*W, C] act; may be the same */
    int groups;
    float eps;
    const dd_tensor *weight, *bias; /* [C] F32 */
    dd_activation activation;       /* NONE or SILU */
} dd_group_norm_args;

/* Cells of n x n latent pixels to rows, and back. Indices: origin [M, 2] I32 = (row, column) of each cell's first pixel. */
typedef struct dd_cells_gather_args {
    dd_tensor y;      /* [M, C*n*n] act or F32, feature order (channel, row, column) */
    dd_tensor latent; /* [C, h, w] F32; pixels past the edge repeat it */
    dd_tensor origin; /* [M, 2] I32 */
    int n;
} dd_cells_gather_args;

/* velocity[c, row, col] = x[m, (c, i, j)] (+ residual parts) for every pixel of every cell inside the latent.
 *   pixel linear: + pixel_weight[c, :] . z[:, row, col] + pixel_bias[c]
 *   high frequency: + hf_gain * (z - P z P^T) per cell and channel, P = projection [n, n] (B1 B1^+ of docs/method.md 2); edges
 * repeat z is the latent handed to the model. Source: docs/method.md 2. */
typedef struct dd_cells_scatter_args {
    dd_tensor velocity; /* [C, h, w] F32 */
    dd_tensor x;        /* [M, C*n*n] F32 */
    dd_tensor origin;   /* [M, 2] I32 */
    int n;
    const dd_tensor *z;            /* [C, h, w] F32, needed by the two below */
    const dd_tensor *pixel_weight; /* [C, C] F32 or NULL */
    const dd_tensor *pixel_bias;   /* [C] F32 */
    const dd_tensor *projection;   /* [n, n] F32 or NULL */
    float hf_gain;
} dd_cells_scatter_args;

/* Statistics of the policy (docs/method.md 3): D = difference of `order` (1..3) of latents[0] (newest) …
 * latents[order]; std (unbiased, two passes, float64 sums) over the C*n*n values of every whole aligned n x n block of D,
 * raster order. Result in host memory: stds [(h/n) * (w/n)]. */
typedef struct dd_patch_stats_args {
    const dd_tensor *latents[4]; /* [C, h, w] F32 */
    int order;
    int n;
    float *stds; /* host memory, owned by the caller */
} dd_patch_stats_args;

/* The free coarse step (docs/method.md 5), second half: from z, z' = pool(z)/a and the small model's velocity v' to
 *   x0' = z' - sigma_small * v';  x0 = bilinear(x0') + gain * (z - repeat(pool(z)));  velocity = (z - x0) / sigma. */
typedef struct dd_coarse_lift_args {
    dd_tensor velocity; /* [C, h, w] F32 */
    dd_tensor z;        /* [C, h, w] F32 */
    dd_tensor z_small;  /* [C, h/k, w/k] F32, already divided by a */
    dd_tensor v_small;  /* [C, h/k, w/k] F32 */
    int k;
    float a, sigma, sigma_small, gain;
} dd_coarse_lift_args;

/* ------------------------------------------------------------------------------------------------ the table */

/* The largest problems a run will bring, so that scratch and plans exist before the first step. Zero fields are skipped. */
typedef struct dd_reserve {
    int64_t attention_queries, attention_keys; /* most rows of q and k in one call */
    int attention_heads, attention_head_size;  /* largest */
    const dd_weight *const *weights;           /* every linear weight that will be used */
    int weight_count;
    int64_t gradient_rows;                     /* most rows of one call of op_grad.h; 0 = no backward passes */
} dd_reserve;

typedef struct dd_backend_ops {
    const char *name;

    void (*close)(dd_backend *b);
    ddit_status (*sync)(dd_backend *b, ddit_err *err);

    ddit_status (*alloc)(dd_backend *b, void **memory, size_t bytes, const char *what, ddit_err *err);
    void (*free)(dd_backend *b, void *memory);
    ddit_status (*upload)(dd_backend *b, void *to, const void *from_host, size_t bytes, ddit_err *err);
    ddit_status (*download)(dd_backend *b, void *to_host, const void *from, size_t bytes, ddit_err *err);

    ddit_status (*weight_prepare)(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err);
    void (*weight_free)(dd_backend *b, dd_weight *w);
    dd_weight_info (*weight_info)(const dd_weight *w);
    ddit_status (*reserve)(dd_backend *b, const dd_reserve *r, ddit_err *err);

    ddit_status (*linear)(dd_backend *b, const dd_linear_args *a, ddit_err *err);
    ddit_status (*conv2d)(dd_backend *b, const dd_conv2d_args *a, ddit_err *err);
    ddit_status (*attention)(dd_backend *b, const dd_attention_args *a, ddit_err *err);
    ddit_status (*norm)(dd_backend *b, const dd_norm_args *a, ddit_err *err);
    ddit_status (*group_norm)(dd_backend *b, const dd_group_norm_args *a, ddit_err *err);
    ddit_status (*qk_norm_rope)(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err);
    /* y = activation(a * x + b * z); z may be NULL; x, y, z [M, N], y and x may differ in dtype (this is also cast and copy) */
    ddit_status (*affine)(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                          dd_activation activation, ddit_err *err);
    /* y[i, :] = table[ids[i], :]; ids [M] I32, table [V, D] any float dtype, y F32 or act */
    ddit_status (*gather_rows)(dd_backend *b, dd_tensor y, dd_tensor table, dd_tensor ids, ddit_err *err);
    /* nearest x2: y [2H*2W, C] from x [H*W, C] */
    ddit_status (*upsample2x)(dd_backend *b, dd_tensor y, dd_tensor x, int64_t height, int64_t width, ddit_err *err);
    ddit_status (*cells_gather)(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err);
    ddit_status (*cells_scatter)(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err);
    ddit_status (*patch_stats)(dd_backend *b, const dd_patch_stats_args *a, ddit_err *err);
    /* y [C, h/k, w/k] = factor * mean over k x k of x [C, h, w], F32 */
    ddit_status (*pool_mean)(dd_backend *b, dd_tensor y, dd_tensor x, int k, float factor, ddit_err *err);
    ddit_status (*coarse_lift)(dd_backend *b, const dd_coarse_lift_args *a, ddit_err *err);
    /* y [H*W, C] act from x [C, H, W] F32, y = a * x + b: the autoencoder's input */
    ddit_status (*channels_last)(dd_backend *b, dd_tensor y, dd_tensor x, float a, float bias, ddit_err *err);

    /* New values for a weight that was prepared with DD_WEIGHT_UPDATES: desc as for weight_prepare, same shape; data F32. */
    ddit_status (*weight_update)(dd_backend *b, dd_weight *w, const dd_weight_desc *desc, ddit_err *err);
    /* A lane: a backend of one thread on the same device, which may use (not update or free) the weights of `b` while b's other
     * lanes work, each on a thread of its own. index in 0..b->threads-1, at most one open lane per index. Closed before b. */
    ddit_status (*lane_open)(dd_backend *b, int index, dd_backend **lane, ddit_err *err);

    const dd_grad_ops *grad; /* op_grad.h; NULL when the backend cannot train */
} dd_backend_ops;

/* A backend that is open. Embedded as the first member of the backend's own struct. */
struct dd_backend {
    const dd_backend_ops *ops;
    const dd_allocator *allocator;
    dd_dtype activation; /* BF16 or F32 */
    int threads;
    size_t scratch_bytes; /* memory the backend holds for itself beyond weights */
    const char *device;   /* e.g. "AVX512-BF16, 2 threads"; lives as long as the backend */
};

/* Checked calls. Each returns DDIT_ERR_INTERNAL naming op and shapes when the arguments do not fit (outputs untouched),
 * DDIT_ERR_UNSUPPORTED when the backend lacks the slot, else what the slot returns. */
ddit_status dd_op_linear(dd_backend *b, const dd_linear_args *a, ddit_err *err);
ddit_status dd_op_conv2d(dd_backend *b, const dd_conv2d_args *a, ddit_err *err);
ddit_status dd_op_attention(dd_backend *b, const dd_attention_args *a, ddit_err *err);
ddit_status dd_op_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err);
ddit_status dd_op_group_norm(dd_backend *b, const dd_group_norm_args *a, ddit_err *err);
ddit_status dd_op_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err);
ddit_status dd_op_affine(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                         dd_activation activation, ddit_err *err);
ddit_status dd_op_gather_rows(dd_backend *b, dd_tensor y, dd_tensor table, dd_tensor ids, ddit_err *err);
ddit_status dd_op_upsample2x(dd_backend *b, dd_tensor y, dd_tensor x, int64_t height, int64_t width, ddit_err *err);
ddit_status dd_op_cells_gather(dd_backend *b, const dd_cells_gather_args *a, ddit_err *err);
ddit_status dd_op_cells_scatter(dd_backend *b, const dd_cells_scatter_args *a, ddit_err *err);
ddit_status dd_op_patch_stats(dd_backend *b, const dd_patch_stats_args *a, ddit_err *err);
ddit_status dd_op_pool_mean(dd_backend *b, dd_tensor y, dd_tensor x, int k, float factor, ddit_err *err);
ddit_status dd_op_coarse_lift(dd_backend *b, const dd_coarse_lift_args *a, ddit_err *err);
ddit_status dd_op_channels_last(dd_backend *b, dd_tensor y, dd_tensor x, float a, float bias, ddit_err *err);

ddit_status dd_op_alloc(dd_backend *b, void **memory, size_t bytes, const char *what, ddit_err *err);
void dd_op_free(dd_backend *b, void *memory); /* NULL accepted */
ddit_status dd_op_upload(dd_backend *b, void *to, const void *from_host, size_t bytes, ddit_err *err);
ddit_status dd_op_download(dd_backend *b, void *to_host, const void *from, size_t bytes, ddit_err *err);
ddit_status dd_op_weight_prepare(dd_backend *b, dd_weight **out, const dd_weight_desc *desc, ddit_err *err);
void dd_op_weight_free(dd_backend *b, dd_weight *w); /* NULL accepted */
dd_weight_info dd_op_weight_info(const dd_backend *b, const dd_weight *w);
ddit_status dd_op_weight_update(dd_backend *b, dd_weight *w, const dd_weight_desc *desc, ddit_err *err);
ddit_status dd_op_lane_open(dd_backend *b, int index, dd_backend **lane, ddit_err *err);
void dd_op_lane_close(dd_backend *lane); /* NULL accepted */
ddit_status dd_op_reserve(dd_backend *b, const dd_reserve *r, ddit_err *err);
ddit_status dd_op_sync(dd_backend *b, ddit_err *err);

#endif
