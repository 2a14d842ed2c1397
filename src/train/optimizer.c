#include "train/optimizer.h"

#include <math.h>
#include <string.h>

/* BLOCK: values of one task of the pool; fixed, so that sums do not depend on the number of threads. */
enum { BLOCK = 16384, LANES = 8, SUMS_PER_BLOCK = 2 };

#define PRODIGY_FIRST_D 1e-6

static const double pi = 3.14159265358979323846;

/* ---------------------------------------------------------------------------------------------- making and freeing */

dd_optimizer_params dd_optimizer_defaults(dd_optimizer_kind kind) {
    return (dd_optimizer_params){
        .kind = kind,
        .lr = kind == DD_OPTIMIZER_PRODIGY ? 1 : 1e-4,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .eps = 1e-8,
        .weight_decay = 0.01,
        .decay = DD_DECAY_NONE,
        .clip_norm = 1,
    };
}

/* Written so that NaN is refused too. */
static ddit_status check_params(const dd_optimizer_params *p, ddit_err *err) {
    const struct { const char *name, *expected; double value; bool good; } checks[] = {
        {"learning rate", "more than 0", p->lr, p->lr > 0 && p->lr < INFINITY},
        {"beta1", "0 to below 1", p->beta1, p->beta1 >= 0 && p->beta1 < 1},
        {"beta2", "0 to below 1", p->beta2, p->beta2 >= 0 && p->beta2 < 1},
        {"eps", "more than 0", p->eps, p->eps > 0 && p->eps < INFINITY},
        {"weight decay", "0 or more", p->weight_decay, p->weight_decay >= 0 && p->weight_decay < INFINITY},
        {"number of warm-up steps", "0 or more", (double)p->warmup_steps, p->warmup_steps >= 0},
        {"lowest learning rate", "a fraction from 0 to 1", p->lr_floor, p->lr_floor >= 0 && p->lr_floor <= 1},
        {"gradient norm for clipping", "0 (none) or more", p->clip_norm, p->clip_norm >= 0 && p->clip_norm < INFINITY},
        {"decay of the moving average", "0 (none) to below 1", p->ema_decay, p->ema_decay >= 0 && p->ema_decay < 1},
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        if (!checks[i].good)
            return dd_fail(err, DDIT_ERR_ARGUMENT, "found the %s %g, expected %s", checks[i].name, checks[i].value,
                           checks[i].expected);
    return DDIT_OK;
}

/* In order, to the end, and only where they mean something. */
static ddit_status check_parts(const dd_optimizer_params *p, int64_t count, ddit_err *err) {
    int64_t at = 0;
    if (p->part_count == 0) return DDIT_OK;
    if (p->kind != DD_OPTIMIZER_ADAMW)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "found parts with rates of their own, which Prodigy does not have");
    for (int i = 0; i < p->part_count; at = p->parts[i++].end)
        if (p->parts[i].end <= at || !(p->parts[i].rate >= 0 && p->parts[i].rate < INFINITY))
            return dd_fail(err, DDIT_ERR_ARGUMENT, "part %d of the parameters ends at %lld with rate %g, expected an end after "
                           "%lld and a rate of 0 or more", i, (long long)p->parts[i].end, p->parts[i].rate, (long long)at);
    if (at != count)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "the parts of the parameters end at %lld, expected %lld", (long long)at,
                       (long long)count);
    return DDIT_OK;
}

static ddit_status copy_parts(dd_optimizer *o, ddit_err *err) {
    size_t n = (size_t)o->params.part_count;
    if (n == 0) return DDIT_OK;
    DD_TRY(dd_alloc(o->allocator, &o->parts, n, sizeof *o->parts, "the optimizer", err));
    memcpy(o->parts, o->params.parts, n * sizeof *o->parts);
    o->params.parts = o->parts;
    return DDIT_OK;
}

static int64_t block_count(int64_t count) { return (count + BLOCK - 1) / BLOCK; }

static ddit_status copy_of(const dd_allocator *a, float **out, const float *values, int64_t count, ddit_err *err) {
    DD_TRY(dd_alloc_raw(a, out, (size_t)count, sizeof **out, "the optimizer", err));
    memcpy(*out, values, (size_t)count * sizeof **out);
    return DDIT_OK;
}

ddit_status dd_optimizer_init(dd_optimizer *o, const dd_allocator *a, const dd_optimizer_params *params, const float *values,
                              int64_t count, ddit_err *err) {
    ddit_status status;
    bool prodigy = params->kind == DD_OPTIMIZER_PRODIGY;
    *o = (dd_optimizer){.params = *params, .count = count, .allocator = a};
    DD_GO(check_params(params, err));
    DD_GO(count >= 1 ? DDIT_OK : dd_fail(err, DDIT_ERR_ARGUMENT, "found no parameters to train, expected at least one"));
    DD_GO(check_parts(params, count, err));
    DD_GO(copy_parts(o, err));
    DD_GO(copy_of(a, &o->values, values, count, err));
    DD_GO(dd_alloc(a, &o->m, (size_t)count, sizeof *o->m, "the optimizer", err));
    DD_GO(dd_alloc(a, &o->v, (size_t)count, sizeof *o->v, "the optimizer", err));
    if (params->ema_decay > 0) DD_GO(copy_of(a, &o->ema, values, count, err));
    if (prodigy) DD_GO(dd_alloc(a, &o->s, (size_t)count, sizeof *o->s, "the optimizer", err));
    if (prodigy) DD_GO(copy_of(a, &o->start, values, count, err));
    DD_GO(dd_alloc(a, &o->sums, (size_t)block_count(count) * SUMS_PER_BLOCK, sizeof *o->sums, "the optimizer", err));
    if (prodigy) o->d = o->d_max = PRODIGY_FIRST_D;
    return DDIT_OK;
done:
    dd_optimizer_deinit(o);
    return status;
}

void dd_optimizer_deinit(dd_optimizer *o) {
    if (!o->allocator) return;
    dd_free(o->allocator, o->values);
    dd_free(o->allocator, o->m);
    dd_free(o->allocator, o->v);
    dd_free(o->allocator, o->ema);
    dd_free(o->allocator, o->s);
    dd_free(o->allocator, o->start);
    dd_free(o->allocator, o->parts);
    dd_free(o->allocator, o->sums);
    *o = (dd_optimizer){0};
}

int dd_optimizer_vectors(const dd_optimizer *o, dd_optimizer_vector vectors[DD_OPTIMIZER_VECTORS]) {
    const dd_optimizer_vector all[DD_OPTIMIZER_VECTORS] = {{"values", o->values}, {"m", o->m}, {"v", o->v},
                                                           {"ema", o->ema},       {"s", o->s}, {"start", o->start}};
    int count = 0;
    for (int i = 0; i < DD_OPTIMIZER_VECTORS; i++)
        if (all[i].values) vectors[count++] = all[i];
    return count;
}

uint64_t dd_optimizer_bytes(const dd_optimizer_params *params, int64_t count) {
    uint64_t vectors = 3 + (params->ema_decay > 0) + (params->kind == DD_OPTIMIZER_PRODIGY ? 2 : 0);
    return vectors * (uint64_t)count * sizeof(float) + (uint64_t)block_count(count) * SUMS_PER_BLOCK * sizeof(double);
}

const float *dd_optimizer_average(const dd_optimizer *o) { return o->ema ? o->ema : o->values; }

double dd_optimizer_lr(const dd_optimizer_params *p, int64_t t) {
    if (t < p->warmup_steps) return p->lr * (double)(t + 1) / (double)p->warmup_steps;
    if (p->decay == DD_DECAY_NONE) return p->lr;
    double done = t < p->total_steps ? (double)(t - p->warmup_steps) / (double)(p->total_steps - p->warmup_steps) : 1;
    double share = p->decay == DD_DECAY_COSINE ? (1 + cos(pi * done)) / 2 : 1 - done;
    return p->lr * (p->lr_floor + (1 - p->lr_floor) * share);
}

/* ---------------------------------------------------------------------------------------------- the loops over a block */

/* What a step's tasks share. Scalars are float32, as torch's kernels take them. */
typedef struct step_job {
    const dd_optimizer *o;
    const float *gradient;
    float clip;         /* factor of the gradient */
    float beta1, beta2; /* and the weights of what comes in */
    float new1, new2;
    float beta3, new3; /* Prodigy: of s */
    double lr, weight_decay; /* AdamW */
    float decay;       /* Prodigy: the share of a value that goes */
    float rate;        /* Prodigy: how far a step goes */
    double reach;      /* AdamW: how far a step goes at rate 1 */
    float root_scale;  /* AdamW: of sqrt(v) */
    float eps;
    float ema_weight; /* of the values in the average */
} step_job;

static int64_t block_length(const dd_optimizer *o, int64_t block) {
    int64_t left = o->count - block * BLOCK;
    return left < BLOCK ? left : BLOCK;
}

/* The sum of the squares in float64, in LANES sums so that the loop can be vectorised without being reordered. */
static double sum_squares(const float *x, int64_t n) {
    double lanes[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++) sum += (double)x[i] * (double)x[i];
    for (int k = 0; k < LANES; k++) sum += lanes[k];
    return sum;
}

static void norm_task(void *user, int64_t block, int worker) {
    const step_job *job = user;
    (void)worker;
    job->o->sums[block] = sum_squares(job->gradient + block * BLOCK, block_length(job->o, block));
}

static void update_average(const step_job *job, int64_t at, int64_t n) {
    if (!job->o->ema) return;
    const float *restrict values = job->o->values + at;
    float *restrict ema = job->o->ema + at, weight = job->ema_weight;
    for (int64_t i = 0; i < n; i++) ema[i] += weight * (values[i] - ema[i]);
}

/* n values from `at` on, all of one part. */
static void adamw_values(const step_job *job, int64_t at, int64_t n, double part_rate) {
    const step_job j = *job; /* local, so that the compiler knows that the stores below do not change it */
    const float *restrict gradient = j.gradient + at;
    float *restrict values = j.o->values + at, *restrict m = j.o->m + at, *restrict v = j.o->v + at;
    float shrink = (float)(1 - part_rate * j.lr * j.weight_decay), rate = (float)(part_rate * j.reach);
    for (int64_t i = 0; i < n; i++) {
        float g = gradient[i] * j.clip;
        float mean = m[i] + j.new1 * (g - m[i]);
        float square = v[i] * j.beta2 + g * g * j.new2;
        m[i] = mean;
        v[i] = square;
        values[i] = values[i] * shrink - rate * (mean / (sqrtf(square) * j.root_scale + j.eps));
    }
}

/* The average is taken in the same task: the block's values are still in the cache. */
static void adamw_task(void *user, int64_t block, int worker) {
    const step_job *job = user;
    const dd_optimizer *o = job->o;
    const dd_optimizer_part whole = {o->count, 1}, *part = o->parts ? o->parts : &whole;
    int64_t begin = block * BLOCK, end = begin + block_length(o, block);
    (void)worker;
    for (int64_t at = begin; at < end; part++) {
        int64_t stop = part->end < end ? part->end : end;
        if (stop <= at) continue;
        adamw_values(job, at, stop - at, part->rate);
        at = stop;
    }
    update_average(job, begin, end - begin);
}

/* The block's parts of the numerator and the denominator of Prodigy's d, in LANES sums each. */
static void prodigy_sums(const step_job *j, int64_t at, int64_t n, double dots[LANES], double sizes[LANES]) {
    const float *restrict gradient = j->gradient + at, *restrict values = j->o->values + at;
    const float *restrict start = j->o->start + at, *restrict s = j->o->s + at;
    float clip = j->clip;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            dots[k] += (double)(gradient[i + k] * clip) * ((double)start[i + k] - (double)values[i + k]);
            sizes[k] += (double)fabsf(s[i + k]);
        }
    for (int k = 0; i + k < n; k++) {
        dots[k] += (double)(gradient[i + k] * clip) * ((double)start[i + k] - (double)values[i + k]);
        sizes[k] += (double)fabsf(s[i + k]);
    }
}

/* Prodigy before the new d: the moments and the sums. */
static void prodigy_moments_task(void *user, int64_t block, int worker) {
    const step_job j = *(const step_job *)user;
    int64_t at = block * BLOCK, n = block_length(j.o, block);
    const float *restrict gradient = j.gradient + at;
    float *restrict m = j.o->m + at, *restrict v = j.o->v + at, *restrict s = j.o->s + at;
    double dots[LANES] = {0}, sizes[LANES] = {0};
    (void)worker;
    for (int64_t i = 0; i < n; i++) {
        float g = gradient[i] * j.clip;
        m[i] = m[i] * j.beta1 + g * j.new1;
        v[i] = v[i] * j.beta2 + g * g * j.new2;
        s[i] = s[i] * j.beta3 + g * j.new3;
    }
    prodigy_sums(&j, at, n, dots, sizes);
    double *sums = j.o->sums + block * SUMS_PER_BLOCK;
    sums[0] = sums[1] = 0;
    for (int k = 0; k < LANES; k++) {
        sums[0] += dots[k];
        sums[1] += sizes[k];
    }
}

static void prodigy_values_task(void *user, int64_t block, int worker) {
    const step_job *job = user;
    const step_job j = *job;
    int64_t at = block * BLOCK, n = block_length(j.o, block);
    const float *restrict m = j.o->m + at, *restrict v = j.o->v + at;
    float *restrict values = j.o->values + at;
    (void)worker;
    for (int64_t i = 0; i < n; i++) {
        float kept = values[i] - j.decay * values[i];
        values[i] = kept - j.rate * (m[i] / (sqrtf(v[i]) + j.eps));
    }
}

static void average_task(void *user, int64_t block, int worker) {
    const step_job *job = user;
    (void)worker;
    update_average(job, block * BLOCK, block_length(job->o, block));
}

/* ---------------------------------------------------------------------------------------------- a step */

static void run(dd_pool *pool, step_job *job, dd_pool_task task) {
    int64_t blocks = block_count(job->o->count);
    if (pool) dd_pool_run(pool, blocks, task, job);
    else
        for (int64_t block = 0; block < blocks; block++) task(job, block, 0);
}

static double gradient_norm(dd_pool *pool, step_job *job) {
    double sum = 0;
    run(pool, job, norm_task);
    for (int64_t block = 0; block < block_count(job->o->count); block++) sum += job->o->sums[block];
    return sqrt(sum);
}

static void step_adamw(const dd_optimizer *o, dd_pool *pool, step_job *job, double lr) {
    const dd_optimizer_params *p = &o->params;
    double t = (double)(o->step + 1), correction2 = 1 - pow(p->beta2, t);
    job->new1 = (float)(1 - p->beta1);
    job->beta2 = (float)p->beta2;
    job->new2 = (float)(1 - p->beta2);
    job->lr = lr;
    job->weight_decay = p->weight_decay;
    job->reach = lr / (1 - pow(p->beta1, t));
    job->root_scale = (float)(1 / sqrt(correction2));
    job->eps = (float)p->eps;
    run(pool, job, adamw_task);
}

/* Names as in prodigyopt, where d0 is the first d and dlr the step before its division by sqrt(v). */
static void step_prodigy(dd_optimizer *o, dd_pool *pool, step_job *job, double lr) {
    const dd_optimizer_params *p = &o->params;
    double t = (double)(o->step + 1), d = o->d, d0 = PRODIGY_FIRST_D, beta3 = sqrt(p->beta2);
    double dlr = d * lr * sqrt(1 - pow(p->beta2, t)) / (1 - pow(p->beta1, t));
    double dot = 0, denominator = 0;
    job->beta1 = (float)p->beta1;
    job->new1 = (float)(d * (1 - p->beta1));
    job->beta2 = (float)p->beta2;
    job->new2 = (float)(d * d * (1 - p->beta2));
    job->beta3 = (float)beta3;
    job->new3 = (float)(d / d0 * d);
    run(pool, job, prodigy_moments_task);
    for (int64_t block = 0; block < block_count(o->count); block++) {
        dot += o->sums[block * SUMS_PER_BLOCK];
        denominator += o->sums[block * SUMS_PER_BLOCK + 1];
    }
    if (denominator == 0) return; /* no gradient was ever other than 0 */
    o->d_numerator = o->d_numerator * beta3 + d / d0 * dlr * dot;
    o->d_max = fmax(o->d_max, o->d_numerator / denominator);
    o->d = o->d_max;
    job->decay = (float)(dlr * p->weight_decay);
    job->rate = (float)dlr;
    job->eps = (float)(o->d * p->eps);
    run(pool, job, prodigy_values_task);
}

ddit_status dd_optimizer_step(dd_optimizer *o, dd_pool *pool, const float *gradient, dd_optimizer_report *report,
                              ddit_err *err) {
    const dd_optimizer_params *p = &o->params;
    step_job job = {.o = o, .gradient = gradient, .clip = 1};
    double lr = dd_optimizer_lr(p, o->step), norm = gradient_norm(pool, &job);
    bool prodigy = p->kind == DD_OPTIMIZER_PRODIGY;
    *report = (dd_optimizer_report){.lr = prodigy ? lr * o->d : lr, .gradient_norm = norm};
    if (!isfinite(norm))
        return dd_fail(err, DDIT_ERR_DIVERGED,
                       "step %lld: found a gradient that is not finite (learning rate %g): try a lower one or a longer warm-up",
                       (long long)o->step + 1, report->lr);
    if (p->clip_norm > 0 && norm + 1e-6 > p->clip_norm) job.clip = (float)(p->clip_norm / (norm + 1e-6));
    double t = (double)o->step;
    job.ema_weight = (float)(1 - fmin(p->ema_decay, (1 + t) / (10 + t)));
    if (prodigy) {
        if (lr > 0) step_prodigy(o, pool, &job, lr); /* as prodigyopt: with a rate of 0 nothing is learnt about d either */
        run(pool, &job, average_task);
    } else {
        step_adamw(o, pool, &job, lr);
    }
    o->step++;
    return DDIT_OK;
}
