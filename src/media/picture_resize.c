/* Resizing in two passes, columns first: every output value is a weighted sum of the input values near it. Between
 * the passes values keep their fractions, so that the order of the passes does not show. */
#include <math.h>
#include <string.h>

#include "media/picture.h"

/* For each output position the first input position, how many, and their weights (sum 1). */
typedef struct filter {
    int support; /* most weights of a position */
    int *first;  /* owned [n], with count[n] behind it */
    int *count;
    float *weights; /* owned [n, support] */
} filter;

/* Keys' cubic with a = -1/2. */
static double cubic(double x) {
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

static void filter_deinit(filter *f, const dd_allocator *a) {
    dd_free(a, f->first);
    dd_free(a, f->weights);
}

/* Output 0..n-1 covers [begin, begin + n * scale) of the size input positions. To be freed after a failure too. */
static ddit_status filter_init(filter *f, const dd_allocator *a, int n, int size, double begin, double scale, ddit_err *err) {
    double stretch = scale > 1 ? scale : 1, reach = 2 * stretch;
    *f = (filter){.support = (int)ceil(reach) * 2 + 1};
    ddit_status status;
    DD_GO(dd_alloc(a, &f->first, (size_t)n, 2 * sizeof(int), "resizing weights", err));
    DD_GO(dd_alloc(a, &f->weights, (size_t)n, (size_t)f->support * sizeof(float), "resizing weights", err));
    f->count = f->first + n;
    for (int i = 0; i < n; i++) {
        double centre = begin + (i + 0.5) * scale, sum = 0;
        int low = (int)fmax(0, floor(centre - reach + 0.5)), high = (int)fmin(size, floor(centre + reach + 0.5));
        float *w = f->weights + (size_t)i * (size_t)f->support;
        f->first[i] = low;
        f->count[i] = high - low;
        for (int k = low; k < high; k++) sum += cubic((k + 0.5 - centre) / stretch);
        for (int k = low; k < high; k++) w[k - low] = (float)(cubic((k + 0.5 - centre) / stretch) / sum);
    }
done:
    return status;
}

/* One row of the input to one row of `width` float pixels. */
static void pass_columns(float *out, const uint8_t *row, const filter *f, int width) {
    for (int x = 0; x < width; x++, out += 3) {
        const float *w = f->weights + (size_t)x * (size_t)f->support;
        const uint8_t *in = row + (size_t)f->first[x] * 3;
        float r = 0, g = 0, b = 0;
        for (int k = 0; k < f->count[x]; k++, in += 3) {
            r += w[k] * in[0];
            g += w[k] * in[1];
            b += w[k] * in[2];
        }
        out[0] = r;
        out[1] = g;
        out[2] = b;
    }
}

static uint8_t to_8_bit(float x) {
    x += 0.5f;
    return x <= 0 ? 0 : x >= 255 ? 255 : (uint8_t)x;
}

/* Row y of the output from rows of which the first is `top` of the input. sum [values] is scratch. */
static void pass_rows(uint8_t *out, float *sum, const float *rows, int top, const filter *f, int y, size_t values) {
    const float *w = f->weights + (size_t)y * (size_t)f->support;
    memset(sum, 0, values * sizeof *sum);
    for (int k = 0; k < f->count[y]; k++) {
        const float *row = rows + (size_t)(f->first[y] - top + k) * values;
        for (size_t i = 0; i < values; i++) sum[i] += w[k] * row[i];
    }
    for (size_t i = 0; i < values; i++) out[i] = to_8_bit(sum[i]);
}

static ddit_status resize(dd_picture *out, const dd_picture *in, const filter *columns, const filter *rows, ddit_err *err) {
    const dd_allocator *a = out->allocator;
    size_t values = (size_t)out->width * 3;
    int last = out->height - 1, top = rows->first[0], count = rows->first[last] + rows->count[last] - top;
    float *middle = NULL, *sum = NULL;
    ddit_status status;
    DD_GO(dd_alloc_raw(a, &middle, (size_t)count, values * sizeof(float), "a picture being resized", err));
    DD_GO(dd_alloc_raw(a, &sum, values, sizeof(float), "a picture being resized", err));
    DD_GO(dd_alloc_raw(a, &out->rgb, (size_t)out->height, values, "a picture", err));
    for (int y = 0; y < count; y++)
        pass_columns(middle + (size_t)y * values, in->rgb + (size_t)(top + y) * (size_t)in->width * 3, columns, out->width);
    for (int y = 0; y < out->height; y++) pass_rows(out->rgb + (size_t)y * values, sum, middle, top, rows, y, values);
done:
    dd_free(a, middle);
    dd_free(a, sum);
    return status;
}

ddit_status dd_picture_resize(dd_picture *out, const dd_allocator *a, const dd_picture *in, int width, int height,
                              ddit_err *err) {
    *out = (dd_picture){.width = width, .height = height, .allocator = a};
    double across = (double)in->width / width, down = (double)in->height / height, scale = across < down ? across : down;
    filter columns = {0}, rows = {0};
    ddit_status status;
    if (in->width == width && in->height == height) {
        DD_GO(dd_alloc_raw(a, &out->rgb, (size_t)width * (size_t)height, 3, "a picture", err));
        memcpy(out->rgb, in->rgb, (size_t)width * (size_t)height * 3);
        return DDIT_OK;
    }
    DD_GO(filter_init(&columns, a, width, in->width, (in->width - width * scale) / 2, scale, err));
    DD_GO(filter_init(&rows, a, height, in->height, (in->height - height * scale) / 2, scale, err));
    DD_GO(resize(out, in, &columns, &rows, err));
done:
    filter_deinit(&columns, a);
    filter_deinit(&rows, a);
    if (status != DDIT_OK) dd_picture_deinit(out);
    return status;
}
