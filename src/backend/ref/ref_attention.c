/* softmax(scale * q k^T + bias) v: one row of scores at a time. */
#include <math.h>

#include "backend/ref/ref_state.h"

typedef struct attention_scratch {
    float *q, *k, *v; /* copies for BF16: [E], [Nk, E], [Nk, E] of one head */
    double *scores;   /* [Nk] */
    double *sums;     /* [E] */
} attention_scratch;

/* Rows of one head as float32, `stride` values apart: the tensor's own memory, or a copy. */
static const float *head_rows(const dd_tensor *t, int64_t begin, int64_t width, float *copy, int64_t *stride) {
    if (t->dtype == DD_DTYPE_F32) {
        *stride = t->ld;
        return (const float *)t->data + begin;
    }
    *stride = width;
    for (int64_t i = 0; i < t->shape[0]; i++) dd_ref_row(t, i, begin, width, copy + i * width);
    return copy;
}

/* Scores to probabilities (not yet divided by their sum, which is returned); *largest receives the largest score. */
static double soften(double *scores, int64_t count, double *largest) {
    double top = scores[0], sum = 0;
    for (int64_t j = 1; j < count; j++) top = fmax(top, scores[j]);
    for (int64_t j = 0; j < count; j++) sum += scores[j] = exp(scores[j] - top);
    *largest = top;
    return sum;
}

static void attend_head(const dd_attention_args *a, const attention_scratch *s, int head) {
    int64_t queries = a->q.shape[0], keys = a->k.shape[0], width = a->q.shape[1] / a->heads, begin = head * width;
    int64_t k_stride, v_stride;
    const float *k = head_rows(&a->k, begin, width, s->k, &k_stride), *v = head_rows(&a->v, begin, width, s->v, &v_stride);
    for (int64_t i = 0; i < queries; i++) {
        const float *q = dd_ref_row(&a->q, i, begin, width, s->q);
        int64_t seen = a->causal && i + 1 < keys ? i + 1 : keys;
        for (int64_t j = 0; j < seen; j++) s->scores[j] = a->scale * dd_ref_dot(q, k + j * k_stride, width);
        if (a->bias) {
            int64_t first = (head * queries + i) * a->bias->ld;
            for (int64_t j = 0; j < seen; j++) s->scores[j] += ref_at(a->bias, first + j);
        }
        double top, sum = soften(s->scores, seen, &top);
        for (int64_t e = 0; e < width; e++) s->sums[e] = 0;
        for (int64_t j = 0; j < seen; j++)
            for (int64_t e = 0; e < width; e++) s->sums[e] += s->scores[j] * v[j * v_stride + e];
        for (int64_t e = 0; e < width; e++) ref_put(&a->out, i * a->out.ld + begin + e, (float)(s->sums[e] / sum));
        if (a->lse) ref_put(a->lse, head * a->lse->ld + i, (float)(top + log(sum)));
    }
}

ddit_status dd_ref_attention(dd_backend *b, const dd_attention_args *a, ddit_err *err) {
    size_t keys = (size_t)a->k.shape[0], width = (size_t)(a->q.shape[1] / a->heads);
    bool wide = a->k.dtype == DD_DTYPE_F32;
    attention_scratch s = {0};
    ddit_status status = DDIT_OK;
    DD_GO(dd_alloc_raw(b->allocator, &s.q, width, sizeof(float), "attention: a query", err));
    DD_GO(dd_alloc_raw(b->allocator, &s.k, wide ? 0 : keys * width, sizeof(float), "attention: a head's keys", err));
    DD_GO(dd_alloc_raw(b->allocator, &s.v, wide ? 0 : keys * width, sizeof(float), "attention: a head's values", err));
    DD_GO(dd_alloc_raw(b->allocator, &s.scores, keys, sizeof(double), "attention: a row of scores", err));
    DD_GO(dd_alloc_raw(b->allocator, &s.sums, width, sizeof(double), "attention: a row of sums", err));
    for (int head = 0; head < a->heads; head++) attend_head(a, &s, head);

done:
    dd_free(b->allocator, s.sums);
    dd_free(b->allocator, s.scores);
    dd_free(b->allocator, s.v);
    dd_free(b->allocator, s.k);
    dd_free(b->allocator, s.q);
    return status;
}
