/* What a trainer does with the samples of one batch: conditions at once, then each sample on some lane. */
#include <math.h>

#include "base/counter_rng.h"
#include "train/streams.h"
#include "train/trainer_private.h"

static dd_layout_kind draw_kind(const dd_trainer *t, uint64_t number) {
    double u = dd_counter_uniform(t->params.seed, DD_STREAM_LAYOUT_KIND, number), sum = 0;
    int last = 0;
    for (int k = 0; k < DD_LAYOUT_KINDS; k++) {
        if (t->params.share[k] <= 0) continue;
        last = k;
        sum += t->params.share[k];
        if (u < sum) break;
    }
    return (dd_layout_kind)last;
}

ddit_status dd_trainer_plan(dd_trainer *t, int slot, int i, ddit_err *err) {
    dd_trainer_sample *s = &t->samples[slot];
    s->index = i;
    s->number = t->step * (uint64_t)t->step_samples + (uint64_t)i;
    s->kind = draw_kind(t, s->number);
    return t->source->plan(t->source, t->step, i, &s->data, err);
}

static dd_flux_condition condition_of(const dd_train_sample *s, float guidance) {
    return (dd_flux_condition){.text = s->text, .pooled = s->pooled, .time = 1000.0f * s->sigma, .guidance = guidance};
}

ddit_status dd_trainer_condition(dd_trainer *t, int count, ddit_err *err) {
    const dd_trainer_parts *p = &t->parts;
    for (int i = 0; i < count; i++) t->conditions[i] = condition_of(&t->samples[i].data, t->samples[i].data.guidance);
    DD_TRY(dd_flux_batch_condition(p->batch, t->conditions, count, err));
    if (!p->teacher) return DDIT_OK;
    for (int i = 0; i < count; i++) {
        dd_flux_condition c = condition_of(&t->samples[i].data, t->params.teacher_guidance);
        t->conditions[i] = c;
        c.text = p->empty->text;
        c.pooled = p->empty->pooled;
        t->conditions[count + i] = c;
    }
    return dd_flux_batch_condition(p->teacher_batch, t->conditions, 2 * count, err);
}

/* The guided velocity of the frozen model, by two calls. `count` conditions with prompt stand before those without. */
static ddit_status guided_target(dd_trainer *t, int lane, int slot, int count, ddit_err *err) {
    dd_trainer_lane *l = &t->lanes[lane];
    const dd_trainer_sample *s = &t->samples[slot];
    dd_flux_lane *teacher = t->parts.teacher[lane];
    const dd_layout *fine = &t->uniform[0];
    DD_TRY(dd_flux_lane_velocity(teacher, t->parts.teacher_batch, slot, s->data.sigma, fine, l->latent, l->target, err));
    DD_TRY(dd_flux_lane_velocity(teacher, t->parts.teacher_batch, count + slot, s->data.sigma, fine, l->latent, l->unguided,
                                 err));
    for (size_t i = 0; i < t->values; i++)
        l->target[i] = l->unguided[i] + s->data.guidance * (l->target[i] - l->unguided[i]);
    return DDIT_OK;
}

ddit_status dd_trainer_load(dd_trainer *t, int lane, int slot, ddit_err *err) {
    dd_trainer_lane *l = &t->lanes[lane];
    const dd_trainer_sample *s = &t->samples[slot];
    DD_TRY(t->source->fetch(t->source, t->step, s->index, l->latent, l->target, err));
    if (t->parts.teacher) return guided_target(t, lane, slot, t->batch_count, err);
    if (s->data.has_target) return DDIT_OK;
    return dd_flux_lane_velocity(t->parts.lanes[lane], t->parts.batch, slot, s->data.sigma, &t->uniform[0], l->latent,
                                 l->target, err);
}

const dd_layout *dd_trainer_layout(dd_trainer *t, int lane, dd_layout_kind kind, uint64_t seed, uint64_t number) {
    if (kind < DD_LAYOUT_MIXED) return &t->uniform[kind];
    dd_trainer_lane *l = &t->lanes[lane];
    dd_mixed_layouts_draw(&l->mixed, seed, number, &l->layout);
    return &l->layout;
}

double dd_trainer_loss(const dd_trainer *t, int lane) {
    const dd_trainer_lane *l = &t->lanes[lane];
    double sum = 0;
    for (size_t i = 0; i < t->values; i++) {
        double d = (double)l->velocity[i] - (double)l->target[i];
        sum += d * d;
    }
    return sum / (double)t->values;
}

static double weight(const dd_trainer *t, double sigma) {
    double w = t->params.weight_floor, square = sigma * sigma;
    return w > 0 ? t->weight_scale * square / (square + w) : 1;
}

/* velocity becomes d(step's loss)/d(velocity). */
static void loss_gradient(dd_trainer *t, int lane, double sigma) {
    dd_trainer_lane *l = &t->lanes[lane];
    float factor = (float)(2 * weight(t, sigma) / ((double)t->values * (double)t->step_samples));
    for (size_t i = 0; i < t->values; i++) l->velocity[i] = factor * (l->velocity[i] - l->target[i]);
}

/* Vector v holds samples first_slot(v) to first_slot(v + 1) - 1: shares in a row, which do not depend on the ranks as long as
 * these divide the vectors. */
static int first_slot(const dd_trainer *t, int vector) {
    return (int)((int64_t)vector * t->batch_count / t->params.accumulators);
}

static ddit_status train_sample(dd_trainer *t, int lane, int vector, int slot, ddit_err *err) {
    dd_trainer_sample *s = &t->samples[slot];
    dd_trainer_lane *l = &t->lanes[lane];
    dd_flux_lane *run = t->parts.lanes[lane];
    DD_TRY(dd_trainer_load(t, lane, slot, err));
    const dd_layout *layout = dd_trainer_layout(t, lane, s->kind, t->params.seed, s->number);
    DD_TRY(dd_flux_lane_forward(run, t->parts.batch, slot, s->data.sigma, layout, l->latent, l->velocity, err));
    s->loss = dd_trainer_loss(t, lane);
    loss_gradient(t, lane, s->data.sigma);
    return dd_flux_lane_backward(run, l->velocity, t->gradients[vector], err);
}

/* One gradient vector: its samples in order. */
static void fill_accumulator(void *user, int64_t task, int worker) {
    dd_trainer *t = user;
    int vector = t->order[task];
    dd_trainer_end *end = &t->ends[vector];
    for (int slot = first_slot(t, vector); slot < first_slot(t, vector + 1) && end->status == DDIT_OK; slot++)
        end->status = train_sample(t, worker, vector, slot, &end->err);
}

/* About what a sample costs, in cells that pass through the blocks forward. */
static double cost(const dd_trainer *t, const dd_trainer_sample *s) {
    static const double share[DD_LAYOUT_KINDS] = {1, 0.25, 0.0625, 0.4};
    double cells = (double)t->params.grid.rows * (double)t->params.grid.cols;
    bool teacher = t->parts.teacher != NULL, asks = !teacher && !s->data.has_target;
    return cells * (4 * share[s->kind] + asks + 2 * teacher) + 64; /* a forward, its repetition, a backward of two */
}

/* The costliest vectors are begun first, so that lanes end at about the same time. */
static void order_tasks(dd_trainer *t) {
    for (int v = 0; v < t->params.accumulators; v++) {
        t->load[v] = 0;
        for (int slot = first_slot(t, v); slot < first_slot(t, v + 1); slot++) t->load[v] += cost(t, &t->samples[slot]);
        int at = v;
        for (; at > 0 && t->load[t->order[at - 1]] < t->load[v]; at--) t->order[at] = t->order[at - 1];
        t->order[at] = v;
    }
}

ddit_status dd_trainer_first_end(const dd_trainer *t, int count, ddit_err *err) {
    for (int i = 0; i < count; i++)
        if (t->ends[i].status != DDIT_OK) return dd_fail(err, t->ends[i].status, "%s", t->ends[i].err.text);
    return DDIT_OK;
}

ddit_status dd_trainer_run_batch(dd_trainer *t, int count, ddit_err *err) {
    int vectors = t->params.accumulators;
    t->batch_count = count;
    DD_TRY(dd_trainer_condition(t, count, err));
    order_tasks(t);
    for (int i = 0; i < vectors; i++) t->ends[i] = (dd_trainer_end){0};
    dd_pool_run(t->parts.pool, vectors, fill_accumulator, t);
    return dd_trainer_first_end(t, vectors, err);
}
