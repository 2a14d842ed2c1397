/* Ops without sums: scaling and casting, rows by index, doubling a picture, the autoencoder's input. */
#include "backend/ref/ref_state.h"

ddit_status dd_ref_affine(dd_backend *b, dd_tensor y, float ax, dd_tensor x, float bz, const dd_tensor *z,
                          dd_activation activation, ddit_err *err) {
    (void)b, (void)err;
    for (int64_t m = 0; m < y.shape[0]; m++) {
        for (int64_t n = 0; n < y.shape[1]; n++) {
            double v = (double)ax * ref_at(&x, m * x.ld + n);
            if (z) v += (double)bz * ref_at(z, m * z->ld + n);
            ref_put(&y, m * y.ld + n, (float)dd_ref_activate(v, activation));
        }
    }
    return DDIT_OK;
}

/* Row `id` of a table of any float dtype into row m of y. */
static ddit_status gather_row(dd_tensor y, int64_t m, const dd_tensor *table, int64_t id, float *copy, ddit_err *err) {
    uint64_t pitch = 0; /* op.c has checked that ld is a whole number of blocks */
    dd_dtype_bytes(table->dtype, (uint64_t)table->ld, &pitch);
    int64_t width = y.shape[1];
    DD_TRY(dd_to_f32(copy, (const uint8_t *)table->data + (uint64_t)id * pitch, table->dtype, (size_t)width, err));
    for (int64_t n = 0; n < width; n++) ref_put(&y, m * y.ld + n, copy[n]);
    return DDIT_OK;
}

ddit_status dd_ref_gather_rows(dd_backend *b, dd_tensor y, dd_tensor table, dd_tensor ids, ddit_err *err) {
    const int32_t *id = ids.data;
    for (int64_t m = 0; m < y.shape[0]; m++) {
        if (id[m] < 0 || id[m] >= table.shape[0])
            return dd_fail(err, DDIT_ERR_INTERNAL, "gather_rows: id %d at row %lld is not in a table of %lld rows", (int)id[m],
                           (long long)m, (long long)table.shape[0]);
    }
    float *copy;
    DD_TRY(dd_alloc_raw(b->allocator, &copy, (size_t)y.shape[1], sizeof(float), "gather_rows: a row", err));
    ddit_status status = DDIT_OK;
    for (int64_t m = 0; m < y.shape[0] && status == DDIT_OK; m++) status = gather_row(y, m, &table, id[m], copy, err);
    dd_free(b->allocator, copy);
    return status;
}

ddit_status dd_ref_upsample2x(dd_backend *b, dd_tensor y, dd_tensor x, int64_t height, int64_t width, ddit_err *err) {
    (void)b, (void)err;
    for (int64_t row = 0; row < 2 * height; row++) {
        for (int64_t col = 0; col < 2 * width; col++) {
            int64_t from = (row / 2 * width + col / 2) * x.ld, to = (row * 2 * width + col) * y.ld;
            for (int64_t c = 0; c < x.shape[1]; c++) ref_put(&y, to + c, ref_at(&x, from + c));
        }
    }
    return DDIT_OK;
}

ddit_status dd_ref_channels_last(dd_backend *b, dd_tensor y, dd_tensor x, float a, float bias, ddit_err *err) {
    (void)b, (void)err;
    int64_t channels = x.shape[0], height = x.shape[1], width = x.shape[2];
    for (int64_t c = 0; c < channels; c++)
        for (int64_t row = 0; row < height; row++)
            for (int64_t col = 0; col < width; col++) {
                double v = (double)a * ref_at(&x, (c * height + row) * x.ld + col) + bias;
                ref_put(&y, (row * width + col) * y.ld + c, (float)v);
            }
    return DDIT_OK;
}
