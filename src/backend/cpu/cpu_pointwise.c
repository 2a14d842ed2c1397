#include <string.h>

#include "backend/cpu/cpu_state.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"

typedef struct affine_job {
    const dd_cpu_kernels *kernels;
    dd_cpu_affine_args args;
} affine_job;

static void affine_rows(const void *job, int64_t begin, int64_t end) {
    const affine_job *j = job;
    j->kernels->affine(&j->args, begin, end);
}

ddit_status dd_cpu_affine(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                          dd_activation activation, ddit_err *err) {
    (void)err;
    const affine_job job = {dd_cpu_of(b)->kernels, {y, x, z, ax, bz, activation}};
    int64_t rows = dd_tensor_row_count(&x);
    dd_cpu_for_rows(b, rows, rows * dd_tensor_row_size(&x), affine_rows, &job);
    return DDIT_OK;
}

typedef struct upsample_job {
    dd_tensor y, x;
    int64_t width;
} upsample_job;

/* Rows of x's picture; each becomes two rows of y's, the second a copy of the first. */
static void upsample_rows(const void *job, int64_t begin, int64_t end) {
    const upsample_job *j = job;
    size_t value = j->x.dtype == DD_DTYPE_BF16 ? 2 : 4;
    size_t pixel = (size_t)dd_tensor_row_size(&j->x) * value;
    size_t x_step = (size_t)j->x.ld * value, y_step = (size_t)j->y.ld * value;
    for (int64_t row = begin; row < end; row++) {
        const char *from = (const char *)j->x.data + (size_t)(row * j->width) * x_step;
        char *to = (char *)j->y.data + (size_t)(4 * row * j->width) * y_step;
        for (int64_t k = 0; k < 4 * j->width; k++)
            memcpy(to + (size_t)k * y_step, from + (size_t)(k % (2 * j->width) / 2) * x_step, pixel);
    }
}

ddit_status dd_cpu_upsample2x(dd_backend *b, dd_tensor y, dd_tensor x, int64_t height, int64_t width, ddit_err *err) {
    (void)err;
    const upsample_job job = {y, x, width};
    dd_cpu_for_rows(b, height, 4 * height * width * dd_tensor_row_size(&x), upsample_rows, &job);
    return DDIT_OK;
}
