/* Anchored coarse steps (docs/method.md): every step's velocity made again from the kept latents by separate calls of the
 * transformer, which steps measure, and what must stay the same bytes. */
#include "sample/free_velocity.h"
#include "schedule/free_step.h"
#include "unit/sample/sampler_test.h"

#define TOLERANCE 1e-6 /* relative; a sum of float32 made in another order is 1e-7 off */

enum { CELLS = (TINY_H / 2) * (TINY_W / 2) };

/* The transformer beside the sampler: one run with the same times, and a velocity for any latent, step and layout. */
typedef struct oracle {
    const dd_sampler *s;
    const dd_sampler_params *p;
    dd_backend *b;
    dd_flux_run *run;
    dd_layout layout, small;
    int times_of[DD_FACTOR_COUNT];   /* first time index of the free step of a factor */
    float *z, *v, *z_small, *v_small; /* backend memory */
    float *host[2];                  /* velocities of the branches */
} oracle;

static ddit_status oracle_open(oracle *o, const tiny_model *m, const dd_sampler *s, const dd_sampler_params *p, ddit_err *err) {
    float times[DD_FACTOR_COUNT * TINY_STEPS];
    const dd_noise_schedule *noise = dd_sampler_noise(s);
    int count = 0;
    *o = (oracle){.s = s, .p = p, .b = m->b};
    for (int f = 0; f < DD_FACTOR_COUNT; f++) {
        o->times_of[f] = count;
        if (f > 0 && !p->coarse_free) continue;
        for (int k = 0; k < TINY_STEPS; k++)
            times[count++] = f == 0 ? noise->time[k]
                                    : dd_free_step_at(noise->sigma[k], dd_factor_at(f), (double)p->free_detail[f]).time;
    }
    dd_grid grid = {TINY_H / 2, TINY_W / 2, 2};
    int branches = p->cfg_scale > 1 ? 2 : 1;
    dd_flux_run_params run = {.grid = grid, .text_tokens = TINY_TEXT, .branches = branches, .guidance = p->guidance,
                              .times = times, .time_count = count, .trimmed_text = p->trimmed_text};
    DD_TRY(dd_flux_run_create(&o->run, m->dit, &run, err));
    for (int i = 0; i < branches; i++) DD_TRY(dd_flux_run_condition(o->run, i, m->text[i], m->pooled[i], err));
    DD_TRY(dd_layout_init(&o->layout, &dd_allocator_libc, grid, err));
    for (int i = 0; i < 2; i++) o->host[i] = malloc(tiny_values() * sizeof(float));
    float **memory[4] = {&o->z, &o->v, &o->z_small, &o->v_small};
    for (int i = 0; i < 4; i++) DD_TRY(dd_op_alloc(o->b, (void **)memory[i], tiny_values() * sizeof(float), "a latent", err));
    return DDIT_OK;
}

static void oracle_close(oracle *o) {
    float *memory[4] = {o->z, o->v, o->z_small, o->v_small};
    for (int i = 0; i < 4; i++) dd_op_free(o->b, memory[i]);
    for (int i = 0; i < 2; i++) free(o->host[i]);
    dd_layout_deinit(&o->layout);
    dd_layout_deinit(&o->small);
    dd_flux_run_free(o->run);
}

static dd_tensor view(float *data, int k) { return dd_tensor_3d(data, DD_DTYPE_F32, 16, TINY_H / k, TINY_W / k); }

/* The free step of factor k on o->z into o->v. */
static ddit_status free_call(oracle *o, int branch, int step, int k, ddit_err *err) {
    int f = dd_factor_index(k);
    dd_layout_deinit(&o->small);
    DD_TRY(dd_layout_init(&o->small, &dd_allocator_libc, (dd_grid){TINY_H / 2 / k, TINY_W / 2 / k, 2}, err));
    dd_layout_set_uniform(&o->small, 1);
    dd_free_velocity_args args = {.run = o->run, .branch = branch, .time_index = o->times_of[f] + step, .factor = k,
                                  .sigma = dd_sampler_noise(o->s)->sigma[step], .detail = o->p->free_detail[f],
                                  .small = &o->small, .z = view(o->z, 1), .velocity = view(o->v, 1),
                                  .z_small = view(o->z_small, k), .v_small = view(o->v_small, k)};
    return dd_free_velocity(&args, o->b, err);
}

/* The velocity at the kept latent of `step`, guided if there are two branches. text: a mixed layout, else NULL: uniform(k). */
static ddit_status oracle_velocity(oracle *o, int step, int k, const char *text, float *out, ddit_err *err) {
    float scale = o->p->cfg_scale;
    size_t bytes = tiny_values() * sizeof(float);
    if (text) DD_TRY(dd_layout_set_string(&o->layout, text, err));
    else dd_layout_set_uniform(&o->layout, k);
    for (int branch = 0; branch < (scale > 1 ? 2 : 1); branch++) {
        DD_TRY(dd_op_upload(o->b, o->z, dd_sampler_kept_latent(o->s, step), bytes, err));
        if (o->p->coarse_free && !text && k > 1) DD_TRY(free_call(o, branch, step, k, err));
        else
            DD_TRY(dd_flux_run_velocity(o->run, branch, step, dd_sampler_noise(o->s)->sigma[step], &o->layout, view(o->z, 1),
                                        view(o->v, 1), err));
        DD_TRY(dd_op_download(o->b, o->host[branch], o->v, bytes, err));
    }
    if (scale > 1)
        for (size_t i = 0; i < tiny_values(); i++) out[i] = o->host[1][i] + scale * (o->host[0][i] - o->host[1][i]);
    else memcpy(out, o->host[0], bytes);
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- every step again */

static int factor_of(const dd_step_record *r) { return r->layout ? 0 : r->cells[0] ? 1 : r->cells[1] ? 2 : 4; }

/* The bytes of a plain call, or without them (guidance sums in another order) its values. */
static void check_plain(dd_test *t, const oracle *o, const char *what, int step, const float *want) {
    const float *got = dd_sampler_kept_velocity(o->s, step);
    bool same = o->p->cfg_scale > 1 ? dd_test_rel_l2(got, want, tiny_values()) <= TOLERANCE
                                    : memcmp(got, want, tiny_values() * sizeof *got) == 0;
    if (!same)
        dd_test_fail(t, __FILE__, __LINE__, "%s: step %d is not the plain velocity, distance %.2e", what, step,
                     dd_test_rel_l2(got, want, tiny_values()));
}

static void check_corrected(dd_test *t, const oracle *o, const char *what, int step, const float *coarse, const float *error) {
    const float *got = dd_sampler_kept_velocity(o->s, step);
    float *want = malloc(tiny_values() * sizeof *want);
    for (size_t i = 0; i < tiny_values(); i++) want[i] = coarse[i] + error[i];
    double distance = dd_test_rel_l2(got, want, tiny_values());
    if (!(distance <= TOLERANCE)) dd_test_fail(t, __FILE__, __LINE__, "%s: step %d is off by %.2e", what, step, distance);
    DD_CHECK(t, dd_test_rel_l2(got, coarse, tiny_values()) > 1e-3); /* the correction is no trifle */
    free(want);
}

static void check_record(dd_test *t, const oracle *o, const char *what, const dd_step_record *r, bool anchored) {
    int coarse_text = r->cells[0] == 0 && o->p->trimmed_text && !o->p->coarse_free ? o->p->trimmed_text : TINY_TEXT;
    int text = coarse_text + (anchored ? TINY_TEXT : 0);
    int image = r->cells[0] + r->cells[1] + r->cells[2] + (anchored ? CELLS : 0);
    if (r->anchored != anchored || r->text_tokens != text || r->image_tokens != image)
        dd_test_fail(t, __FILE__, __LINE__, "%s: step %d: anchored %d, tokens %d + %d; expected %d, %d + %d", what, r->index,
                     r->anchored, r->text_tokens, r->image_tokens, anchored, text, image);
}

/* expected[k]: 'a' measures, 'c' is corrected, '.' is plain; NULL: by the rule alone. */
static void check_steps(dd_test *t, oracle *o, const char *what, const char *expected) {
    float *one = malloc(tiny_values() * sizeof *one), *fine = malloc(tiny_values() * sizeof *fine);
    float *error = malloc(tiny_values() * sizeof *error);
    int count, measured_for = 0, measured_at = 0;
    const dd_step_record *r = dd_sampler_records(o->s, &count);
    DD_CHECK(t, count == TINY_STEPS);
    for (int k = 0; k < count; k++) {
        int factor = factor_of(&r[k]);
        char kind = o->p->anchor == 0 || factor < 2                                  ? '.'
                    : measured_for == factor && k - measured_at <= o->p->anchor ? 'c' : 'a';
        if (expected && kind != expected[k]) dd_test_fail(t, __FILE__, __LINE__, "%s: step %d is %c", what, k, kind);
        check_record(t, o, what, &r[k], kind == 'a');
        DD_OK(t, oracle_velocity(o, k, factor, r[k].layout, one, &t->err));
        if (kind == '.') check_plain(t, o, what, k, one);
        if (kind == 'c') check_corrected(t, o, what, k, one, error);
        if (kind != 'a') continue;
        DD_OK(t, oracle_velocity(o, k, 1, NULL, fine, &t->err));
        check_plain(t, o, what, k, fine);
        for (size_t i = 0; i < tiny_values(); i++) error[i] = fine[i] - one[i];
        measured_for = factor;
        measured_at = k;
    }
    free(one);
    free(fine);
    free(error);
}

static void check_run(dd_test *t, const tiny_model *m, const dd_sampler_params *p, const char *what, const char *expected) {
    dd_sampler *s;
    oracle o;
    float *noise = tiny_noise(TINY_H, TINY_W, 31);
    ddit_status status = tiny_sampler(&s, m, p, 1, &t->err);
    DD_OK(t, status);
    if (status == DDIT_OK) {
        DD_OK(t, dd_sampler_run(s, noise, NULL, NULL, &t->err));
        status = oracle_open(&o, m, s, p, &t->err);
        DD_OK(t, status);
        if (status == DDIT_OK) check_steps(t, &o, what, expected);
        oracle_close(&o);
    }
    dd_sampler_free(s);
    free(noise);
}

static void on_all(dd_test *t, void (*check)(dd_test *t, tiny_model *m)) {
    for (int k = 0; k < TINY_KINDS; k++) {
        tiny_model m;
        if (!tiny_can_run(tiny_kinds[k]) || strcmp(tiny_kinds[k].name, "ref") == 0) continue;
        ddit_status status = tiny_open(&m, tiny_kinds[k], "adapter", &t->err);
        DD_OK(t, status);
        if (status == DDIT_OK) check(t, &m);
        DD_CHECK(t, tiny_close(&m));
    }
}

/* Sets the policy to a written schedule. */
static void use_schedule(dd_test *t, dd_sampler_params *p, dd_patch_schedule *schedule, const char *text) {
    *schedule = (dd_patch_schedule){0};
    DD_OK(t, dd_patch_schedule_parse(schedule, &dd_allocator_libc, text, &t->err));
    p->policy.kind = DD_PATCH_SCHEDULE;
    p->policy.schedule = schedule;
}

/* ---------------------------------------------------------------------------------------------- cases */

typedef struct written_case {
    const char *schedule;
    int anchor;
    const char *expected;
} written_case;

static void check_written(dd_test *t, tiny_model *m, dd_sampler_params *p, const written_case *cases, size_t count) {
    for (size_t i = 0; i < count; i++) {
        dd_patch_schedule schedule;
        char what[80];
        snprintf(what, sizeof what, "%s, anchor %d, cfg %g", cases[i].schedule, cases[i].anchor, (double)p->cfg_scale);
        use_schedule(t, p, &schedule, cases[i].schedule);
        p->anchor = cases[i].anchor;
        check_run(t, m, p, what, cases[i].expected);
        dd_patch_schedule_deinit(&schedule);
    }
}

static void check_schedules(dd_test *t, tiny_model *m) {
    static const written_case cases[] = {
        {"1x2,2x2,4x3,1x2", 0, "........."},   /* none: the plain coarse step */
        {"1x3,2x6", 1000, "...accccc"},
        {"1x3,2x6", 2, "...accacc"},           /* after two corrected steps it is measured anew */
        {"2x9", 1, "acacacaca"},
        {"4x9", 8, "acccccccc"},
        {"4x9", 7, "accccccca"},
        {"1x2,2x2,4x3,2x2", 8, "..acaccac"},   /* another factor measures; what was measured for 2 is gone */
        {"1x2,2x2,1x2,2x3", 4, "..ac..cac"},   /* a fine step between does not end it, its age does */
        {"1x2,2x2,1x2,2x3", 3, "..ac..acc"},
        {"1x9", 8, "........."},
    };
    dd_sampler_params p = tiny_params(m);
    check_written(t, m, &p, cases, sizeof cases / sizeof *cases);
    p.trimmed_text = 7;
    check_written(t, m, &p, cases + 6, 2);
}

static void velocities_of_schedules(dd_test *t) { on_all(t, check_schedules); }

/* The correction is that of the guided velocity. */
static void check_guided(dd_test *t, tiny_model *m) {
    static const written_case cases[] = {{"1x2,2x3,4x4", 2, "..accacca"}, {"2x9", 3, "acccaccca"}};
    dd_sampler_params p = tiny_params(m);
    p.cfg_scale = 2.5f;
    check_written(t, m, &p, cases, 2);
}

static void velocities_with_two_branches(dd_test *t) { on_all(t, check_guided); }

static void check_free(dd_test *t, tiny_model *m) {
    static const written_case cases[] = {{"1x3,2x6", 2, "...accacc"}, {"1x2,2x2,4x3,2x2", 8, "..acaccac"}};
    dd_sampler_params p = tiny_params(m);
    p.coarse_free = true;
    p.trimmed_text = 7; /* of no effect: the free step is the base model */
    check_written(t, m, &p, cases, 2);
    p.cfg_scale = 2.5f;
    check_written(t, m, &p, cases, 1);
}

static void velocities_of_the_free_step(dd_test *t) { on_all(t, check_free); }

static void check_auto(dd_test *t, tiny_model *m) {
    dd_sampler_params p = tiny_params(m);
    tiny_policy(&p, DD_PATCH_AUTO, 1e9); /* factor 4 as soon as there is a difference */
    p.anchor = 3;
    check_run(t, m, &p, "auto", "...acccac");
}

static void velocities_of_auto(dd_test *t) { on_all(t, check_auto); }

static void check_mixed(dd_test *t, tiny_model *m) {
    dd_sampler_params p = tiny_params(m);
    dd_patch_schedule schedule;
    dd_sampler *s;
    int count, mixed = 0;
    float *noise = tiny_noise(TINY_H, TINY_W, 31);
    p.anchor = 8;
    use_schedule(t, &p, &schedule, "2x9");
    DD_OK(t, dd_patch_schedule_set_step(&schedule, 4, "(1111)4(1111)(1111)(1111)(1111)", (int64_t[3]){80, 0, 1}, &t->err));
    check_run(t, m, &p, "a mixed layout between", "accc.cccc");
    dd_patch_schedule_deinit(&schedule);
    tiny_policy(&p, DD_PATCH_REGION, 0.2);
    check_run(t, m, &p, "region", NULL);
    DD_NEED_OK(t, tiny_sampler(&s, m, &p, 1, &t->err));
    DD_OK(t, dd_sampler_run(s, noise, NULL, NULL, &t->err));
    const dd_step_record *r = dd_sampler_records(s, &count);
    for (int k = 0; k < count; k++) mixed += r[k].layout && !r[k].anchored;
    DD_CHECK(t, mixed > 0); /* else this case says nothing */
    dd_sampler_free(s);
    free(noise);
}

static void mixed_layouts_run_without_correction(dd_test *t) { on_all(t, check_mixed); }

/* ---------------------------------------------------------------------------------------------- the same bytes */

/* Runs with a fresh sampler; the final latent, which the caller frees. */
static float *final_of(dd_test *t, const tiny_model *m, const dd_sampler_params *p, const float *noise) {
    dd_sampler *s;
    float *out = calloc(tiny_values(), sizeof *out);
    ddit_status status = tiny_sampler(&s, m, p, 1, &t->err);
    if (status == DDIT_OK) status = dd_sampler_run(s, noise, NULL, NULL, &t->err);
    DD_OK(t, status);
    if (status == DDIT_OK) memcpy(out, tiny_latent(s), tiny_values() * sizeof *out);
    dd_sampler_free(s);
    return out;
}

static void check_off(dd_test *t, tiny_model *m) {
    static const char *const fine[] = {NULL, "1x9"};
    float *noise = tiny_noise(TINY_H, TINY_W, 32);
    for (int i = 0; i < 2; i++) {
        dd_sampler_params p = tiny_params(m);
        dd_patch_schedule schedule = {0};
        if (fine[i]) use_schedule(t, &p, &schedule, fine[i]);
        float *without = final_of(t, m, &p, noise);
        p.anchor = 6;
        float *with = final_of(t, m, &p, noise);
        DD_CHECK(t, memcmp(with, without, tiny_values() * sizeof *with) == 0);
        free(with);
        free(without);
        dd_patch_schedule_deinit(&schedule);
    }
    free(noise);
}

static void fine_runs_are_the_same_bytes(dd_test *t) { on_all(t, check_off); }

typedef struct stopper {
    int calls, stop_at; /* cancel in this call; 0 = never */
    const dd_test_allocator *memory;
    size_t taken;       /* allocations seen by the last call */
} stopper;

static int stop(void *user, const dd_step_record *record) {
    stopper *w = user;
    (void)record;
    w->taken = w->memory->total;
    return ++w->calls == w->stop_at;
}

/* A sampler draws picture after picture, some of them cancelled: none sees the correction of another. */
static void check_rows(dd_test *t, tiny_model *m) {
    float *noise[2] = {tiny_noise(TINY_H, TINY_W, 33), tiny_noise(TINY_H, TINY_W, 34)};
    dd_sampler_params p = tiny_params(m);
    dd_patch_schedule schedule;
    dd_sampler *s;
    use_schedule(t, &p, &schedule, "2x9");
    p.anchor = 1000;
    float *fresh[2] = {final_of(t, m, &p, noise[0]), final_of(t, m, &p, noise[1])};
    DD_NEED_OK(t, tiny_sampler(&s, m, &p, 1, &t->err));
    for (int i = 0; i < 5; i++) {
        static const int order[5] = {0, 0, 1, 1, 0};
        stopper w = {.memory = &m->memory, .stop_at = i};
        DD_OK(t, dd_sampler_run(s, noise[order[i]], NULL, NULL, &t->err));
        DD_CHECK(t, memcmp(fresh[order[i]], tiny_latent(s), tiny_values() * sizeof(float)) == 0);
        if (i > 0) DD_FAILS(t, dd_sampler_run(s, noise[1], stop, &w, &t->err), DDIT_ERR_CANCELLED, "cancelled after step");
    }
    dd_sampler_free(s);
    for (int i = 0; i < 2; i++) {
        free(noise[i]);
        free(fresh[i]);
    }
    dd_patch_schedule_deinit(&schedule);
}

static void a_correction_belongs_to_one_picture(dd_test *t) { on_all(t, check_rows); }

/* ---------------------------------------------------------------------------------------------- memory */

static void check_memory(dd_test *t, tiny_model *m) {
    float *noise = tiny_noise(TINY_H, TINY_W, 35);
    dd_patch_schedule schedule;
    for (int i = 0; i < 6; i++) { /* adapter, free; one and two branches; region */
        dd_sampler_params p = tiny_params(m);
        dd_sampler *s;
        use_schedule(t, &p, &schedule, "1x2,2x3,4x4");
        p.anchor = 2;
        p.cfg_scale = i % 2 ? 2 : 1;
        p.coarse_free = i / 2 == 1;
        if (i / 2 == 2) tiny_policy(&p, DD_PATCH_REGION, 0.2);
        stopper w = {.memory = &m->memory};
        ddit_status status = tiny_sampler(&s, m, &p, 1, &t->err);
        DD_OK(t, status);
        size_t before = m->memory.total;
        if (status == DDIT_OK) DD_OK(t, dd_sampler_run(s, noise, stop, &w, &t->err));
        DD_CHECK(t, w.calls == TINY_STEPS && w.taken == before && m->memory.total == before);
        dd_sampler_free(s);
        dd_patch_schedule_deinit(&schedule);
    }
    free(noise);
}

static void the_step_loop_allocates_nothing(dd_test *t) { on_all(t, check_memory); }

static void check_measure(dd_test *t, tiny_model *m) {
    dd_sampler_params p = tiny_params(m);
    dd_sampler_bytes without = dd_sampler_measure(&m->config.transformer, m->b->activation, &p);
    p.anchor = 6;
    dd_sampler_bytes with = dd_sampler_measure(&m->config.transformer, m->b->activation, &p);
    DD_CHECK(t, with.latents == without.latents + tiny_values() * sizeof(float) && with.kept == without.kept);
    DD_CHECK(t, with.run.activations == without.run.activations && with.run.tables == without.run.tables);
}

static void the_correction_is_one_more_latent(dd_test *t) { on_all(t, check_measure); }

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"velocities_of_schedules", velocities_of_schedules},
        {"velocities_with_two_branches", velocities_with_two_branches},
        {"velocities_of_the_free_step", velocities_of_the_free_step},
        {"velocities_of_auto", velocities_of_auto},
        {"mixed_layouts_run_without_correction", mixed_layouts_run_without_correction},
        {"fine_runs_are_the_same_bytes", fine_runs_are_the_same_bytes},
        {"a_correction_belongs_to_one_picture", a_correction_belongs_to_one_picture},
        {"the_step_loop_allocates_nothing", the_step_loop_allocates_nothing},
        {"the_correction_is_one_more_latent", the_correction_is_one_more_latent},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
