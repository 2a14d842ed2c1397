#include "train/pictures.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/counter_rng.h"
#include "base/folder.h"
#include "base/hash.h"
#include "format/safetensors_write.h"
#include "train/shuffle.h"
#include "train/streams.h"

enum { HEADER_BYTES = 512, KEY_SIZE = 4096 };

struct dd_pictures {
    dd_train_source source; /* first: the source is the object */
    const dd_allocator *allocator;
    dd_pictures_params params;
    char *folder, *key;     /* owned */
    dd_safetensors **files; /* owned [count], each owned or NULL: the picture is still to be encoded */
    size_t values;          /* of a latent */
};

/* ---------------------------------------------------------------------------------------------- files */

static int64_t views(const dd_pictures *p) { return p->params.flip ? 2 : 1; }

/* The key of picture j's file, cut at KEY_SIZE (open checks that none is). */
static void key_of(const dd_pictures *p, int j, char key[KEY_SIZE]) {
    snprintf(key, KEY_SIZE, "%s\n%s", p->key, p->params.items[j].stamp);
}

/* Two pictures with one hash would be noticed by their keys. */
static ddit_status path_of(const dd_pictures *p, const char *key, char **path, ddit_err *err) {
    char name[64];
    snprintf(name, sizeof name, "picture-%016" PRIx64 ".safetensors", dd_hash(DD_HASH_BEGIN, key, strlen(key)));
    return dd_path_join(p->allocator, path, p->folder, name, err);
}

static bool is_ours(const dd_pictures *p, const dd_safetensors *file, const char *expected) {
    dd_latent_shape s = p->params.shape;
    const int64_t want[4] = {views(p), s.channels, s.height, s.width};
    const char *key = dd_safetensors_metadata(file, "key");
    const dd_tensor_entry *e = dd_safetensors_find(file, "latent");
    return key && strcmp(key, expected) == 0 && e && e->dtype == DD_DTYPE_F16 && e->rank == 4 &&
           memcmp(e->shape, want, sizeof want) == 0;
}

/* Maps picture j's file if it is there, whole and made from this picture with the same settings. */
static ddit_status look(dd_pictures *p, int j, ddit_err *err) {
    char key[KEY_SIZE], *path;
    dd_safetensors *file;
    key_of(p, j, key);
    DD_TRY(path_of(p, key, &path, err));
    ddit_status status = dd_safetensors_open(&file, p->allocator, path, err);
    if (status == DDIT_OK && !is_ours(p, file, key)) {
        dd_safetensors_close(file);
        status = dd_fail(err, DDIT_ERR_MISMATCH, "%s: was made with other settings", path);
    } else if (status == DDIT_OK) {
        p->files[j] = file;
    }
    dd_free(p->allocator, path);
    return status;
}

int dd_pictures_missing(dd_pictures *p) {
    int missing = 0;
    for (int j = 0; j < p->params.count; j++) missing += !p->files[j] && look(p, j, NULL) != DDIT_OK;
    return missing;
}

/* ---------------------------------------------------------------------------------------------- making */

static ddit_status to_f16(uint16_t *out, const float *latent, size_t count, const char *stamp, ddit_err *err) {
    for (size_t i = 0; i < count; i++) {
        out[i] = dd_f16_from_f32(latent[i]);
        if (!isfinite(dd_f32_from_f16(out[i])))
            return dd_fail(err, DDIT_ERR_BACKEND, "%s: its latent holds %g, which is no finite number of 16 bits", stamp,
                           (double)latent[i]);
    }
    return DDIT_OK;
}

static ddit_status write_file(dd_pictures *p, int j, const uint16_t *values, ddit_err *err) {
    char key[KEY_SIZE], *path;
    dd_latent_shape s = p->params.shape;
    key_of(p, j, key);
    const dd_safetensors_item item = {.name = "latent", .dtype = DD_DTYPE_F16, .rank = 4, .data = values,
                                      .shape = {views(p), s.channels, s.height, s.width}};
    DD_TRY(path_of(p, key, &path, err));
    ddit_status status = dd_safetensors_write(p->allocator, path, &item, 1, &(dd_safetensors_pair){"key", key}, 1, err);
    dd_free(p->allocator, path);
    return status ? status : look(p, j, err);
}

ddit_status dd_pictures_make(dd_pictures *p, dd_pictures_encode encode, void *user,
                             int (*done)(void *user, int made, int missing), void *done_user, ddit_err *err) {
    int missing = 0, made = 0, ranks = p->params.ranks > 1 ? p->params.ranks : 1;
    float *latent = NULL;
    uint16_t *values = NULL;
    ddit_status status;
    for (int j = p->params.rank; j < p->params.count; j += ranks) missing += !p->files[j];
    DD_GO(dd_alloc_raw(p->allocator, &latent, p->values, sizeof *latent, "a latent", err));
    DD_GO(dd_alloc_raw(p->allocator, &values, 2 * p->values, sizeof *values, "a latent", err));
    for (int j = p->params.rank; j < p->params.count; j += ranks) {
        if (p->files[j]) continue;
        for (int v = 0; v < views(p); v++) {
            DD_GO(encode(user, j, v == 1, latent, err));
            DD_GO(to_f16(values + (size_t)v * p->values, latent, p->values, p->params.items[j].stamp, err));
        }
        DD_GO(write_file(p, j, values, err));
        made++;
        if (done && done(done_user, made, missing))
            DD_GO(dd_fail(err, DDIT_ERR_CANCELLED, "cancelled after %d of %d pictures; they are kept", made, missing));
    }
done:
    dd_free(p->allocator, latent);
    dd_free(p->allocator, values);
    return status;
}

/* ---------------------------------------------------------------------------------------------- source */

static uint64_t number_of(const dd_pictures *p, uint64_t step, int i) {
    return step * (uint64_t)p->params.samples_per_step + (uint64_t)i;
}

static int picture_of(const dd_pictures *p, uint64_t n) {
    uint64_t count = (uint64_t)p->params.count;
    return (int)dd_shuffle_at(p->params.seed, n / count, count, n % count);
}

static float sigma_of(const dd_pictures *p, uint64_t n) {
    const dd_pictures_params *q = &p->params;
    double u = 1 - dd_counter_uniform(q->seed, DD_STREAM_PICTURE_LEVEL, n); /* never 0 */
    if (q->levels == DD_NOISE_LOGIT_NORMAL) {
        double x = q->logit_mean + q->logit_std * dd_counter_normal(q->seed, DD_STREAM_PICTURE_LEVEL, n);
        u = 1 / (1 + exp(-x));
    }
    return q->sigma_of ? q->sigma_of(q->sigma_user, u) : (float)u;
}

static ddit_status plan(const dd_train_source *source, uint64_t step, int i, dd_train_sample *out, ddit_err *err) {
    const dd_pictures *p = (const dd_pictures *)source;
    const dd_pictures_params *q = &p->params;
    uint64_t n = number_of(p, step, i);
    (void)err;
    bool dropped = q->empty && dd_counter_uniform(q->seed, DD_STREAM_PICTURE_CAPTION, n) < q->caption_dropout;
    const dd_train_prompt *prompt = dropped ? q->empty : &q->items[picture_of(p, n)].caption;
    float u = (float)dd_counter_uniform(q->seed, DD_STREAM_PICTURE_GUIDANCE, n);
    *out = (dd_train_sample){.text = prompt->text, .pooled = prompt->pooled, .sigma = sigma_of(p, n),
                             .guidance = q->guidance_low + u * (q->guidance_high - q->guidance_low),
                             .has_target = q->has_target};
    return DDIT_OK;
}

static ddit_status fetch(const dd_train_source *source, uint64_t step, int i, float *latent, float *target, ddit_err *err) {
    const dd_pictures *p = (const dd_pictures *)source;
    uint64_t n = number_of(p, step, i), seed = p->params.seed, stream = dd_stream_of(DD_STREAM_PICTURE_NOISE, n);
    const dd_tensor_entry *entry = dd_safetensors_find(p->files[picture_of(p, n)], "latent");
    bool mirrored = p->params.flip && dd_counter_uniform(seed, DD_STREAM_PICTURE_FLIP, n) < 0.5;
    const uint8_t *data = entry->data + (mirrored ? p->values * sizeof(uint16_t) : 0);
    float sigma = sigma_of(p, n);
    DD_TRY(dd_to_f32(latent, data, DD_DTYPE_F16, p->values, err));
    for (size_t k = 0; k < p->values; k++) {
        float x = latent[k], noise = (float)dd_counter_normal(seed, stream, k);
        latent[k] = (1 - sigma) * x + sigma * noise;
        if (target) target[k] = noise - x;
    }
    dd_tensor_entry_release(entry); /* the cache may be larger than memory; the system keeps its pages as long as it likes */
    return DDIT_OK;
}

ddit_status dd_pictures_source(dd_pictures *p, const dd_train_source **source, ddit_err *err) {
    *source = NULL;
    for (int j = 0; j < p->params.count; j++)
        if (!p->files[j])
            return dd_fail(err, DDIT_ERR_NOT_FOUND, "%s: its latent is not in %s", p->params.items[j].stamp, p->folder);
    *source = &p->source;
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- open, close */

static ddit_status check(const dd_pictures_params *q, ddit_err *err) {
    if (q->count < 1 || q->count > DD_PICTURES_MAX)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "there are %d pictures, expected 1 to %d", q->count, DD_PICTURES_MAX);
    if (!(q->caption_dropout >= 0 && q->caption_dropout <= 1))
        return dd_fail(err, DDIT_ERR_ARGUMENT, "caption_dropout is %g, expected 0 to 1", q->caption_dropout);
    if (q->caption_dropout > 0 && !q->empty)
        return dd_fail(err, DDIT_ERR_INTERNAL, "caption_dropout is %g without an empty prompt", q->caption_dropout);
    for (int j = 0; j < q->count; j++)
        if (strlen(q->key) + strlen(q->items[j].stamp) + 2 > KEY_SIZE)
            return dd_fail(err, DDIT_ERR_ARGUMENT, "%.80s...: its name is too long", q->items[j].stamp);
    return DDIT_OK;
}

ddit_status dd_pictures_open(dd_pictures **out, const dd_allocator *a, const dd_pictures_params *params, int *missing,
                             ddit_err *err) {
    dd_pictures *p;
    *out = NULL;
    DD_TRY(check(params, err));
    DD_TRY(dd_alloc(a, &p, 1, sizeof *p, "the pictures", err));
    p->allocator = a;
    p->params = *params;
    p->source = (dd_train_source){.plan = plan, .fetch = fetch};
    p->values = dd_latent_values(params->shape);
    ddit_status status;
    DD_GO(dd_strdup(a, &p->folder, params->folder, err));
    DD_GO(dd_strdup(a, &p->key, params->key, err));
    DD_GO(dd_alloc(a, &p->files, (size_t)params->count, sizeof *p->files, "the list of pictures", err));
    DD_GO(dd_make_folder(p->folder, err));
    *missing = dd_pictures_missing(p);
    *out = p;
    return DDIT_OK;
done:
    dd_pictures_close(p);
    return status;
}

void dd_pictures_close(dd_pictures *p) {
    if (!p) return;
    for (int j = 0; p->files && j < p->params.count; j++) dd_safetensors_close(p->files[j]);
    dd_free(p->allocator, p->files);
    dd_free(p->allocator, p->folder);
    dd_free(p->allocator, p->key);
    dd_free(p->allocator, p);
}

uint64_t dd_pictures_bytes(const dd_pictures_params *q) {
    uint64_t latent = dd_latent_values(q->shape) * sizeof(uint16_t);
    return (uint64_t)q->count * ((q->flip ? 2 : 1) * latent + HEADER_BYTES);
}
