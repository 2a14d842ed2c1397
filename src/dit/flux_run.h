/* A run's buffers and one call of the model on its way through the blocks. Private to the room. */
#ifndef DD_DIT_FLUX_RUN_H
#define DD_DIT_FLUX_RUN_H

#include "dit/flux_rope.h"
#include "dit/flux_weights.h"

/* What depends on prompt and times only. d = hidden, S = time_count. All backend memory, F32. */
typedef struct dd_flux_tables {
    float *text;    /* [text_tokens, d]: embedded text */
    float *doubles; /* [num_layers][image, text][S, 6d] */
    float *singles; /* [num_single_layers][S, 3d] */
    float *final;   /* [S, 2d] */
} dd_flux_tables;

/* Views into one allocation; N = text_tokens + cells at factor 1, act = the backend's activation dtype. */
struct dd_flux_run {
    dd_flux_dit *dit;
    dd_grid grid;
    int text_tokens, trimmed_text, branches, time_count;
    int max_cells;
    float guidance;
    float *times;       /* owned, host [time_count] */
    void *memory;       /* owned, backend: all buffers below */
    float *x;           /* [N, d] F32: the residual stream, text rows first */
    void *n;            /* [N, d] act: normed and modulated */
    void *q, *k, *v;    /* [N, d] act */
    void *wide;         /* [N, 5d] act: attention and MLP columns of single blocks; both, apart, in double blocks */
    void *cells;        /* [cells, C n n] act: the latent cut into cells */
    float *out;         /* [cells, C n n] F32: the velocity of cells */
    int32_t *origin;    /* [cells, 2] I32 */
    float *rope;        /* [N, head_dim] F32 */
    dd_flux_tables tables[2];
    dd_flux_rope rope_axes;
    float *rope_host;   /* owned, host [N, head_dim]: where rows are put together */
    int rope_factor;    /* uniform factor that `rope` holds with rope_text rows on rope_grid; 0 = none */
    int rope_text;
    dd_grid rope_grid;
};

/* One call: the run and what is particular to it. */
typedef struct dd_flux_call {
    dd_flux_run *run;
    dd_flux_dit *dit;
    dd_backend *b;
    const dd_layout *layout;
    const dd_flux_tables *tables;
    int time_index;
    int text, image, rows; /* text rows, image rows, both */
    int64_t d;
} dd_flux_call;

/* Views of the buffers for this call. */
static inline dd_tensor dd_flux_act(const dd_flux_call *c, void *buffer, int64_t rows, int64_t cols) {
    return dd_tensor_2d(buffer, c->b->activation, rows, cols);
}
static inline dd_tensor dd_flux_residual(const dd_flux_call *c) { return dd_tensor_2d(c->run->x, DD_DTYPE_F32, c->rows, c->d); }

ddit_status dd_flux_double_forward(const dd_flux_call *c, int index, ddit_err *err);
ddit_status dd_flux_single_forward(const dd_flux_call *c, int index, ddit_err *err);

/* Latent -> image rows of x; x -> velocity (final norm, de-embedding, residual). */
ddit_status dd_flux_embed(const dd_flux_call *c, dd_tensor latent, ddit_err *err);
ddit_status dd_flux_deembed(const dd_flux_call *c, dd_tensor latent, dd_tensor velocity, float sigma, ddit_err *err);

#endif
