#include <math.h>

#include "backend/cpu/cpu_state.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"

typedef struct norm_job {
    const dd_cpu_kernels *kernels;
    const dd_norm_args *args;
} norm_job;

static void norm_rows(const void *job, int64_t begin, int64_t end) {
    const norm_job *j = job;
    j->kernels->norm(j->args, begin, end);
}

ddit_status dd_cpu_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err) {
    (void)err;
    const norm_job job = {dd_cpu_of(b)->kernels, a};
    int64_t rows = dd_tensor_row_count(&a->x);
    dd_cpu_for_rows(b, rows, rows * dd_tensor_row_size(&a->x), norm_rows, &job);
    return DDIT_OK;
}

typedef struct qk_job {
    const dd_cpu_kernels *kernels;
    const dd_qk_norm_rope_args *args;
} qk_job;

static void qk_rows(const void *job, int64_t begin, int64_t end) {
    const qk_job *j = job;
    j->kernels->qk_norm_rope(j->args, begin, end);
}

ddit_status dd_cpu_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err) {
    int64_t head_size = dd_tensor_row_size(&a->x) / a->heads;
    if (head_size > DD_CPU_MAX_HEAD)
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "the heads are %lld values wide; the cpu backend normalises heads up to %d",
                       (long long)head_size, DD_CPU_MAX_HEAD);
    const qk_job job = {dd_cpu_of(b)->kernels, a};
    int64_t rows = dd_tensor_row_count(&a->x);
    dd_cpu_for_rows(b, rows, rows * dd_tensor_row_size(&a->x), qk_rows, &job);
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ group norm
 * Pixels are cut into chunks whose size depends on the picture alone. Each chunk leaves mean and squared deviations of every
 * channel in float64; they are joined in the order of the chunks, so the threads' order does not matter. */

enum { CHUNK_PIXELS = 512, MAX_CHUNKS = 256 };

static int64_t chunk_pixels(int64_t pixels) {
    int64_t multiple = (pixels + (int64_t)CHUNK_PIXELS * MAX_CHUNKS - 1) / ((int64_t)CHUNK_PIXELS * MAX_CHUNKS);
    return CHUNK_PIXELS * (multiple > 1 ? multiple : 1);
}

typedef struct stats_job {
    const dd_cpu_kernels *kernels;
    const dd_tensor *x;
    int64_t pixels, chunk;
    double *means, *m2s; /* [chunks, C] */
} stats_job;

static int64_t pixels_of_chunk(const stats_job *j, int64_t i) {
    int64_t left = j->pixels - i * j->chunk;
    return left < j->chunk ? left : j->chunk;
}

static void stats_chunks(const void *job, int64_t begin, int64_t end) {
    const stats_job *j = job;
    int64_t channels = dd_tensor_row_size(j->x);
    for (int64_t i = begin; i < end; i++)
        j->kernels->column_stats(j->means + i * channels, j->m2s + i * channels, j->x, i * j->chunk,
                                 i * j->chunk + pixels_of_chunk(j, i));
}

/* Mean and 1 / sqrt(var + eps) of channels [first, first + count) over all chunks. */
static void join_group(const stats_job *j, int64_t chunks, int64_t first, int64_t count, float eps, double *mean,
                       double *factor) {
    int64_t channels = dd_tensor_row_size(j->x);
    double n = (double)j->pixels * (double)count;
    double sum = 0.0, square = 0.0;
    for (int64_t i = 0; i < chunks; i++)
        for (int64_t c = first; c < first + count; c++) sum += j->means[i * channels + c] * (double)pixels_of_chunk(j, i);
    *mean = sum / n;
    for (int64_t i = 0; i < chunks; i++)
        for (int64_t c = first; c < first + count; c++) {
            double d = j->means[i * channels + c] - *mean;
            square += j->m2s[i * channels + c] + d * d * (double)pixels_of_chunk(j, i);
        }
    *factor = 1.0 / sqrt(square / n + (double)eps);
}

typedef struct map_job {
    const dd_cpu_kernels *kernels;
    dd_cpu_channel_affine_args map;
} map_job;

static void map_rows(const void *job, int64_t begin, int64_t end) {
    const map_job *j = job;
    j->kernels->channel_affine(&j->map, begin, end);
}

ddit_status dd_cpu_group_norm(dd_backend *b, const dd_group_norm_args *a, ddit_err *err) {
    int64_t pixels = dd_tensor_row_count(&a->x);
    int64_t channels = dd_tensor_row_size(&a->x);
    int64_t chunk = chunk_pixels(pixels);
    int64_t chunks = (pixels + chunk - 1) / chunk;
    double *stats = NULL;
    float *map = NULL;
    ddit_status status;
    DD_GO(dd_alloc_raw(b->allocator, &stats, 2 * (size_t)(chunks * channels), sizeof *stats, "group norm statistics", err));
    DD_GO(dd_alloc_raw(b->allocator, &map, 3 * (size_t)channels, sizeof *map, "group norm factors", err));
    const stats_job job = {dd_cpu_of(b)->kernels, &a->x, pixels, chunk, stats, stats + chunks * channels};
    dd_cpu_for_rows(b, chunks, pixels * channels, stats_chunks, &job);

    float *mean = map, *gain = map + channels, *bias = map + 2 * channels;
    int64_t width = channels / a->groups;
    for (int64_t first = 0; first < channels; first += width) {
        double group_mean, factor;
        join_group(&job, chunks, first, width, a->eps, &group_mean, &factor);
        for (int64_t c = first; c < first + width; c++) {
            double weight = a->weight ? (double)((const float *)a->weight->data)[c] : 1.0;
            mean[c] = (float)group_mean;
            gain[c] = (float)(factor * weight);
            double rounded_off = (mean[c] - group_mean) * factor * weight; /* matters where |mean| is far above the deviation */
            bias[c] = (float)(rounded_off + (a->bias ? (double)((const float *)a->bias->data)[c] : 0.0));
        }
    }
    const map_job apply = {dd_cpu_of(b)->kernels, {a->y, a->x, mean, gain, bias, a->activation}};
    dd_cpu_for_rows(b, pixels, pixels * channels, map_rows, &apply);
done:
    dd_free(b->allocator, stats);
    dd_free(b->allocator, map);
    return status;
}
