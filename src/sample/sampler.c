#include "sample/sampler.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "sample/free_velocity.h"
#include "schedule/free_step.h"

enum { HISTORY = DD_MAX_ORDER + 1 };

struct dd_sampler {
    dd_flux_dit *dit;                    /* borrowed */
    dd_backend *backend;                 /* borrowed */
    dd_sampler_params params;
    dd_grid grid;
    int channels;
    dd_noise_schedule noise;
    dd_patch_decider decider;
    dd_flux_run *run;
    int free_time[DD_FACTOR_COUNT];      /* first time index of the free step of a factor; -1 = none */
    dd_layout layout;                    /* of the step */
    dd_layout small[DD_FACTOR_COUNT];    /* uniform(1) on the pooled grid, free step */
    void *memory;                        /* owned, backend: the buffers below */
    float *latent[HISTORY];              /* [C, h, w]: latent of step k in slot k mod 4 */
    float *velocity[2];                  /* per branch */
    float *pooled, *pooled_velocity;     /* free step */
    float *correction;                   /* [C, h, w]: fine minus coarse velocity, anchored steps */
    int correction_factor;               /* it belongs to; 0 = none was measured */
    int correction_step;                 /* where it was measured */
    dd_layout fine;                      /* uniform(1), anchored steps */
    float *stds[DD_FACTOR_COUNT];        /* owned, host */
    dd_step_record *records;             /* owned [steps] */
    int record_count;
    char *layout_text;                   /* owned [steps, layout_size]; NULL when only uniform layouts can come */
    size_t layout_size;
    float *kept;                         /* owned, host [steps][latent, velocity][C, h, w], or NULL */
    int done;                            /* steps taken: the newest latent is in slot done mod 4 */
};

static uint64_t latent_values(const dd_flux_config *config, const dd_sampler_params *p) {
    return (uint64_t)config->latent_channels * (uint64_t)p->latent_height * (uint64_t)p->latent_width;
}

static uint64_t aligned(uint64_t values) { return (values + 15) / 16 * 16; }

/* Buffers of latent size: history, one velocity per branch, the pooled pair of the free step, the
 * correction. */
static uint64_t latent_buffers(const dd_sampler_params *p) {
    return HISTORY + (p->cfg_scale > 1 ? 2 : 1) + (p->coarse_free ? 2 : 0) + (p->anchor > 0 ? 1 : 0);
}

static bool may_run(const dd_patch_policy *policy, int f) {
    if (policy->kind == DD_PATCH_OFF) return f == 0;
    if (policy->kind != DD_PATCH_SCHEDULE) return policy->allowed[f];
    for (int k = 0; k < policy->schedule->count; k++)
        if (policy->schedule->factor[k] == dd_factor_at(f)) return true;
    return false;
}

/* A coarse step of the free method has its own times. */
static int count_times(const dd_sampler_params *p, int free_time[DD_FACTOR_COUNT]) {
    int count = p->steps;
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        free_time[f] = -1;
        if (f == 0 || !p->coarse_free || !may_run(&p->policy, f)) continue;
        free_time[f] = count;
        count += p->steps;
    }
    return count;
}

static dd_flux_run_params run_params(const dd_sampler_params *p, dd_grid grid, const float *times, int time_count) {
    return (dd_flux_run_params){.grid = grid,
                                .text_tokens = p->text_tokens,
                                .branches = p->cfg_scale > 1 ? 2 : 1,
                                .guidance = p->guidance,
                                .times = times,
                                .time_count = time_count,
                                .trimmed_text = p->trimmed_text};
}

static dd_grid grid_of(const dd_flux_config *config, const dd_sampler_params *p) {
    return (dd_grid){p->latent_height / config->patch, p->latent_width / config->patch, config->patch};
}

dd_sampler_bytes dd_sampler_measure(const dd_flux_config *config, dd_dtype activation, const dd_sampler_params *params) {
    int free_time[DD_FACTOR_COUNT];
    dd_flux_run_params run = run_params(params, grid_of(config, params), NULL, count_times(params, free_time));
    uint64_t values = latent_values(config, params);
    dd_sampler_bytes bytes = {.run = dd_flux_run_measure(config, activation, &run)};
    bytes.latents = aligned(values) * latent_buffers(params) * sizeof(float);
    if (params->keep_steps) bytes.kept = 2 * values * (uint64_t)params->steps * sizeof(float);
    return bytes;
}

/* ---------------------------------------------------------------------------------------------- create */

static ddit_status check_free(const dd_sampler_params *p, dd_grid grid, ddit_err *err) {
    if (p->policy.kind == DD_PATCH_REGION)
        return dd_fail(err, DDIT_ERR_ARGUMENT,
                       "the policy region mixes sizes, which the free coarse step cannot: use --coarse adapter");
    if (p->policy.kind == DD_PATCH_SCHEDULE)
        for (int k = 0; k < p->policy.schedule->count; k++)
            if (p->policy.schedule->factor[k] == 0)
                return dd_fail(
                    err, DDIT_ERR_ARGUMENT,
                    "step %d of the schedule has a mixed layout, which the free coarse step cannot run: use --coarse adapter",
                    k);
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        int k = dd_factor_at(f);
        if (may_run(&p->policy, f) && (grid.rows % k || grid.cols % k))
            return dd_fail(err, DDIT_ERR_ARGUMENT,
                           "the free coarse step at factor %d needs width and height that are multiples of %d; found %d x %d",
                           k, 8 * grid.patch * k, 8 * grid.patch * grid.cols, 8 * grid.patch * grid.rows);
    }
    return DDIT_OK;
}

ddit_status dd_sampler_check(const dd_flux_config *config, const dd_allocator *a, const dd_sampler_params *params,
                             ddit_err *err) {
    dd_grid grid = grid_of(config, params);
    dd_patch_decider decider;
    DD_TRY(dd_patch_decider_init(&decider, a, &params->policy, params->steps, grid, err));
    dd_patch_decider_deinit(&decider);
    return params->coarse_free ? check_free(params, grid, err) : DDIT_OK;
}

static ddit_status create_run(dd_sampler *s, ddit_err *err) {
    const dd_sampler_params *p = &s->params;
    const dd_allocator *a = s->backend->allocator;
    float *times = NULL;
    int count = count_times(p, s->free_time);
    ddit_status status;
    DD_GO(dd_alloc(a, &times, (size_t)count, sizeof *times, "the times", err));
    memcpy(times, s->noise.time, (size_t)p->steps * sizeof *times);
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        if (s->free_time[f] < 0) continue;
        int k = dd_factor_at(f);
        for (int i = 0; i < p->steps; i++)
            times[s->free_time[f] + i] = dd_free_step_at(s->noise.sigma[i], k, (double)p->free_detail[f]).time;
        DD_GO(dd_layout_init(&s->small[f], a, (dd_grid){s->grid.rows / k, s->grid.cols / k, s->grid.patch}, err));
        dd_layout_set_uniform(&s->small[f], 1);
    }
    dd_flux_run_params run = run_params(p, s->grid, times, count);
    DD_GO(dd_flux_run_create(&s->run, s->dit, &run, err));
done:
    dd_free(a, times);
    return status;
}

static ddit_status allocate_buffers(dd_sampler *s, ddit_err *err) {
    const dd_sampler_params *p = &s->params;
    const dd_flux_config *config = dd_flux_dit_config(s->dit);
    uint64_t values = aligned(latent_values(config, p));
    DD_TRY(dd_op_alloc(s->backend, &s->memory, values * latent_buffers(p) * sizeof(float), "the latents", err));
    float *next = s->memory;
    for (int i = 0; i < HISTORY; i++, next += values) s->latent[i] = next;
    for (int i = 0; i < (p->cfg_scale > 1 ? 2 : 1); i++, next += values) s->velocity[i] = next;
    if (p->coarse_free) {
        s->pooled = next;
        s->pooled_velocity = next + values;
        next += 2 * values;
    }
    if (p->anchor > 0) s->correction = next;
    return DDIT_OK;
}

static ddit_status allocate_records(dd_sampler *s, ddit_err *err) {
    const dd_sampler_params *p = &s->params;
    const dd_allocator *a = s->backend->allocator;
    size_t steps = (size_t)p->steps;
    DD_TRY(dd_alloc(a, &s->records, steps, sizeof *s->records, "the records of the steps", err));
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        int k = dd_factor_at(f);
        DD_TRY(dd_alloc(a, &s->stds[f], (size_t)(s->grid.rows / k) * (size_t)(s->grid.cols / k), sizeof(float),
                        "the statistics", err));
    }
    if (p->policy.kind == DD_PATCH_REGION || p->policy.kind == DD_PATCH_SCHEDULE) {
        s->layout_size = dd_layout_string_size(s->grid);
        DD_TRY(dd_alloc(a, &s->layout_text, steps, s->layout_size, "the layouts of the steps", err));
    }
    if (!p->keep_steps) return DDIT_OK;
    size_t values = latent_values(dd_flux_dit_config(s->dit), p);
    return dd_alloc_raw(a, &s->kept, 2 * steps * values, sizeof(float), "the latents of all steps", err);
}

static ddit_status build(dd_sampler *s, ddit_err *err) {
    const dd_sampler_params *p = &s->params;
    const dd_allocator *a = s->backend->allocator;
    DD_TRY(dd_layout_init(&s->layout, a, s->grid, err));
    DD_TRY(dd_layout_init(&s->fine, a, s->grid, err));
    dd_layout_set_uniform(&s->fine, 1);
    DD_TRY(dd_noise_schedule_init(&s->noise, a, &p->noise, p->steps, dd_layout_max_cells(s->grid), err));
    DD_TRY(dd_patch_decider_init(&s->decider, a, &p->policy, p->steps, s->grid, err));
    if (p->coarse_free) DD_TRY(check_free(p, s->grid, err));
    DD_TRY(create_run(s, err));
    DD_TRY(allocate_buffers(s, err));
    return allocate_records(s, err);
}

ddit_status dd_sampler_create(dd_sampler **out, dd_flux_dit *dit, const dd_sampler_params *params, ddit_err *err) {
    const dd_flux_config *config = dd_flux_dit_config(dit);
    dd_backend *b = dd_flux_dit_backend(dit);
    dd_sampler *s;
    *out = NULL;
    DD_TRY(dd_alloc(b->allocator, &s, 1, sizeof *s, "the sampler", err));
    s->dit = dit;
    s->backend = b;
    s->params = *params;
    s->channels = config->latent_channels;
    s->grid = grid_of(config, params);
    ddit_status status = build(s, err);
    if (status != DDIT_OK) {
        dd_sampler_free(s);
        return status;
    }
    *out = s;
    return DDIT_OK;
}

void dd_sampler_free(dd_sampler *s) {
    if (!s) return;
    const dd_allocator *a = s->backend->allocator;
    dd_flux_run_free(s->run);
    dd_patch_decider_deinit(&s->decider);
    dd_noise_schedule_deinit(&s->noise);
    dd_layout_deinit(&s->layout);
    dd_layout_deinit(&s->fine);
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        dd_layout_deinit(&s->small[f]);
        dd_free(a, s->stds[f]);
    }
    dd_op_free(s->backend, s->memory);
    dd_free(a, s->records);
    dd_free(a, s->layout_text);
    dd_free(a, s->kept);
    dd_free(a, s);
}

ddit_status dd_sampler_condition(dd_sampler *s, int branch, const float *text, const float *pooled, ddit_err *err) {
    return dd_flux_run_condition(s->run, branch, text, pooled, err);
}

/* ---------------------------------------------------------------------------------------------- the loop */

static dd_tensor latent_view(const dd_sampler *s, float *data, int k) {
    return dd_tensor_3d(data, DD_DTYPE_F32, s->channels, s->params.latent_height / k, s->params.latent_width / k);
}

/* y = a x + b z over whole latents. */
static ddit_status combine(dd_sampler *s, dd_tensor y, float ax, dd_tensor x, float bz, dd_tensor z, ddit_err *err) {
    int64_t rows = dd_tensor_row_count(&y), cols = dd_tensor_row_size(&y);
    dd_tensor z_rows = dd_tensor_2d(z.data, DD_DTYPE_F32, rows, cols);
    return dd_op_affine(s->backend, dd_tensor_2d(y.data, DD_DTYPE_F32, rows, cols), ax,
                        dd_tensor_2d(x.data, DD_DTYPE_F32, rows, cols), bz, &z_rows, DD_ACTIVATION_NONE, err);
}

static dd_tensor latent_at(const dd_sampler *s, int step) { return latent_view(s, s->latent[step % HISTORY], 1); }

/* Statistics of the factors the policy wants to see, then its decision, into s->layout and the record. */
static ddit_status choose_layout(dd_sampler *s, int step, dd_step_record *record, ddit_err *err) {
    dd_patch_step seen = {.index = step, .sigma = s->noise.sigma[step]};
    dd_tensor views[HISTORY];
    int order = s->params.policy.order;
    for (int i = 0; i <= order && i <= step; i++) views[i] = latent_at(s, step - i);
    for (int f = 1; f < DD_FACTOR_COUNT; f++) {
        int k = dd_factor_at(f);
        if (!dd_patch_needs_stats(&s->decider, step, k, true)) continue;
        dd_patch_stats_args args = {.order = order, .n = s->grid.patch * k, .stds = s->stds[f]};
        for (int i = 0; i <= order; i++) args.latents[i] = &views[i];
        DD_TRY(dd_op_patch_stats(s->backend, &args, err));
        seen.stats[f] = (dd_patch_stats){s->stds[f], s->grid.rows / k, s->grid.cols / k};
    }
    return dd_patch_decide(&s->decider, &seen, &s->layout, record->stat, err);
}

static ddit_status free_velocity(dd_sampler *s, int branch, int step, int f, dd_tensor z, dd_tensor velocity, ddit_err *err) {
    int k = dd_factor_at(f);
    return dd_free_velocity(&(dd_free_velocity_args){.run = s->run,
                                                     .branch = branch,
                                                     .time_index = s->free_time[f] + step,
                                                     .factor = k,
                                                     .sigma = s->noise.sigma[step],
                                                     .detail = s->params.free_detail[f],
                                                     .small = &s->small[f],
                                                     .z = z,
                                                     .velocity = velocity,
                                                     .z_small = latent_view(s, s->pooled, k),
                                                     .v_small = latent_view(s, s->pooled_velocity, k)},
                            s->backend, err);
}

static ddit_status branch_velocity(dd_sampler *s, const dd_layout *layout, int branch, int step, dd_tensor z,
                                   dd_tensor velocity, ddit_err *err) {
    int f = dd_factor_index(dd_layout_uniform_factor(layout));
    if (s->params.coarse_free && f > 0) return free_velocity(s, branch, step, f, z, velocity, err);
    return dd_flux_run_velocity(s->run, branch, step, s->noise.sigma[step], layout, z, velocity, err);
}

/* velocity[0] after classifier-free guidance: v_neg + scale (v_pos - v_neg). */
static ddit_status guided_velocity(dd_sampler *s, const dd_layout *layout, int step, dd_tensor z, dd_tensor velocity,
                                   ddit_err *err) {
    float scale = s->params.cfg_scale;
    DD_TRY(branch_velocity(s, layout, 0, step, z, velocity, err));
    if (!(scale > 1)) return DDIT_OK;
    dd_tensor negative = latent_view(s, s->velocity[1], 1);
    DD_TRY(branch_velocity(s, layout, 1, step, z, negative, err));
    return combine(s, velocity, scale, velocity, 1.0f - scale, negative, err);
}

/* A coarse step with anchors: corrected while the correction serves, else measured anew and taken at factor 1. */
static ddit_status anchored_velocity(dd_sampler *s, int step, int factor, dd_tensor z, dd_tensor velocity, bool *measured,
                                     ddit_err *err) {
    dd_tensor correction = latent_view(s, s->correction, 1);
    DD_TRY(guided_velocity(s, &s->layout, step, z, velocity, err));
    *measured = s->correction_factor != factor || step - s->correction_step > s->params.anchor;
    if (!*measured) return combine(s, velocity, 1.0f, velocity, 1.0f, correction, err);
    DD_TRY(combine(s, correction, 1.0f, velocity, 0.0f, velocity, err));
    DD_TRY(guided_velocity(s, &s->fine, step, z, velocity, err));
    s->correction_factor = factor;
    s->correction_step = step;
    return combine(s, correction, -1.0f, correction, 1.0f, velocity, err);
}

static ddit_status step_velocity(dd_sampler *s, int step, dd_tensor z, dd_tensor velocity, bool *measured, ddit_err *err) {
    int factor = dd_layout_uniform_factor(&s->layout);
    *measured = false;
    if (s->params.anchor > 0 && factor > 1) return anchored_velocity(s, step, factor, z, velocity, measured, err);
    return guided_velocity(s, &s->layout, step, z, velocity, err);
}

static ddit_status keep_step(dd_sampler *s, int step, dd_tensor z, dd_tensor velocity, ddit_err *err) {
    if (!s->kept) return DDIT_OK;
    size_t values = latent_values(dd_flux_dit_config(s->dit), &s->params);
    float *to = s->kept + 2 * (size_t)step * values;
    DD_TRY(dd_op_download(s->backend, to, z.data, values * sizeof(float), err));
    return dd_op_download(s->backend, to + values, velocity.data, values * sizeof(float), err);
}

static void fill_record(dd_sampler *s, int step, dd_step_record *record) {
    const dd_layout *layout = &s->layout;
    record->index = step;
    record->sigma = s->noise.sigma[step];
    record->sigma_next = s->noise.sigma[step + 1];
    memcpy(record->cells, layout->cell_count, sizeof record->cells);
    record->text_tokens = dd_flux_run_text_rows(s->run, layout);
    record->image_tokens = layout->cell_total;
    record->layout = NULL;
    int f = dd_factor_index(dd_layout_uniform_factor(layout));
    if (s->params.coarse_free && f > 0) record->text_tokens = s->params.text_tokens; /* runs as factor 1 on a smaller grid */
    if (record->anchored) {
        record->text_tokens += s->params.text_tokens;
        record->image_tokens += s->fine.cell_total;
    }
    if (f >= 0 || !s->layout_text) return;
    char *text = s->layout_text + (size_t)step * s->layout_size;
    dd_layout_to_string(layout, text);
    record->layout = text;
}

static ddit_status take_step(dd_sampler *s, int step, ddit_err *err) {
    dd_step_record *record = &s->records[step];
    double begin = dd_seconds();
    dd_tensor z = latent_at(s, step), velocity = latent_view(s, s->velocity[0], 1);
    DD_TRY(choose_layout(s, step, record, err));
    DD_TRY(step_velocity(s, step, z, velocity, &record->anchored, err));
    float dt = s->noise.sigma[step + 1] - s->noise.sigma[step];
    DD_TRY(combine(s, latent_at(s, step + 1), 1.0f, z, dt, velocity, err));
    DD_TRY(dd_op_sync(s->backend, err));
    fill_record(s, step, record);
    record->seconds = dd_seconds() - begin;
    return keep_step(s, step, z, velocity, err);
}

ddit_status dd_sampler_run(dd_sampler *s, const float *noise, dd_step_callback callback, void *user, ddit_err *err) {
    size_t values = latent_values(dd_flux_dit_config(s->dit), &s->params);
    s->done = s->record_count = s->correction_factor = 0;
    DD_TRY(dd_op_upload(s->backend, s->latent[0], noise, values * sizeof(float), err));
    for (int step = 0; step < s->params.steps; step++) {
        DD_TRY(take_step(s, step, err));
        s->done = s->record_count = step + 1;
        if (callback && callback(user, &s->records[step]))
            return dd_fail(err, DDIT_ERR_CANCELLED, "cancelled after step %d of %d", step + 1, s->params.steps);
    }
    return DDIT_OK;
}

dd_tensor dd_sampler_latent(const dd_sampler *s) { return latent_at(s, s->done); }

const dd_step_record *dd_sampler_records(const dd_sampler *s, int *count) {
    *count = s->record_count;
    return s->records;
}

const float *dd_sampler_kept_latent(const dd_sampler *s, int step) {
    size_t values = latent_values(dd_flux_dit_config(s->dit), &s->params);
    return s->kept && step < s->record_count ? s->kept + 2 * (size_t)step * values : NULL;
}

const float *dd_sampler_kept_velocity(const dd_sampler *s, int step) {
    const float *latent = dd_sampler_kept_latent(s, step);
    return latent ? latent + latent_values(dd_flux_dit_config(s->dit), &s->params) : NULL;
}

const dd_noise_schedule *dd_sampler_noise(const dd_sampler *s) { return &s->noise; }

double dd_sampler_tau(const dd_sampler *s) { return s->decider.tau_effective; }
