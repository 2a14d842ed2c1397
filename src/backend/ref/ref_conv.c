/* Convolution of rows that are pixels, one output channel at a time. */
#include "backend/ref/ref_state.h"

typedef struct conv_scratch {
    float *row;  /* [in * kh * kw]: one filter as in the file */
    float *taps; /* [kh * kw, in]: the same with a tap's channels side by side */
    float *x;    /* [H*W, in], only when x is BF16 */
} conv_scratch;

/* sum over the taps that lie inside the picture of x . tap, for the result's pixel (row, col) */
static double conv_pixel(const dd_conv2d_args *a, const conv_scratch *s, int64_t row, int64_t col) {
    const dd_weight_info *w = &a->w->info;
    const float *x = s->x ? s->x : (const float *)a->x.data;
    int64_t ld = s->x ? w->in : a->x.ld;
    bool halves = a->stride == 2; /* then nothing is padded above and left */
    int64_t top = halves ? 2 * row : row - w->kh / 2, left = halves ? 2 * col : col - w->kw / 2;
    double sum = 0;
    for (int i = 0; i < w->kh; i++) {
        int64_t r = top + i;
        if (r < 0 || r >= a->height) continue;
        for (int j = 0; j < w->kw; j++) {
            int64_t c = left + j;
            if (c < 0 || c >= a->width) continue;
            sum += dd_ref_dot(x + (r * a->width + c) * ld, s->taps + (i * w->kw + j) * w->in, w->in);
        }
    }
    return sum;
}

static ddit_status conv_run(const dd_conv2d_args *a, const conv_scratch *s, ddit_err *err) {
    const dd_weight_info *w = &a->w->info;
    int64_t taps = (int64_t)w->kh * w->kw, width = a->stride == 2 ? a->width / 2 : a->width;
    if (s->x) {
        for (int64_t p = 0; p < a->x.shape[0]; p++) dd_ref_row(&a->x, p, 0, w->in, s->x + p * w->in);
    }
    for (int64_t o = 0; o < w->out; o++) {
        const float *filter;
        DD_TRY(dd_ref_weight_row(a->w, o, s->row, &filter, err));
        for (int64_t c = 0; c < w->in; c++)
            for (int64_t t = 0; t < taps; t++) s->taps[t * w->in + c] = filter[c * taps + t];
        double bias = a->w->bias ? a->w->bias[o] : 0;
        for (int64_t p = 0; p < a->y.shape[0]; p++) {
            double v = conv_pixel(a, s, p / width, p % width) + bias;
            if (a->add) v += ref_at(a->add, p * a->add->ld + o);
            ref_put(&a->y, p * a->y.ld + o, (float)v);
        }
    }
    return DDIT_OK;
}

ddit_status dd_ref_conv2d(dd_backend *b, const dd_conv2d_args *a, ddit_err *err) {
    const dd_weight_info *w = &a->w->info;
    size_t filter = (size_t)(w->in * w->kh * w->kw), values = (size_t)(a->x.shape[0] * w->in);
    conv_scratch s = {0};
    ddit_status status = DDIT_OK;
    DD_GO(dd_alloc_raw(b->allocator, &s.row, filter, sizeof(float), "convolution: a filter", err));
    DD_GO(dd_alloc_raw(b->allocator, &s.taps, filter, sizeof(float), "convolution: a filter", err));
    if (a->x.dtype != DD_DTYPE_F32) DD_GO(dd_alloc_raw(b->allocator, &s.x, values, sizeof(float), "convolution: x", err));
    DD_GO(conv_run(a, &s, err));

done:
    dd_free(b->allocator, s.x);
    dd_free(b->allocator, s.taps);
    dd_free(b->allocator, s.row);
    return status;
}
