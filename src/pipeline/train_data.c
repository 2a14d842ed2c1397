/* Where the samples of a training come from: the base's own trajectories over a file of prompts, or pictures; and what is
 * measured on. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/counter_rng.h"
#include "base/folder.h"
#include "pipeline/train.h"
#include "train/streams.h"

enum {
    ENCODE_BLOCK = 1024,     /* prompts encoded between two calls of progress: the encoders are opened for each block */
    EVAL_TRAJECTORIES = 16,
    EVAL_SEED = 20250,
    STREAM_GUIDANCE = DD_STREAM_USES /* index: sample */
};

/* ---------------------------------------------------------------------------------------------- reading */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

static ddit_status read_eval(dd_train_run *run, ddit_err *err) {
    const char *path = run->s.eval;
    if (!path) return DDIT_OK;
    if (ends_with(path, ".safetensors"))
        return dd_heldout_open(&run->heldout, &run->eval_texts, run->model, &run->s, path, err);
    return dd_train_texts_read(&run->eval_texts, run->a, path, err);
}

ddit_status dd_train_data_read(dd_train_run *run, ddit_err *err) {
    DD_TRY(dd_alloc(run->a, &run->data, 1, sizeof *run->data, "the training data", err));
    DD_TRY(read_eval(run, err));
    if (run->s.all) DD_TRY(dd_train_texts_add(&run->empty, run->a, "", 0, err));
    if (run->s.measure_only) return DDIT_OK;
    if (run->s.prompts) return dd_train_texts_read(&run->texts, run->a, run->s.prompts, err);
    return dd_train_pictures_read(run, err);
}

uint64_t dd_train_data_hash(const dd_train_run *run) {
    return run->s.data ? dd_train_pictures_hash(run) : dd_train_texts_hash(&run->texts);
}

uint64_t dd_train_data_bytes(const dd_train_run *run) { return run->heldout ? dd_heldout_bytes(run->heldout) : 0; }

/* ---------------------------------------------------------------------------------------------- encoding */

static ddit_status encode(dd_train_run *run, dd_train_texts *t, ddit_err *err) {
    for (int at = 0; at < t->count; at += ENCODE_BLOCK) {
        int count = t->count - at < ENCODE_BLOCK ? t->count - at : ENCODE_BLOCK;
        char notes[256] = ""; /* that a caption was cut is of no interest here */
        DD_TRY(dd_prompts_encode(run->model, (const char *const *)t->lines + at, count, run->s.run.max_sequence_length,
                                 t->embedded + at, notes, sizeof notes, err));
        for (int i = at; i < at + count; i++) t->prompts[i] = (dd_train_prompt){t->embedded[i].text, t->embedded[i].pooled};
        ddit_train_progress p = dd_train_progress("encode");
        p.step = at + count;
        p.steps = t->count;
        dd_train_tell(run, &p);
        if (run->stop) return dd_fail(err, DDIT_ERR_CANCELLED, "cancelled before the first step");
    }
    return DDIT_OK;
}

ddit_status dd_train_data_encode(dd_train_run *run, ddit_err *err) {
    DD_TRY(encode(run, &run->texts, err));
    DD_TRY(encode(run, &run->eval_texts, err));
    return encode(run, &run->empty, err);
}

/* ---------------------------------------------------------------------------------------------- trajectories */

float dd_train_sigma_of(const void *user, double u) {
    const dd_train_run *run = user;
    dd_sampler_params p = dd_settings_sampler(&run->s.run, run->model);
    dd_grid grid = dd_train_grid(&run->s, run->model);
    return dd_noise_level(&p.noise, grid.rows * grid.cols, u);
}

/* Progress of drawing trajectories, and when it began. */
typedef struct drawing {
    dd_train_run *run;
    double begin;
} drawing;

static int tell_made(void *user, int made, int missing) {
    const drawing *d = user;
    return dd_train_tell_made(d->run, d->begin, made, missing);
}

static int still_missing(void *trajectories) { return dd_trajectories_missing(trajectories); }

static ddit_status make_missing(dd_train_run *run, dd_trajectories *t, ddit_err *err) {
    drawing d = {run, dd_seconds()};
    dd_trajectories_makers makers = {.lanes = run->student.lanes, .lane_count = run->lane_count, .pool = run->pool,
                                     .batch = run->student.batch, .group = run->local, .done = tell_made, .user = &d};
    if (makers.group > run->lane_count && makers.group > EVAL_TRAJECTORIES) makers.group = EVAL_TRAJECTORIES;
    return dd_trajectories_make(t, &makers, err);
}

/* Opens CACHE/trajectories-KEY and makes what is missing there. All ranks call it, and all end alike. */
static ddit_status open_trajectories(dd_train_run *run, dd_trajectories **out, const dd_train_texts *texts, int count,
                                     uint64_t seed, ddit_err *err) {
    const dd_train_settings *s = &run->s;
    float low = s->distil ? 1 : s->guidance_low, high = s->distil ? 1 : s->guidance_high;
    char key[320], name[48], *folder;
    snprintf(key, sizeof key, "model %016" PRIx64 ", %d x %d, text %d, prompts %016" PRIx64 ", points %d, seed %" PRIu64
             ", guidance %.9g to %.9g", run->fingerprint, s->run.width, s->run.height, s->run.max_sequence_length,
             dd_train_texts_hash(texts), s->points, seed, (double)low, (double)high);
    snprintf(name, sizeof name, "trajectories-%08" PRIx32, (uint32_t)dd_hash(DD_HASH_BEGIN, key, strlen(key)));
    DD_TRY(dd_path_join(run->a, &folder, s->cache, name, err));
    dd_trajectories_params p = {.folder = folder, .key = key, .shape = dd_train_shape(s, run->model),
                                .patch = run->model->config.transformer.patch, .count = count, .points = s->points,
                                .samples_per_step = s->batch * s->accumulate, .seed = seed, .prompts = texts->prompts,
                                .prompt_count = texts->count, .guidance_low = low, .guidance_high = high, .rank = run->rank,
                                .ranks = run->ranks, .sigma_of = dd_train_sigma_of, .sigma_user = run};
    int missing = 0;
    ddit_status status = dd_trajectories_open(out, run->a, &p, &missing, err);
    dd_free(run->a, folder);
    if (status == DDIT_OK && missing) status = make_missing(run, *out, err);
    return dd_train_agree_made(run, status, still_missing, *out, "trajectories", err);
}

/* ---------------------------------------------------------------------------------------------- as a source */

static ddit_status plan(const dd_train_source *source, uint64_t step, int i, dd_train_sample *out, ddit_err *err) {
    const dd_train_guided *g = (const dd_train_guided *)source;
    DD_TRY(g->inner->plan(g->inner, step, i, out, err));
    float u = (float)dd_counter_uniform(g->seed, STREAM_GUIDANCE, step * g->samples_per_step + (uint64_t)i);
    out->guidance = g->low + u * (g->high - g->low);
    return DDIT_OK;
}

static ddit_status fetch(const dd_train_source *source, uint64_t step, int i, float *latent, float *target, ddit_err *err) {
    const dd_train_guided *g = (const dd_train_guided *)source;
    return g->inner->fetch(g->inner, step, i, latent, target, err);
}

/* The trajectories as a source; with distillation through *g. */
static const dd_train_source *source_of(const dd_train_settings *s, const dd_trajectories *t, uint64_t seed,
                                        dd_train_guided *g) {
    const dd_train_source *inner = dd_trajectories_source(t);
    if (!s->distil) return inner;
    *g = (dd_train_guided){.source = {.plan = plan, .fetch = fetch}, .inner = inner, .seed = seed, .low = s->guidance_low,
                           .high = s->guidance_high, .samples_per_step = (uint64_t)(s->batch * s->accumulate)};
    return &g->source;
}

static ddit_status make_training(dd_train_run *run, ddit_err *err) {
    dd_train_data *d = run->data;
    if (!run->s.prompts) return dd_pictures_source(d->pictures, &run->source, err);
    DD_TRY(open_trajectories(run, &d->trajectories, &run->texts, run->s.trajectories, run->s.seed, err));
    run->source = source_of(&run->s, d->trajectories, run->s.seed, &d->guided);
    return DDIT_OK;
}

static ddit_status make_eval(dd_train_run *run, ddit_err *err) {
    if (!run->s.eval) return DDIT_OK;
    if (run->heldout) {
        run->eval_source = dd_heldout_source(run->heldout);
        run->eval_count = dd_heldout_count(run->heldout);
        return dd_comm_agree(run->comm, dd_heldout_make_targets(run->heldout, run, err), err);
    }
    DD_TRY(open_trajectories(run, &run->eval_trajectories, &run->eval_texts, EVAL_TRAJECTORIES, EVAL_SEED, err));
    run->eval_source = source_of(&run->s, run->eval_trajectories, EVAL_SEED, &run->data->eval_guided);
    run->eval_count = EVAL_TRAJECTORIES * run->s.points;
    return DDIT_OK;
}

ddit_status dd_train_data_make(dd_train_run *run, ddit_err *err) {
    if (!run->s.measure_only) DD_TRY(make_training(run, err));
    return make_eval(run, err);
}

void dd_train_data_close(dd_train_run *run) {
    if (run->data) {
        dd_trajectories_close(run->data->trajectories);
        dd_train_pictures_close(run);
    }
    dd_free(run->a, run->data);
    run->data = NULL;
    dd_trajectories_close(run->eval_trajectories);
    dd_heldout_close(run->heldout);
    dd_train_texts_deinit(&run->texts, run->a);
    dd_train_texts_deinit(&run->eval_texts, run->a);
    dd_train_texts_deinit(&run->empty, run->a);
}
