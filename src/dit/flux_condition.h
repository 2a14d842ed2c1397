/* What does not depend on the latent: conditioning vectors, modulation tables, embedded text. Private to the room. */
#ifndef DD_DIT_FLUX_CONDITION_H
#define DD_DIT_FLUX_CONDITION_H

#include "dit/flux_run.h"

enum { DD_FLUX_TIME_WIDTH = 256 };

/* Working memory for `rows` conditioning vectors. d = hidden. */
typedef struct dd_flux_vectors {
    int rows;
    float *host;   /* owned, host [rows, max(256, d)] */
    float *sum;    /* owned, host [rows, d] */
    float *in;     /* owned, backend [rows, 256], or pooled vectors */
    float *hidden; /* owned, backend [rows, d] */
    float *out;    /* owned, backend [rows, d]: the vectors before SiLU */
    void *vec;     /* owned, backend [rows, d] act: SiLU(vectors) */
} dd_flux_vectors;

/* pooled_rows: most pooled vectors of one call. Free in any case. */
ddit_status dd_flux_vectors_init(dd_flux_vectors *w, const dd_flux_dit *dit, int rows, int pooled_rows, ddit_err *err);
uint64_t dd_flux_vectors_bytes(const dd_flux_config *config, int rows, int pooled_rows); /* backend memory that init takes */
void dd_flux_vectors_free(dd_flux_vectors *w, dd_backend *b);

/* What the vectors are made of: host memory. Row r has guidance[r % guidance_rows] and pooled[r % pooled_rows]. */
typedef struct dd_flux_vector_input {
    const float *times;    /* [rows] */
    const float *guidance; /* [guidance_rows]; ignored by models without guidance embedding */
    const float *pooled;   /* [pooled_rows, pooled_projection_dim] */
    int guidance_rows, pooled_rows;
} dd_flux_vector_input;

/* w->out and w->vec of the first `rows` rows. */
ddit_status dd_flux_vectors_compute(dd_flux_dit *dit, dd_flux_vectors *w, int rows, const dd_flux_vector_input *input,
                                    ddit_err *err);

/* [cos(t f_i), sin(t f_i)], f_i = exp(-ln(10000) i / 128), into out [256]. */
void dd_flux_sinusoid(float time, float *out);

/* All modulation tables of `tables` from w->vec; tables->times rows. Weights that are not kept are read from the files. */
ddit_status dd_flux_modulations(dd_flux_dit *dit, const dd_flux_vectors *w, const dd_flux_tables *tables, ddit_err *err);

/* embedded [rows, d] F32 = context_embedder(text); text: host [rows, joint_attention_dim]; full and act: backend memory of
 * as many F32 and act values. */
ddit_status dd_flux_embed_text(dd_flux_dit *dit, int rows, const float *text, float *full, void *act, float *embedded,
                               ddit_err *err);

#endif
