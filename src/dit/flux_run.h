/* A run's buffers and one call of the model on its way through the blocks. Private to the room. */
#ifndef DD_DIT_FLUX_RUN_H
#define DD_DIT_FLUX_RUN_H

#include "dit/flux_rope.h"
#include "dit/flux_weights.h"

/* What depends on prompt and times only. d = hidden, S = times. All backend memory, F32. */
typedef struct dd_flux_tables {
    int64_t times;  /* S */
    float *text;    /* [text_tokens, d]: embedded text */
    float *doubles; /* [num_layers][image, text][S, 6d] */
    float *singles; /* [num_single_layers][S, 3d] */
    float *final;   /* [S, 2d] */
} dd_flux_tables;

/* What a block keeps for its backward pass beside the run's own buffers, which keep n, q, k, v, the attention's result and the
 * MLP's hidden values. With a tape the block's last sum x += gate * y is left out: nobody reads it, and run->x stays what the
 * last norm read. Buffers of N rows; text rows first. */
typedef struct dd_flux_tape {
    void *q, *k;       /* [N, d] act: before norm and rotation */
    void *hidden;      /* [N, 4d] act: before the activation */
    float *lse;        /* [heads, N] */
    void *attention_y; /* [N, d] act: y of x += gate * y after attention; NULL if no gradient of gates is wanted */
    void *y;           /* [N, d] act: y of the last sum, likewise */
} dd_flux_tape;

/* Views into one allocation; N = text_tokens + cells at factor 1, act = the backend's activation dtype. */
struct dd_flux_run {
    dd_flux_dit *dit;
    dd_backend *b;      /* the dit's own, or a lane */
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
    const dd_flux_tape *tape; /* NULL: nothing is kept */
} dd_flux_call;

/* Views of the buffers for this call. */
static inline dd_tensor dd_flux_act(const dd_flux_call *c, void *buffer, int64_t rows, int64_t cols) {
    return dd_tensor_2d(buffer, c->b->activation, rows, cols);
}
static inline dd_tensor dd_flux_residual(const dd_flux_call *c) { return dd_tensor_2d(c->run->x, DD_DTYPE_F32, c->rows, c->d); }

/* Bytes of a value of the activation dtype. */
static inline size_t dd_flux_act_size(const dd_flux_call *c) { return c->b->activation == DD_DTYPE_F32 ? 4 : 2; }
static inline dd_tensor dd_flux_rope_table(const dd_flux_call *c) {
    return dd_tensor_2d(c->run->rope, DD_DTYPE_F32, c->rows, c->dit->config.attention_head_dim);
}
/* The MLP's columns of run->wide in a double block, where they lie after the attention's [N, d]. */
static inline dd_tensor dd_flux_after_attention(const dd_flux_call *c, void *wide) {
    return dd_flux_act(c, (char *)wide + (size_t)(c->rows * c->d) * dd_flux_act_size(c), c->rows, c->dit->config.mlp_hidden);
}
/* Vector `index` of the call's row of a modulation table with `count` vectors a row. */
static inline dd_tensor dd_flux_modulation(const dd_flux_call *c, float *table, int count, int index) {
    return dd_tensor_1d(table + ((int64_t)c->time_index * count + index) * c->d, DD_DTYPE_F32, c->d);
}

/* Which rows of a linear are text and image, so that LoRA finds the rows of each factor. */
typedef struct dd_flux_span {
    int text_begin, text_count; /* count 0: no text rows in this call */
    int image_begin;            /* -1: no image rows */
} dd_flux_span;

/* LoRA of factor index f on rows [begin, end), scaled. */
typedef struct dd_flux_lora_range {
    int f;
    float scale;
    int64_t begin, end;
} dd_flux_lora_range;
enum { DD_FLUX_MAX_LORA = 2 * (DD_FACTOR_COUNT - 1) };
int dd_flux_lora_ranges(const dd_flux_call *c, const dd_flux_linear *linear, dd_flux_span span,
                        dd_flux_lora_range ranges[DD_FLUX_MAX_LORA]);

/* One stream's part of a double block: its rows of the run's buffers and its modulation table. */
typedef struct dd_flux_stream_call {
    const dd_flux_call *c;
    const dd_flux_stream *weights;
    float *table;      /* [S, 6d] */
    int begin, count;
    dd_flux_span span; /* within the stream */
} dd_flux_stream_call;
dd_flux_stream_call dd_flux_image_stream(const dd_flux_call *c, const dd_flux_tables *tables, int index);
dd_flux_stream_call dd_flux_text_stream(const dd_flux_call *c, const dd_flux_tables *tables, int index);
static inline dd_tensor dd_flux_stream_rows(const dd_flux_stream_call *s, dd_tensor all) {
    return dd_tensor_rows(all, s->begin, s->count);
}
static inline float *dd_flux_single_table(const dd_flux_call *c, const dd_flux_tables *tables, int index) {
    return tables->singles + index * 3 * c->d * tables->times;
}

/* y = LN(x) * (1 + scale) + shift, with FLUX's eps. */
#define DD_FLUX_EPS 1e-6f
ddit_status dd_flux_modulate(const dd_flux_call *c, dd_tensor y, dd_tensor x, dd_tensor shift, dd_tensor scale, ddit_err *err);

/* One block on run->x [rows, d], in place; with c->tape see dd_flux_tape. index counts from the first block of its kind. Errors
 * of these and of what follows: those of the ops. */
ddit_status dd_flux_double_forward(const dd_flux_call *c, int index, ddit_err *err);
ddit_status dd_flux_single_forward(const dd_flux_call *c, int index, ddit_err *err);

/* Rows of one factor (index f) in buffers that hold all cells in the order of the layout. n = cell edge, latent pixels. */
typedef struct dd_flux_factor_rows {
    int begin, count, n;
    int64_t features; /* C n n */
    int64_t offset;   /* values before the factor's rows in `cells` and `out` */
} dd_flux_factor_rows;
dd_flux_factor_rows dd_flux_rows_at(const dd_flux_call *c, int f);

/* run->origin of these rows [count, 2]. */
dd_tensor dd_flux_origins(const dd_flux_call *c, dd_flux_factor_rows r);
static inline dd_tensor dd_flux_cells(const dd_flux_call *c, void *buffer, dd_flux_factor_rows r) {
    return dd_flux_act(c, (char *)buffer + (size_t)r.offset * dd_flux_act_size(c), r.count, r.features);
}

/* n [image, d] act = the final norm of x [image, d]. */
ddit_status dd_flux_final_norm(const dd_flux_call *c, dd_tensor n, dd_tensor x, ddit_err *err);

/* Latent -> image rows of x; x -> velocity (final norm, de-embedding, residual). */
ddit_status dd_flux_embed(const dd_flux_call *c, dd_tensor latent, ddit_err *err);
ddit_status dd_flux_deembed(const dd_flux_call *c, dd_tensor latent, dd_tensor velocity, float sigma, ddit_err *err);

/* A run on another backend than the dit's own, e.g. a lane; gradient_rows as in dd_reserve. branches = 0: no tables of its own,
 * calls bring theirs. Errors as dd_flux_run_create; *out is NULL on failure. */
ddit_status dd_flux_run_create_on(dd_flux_run **out, dd_flux_dit *dit, dd_backend *b, const dd_flux_run_params *params,
                                  int64_t gradient_rows, ddit_err *err);

/* A call of the run at `layout` with `text` text rows. Error: DDIT_ERR_MISMATCH for a factor that is not there. */
ddit_status dd_flux_call_begin(dd_flux_call *c, dd_flux_run *run, const dd_flux_tables *tables, int time_index,
                               const dd_layout *layout, int text, ddit_err *err);

/* Puts the positions of the layout into run->rope, unless they are there from the call before. */
ddit_status dd_flux_set_positions(const dd_flux_call *c, ddit_err *err);

/* The whole way. checkpoints (NULL: none) [blocks + 1][rows, d] F32: x before every block and after the last. */
ddit_status dd_flux_forward(const dd_flux_call *c, dd_tensor latent, dd_tensor velocity, float sigma, float *checkpoints,
                            ddit_err *err);

/* Latent values with the cells that hang over the edge: the largest of all factors. */
uint64_t dd_flux_padded_latent(const dd_flux_config *config, dd_grid grid);

#endif
