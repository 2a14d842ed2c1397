#include "train/trajectories.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/counter_rng.h"
#include "base/folder.h"
#include "train/shuffle.h"
#include "train/streams.h"
#include "train/trajectories_private.h"

enum { HEADER_BYTES = 512 };

ddit_status dd_trajectories_path(const dd_trajectories *t, int j, char **path, ddit_err *err) {
    char name[48];
    snprintf(name, sizeof name, "trajectory-%06d.safetensors", j);
    return dd_path_join(t->allocator, path, t->folder, name, err);
}

float dd_trajectories_guidance(const dd_trajectories *t, int j) {
    float u = (float)dd_counter_uniform(t->params.seed, DD_STREAM_GUIDANCE, (uint64_t)j);
    return t->params.guidance_low + u * (t->params.guidance_high - t->params.guidance_low);
}

/* ---------------------------------------------------------------------------------------------- files */

static bool has_shape(const dd_trajectories *t, const dd_tensor_entry *entry) {
    dd_latent_shape s = t->params.shape;
    int64_t want[4] = {t->params.points, s.channels, s.height, s.width};
    return entry && entry->dtype == DD_DTYPE_F16 && entry->rank == 4 && memcmp(entry->shape, want, sizeof want) == 0;
}

static bool is_ours(const dd_trajectories *t, const dd_safetensors *file) {
    const char *key = dd_safetensors_metadata(file, "key");
    const dd_tensor_entry *sigma = dd_safetensors_find(file, "sigma");
    return key && strcmp(key, t->key) == 0 && has_shape(t, dd_safetensors_find(file, "latent")) &&
           has_shape(t, dd_safetensors_find(file, "velocity")) && sigma && sigma->dtype == DD_DTYPE_F32 && sigma->rank == 1 &&
           sigma->count == (uint64_t)t->params.points;
}

/* The file of trajectory j, if it is whole and made with the same key; *file NULL otherwise. */
static ddit_status open_file(const dd_trajectories *t, int j, dd_safetensors **file, ddit_err *err) {
    char *path;
    *file = NULL;
    DD_TRY(dd_trajectories_path(t, j, &path, err));
    ddit_status status = dd_safetensors_open(file, t->allocator, path, err);
    if (status == DDIT_OK && !is_ours(t, *file)) {
        dd_safetensors_close(*file);
        *file = NULL;
        status = dd_fail(err, DDIT_ERR_MISMATCH, "%s: was made with other settings", path);
    }
    dd_free(t->allocator, path);
    return status;
}

static bool look(const dd_trajectories *t, int j) {
    dd_safetensors *file;
    if (open_file(t, j, &file, NULL) != DDIT_OK) return false;
    dd_safetensors_close(file);
    return true;
}

int dd_trajectories_missing(dd_trajectories *t) {
    int missing = 0;
    for (int j = 0; j < t->params.count; j++) {
        if (!t->there[j]) t->there[j] = look(t, j);
        missing += !t->there[j];
    }
    return missing;
}

/* ---------------------------------------------------------------------------------------------- source */

/* Which point of which trajectory a sample is. */
typedef struct place {
    int trajectory, point;
} place;

static place place_of(const dd_trajectories *t, uint64_t step, int i) {
    uint64_t number = step * (uint64_t)t->params.samples_per_step + (uint64_t)i, points = (uint64_t)t->params.points;
    uint64_t count = (uint64_t)t->params.count * points;
    uint64_t element = dd_shuffle_at(t->params.seed, number / count, count, number % count);
    return (place){.trajectory = (int)(element / points), .point = (int)(element % points)};
}

static ddit_status plan(const dd_train_source *source, uint64_t step, int i, dd_train_sample *out, ddit_err *err) {
    const dd_trajectories *t = (const dd_trajectories *)source;
    place p = place_of(t, step, i);
    if (!t->files[p.trajectory]) DD_TRY(open_file(t, p.trajectory, &t->files[p.trajectory], err));
    const dd_tensor_entry *sigma = dd_safetensors_find(t->files[p.trajectory], "sigma");
    const dd_train_prompt *prompt = &t->params.prompts[p.trajectory % t->params.prompt_count];
    *out = (dd_train_sample){.text = prompt->text, .pooled = prompt->pooled, .has_target = true,
                             .guidance = dd_trajectories_guidance(t, p.trajectory)};
    memcpy(&out->sigma, sigma->data + (size_t)p.point * sizeof(float), sizeof(float));
    return DDIT_OK;
}

static ddit_status fetch(const dd_train_source *source, uint64_t step, int i, float *latent, float *target, ddit_err *err) {
    const dd_trajectories *t = (const dd_trajectories *)source;
    place p = place_of(t, step, i);
    const dd_tensor_entry *z = dd_safetensors_find(t->files[p.trajectory], "latent");
    const dd_tensor_entry *v = dd_safetensors_find(t->files[p.trajectory], "velocity");
    size_t offset = (size_t)p.point * t->values * sizeof(uint16_t);
    DD_TRY(dd_to_f32(latent, z->data + offset, DD_DTYPE_F16, t->values, err));
    DD_TRY(dd_to_f32(target, v->data + offset, DD_DTYPE_F16, t->values, err));
    dd_tensor_entry_release(z); /* the cache may be larger than memory; the system keeps its pages as long as it likes */
    dd_tensor_entry_release(v);
    return DDIT_OK;
}

const dd_train_source *dd_trajectories_source(const dd_trajectories *t) { return &t->source; }

/* ---------------------------------------------------------------------------------------------- open, close */

static ddit_status check(const dd_trajectories_params *p, ddit_err *err) {
    if (p->count < 1 || p->count > DD_TRAJECTORIES_MAX)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "trajectories is %d, expected 1 to %d", p->count, DD_TRAJECTORIES_MAX);
    if (p->points < 1 || p->points > 1000)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "points is %d, expected 1 to 1000 noise levels", p->points);
    if (p->prompt_count < 1) return dd_fail(err, DDIT_ERR_ARGUMENT, "there are no prompts to draw trajectories with");
    return DDIT_OK;
}

ddit_status dd_trajectories_open(dd_trajectories **out, const dd_allocator *a, const dd_trajectories_params *params,
                                 int *missing, ddit_err *err) {
    dd_trajectories *t;
    *out = NULL;
    DD_TRY(check(params, err));
    DD_TRY(dd_alloc(a, &t, 1, sizeof *t, "the trajectories", err));
    t->allocator = a;
    t->params = *params;
    t->source = (dd_train_source){.plan = plan, .fetch = fetch};
    t->values = dd_latent_values(params->shape);
    ddit_status status;
    DD_GO(dd_strdup(a, &t->folder, params->folder, err));
    DD_GO(dd_strdup(a, &t->key, params->key, err));
    DD_GO(dd_alloc(a, &t->there, (size_t)params->count, sizeof *t->there, "the list of trajectories", err));
    DD_GO(dd_alloc(a, &t->files, (size_t)params->count, sizeof *t->files, "the list of trajectories", err));
    DD_GO(dd_make_folder(t->folder, err));
    *missing = dd_trajectories_missing(t);
    *out = t;
    return DDIT_OK;
done:
    dd_trajectories_close(t);
    return status;
}

void dd_trajectories_close(dd_trajectories *t) {
    if (!t) return;
    for (int j = 0; t->files && j < t->params.count; j++) dd_safetensors_close(t->files[j]);
    dd_free(t->allocator, t->files);
    dd_free(t->allocator, t->there);
    dd_free(t->allocator, t->folder);
    dd_free(t->allocator, t->key);
    dd_free(t->allocator, t);
}

uint64_t dd_trajectories_bytes(const dd_trajectories_params *p) {
    uint64_t point = 2 * dd_latent_values(p->shape) * sizeof(uint16_t) + sizeof(float);
    return (uint64_t)p->count * ((uint64_t)p->points * point + HEADER_BYTES);
}
