/* Backward passes of the matrix products and of attention. The pointwise ones and the table are in ref_grad_pointwise.c. */
#include <math.h>

#include "backend/ref/ref_grad.h"

/* ------------------------------------------------------------------------------------------------ linear */

/* sums[m, k] = sum over n of dy[m, n] W[n, k]: all of dx in float64 until the end, so that the result is rounded once. */
static ddit_status input_sums(const dd_input_grad_args *g, double *sums, float *row, ddit_err *err) {
    int64_t rows = g->dx.shape[0], in = g->dx.shape[1];
    for (int64_t i = 0; i < rows * in; i++) sums[i] = 0;
    for (int64_t n = 0; n < g->w->info.out; n++) {
        const float *w;
        DD_TRY(dd_ref_weight_row(g->w, n, row, &w, err));
        for (int64_t m = 0; m < rows; m++) {
            double d = ref_at(&g->dy, m * g->dy.ld + n);
            for (int64_t k = 0; k < in; k++) sums[m * in + k] += d * w[k];
        }
    }
    return DDIT_OK;
}

ddit_status dd_ref_input_grad(dd_backend *b, const dd_input_grad_args *g, ddit_err *err) {
    if (!(g->w->uses & DD_WEIGHT_INPUT_GRADIENT))
        return dd_fail(err, DDIT_ERR_INTERNAL, "input_grad: the weight [%lld, %lld] was not prepared for the input gradient",
                       (long long)g->w->info.out, (long long)g->w->info.in);
    double *sums = NULL;
    float *row = NULL;
    int64_t rows = g->dx.shape[0], in = g->dx.shape[1];
    ddit_status status = DDIT_OK;
    DD_GO(dd_alloc_raw(b->allocator, &sums, (size_t)(rows * in), sizeof(double), "input_grad: sums", err));
    DD_GO(dd_alloc_raw(b->allocator, &row, (size_t)in, sizeof(float), "input_grad: a row of the weight", err));
    DD_GO(input_sums(g, sums, row, err));
    for (int64_t m = 0; m < rows; m++) {
        for (int64_t k = 0; k < in; k++) {
            int64_t at = m * g->dx.ld + k;
            double before = g->replace ? 0 : ref_at(&g->dx, at);
            ref_put(&g->dx, at, (float)(before + g->scale * sums[m * in + k]));
        }
    }

done:
    dd_free(b->allocator, row);
    dd_free(b->allocator, sums);
    return status;
}

/* dw[n, :] += scale * sum over m of dy[m, n] x[m, :] */
static void weight_row_grad(const dd_weight_grad_args *g, double *sums, int64_t n) {
    int64_t in = g->dw->shape[1];
    for (int64_t k = 0; k < in; k++) sums[k] = 0;
    for (int64_t m = 0; m < g->dy.shape[0]; m++) {
        double d = ref_at(&g->dy, m * g->dy.ld + n);
        for (int64_t k = 0; k < in; k++) sums[k] += d * ref_at(g->x, m * g->x->ld + k);
    }
    for (int64_t k = 0; k < in; k++) ref_add(g->dw, n * g->dw->ld + k, g->scale * sums[k]);
}

ddit_status dd_ref_weight_grad(dd_backend *b, const dd_weight_grad_args *g, ddit_err *err) {
    double *sums;
    size_t in = g->dw ? (size_t)g->dw->shape[1] : 0;
    DD_TRY(dd_alloc_raw(b->allocator, &sums, in, sizeof(double), "weight_grad: sums", err));
    for (int64_t n = 0; n < g->dy.shape[1]; n++) {
        if (g->dw) weight_row_grad(g, sums, n);
        if (!g->db) continue;
        double sum = 0;
        for (int64_t m = 0; m < g->dy.shape[0]; m++) sum += ref_at(&g->dy, m * g->dy.ld + n);
        ref_add(g->db, n, g->scale * sum);
    }
    dd_free(b->allocator, sums);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ attention */

/* Sums of one head, float64. */
typedef struct attention_sums {
    double *dk, *dv; /* [Nk, E] */
    double *dq;      /* [E] */
} attention_sums;

static double dot_at(const dd_tensor *a, int64_t i, const dd_tensor *b, int64_t j, int64_t count) {
    double sum = 0;
    for (int64_t e = 0; e < count; e++) sum += (double)ref_at(a, i + e) * ref_at(b, j + e);
    return sum;
}

/* With P = exp(scale q.k - lse) and dP = dout.v:  dS = P (dP - dout.out);  dv += P dout;  dq += scale dS k;  dk += scale dS q.
 * Source: FlashAttention-2 (Dao 2023), section 3.1.2. */
static void query_grad(const dd_attention_grad_args *g, const attention_sums *s, int64_t head, int64_t i, int64_t width) {
    int64_t keys = g->k.shape[0], begin = head * width, seen = g->causal && i + 1 < keys ? i + 1 : keys;
    int64_t q = i * g->q.ld + begin, dout = i * g->dout.ld + begin;
    double lse = ref_at(&g->lse, head * g->lse.ld + i), delta = dot_at(&g->dout, dout, &g->out, i * g->out.ld + begin, width);
    for (int64_t e = 0; e < width; e++) s->dq[e] = 0;
    for (int64_t j = 0; j < seen; j++) {
        int64_t k = j * g->k.ld + begin, v = j * g->v.ld + begin;
        double p = exp(g->scale * dot_at(&g->q, q, &g->k, k, width) - lse);
        double ds = g->scale * p * (dot_at(&g->dout, dout, &g->v, v, width) - delta);
        for (int64_t e = 0; e < width; e++) {
            s->dv[j * width + e] += p * ref_at(&g->dout, dout + e);
            s->dk[j * width + e] += ds * ref_at(&g->q, q + e);
            s->dq[e] += ds * ref_at(&g->k, k + e);
        }
    }
    for (int64_t e = 0; e < width; e++) ref_put(&g->dq, i * g->dq.ld + begin + e, (float)s->dq[e]);
}

ddit_status dd_ref_attention_grad(dd_backend *b, const dd_attention_grad_args *g, ddit_err *err) {
    int64_t keys = g->k.shape[0], width = g->q.shape[1] / g->heads, count = keys * width;
    attention_sums s = {0};
    ddit_status status = DDIT_OK;
    DD_GO(dd_alloc_raw(b->allocator, &s.dk, (size_t)count, sizeof(double), "attention_grad: dk", err));
    DD_GO(dd_alloc_raw(b->allocator, &s.dv, (size_t)count, sizeof(double), "attention_grad: dv", err));
    DD_GO(dd_alloc_raw(b->allocator, &s.dq, (size_t)width, sizeof(double), "attention_grad: dq", err));
    for (int64_t head = 0; head < g->heads; head++) {
        for (int64_t i = 0; i < count; i++) s.dk[i] = s.dv[i] = 0;
        for (int64_t i = 0; i < g->q.shape[0]; i++) query_grad(g, &s, head, i, width);
        for (int64_t j = 0; j < keys; j++) {
            for (int64_t e = 0; e < width; e++) {
                ref_put(&g->dk, j * g->dk.ld + head * width + e, (float)s.dk[j * width + e]);
                ref_put(&g->dv, j * g->dv.ld + head * width + e, (float)s.dv[j * width + e]);
            }
        }
    }

done:
    dd_free(b->allocator, s.dq);
    dd_free(b->allocator, s.dv);
    dd_free(b->allocator, s.dk);
    return status;
}
