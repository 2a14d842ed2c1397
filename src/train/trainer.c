#include "train/trainer.h"

#include <math.h>
#include <string.h>

#include "train/trainer_private.h"

enum { ZERO_BYTES = 1 << 16 };

/* ---------------------------------------------------------------------------------------------- making */

static int64_t gradient_rows(int64_t total) { return (total + DD_GRADIENT_ROW - 1) / DD_GRADIENT_ROW; }

static bool has_mixed(const dd_trainer_params *p) { return p->factor[1] || p->factor[2]; }

/* 1 / the mean of sigma^2 / (sigma^2 + w) over 0..1. */
static double weight_scale(double w) { return w > 0 ? 1 / (1 - sqrt(w) * atan(1 / sqrt(w))) : 1; }

uint64_t dd_trainer_bytes(const dd_trainer_params *p, int lane_count, int64_t param_total) {
    uint64_t vector = (uint64_t)gradient_rows(param_total) * DD_GRADIENT_ROW * sizeof(float);
    uint64_t values = dd_latent_values(p->shape) * sizeof(float), cells = (uint64_t)p->grid.rows * (uint64_t)p->grid.cols;
    uint64_t layout = cells * (1 + 2 * sizeof(int32_t) + 2 * sizeof(float));
    uint64_t lane = 3 * values + layout + dd_mixed_layouts_bytes(p->grid);
    return ((uint64_t)p->accumulators + 1) * vector + (uint64_t)lane_count * lane + DD_FACTOR_COUNT * layout +
           (uint64_t)p->batch * (sizeof(dd_trainer_sample) + sizeof(dd_trainer_end));
}

static ddit_status make_lane(dd_trainer *t, dd_trainer_lane *l, ddit_err *err) {
    const dd_allocator *a = t->allocator;
    DD_TRY(dd_alloc(a, &l->latent, t->values, sizeof(float), "a latent", err));
    DD_TRY(dd_alloc(a, &l->target, t->values, sizeof(float), "a velocity", err));
    DD_TRY(dd_alloc(a, &l->velocity, t->values, sizeof(float), "a velocity", err));
    if (t->parts.teacher) DD_TRY(dd_alloc(a, &l->unguided, t->values, sizeof(float), "a velocity", err));
    DD_TRY(dd_layout_init(&l->layout, a, t->params.grid, err));
    return dd_mixed_layouts_init(&l->mixed, a, t->params.grid, t->params.factor, err);
}

static ddit_status make_gradients(dd_trainer *t, ddit_err *err) {
    const dd_allocator *a = t->allocator;
    size_t bytes = (size_t)t->rows * DD_GRADIENT_ROW * sizeof(float);
    DD_TRY(dd_alloc(a, &t->gradients, (size_t)t->params.accumulators, sizeof *t->gradients, "the gradients", err));
    for (int i = 0; i < t->params.accumulators; i++)
        DD_TRY(dd_op_alloc(t->parts.backend, (void **)&t->gradients[i], bytes, "a gradient", err));
    return dd_alloc(a, &t->gradient, (size_t)t->rows, DD_GRADIENT_ROW * sizeof(float), "the gradient", err);
}

static ddit_status make_parts(dd_trainer *t, ddit_err *err) {
    const dd_allocator *a = t->allocator;
    size_t local = (size_t)t->local, vectors = (size_t)t->params.accumulators;
    DD_TRY(dd_alloc(a, &t->lanes, (size_t)t->parts.lane_count, sizeof *t->lanes, "the lanes", err));
    for (int i = 0; i < t->parts.lane_count; i++) DD_TRY(make_lane(t, &t->lanes[i], err));
    DD_TRY(dd_alloc(a, &t->samples, local, sizeof *t->samples, "the samples", err));
    DD_TRY(dd_alloc(a, &t->conditions, local, 2 * sizeof *t->conditions, "the conditions", err));
    DD_TRY(dd_alloc(a, &t->ends, local > vectors ? local : vectors, sizeof *t->ends, "the lanes", err));
    DD_TRY(dd_alloc(a, &t->load, vectors, sizeof *t->load, "the lanes", err));
    DD_TRY(dd_alloc(a, &t->order, vectors, sizeof *t->order, "the lanes", err));
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        DD_TRY(dd_layout_init(&t->uniform[f], a, t->params.grid, err));
        dd_layout_set_uniform(&t->uniform[f], dd_factor_at(f));
    }
    return make_gradients(t, err);
}

static ddit_status check(const dd_trainer_params *p, int ranks, ddit_err *err) {
    if (p->batch < 1 || p->accumulate < 1 || p->accumulators < 1)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "batch is %d, accumulate %d, gradient vectors %d; expected at least 1 each",
                       p->batch, p->accumulate, p->accumulators);
    if (p->batch % ranks)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "batch is %d, expected a multiple of the %d ranks that share it", p->batch,
                       ranks);
    return DDIT_OK;
}

ddit_status dd_trainer_create(dd_trainer **out, const dd_allocator *a, const dd_trainer_params *params,
                              const dd_trainer_parts *parts, ddit_err *err) {
    dd_trainer *t;
    int ranks = dd_comm_size(parts->comm);
    *out = NULL;
    DD_TRY(check(params, ranks, err));
    DD_TRY(dd_alloc(a, &t, 1, sizeof *t, "the trainer", err));
    t->allocator = a;
    t->params = *params;
    t->parts = *parts;
    t->ranks = ranks;
    t->rank = dd_comm_rank(parts->comm);
    t->local = params->batch / ranks;
    t->step_samples = params->batch * params->accumulate;
    t->values = dd_latent_values(params->shape);
    t->total = dd_flux_trainee_params(parts->trainee)->total;
    t->rows = gradient_rows(t->total);
    t->weight_scale = weight_scale(params->weight_floor);
    ddit_status status = make_parts(t, err);
    if (status != DDIT_OK) dd_trainer_free(t);
    else *out = t;
    return status;
}

static void free_lane(const dd_allocator *a, dd_trainer_lane *l) {
    dd_free(a, l->latent);
    dd_free(a, l->target);
    dd_free(a, l->velocity);
    dd_free(a, l->unguided);
    dd_layout_deinit(&l->layout);
    dd_mixed_layouts_deinit(&l->mixed);
}

void dd_trainer_free(dd_trainer *t) {
    if (!t) return;
    const dd_allocator *a = t->allocator;
    for (int i = 0; t->lanes && i < t->parts.lane_count; i++) free_lane(a, &t->lanes[i]);
    for (int i = 0; t->gradients && i < t->params.accumulators; i++) dd_op_free(t->parts.backend, t->gradients[i]);
    for (int f = 0; f < DD_FACTOR_COUNT; f++) dd_layout_deinit(&t->uniform[f]);
    dd_free(a, t->lanes);
    dd_free(a, t->samples);
    dd_free(a, t->conditions);
    dd_free(a, t->ends);
    dd_free(a, t->load);
    dd_free(a, t->order);
    dd_free(a, t->gradients);
    dd_free(a, t->gradient);
    dd_free(a, t);
}

/* ---------------------------------------------------------------------------------------------- a step */

static ddit_status clear_gradients(dd_trainer *t, ddit_err *err) {
    static const uint8_t zeros[ZERO_BYTES];
    size_t bytes = (size_t)t->rows * DD_GRADIENT_ROW * sizeof(float);
    for (int i = 0; i < t->params.accumulators; i++)
        for (size_t at = 0; at < bytes; at += ZERO_BYTES) {
            size_t part = bytes - at < ZERO_BYTES ? bytes - at : ZERO_BYTES;
            DD_TRY(dd_op_upload(t->parts.backend, (uint8_t *)t->gradients[i] + at, zeros, part, err));
        }
    return DDIT_OK;
}

/* This rank's samples of batch `number` of the step: an even share, in a row. */
static ddit_status run_batch(dd_trainer *t, int number, dd_trainer_report *report, ddit_err *err) {
    int first = number * t->params.batch + t->rank * t->local;
    for (int slot = 0; slot < t->local; slot++) DD_TRY(dd_trainer_plan(t, slot, first + slot, err));
    DD_TRY(dd_trainer_run_batch(t, t->local, err));
    for (int slot = 0; slot < t->local; slot++) {
        const dd_trainer_sample *s = &t->samples[slot];
        report->loss[s->kind] += s->loss;
        report->samples[s->kind]++;
    }
    return has_mixed(&t->params) ? DDIT_OK : dd_flux_batch_backward(t->parts.batch, t->gradients[0], err);
}

static ddit_status run_batches(dd_trainer *t, dd_trainer_report *report, ddit_err *err) {
    DD_TRY(dd_flux_trainee_update(t->parts.trainee, t->parts.optimizer->values, err));
    DD_TRY(clear_gradients(t, err));
    for (int i = 0; i < t->params.accumulate; i++) DD_TRY(run_batch(t, i, report, err));
    return DDIT_OK;
}

/* The vectors into the first, as a tree of pairs, which the sum over ranks goes on with: 1, 2, 4 … ranks add up the same.
 * Then to the host. */
static ddit_status sum_gradients(dd_trainer *t, ddit_err *err) {
    dd_backend *b = t->parts.backend;
    for (int width = 1; width < t->params.accumulators; width *= 2)
        for (int i = 0; i + width < t->params.accumulators; i += 2 * width) {
            dd_tensor sum = dd_tensor_2d(t->gradients[i], DD_DTYPE_F32, t->rows, DD_GRADIENT_ROW);
            dd_tensor next = dd_tensor_2d(t->gradients[i + width], DD_DTYPE_F32, t->rows, DD_GRADIENT_ROW);
            DD_TRY(dd_op_affine(b, sum, 1, sum, 1, &next, DD_ACTIVATION_NONE, err));
        }
    return dd_op_download(b, t->gradient, t->gradients[0], (size_t)t->total * sizeof(float), err);
}

/* Sums of losses and numbers of samples over all ranks, then means. False: a loss is not finite. */
static ddit_status mean_losses(dd_trainer *t, double *loss, int *samples, bool *finite, ddit_err *err) {
    double sums[2 * DD_LAYOUT_KINDS];
    for (int k = 0; k < DD_LAYOUT_KINDS; k++) {
        sums[k] = loss[k];
        sums[DD_LAYOUT_KINDS + k] = samples[k];
    }
    DD_TRY(dd_comm_sum_f64(t->parts.comm, sums, 2 * DD_LAYOUT_KINDS, err));
    *finite = true;
    for (int k = 0; k < DD_LAYOUT_KINDS; k++) {
        double count = sums[DD_LAYOUT_KINDS + k];
        *finite = *finite && isfinite(sums[k]);
        loss[k] = count > 0 ? sums[k] / count : NAN;
        samples[k] = (int)count;
    }
    return DDIT_OK;
}

ddit_status dd_trainer_step(dd_trainer *t, dd_trainer_report *report, ddit_err *err) {
    dd_comm *comm = t->parts.comm;
    bool finite;
    *report = (dd_trainer_report){0};
    t->source = t->parts.source;
    t->step = (uint64_t)t->parts.optimizer->step;
    ddit_status status = run_batches(t, report, err);
    if (status == DDIT_OK) status = sum_gradients(t, err);
    DD_TRY(dd_comm_agree(comm, status, err));
    DD_TRY(mean_losses(t, report->loss, report->samples, &finite, err));
    if (!finite) return dd_fail(err, DDIT_ERR_DIVERGED, "the loss is not a finite number");
    DD_TRY(dd_comm_sum_f32(comm, t->gradient, (size_t)t->total, err));
    return dd_optimizer_step(t->parts.optimizer, t->parts.pool, t->gradient, &report->optimizer, err);
}

/* ---------------------------------------------------------------------------------------------- evaluation */

static bool measures(const dd_trainer *t, int kind) {
    if (kind == DD_LAYOUT_MIXED) return has_mixed(&t->params);
    return kind == DD_LAYOUT_X1 ? !has_mixed(&t->params) : t->params.factor[kind];
}

static ddit_status evaluate_sample(dd_trainer *t, int lane, int slot, ddit_err *err) {
    dd_trainer_sample *s = &t->samples[slot];
    dd_trainer_lane *l = &t->lanes[lane];
    DD_TRY(dd_trainer_load(t, lane, slot, err));
    for (int k = 0; k < DD_LAYOUT_KINDS; k++) {
        if (!measures(t, k)) continue;
        const dd_layout *layout = dd_trainer_layout(t, lane, (dd_layout_kind)k, 0, 0);
        DD_TRY(dd_flux_lane_velocity(t->parts.lanes[lane], t->parts.batch, slot, s->data.sigma, layout, l->latent, l->velocity,
                                     err));
        s->kind_loss[k] = dd_trainer_loss(t, lane);
    }
    return DDIT_OK;
}

static void evaluate_task(void *user, int64_t task, int worker) {
    dd_trainer *t = user;
    t->ends[task].status = evaluate_sample(t, worker, (int)task, &t->ends[task].err);
}

/* Samples first, first + ranks, … of this rank, as many as a batch holds. Returns the number of them. */
static ddit_status evaluate_batch(dd_trainer *t, int first, int count, double *loss, int *samples, ddit_err *err) {
    int n = 0;
    for (int i = first; i < count && n < t->local; i += t->ranks) DD_TRY(dd_trainer_plan(t, n++, i, err));
    if (n == 0) return DDIT_OK;
    t->batch_count = n;
    DD_TRY(dd_trainer_condition(t, n, err));
    for (int i = 0; i < n; i++) t->ends[i] = (dd_trainer_end){0};
    dd_pool_run(t->parts.pool, n, evaluate_task, t);
    DD_TRY(dd_trainer_first_end(t, n, err));
    for (int i = 0; i < n; i++)
        for (int k = 0; k < DD_LAYOUT_KINDS; k++) {
            if (!measures(t, k)) continue;
            loss[k] += t->samples[i].kind_loss[k];
            samples[k]++;
        }
    return DDIT_OK;
}

ddit_status dd_trainer_evaluate(dd_trainer *t, const float *values, const dd_train_source *source, int count,
                                double loss[DD_LAYOUT_KINDS], ddit_err *err) {
    int samples[DD_LAYOUT_KINDS] = {0};
    bool finite;
    memset(loss, 0, DD_LAYOUT_KINDS * sizeof *loss);
    t->source = source;
    t->step = 0;
    ddit_status status = dd_flux_trainee_update(t->parts.trainee, values, err);
    for (int at = t->rank; at < count && status == DDIT_OK; at += t->ranks * t->local)
        status = evaluate_batch(t, at, count, loss, samples, err);
    DD_TRY(dd_comm_agree(t->parts.comm, status, err));
    return mean_losses(t, loss, samples, &finite, err);
}
