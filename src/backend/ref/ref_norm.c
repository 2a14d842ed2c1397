/* Layer, RMS and group norm; the norm and rotation of queries and keys. */
#include <math.h>

#include "backend/ref/ref_state.h"

ddit_status dd_ref_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err) {
    (void)b, (void)err;
    int64_t width = a->x.shape[1];
    for (int64_t m = 0; m < a->x.shape[0]; m++) {
        int64_t x = m * a->x.ld, y = m * a->y.ld;
        double mean = 0, square = 0;
        if (a->kind == DD_NORM_LAYER) {
            for (int64_t i = 0; i < width; i++) mean += ref_at(&a->x, x + i);
            mean /= (double)width;
        }
        for (int64_t i = 0; i < width; i++) {
            double d = ref_at(&a->x, x + i) - mean;
            square += d * d;
        }
        double factor = 1 / sqrt(square / (double)width + a->eps);
        for (int64_t i = 0; i < width; i++) {
            double v = (ref_at(&a->x, x + i) - mean) * factor;
            v = v * ref_or(a->weight, i, 1) + ref_or(a->bias, i, 0);
            v = v * (1 + ref_or(a->scale, i, 0)) + ref_or(a->shift, i, 0);
            ref_put(&a->y, y + i, (float)v);
        }
    }
    return DDIT_OK;
}

static void group_norm_one(const dd_group_norm_args *a, int64_t begin, int64_t width) {
    int64_t pixels = a->x.shape[0];
    double mean = 0, square = 0, count = (double)(pixels * width);
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = begin; c < begin + width; c++) mean += ref_at(&a->x, p * a->x.ld + c);
    mean /= count;
    for (int64_t p = 0; p < pixels; p++) {
        for (int64_t c = begin; c < begin + width; c++) {
            double d = ref_at(&a->x, p * a->x.ld + c) - mean;
            square += d * d;
        }
    }
    double factor = 1 / sqrt(square / count + a->eps);
    for (int64_t p = 0; p < pixels; p++) {
        for (int64_t c = begin; c < begin + width; c++) {
            double v = (ref_at(&a->x, p * a->x.ld + c) - mean) * factor;
            v = v * ref_or(a->weight, c, 1) + ref_or(a->bias, c, 0);
            ref_put(&a->y, p * a->y.ld + c, (float)dd_ref_activate(v, a->activation));
        }
    }
}

ddit_status dd_ref_group_norm(dd_backend *b, const dd_group_norm_args *a, ddit_err *err) {
    (void)b, (void)err;
    int64_t width = a->x.shape[1] / a->groups;
    for (int g = 0; g < a->groups; g++) group_norm_one(a, g * width, width);
    return DDIT_OK;
}

ddit_status dd_ref_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err) {
    (void)b, (void)err;
    int64_t width = a->x.shape[1] / a->heads;
    for (int64_t m = 0; m < a->x.shape[0]; m++) {
        for (int head = 0; head < a->heads; head++) {
            int64_t x = m * a->x.ld + head * width;
            double square = 0;
            for (int64_t i = 0; i < width; i++) square += (double)ref_at(&a->x, x + i) * ref_at(&a->x, x + i);
            double factor = 1 / sqrt(square / (double)width + a->eps);
            for (int64_t i = 0; i + 1 < width; i += 2) {
                double u = ref_at(&a->x, x + i) * factor * ref_at(a->weight, i);
                double v = ref_at(&a->x, x + i + 1) * factor * ref_at(a->weight, i + 1);
                double cosine = a->rope ? ref_at(a->rope, m * a->rope->ld + i) : 1;
                double sine = a->rope ? ref_at(a->rope, m * a->rope->ld + i + 1) : 0;
                ref_put(&a->x, x + i, (float)(u * cosine - v * sine));
                ref_put(&a->x, x + i + 1, (float)(v * cosine + u * sine));
            }
        }
    }
    return DDIT_OK;
}
