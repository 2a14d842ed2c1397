/* The adapter's weights: patch embeddings of factors 2 and 4, LoRA, residuals. */
#include <string.h>

#include "dit/flux_weights.h"

dd_flux_upsampling dd_flux_upsampling_to(int n) {
    enum { BASE = DD_FLUX_BASE };
    dd_flux_upsampling u = {.n = n};
    double gram[3] = {0}, *b = u.b;
    for (int i = 0; i < n; i++) {
        double x = (i + 0.5) * BASE / n - 0.5;
        if (x < 0) x = 0;
        if (x > BASE - 1) x = BASE - 1;
        int left = (int)x;
        int right = left + 1 < BASE ? left + 1 : left;
        b[i * BASE + left] += 1 - (x - left);
        b[i * BASE + right] += x - left;
    }
    for (int i = 0; i < n; i++) {
        gram[0] += b[2 * i] * b[2 * i];
        gram[1] += b[2 * i] * b[2 * i + 1];
        gram[2] += b[2 * i + 1] * b[2 * i + 1];
    }
    double det = gram[0] * gram[2] - gram[1] * gram[1];
    for (int i = 0; i < n; i++) {
        u.pseudo[2 * i] = (gram[2] * b[2 * i] - gram[1] * b[2 * i + 1]) / det;
        u.pseudo[2 * i + 1] = (gram[0] * b[2 * i + 1] - gram[1] * b[2 * i]) / det;
    }
    return u;
}

/* P = B1 B1^+ = B1 (B1^T B1)^-1 B1^T [n, n]: what of n values a patch of two can say. */
static void projection_matrix(int n, float *out) {
    dd_flux_upsampling u = dd_flux_upsampling_to(n);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            out[i * n + j] = (float)(u.b[2 * i] * u.pseudo[2 * j] + u.b[2 * i + 1] * u.pseudo[2 * j + 1]);
}

/* Values of one factor in dit->residual_vectors: pixel weight [C, C], pixel bias [C], projection. */
static size_t slot_size(const dd_flux_dit *dit) {
    size_t c = (size_t)dit->config.latent_channels;
    return c * c + c + DD_FLUX_MAX_N * DD_FLUX_MAX_N;
}

ddit_status dd_flux_residual_alloc(dd_flux_dit *dit, ddit_err *err) {
    return dd_op_alloc(dit->backend, (void **)&dit->residual_vectors, DD_FACTOR_COUNT * slot_size(dit) * sizeof(float),
                       "the adapter's residual", err);
}

ddit_status dd_flux_residual_set(dd_flux_dit *dit, int f, int n, const float *pixel, bool hf, ddit_err *err) {
    int64_t c = dit->config.latent_channels;
    dd_flux_patch *patch = &dit->patch[f];
    float *slot = dit->residual_vectors + (size_t)f * slot_size(dit);
    float projection[DD_FLUX_MAX_N * DD_FLUX_MAX_N];
    patch->has_pixel = pixel != NULL;
    patch->has_hf = hf;
    patch->pixel_weight = dd_tensor_2d(slot, DD_DTYPE_F32, c, c);
    patch->pixel_bias = dd_tensor_1d(slot + c * c, DD_DTYPE_F32, c);
    patch->projection = dd_tensor_2d(slot + c * c + c, DD_DTYPE_F32, n, n);
    projection_matrix(n, projection);
    if (pixel) DD_TRY(dd_op_upload(dit->backend, slot, pixel, (size_t)(c * c + c) * sizeof(float), err));
    return dd_op_upload(dit->backend, slot + c * c + c, projection, (size_t)(n * n) * sizeof(float), err);
}

typedef struct lora_loader {
    dd_flux_dit *dit;
    const dd_adapter *adapter;
} lora_loader;

static ddit_status load_lora(void *user, dd_flux_linear *linear, const char *module, int64_t out, int64_t in, ddit_err *err) {
    lora_loader *loader = user;
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        const dd_tensor_entry *down, *up;
        if (!dd_adapter_lora(loader->adapter, dd_factor_at(f), module, &down, &up)) continue;
        DD_TRY(dd_flux_entry_prepare(loader->dit, &linear->lora[f].down, down, loader->adapter->rank, in, NULL, err));
        DD_TRY(dd_flux_entry_prepare(loader->dit, &linear->lora[f].up, up, out, loader->adapter->rank, NULL, err));
    }
    return DDIT_OK;
}

/* The id vector is added to every token after embedding: it joins the bias. */
static ddit_status load_patch(dd_flux_dit *dit, dd_flux_patch *patch, const dd_adapter_factor *factor, int n, ddit_err *err) {
    const dd_allocator *a = dit->backend->allocator;
    int64_t d = dit->config.hidden, features = (int64_t)dit->config.latent_channels * n * n;
    float *bias = NULL, *id = NULL, *deembed_bias = NULL;
    ddit_status status;
    DD_GO(dd_alloc(a, &bias, (size_t)d, sizeof *bias, "a bias", err));
    DD_GO(dd_alloc(a, &id, (size_t)d, sizeof *id, "an id vector", err));
    DD_GO(dd_alloc(a, &deembed_bias, (size_t)features, sizeof *deembed_bias, "a bias", err));
    DD_GO(dd_tensor_entry_to_f32(factor->embed_bias, bias, err));
    if (factor->id) DD_GO(dd_tensor_entry_to_f32(factor->id, id, err));
    for (int64_t i = 0; i < d; i++) bias[i] += id[i];
    DD_GO(dd_tensor_entry_to_f32(factor->deembed_bias, deembed_bias, err));
    DD_GO(dd_flux_entry_prepare(dit, &patch->embed, factor->embed_weight, d, features, bias, err));
    DD_GO(dd_flux_entry_prepare(dit, &patch->deembed, factor->deembed_weight, features, d, deembed_bias, err));
done:
    dd_free(a, bias);
    dd_free(a, id);
    dd_free(a, deembed_bias);
    return status;
}

/* The pixel-linear residual of one factor as the file has it; scratch [C, C] + [C]. */
static ddit_status load_residual(dd_flux_dit *dit, int f, const dd_adapter *adapter, float *scratch, ddit_err *err) {
    const dd_adapter_factor *factor = &adapter->factor[f];
    int64_t c = dit->config.latent_channels;
    bool has_pixel = adapter->residual_linear && factor->res_weight;
    memset(scratch, 0, (size_t)(c * c + c) * sizeof *scratch);
    if (has_pixel) {
        DD_TRY(dd_tensor_entry_to_f32(factor->res_weight, scratch, err));
        if (factor->res_bias) DD_TRY(dd_tensor_entry_to_f32(factor->res_bias, scratch + c * c, err));
    }
    return dd_flux_residual_set(dit, f, dit->config.patch * dd_factor_at(f), has_pixel ? scratch : NULL, adapter->residual_hf,
                                err);
}

ddit_status dd_flux_dit_add_adapter(dd_flux_dit *dit, const dd_adapter *adapter, ddit_err *err) {
    const dd_allocator *a = dit->backend->allocator;
    size_t c = (size_t)dit->config.latent_channels;
    float *scratch = NULL;
    uint64_t bytes_before = dit->weight_bytes;
    int prepared_before = dit->prepared_count;
    ddit_status status;
    DD_GO(dd_alloc(a, &scratch, c * c + c, sizeof *scratch, "the adapter's residual", err));
    DD_GO(dd_flux_residual_alloc(dit, err));
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        if (!adapter->factor[f].present) continue;
        DD_GO(load_patch(dit, &dit->patch[f], &adapter->factor[f], dit->config.patch * dd_factor_at(f), err));
        DD_GO(load_residual(dit, f, adapter, scratch, err));
        dit->patch[f].present = true;
    }
    dit->lora_scale = adapter->rank > 0 ? adapter->alpha / (float)adapter->rank : 0.0f;
    if (adapter->rank > 0) DD_GO(dd_flux_lora_walk(dit, load_lora, &(lora_loader){dit, adapter}, err));
done:
    dd_free(a, scratch);
    if (status != DDIT_OK) {
        dd_flux_adapter_free(dit);
        dit->weight_bytes = bytes_before;
        dit->prepared_count = prepared_before;
    }
    return status;
}

static ddit_status free_lora(void *user, dd_flux_linear *linear, const char *module, int64_t out, int64_t in, ddit_err *err) {
    dd_flux_dit *dit = user;
    (void)module, (void)out, (void)in, (void)err;
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        dd_op_weight_free(dit->backend, linear->lora[f].down);
        dd_op_weight_free(dit->backend, linear->lora[f].up);
        linear->lora[f].down = linear->lora[f].up = NULL;
    }
    return DDIT_OK;
}

void dd_flux_adapter_free(dd_flux_dit *dit) {
    if (dit->doubles && dit->singles) dd_flux_lora_walk(dit, free_lora, dit, NULL);
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        dd_op_weight_free(dit->backend, dit->patch[f].embed);
        dd_op_weight_free(dit->backend, dit->patch[f].deembed);
        dit->patch[f] = (dd_flux_patch){0};
    }
    dd_op_free(dit->backend, dit->residual_vectors);
    dit->residual_vectors = NULL;
}
