/* The values that training starts from. Source: FlexiViT (Beyer et al. 2023) for the embedding's pseudo-inverse, as DDiT takes
 * it; the de-embedding that pairs with it: docs/method.md 2. */
#include <math.h>
#include <string.h>

#include "dit/flux_trainee.h"

/* Random bits of value `index`: no state, so that the start does not depend on the order of anything.
 * Source: SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [-1, 1), 24 bits. */
static float uniform(uint64_t seed, uint64_t index) { return (float)(mix(mix(seed, 0), index) >> 40) * 0x1p-23f - 1.0f; }

/* to [n, n], `stride` values apart, = m from m^T with from [2, 2], `stride` apart; m [n, 2]. */
static void spread(float *to, const float *from, const double *m, int n, int64_t stride) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int a = 0; a < 2; a++)
                for (int b = 0; b < 2; b++) sum += m[2 * i + a] * m[2 * j + b] * from[(2 * a + b) * stride];
            to[(i * n + j) * stride] = (float)sum;
        }
}

/* A tensor of the base model as float32; host memory that the caller frees. */
static ddit_status base_tensor(const dd_flux_dit *dit, const char *name, int rank, const int64_t *shape, float **out,
                               ddit_err *err) {
    const dd_tensor_entry *entry;
    *out = NULL;
    DD_TRY(dd_weight_files_need(dit->files, name, rank, shape, &entry, err));
    DD_TRY(dd_alloc_raw(dit->backend->allocator, out, (size_t)entry->count, sizeof **out, name, err));
    ddit_status status = dd_tensor_entry_to_f32(entry, *out, err);
    dd_weight_files_release(entry);
    return status;
}

/* Embedding w^ = P w for every output and channel, bias unchanged. */
static ddit_status start_embed(const dd_flux_dit *dit, int f, float *values, ddit_err *err) {
    const dd_flux_config *c = &dit->config;
    const dd_flux_patch *patch = &dit->patch[f];
    dd_flux_upsampling u = dd_flux_upsampling_to(c->patch * dd_factor_at(f));
    int64_t rows = (int64_t)c->hidden * c->latent_channels, base = DD_FLUX_BASE * DD_FLUX_BASE;
    float *weight = NULL, *bias = NULL;
    ddit_status status;
    DD_GO(base_tensor(dit, "x_embedder.weight", 2, (int64_t[]){c->hidden, c->in_channels}, &weight, err));
    DD_GO(base_tensor(dit, "x_embedder.bias", 1, (int64_t[]){c->hidden}, &bias, err));
    for (int64_t r = 0; r < rows; r++)
        spread(values + patch->embed_at.weight + r * u.n * u.n, weight + r * base, u.pseudo, u.n, 1);
    memcpy(values + patch->embed_at.bias, bias, (size_t)c->hidden * sizeof *bias);
done:
    dd_free(dit->backend->allocator, weight);
    dd_free(dit->backend->allocator, bias);
    return status;
}

/* De-embedding W^ = B W for every channel and input, bias likewise: the base's own patch, upsampled. */
static ddit_status start_deembed(const dd_flux_dit *dit, int f, float *values, ddit_err *err) {
    const dd_flux_config *c = &dit->config;
    const dd_flux_patch *patch = &dit->patch[f];
    dd_flux_upsampling u = dd_flux_upsampling_to(c->patch * dd_factor_at(f));
    int64_t base = DD_FLUX_BASE * DD_FLUX_BASE, d = c->hidden, area = (int64_t)u.n * u.n;
    float *weight = NULL, *bias = NULL;
    ddit_status status;
    DD_GO(base_tensor(dit, "proj_out.weight", 2, (int64_t[]){c->out_channels, d}, &weight, err));
    DD_GO(base_tensor(dit, "proj_out.bias", 1, (int64_t[]){c->out_channels}, &bias, err));
    for (int64_t k = 0; k < c->latent_channels; k++) {
        for (int64_t i = 0; i < d; i++)
            spread(values + patch->deembed_at.weight + k * area * d + i, weight + k * base * d + i, u.b, u.n, d);
        spread(values + patch->deembed_at.bias + k * area, bias + k * base, u.b, u.n, 1);
    }
done:
    dd_free(dit->backend->allocator, weight);
    dd_free(dit->backend->allocator, bias);
    return status;
}

typedef struct lora_start {
    const dd_flux_trainee *trainee;
    uint64_t seed;
    float *values;
} lora_start;

/* A random, B zero: the linear layer starts as the base's. */
static ddit_status start_lora(void *user, dd_flux_linear *linear, const char *module, int64_t out, int64_t in, ddit_err *err) {
    const lora_start *s = user;
    (void)module, (void)out, (void)err;
    float bound = 1.0f / sqrtf((float)in);
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        if (!linear->lora[f].down) continue;
        int64_t at = linear->lora[f].down_at;
        for (int64_t i = 0; i < s->trainee->options.rank * in; i++)
            s->values[at + i] = bound * uniform(s->seed, (uint64_t)(at + i));
    }
    return DDIT_OK;
}

static ddit_status start_all(const dd_flux_trainee *t, float *values, ddit_err *err) {
    for (int i = 0; i < t->params.count; i++) {
        const dd_param *p = &t->params.items[i];
        const dd_tensor_entry *entry;
        DD_TRY(dd_weight_files_need(t->dit->files, p->name, p->rank, p->shape, &entry, err));
        DD_TRY(dd_tensor_entry_to_f32(entry, values + p->offset, err));
        dd_weight_files_release(entry);
    }
    return DDIT_OK;
}

ddit_status dd_flux_trainee_start(const dd_flux_trainee *t, uint64_t seed, float *values, ddit_err *err) {
    memset(values, 0, (size_t)t->params.total * sizeof *values);
    if (t->options.scope == DD_TRAIN_ALL) return start_all(t, values, err);
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        if (!t->options.factor[f]) continue;
        DD_TRY(start_embed(t->dit, f, values, err));
        DD_TRY(start_deembed(t->dit, f, values, err));
    }
    return dd_flux_lora_walk(t->dit, start_lora, &(lora_start){t, seed, values}, err);
}
