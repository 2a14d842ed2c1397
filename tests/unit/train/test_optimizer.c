#include "train/optimizer.h"

#include "base/clock.h"
#include "format/safetensors.h"
#include "harness.h"

/* The problem of tools/make_optimizer_goldens.py: gradient a * (x - target) + noise[step]. */
typedef struct problem {
    dd_safetensors *file; /* owned */
    int64_t count, steps;
    float *start, *target, *a, *noise; /* owned */
    float *gradient;                   /* owned [count] */
} problem;

static float *read_tensor(const dd_safetensors *file, const char *name) {
    const dd_tensor_entry *entry = dd_safetensors_find(file, name);
    float *values = entry ? malloc(entry->count * sizeof *values) : NULL;
    if (values && dd_tensor_entry_to_f32(entry, values, NULL) == DDIT_OK) return values;
    free(values);
    return NULL;
}

static bool problem_open(problem *p) {
    *p = (problem){0};
    if (dd_safetensors_open(&p->file, &dd_allocator_libc, "tests/golden/optimizer/optimizer.safetensors", NULL) != DDIT_OK)
        return false;
    p->start = read_tensor(p->file, "start");
    p->target = read_tensor(p->file, "target");
    p->a = read_tensor(p->file, "a");
    p->noise = read_tensor(p->file, "noise");
    if (!p->start || !p->target || !p->a || !p->noise) return false;
    const dd_tensor_entry *noise = dd_safetensors_find(p->file, "noise");
    p->steps = noise->shape[0];
    p->count = noise->shape[1];
    p->gradient = malloc((size_t)p->count * sizeof *p->gradient);
    return p->gradient != NULL;
}

static void problem_close(problem *p) {
    free(p->start);
    free(p->target);
    free(p->a);
    free(p->noise);
    free(p->gradient);
    dd_safetensors_close(p->file);
}

static const float *gradient_at(problem *p, const dd_optimizer *o) {
    for (int64_t i = 0; i < p->count; i++)
        p->gradient[i] = p->a[i] * (o->values[i] - p->target[i]) + p->noise[o->step * p->count + i];
    return p->gradient;
}

static float *golden(const problem *p, const char *name, const char *what) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", name, what);
    return read_tensor(p->file, key);
}

/* The steps whose values were kept: numbers with commas. */
static bool was_kept(const problem *p, int64_t step) {
    char padded[256], wanted[32];
    snprintf(padded, sizeof padded, ",%s,", dd_safetensors_metadata(p->file, "steps"));
    snprintf(wanted, sizeof wanted, ",%lld,", (long long)step);
    return strstr(padded, wanted) != NULL;
}

/* Follows the golden of `name` for all steps; what it did not keep is not compared. */
static void follow(dd_test *t, const char *name, const dd_optimizer_params *params, dd_pool *pool) {
    problem p;
    dd_optimizer o;
    dd_optimizer_report report;
    DD_NEED(t, problem_open(&p));
    float *values = golden(&p, name, "values"), *average = golden(&p, name, "average"), *norms = golden(&p, name, "norms");
    float *d = golden(&p, name, "d");
    DD_NEED(t, values);
    DD_NEED_OK(t, dd_optimizer_init(&o, &dd_allocator_libc, params, p.start, p.count, &t->err));
    double worst = 0, worst_average = 0, worst_d = 0;
    for (size_t kept = 0; o.step < p.steps;) {
        DD_NEED_OK(t, dd_optimizer_step(&o, pool, gradient_at(&p, &o), &report, &t->err));
        if (norms) DD_CHECK(t, fabs(report.gradient_norm / (double)norms[o.step - 1] - 1) < 1e-6);
        if (d) worst_d = fmax(worst_d, fabs(o.d / (double)d[o.step - 1] - 1));
        if (!was_kept(&p, o.step)) continue;
        size_t n = (size_t)p.count, at = kept++ * n;
        worst = fmax(worst, dd_test_rel_l2(o.values, values + at, n));
        if (average) worst_average = fmax(worst_average, dd_test_rel_l2(dd_optimizer_average(&o), average + at, n));
    }
    printf("  %s: values %.1e, average %.1e, d %.1e from the package's\n", name, worst, worst_average, worst_d);
    DD_CHECK(t, worst < 1e-6 && worst_average < 1e-6 && worst_d < 1e-5);
    dd_optimizer_deinit(&o);
    free(values);
    free(average);
    free(norms);
    free(d);
    problem_close(&p);
}

static void adamw_equals_torch(dd_test *t) {
    dd_optimizer_params params = dd_optimizer_defaults(DD_OPTIMIZER_ADAMW);
    params.lr = 0.01;
    params.clip_norm = 0;
    follow(t, "adamw", &params, NULL);
    const dd_optimizer_part parts[] = {{40, 1}, {67, 0.25}};
    params.parts = parts;
    params.part_count = 2;
    follow(t, "adamw_parts", &params, NULL);
    params.part_count = 0;
    params.warmup_steps = 20;
    params.decay = DD_DECAY_COSINE;
    params.total_steps = 200;
    params.lr_floor = 0.1;
    params.clip_norm = 2;
    params.ema_decay = 0.95;
    follow(t, "adamw_schedule", &params, NULL);
}

static void prodigy_equals_package(dd_test *t) {
    dd_optimizer_params params = dd_optimizer_defaults(DD_OPTIMIZER_PRODIGY);
    params.clip_norm = 0;
    params.weight_decay = 0;
    follow(t, "prodigy", &params, NULL);
    params.weight_decay = 0.01;
    params.warmup_steps = 10;
    params.decay = DD_DECAY_LINEAR;
    params.total_steps = 200;
    follow(t, "prodigy_decay", &params, NULL);
}

static void rates(dd_test *t) {
    dd_optimizer_params p = dd_optimizer_defaults(DD_OPTIMIZER_ADAMW);
    p.lr = 2;
    p.warmup_steps = 4;
    DD_CHECK(t, dd_optimizer_lr(&p, 0) == 0.5 && dd_optimizer_lr(&p, 3) == 2 && dd_optimizer_lr(&p, 1000) == 2);
    p.decay = DD_DECAY_LINEAR;
    p.total_steps = 14;
    p.lr_floor = 0.5;
    DD_CHECK(t, dd_optimizer_lr(&p, 4) == 2 && dd_optimizer_lr(&p, 9) == 1.5);
    DD_CHECK(t, dd_optimizer_lr(&p, 14) == 1 && dd_optimizer_lr(&p, 99) == 1);
    p.decay = DD_DECAY_COSINE;
    DD_CHECK(t, dd_optimizer_lr(&p, 4) == 2 && fabs(dd_optimizer_lr(&p, 9) - 1.5) < 1e-12 && dd_optimizer_lr(&p, 14) == 1);
    p.total_steps = 3; /* shorter than the warm-up */
    DD_CHECK(t, dd_optimizer_lr(&p, 2) == 1.5 && dd_optimizer_lr(&p, 5) == 1);
}

enum { MANY = 100003 };

static float *random_values(uint64_t seed) {
    float *values = malloc(MANY * sizeof *values);
    for (int i = 0; values && i < MANY; i++) values[i] = dd_test_random(&seed);
    return values;
}

/* Whatever the number of threads: the same bytes, over several blocks with a short last one. */
static void threads_do_not_matter(dd_test *t) {
    float *start = random_values(1), *gradient = random_values(2);
    DD_NEED(t, start && gradient);
    for (int kind = 0; kind < 2; kind++) {
        dd_optimizer_params params = dd_optimizer_defaults((dd_optimizer_kind)kind);
        dd_optimizer o[3];
        params.ema_decay = 0.99;
        for (int threads = 1; threads <= 3; threads++) {
            dd_optimizer *mine = &o[threads - 1];
            dd_pool *pool = NULL;
            dd_optimizer_report report;
            if (threads > 1) DD_NEED_OK(t, dd_pool_create(&pool, &dd_allocator_libc, threads, NULL, &t->err));
            DD_NEED_OK(t, dd_optimizer_init(mine, &dd_allocator_libc, &params, start, MANY, &t->err));
            for (int i = 0; i < 5; i++) DD_OK(t, dd_optimizer_step(mine, pool, gradient, &report, &t->err));
            DD_CHECK(t, memcmp(mine->values, o[0].values, MANY * sizeof(float)) == 0);
            DD_CHECK(t, memcmp(mine->ema, o[0].ema, MANY * sizeof(float)) == 0);
            DD_CHECK(t, mine->d == o[0].d && memcmp(mine->values, start, MANY * sizeof(float)) != 0);
            dd_pool_free(pool);
        }
        for (int i = 0; i < 3; i++) dd_optimizer_deinit(&o[i]);
    }
    free(start);
    free(gradient);
}

static void divergence_changes_nothing(dd_test *t) {
    float values[3] = {1, 2, 3}, gradient[3] = {0.5f, 0, 1}, bad[3] = {0.5f, NAN, 1};
    for (int kind = 0; kind < 2; kind++) {
        dd_optimizer_params params = dd_optimizer_defaults((dd_optimizer_kind)kind);
        dd_optimizer o;
        dd_optimizer_report report;
        DD_NEED_OK(t, dd_optimizer_init(&o, &dd_allocator_libc, &params, values, 3, &t->err));
        DD_OK(t, dd_optimizer_step(&o, NULL, gradient, &report, &t->err));
        float before[3][3];
        memcpy(before[0], o.values, sizeof before[0]);
        memcpy(before[1], o.m, sizeof before[1]);
        memcpy(before[2], o.v, sizeof before[2]);
        for (int i = 0; i < 2; i++) {
            DD_FAILS(t, dd_optimizer_step(&o, NULL, bad, &report, &t->err), DDIT_ERR_DIVERGED, "step 2");
            DD_CHECK(t, !isfinite(report.gradient_norm) && o.step == 1);
            bad[1] = INFINITY;
        }
        DD_CHECK(t, memcmp(before[0], o.values, sizeof before[0]) == 0 && memcmp(before[1], o.m, sizeof before[1]) == 0);
        DD_CHECK(t, memcmp(before[2], o.v, sizeof before[2]) == 0);
        dd_optimizer_deinit(&o);
    }
}

/* No gradient: Prodigy must not divide 0 by 0, and must find its way once there is one. */
static void zero_gradient(dd_test *t) {
    float values[2] = {1, -1}, zero[2] = {0, 0}, gradient[2] = {1, 2};
    for (int kind = 0; kind < 2; kind++) {
        dd_optimizer_params params = dd_optimizer_defaults((dd_optimizer_kind)kind);
        dd_optimizer o;
        dd_optimizer_report report;
        params.weight_decay = 0;
        DD_NEED_OK(t, dd_optimizer_init(&o, &dd_allocator_libc, &params, values, 2, &t->err));
        DD_OK(t, dd_optimizer_step(&o, NULL, zero, &report, &t->err));
        DD_CHECK(t, o.values[0] == 1 && o.values[1] == -1 && o.step == 1 && dd_optimizer_average(&o) == o.values);
        DD_OK(t, dd_optimizer_step(&o, NULL, gradient, &report, &t->err));
        DD_CHECK(t, o.values[0] < 1 && o.values[1] < -1 && isfinite(o.values[0]));
        dd_optimizer_deinit(&o);
    }
}

static void refuses_bad_parameters(dd_test *t) {
    float value = 1;
    dd_optimizer o;
    dd_optimizer_params good = dd_optimizer_defaults(DD_OPTIMIZER_ADAMW), p;
#define REFUSED(field, bad, part)                                                                               \
    p = good;                                                                                                   \
    p.field = bad;                                                                                              \
    DD_FAILS(t, dd_optimizer_init(&o, &dd_allocator_libc, &p, &value, 1, &t->err), DDIT_ERR_ARGUMENT, part);    \
    DD_CHECK(t, !o.values && !o.allocator)
    REFUSED(lr, 0, "learning rate 0");
    REFUSED(lr, NAN, "learning rate");
    REFUSED(beta1, 1, "beta1");
    REFUSED(beta2, -0.1, "beta2");
    REFUSED(eps, 0, "eps");
    REFUSED(weight_decay, -1, "weight decay");
    REFUSED(warmup_steps, -1, "warm-up");
    REFUSED(lr_floor, 1.5, "lowest learning rate");
    REFUSED(clip_norm, -1, "clipping");
    REFUSED(ema_decay, 1, "moving average");
#undef REFUSED
    DD_FAILS(t, dd_optimizer_init(&o, &dd_allocator_libc, &good, &value, 0, &t->err), DDIT_ERR_ARGUMENT, "no parameters");
    dd_optimizer_deinit(&o);
}

/* Parts over blocks, with borders inside one and at the end of one: each learns as if it were alone. */
static void parts_learn_alone(dd_test *t) {
    enum { FIRST = 20000, SECOND = 32768 };
    const dd_optimizer_part parts[] = {{FIRST, 1}, {SECOND, 0}, {MANY, 0.5}};
    float *start = random_values(3), *gradient = random_values(4);
    dd_optimizer_params params = dd_optimizer_defaults(DD_OPTIMIZER_ADAMW);
    dd_optimizer whole, half, mine;
    dd_optimizer_report report;
    DD_NEED(t, start && gradient);
    params.clip_norm = 0;
    DD_NEED_OK(t, dd_optimizer_init(&whole, &dd_allocator_libc, &params, start, MANY, &t->err));
    params.lr /= 2;
    DD_NEED_OK(t, dd_optimizer_init(&half, &dd_allocator_libc, &params, start, MANY, &t->err));
    params.lr *= 2;
    params.parts = parts;
    params.part_count = 3;
    DD_NEED_OK(t, dd_optimizer_init(&mine, &dd_allocator_libc, &params, start, MANY, &t->err));
    dd_optimizer *all[] = {&whole, &half, &mine};
    for (int i = 0; i < 3; i++)
        for (int step = 0; step < 3; step++) DD_OK(t, dd_optimizer_step(all[i], NULL, gradient, &report, &t->err));
    DD_CHECK(t, memcmp(mine.values, whole.values, FIRST * sizeof(float)) == 0);
    DD_CHECK(t, memcmp(mine.values + FIRST, start + FIRST, (SECOND - FIRST) * sizeof(float)) == 0);
    DD_CHECK(t, memcmp(mine.values + SECOND, half.values + SECOND, (MANY - SECOND) * sizeof(float)) == 0);
    for (int i = 0; i < 3; i++) dd_optimizer_deinit(all[i]);
    free(start);
    free(gradient);
}

static void refuses_bad_parts(dd_test *t) {
    float values[4] = {0};
    dd_optimizer o;
    dd_optimizer_params p = dd_optimizer_defaults(DD_OPTIMIZER_ADAMW);
    dd_optimizer_part parts[] = {{2, 1}, {4, 0.5}};
    p.parts = parts;
    p.part_count = 2;
    DD_OK(t, dd_optimizer_init(&o, &dd_allocator_libc, &p, values, 4, &t->err));
    dd_optimizer_deinit(&o);
    DD_FAILS(t, dd_optimizer_init(&o, &dd_allocator_libc, &p, values, 3, &t->err), DDIT_ERR_ARGUMENT, "end at 4, expected 3");
    parts[1].rate = NAN;
    DD_FAILS(t, dd_optimizer_init(&o, &dd_allocator_libc, &p, values, 4, &t->err), DDIT_ERR_ARGUMENT, "part 1");
    parts[1] = (dd_optimizer_part){2, 1};
    DD_FAILS(t, dd_optimizer_init(&o, &dd_allocator_libc, &p, values, 2, &t->err), DDIT_ERR_ARGUMENT, "an end after 2");
    p.kind = DD_OPTIMIZER_PRODIGY;
    DD_FAILS(t, dd_optimizer_init(&o, &dd_allocator_libc, &p, values, 4, &t->err), DDIT_ERR_ARGUMENT, "Prodigy");
}

static void memory(dd_test *t) {
    float values[5] = {0};
    for (int kind = 0; kind < 2; kind++) {
        dd_optimizer_params params = dd_optimizer_defaults((dd_optimizer_kind)kind);
        params.ema_decay = 0.9;
        ddit_status status = DDIT_ERR_NO_MEMORY;
        for (size_t n = 1; status != DDIT_OK && n < 20; n++) {
            dd_test_allocator a;
            dd_optimizer o;
            dd_test_allocator_init(&a);
            a.fail_at = n;
            status = dd_optimizer_init(&o, &a.allocator, &params, values, 5, &t->err);
            DD_CHECK(t, status == DDIT_OK || (status == DDIT_ERR_NO_MEMORY && a.live == 0 && !o.values));
            dd_optimizer_deinit(&o);
            DD_CHECK(t, a.live == 0);
        }
        DD_CHECK(t, status == DDIT_OK);
        DD_CHECK(t, dd_optimizer_bytes(&params, 5) == (kind ? 6u : 4u) * 5 * 4 + 16);
    }
}

static void speed(dd_test *t) {
    enum { COUNT = 1500000 };
    float *values = calloc(COUNT, sizeof *values);
    DD_NEED(t, values);
    for (int kind = 0; kind < 2; kind++) {
        dd_optimizer_params params = dd_optimizer_defaults((dd_optimizer_kind)kind);
        dd_optimizer o;
        dd_optimizer_report report;
        double best = 1e9;
        params.ema_decay = 0.999;
        uint64_t seed = 3;
        for (int i = 0; i < COUNT; i++) values[i] = dd_test_random(&seed);
        DD_NEED_OK(t, dd_optimizer_init(&o, &dd_allocator_libc, &params, values, COUNT, &t->err));
        for (int i = 0; i < 8; i++) {
            double begin = dd_seconds();
            DD_OK(t, dd_optimizer_step(&o, NULL, values, &report, &t->err));
            best = fmin(best, dd_seconds() - begin);
        }
        printf("  %s: %.2f ms for 1.5 M parameters on one thread\n", kind ? "Prodigy" : "AdamW", best * 1e3);
        dd_optimizer_deinit(&o);
    }
    free(values);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"AdamW equals torch", adamw_equals_torch},
        {"Prodigy equals its package", prodigy_equals_package},
        {"rates", rates},
        {"threads do not matter", threads_do_not_matter},
        {"divergence changes nothing", divergence_changes_nothing},
        {"zero gradient", zero_gradient},
        {"refuses bad parameters", refuses_bad_parameters},
        {"parts learn alone", parts_learn_alone},
        {"refuses bad parts", refuses_bad_parts},
        {"memory", memory},
        {"speed", speed},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
