/* The step loop: memory, cancelling, history, records, kept latents, guidance with two branches, and what must be the same
 * bytes. */
#include "unit/sample/sampler_test.h"

typedef struct watcher {
    const dd_test_allocator *memory;
    size_t at_first, at_last;
    int calls, stop_at; /* stop_at: cancel in this call; 0 = never */
} watcher;

static int watch(void *user, const dd_step_record *record) {
    watcher *w = user;
    (void)record;
    w->calls++;
    if (w->calls == 1) w->at_first = w->memory->total;
    w->at_last = w->memory->total;
    return w->calls == w->stop_at;
}

static void on_all(dd_test *t, const char *adapter, void (*check)(dd_test *t, tiny_model *m, tiny_kind kind)) {
    for (int k = 0; k < TINY_KINDS; k++) {
        tiny_model m;
        if (!tiny_can_run(tiny_kinds[k]) || strcmp(tiny_kinds[k].name, "ref") == 0) continue;
        ddit_status status = tiny_open(&m, tiny_kinds[k], adapter, &t->err);
        DD_OK(t, status);
        if (status == DDIT_OK) check(t, &m, tiny_kinds[k]);
        DD_CHECK(t, tiny_close(&m));
    }
}

/* Runs once with fresh sampler and copies the final latent (the caller frees it); NULL on failure. */
static float *final_of(dd_test *t, const tiny_model *m, const dd_sampler_params *p, int second_prompt, const float *noise) {
    dd_sampler *s;
    float *out = NULL;
    ddit_status status = tiny_sampler(&s, m, p, second_prompt, &t->err);
    if (status == DDIT_OK) status = dd_sampler_run(s, noise, NULL, NULL, &t->err);
    if (status == DDIT_OK) {
        out = malloc(tiny_values() * sizeof *out);
        memcpy(out, tiny_latent(s), tiny_values() * sizeof *out);
    } else dd_test_fail(t, __FILE__, __LINE__, "run -> %d: %s", status, t->err.text);
    dd_sampler_free(s);
    return out;
}

/* ---------------------------------------------------------------------------------------------- memory */

static void check_loop(dd_test *t, tiny_model *m, const dd_sampler_params *p, const char *what, tiny_kind kind) {
    dd_sampler *s;
    float *noise = tiny_noise(TINY_H, TINY_W, 1);
    ddit_status status = tiny_sampler(&s, m, p, 1, &t->err);
    DD_OK(t, status);
    if (status == DDIT_OK) {
        watcher w = {.memory = &m->memory};
        size_t before = m->memory.total;
        DD_OK(t, dd_sampler_run(s, noise, watch, &w, &t->err));
        DD_CHECK(t, w.calls == p->steps && w.at_last == w.at_first);
        if (m->memory.total != before)
            dd_test_fail(t, __FILE__, __LINE__, "%s %s: the run made %zu allocations", kind.name, what,
                         m->memory.total - before);
    }
    dd_sampler_free(s);
    free(noise);
}

static dd_patch_schedule schedule_of(dd_test *t, const char *text) {
    dd_patch_schedule schedule;
    DD_OK(t, dd_patch_schedule_parse(&schedule, &dd_allocator_libc, text, &t->err));
    return schedule;
}

static void check_memory(dd_test *t, tiny_model *m, tiny_kind kind) {
    dd_patch_schedule schedule = schedule_of(t, "1x2,2x2,4x3,1x2");
    dd_sampler_params p = tiny_params(m);
    check_loop(t, m, &p, "off", kind);
    tiny_policy(&p, DD_PATCH_REGION, 0.2);
    check_loop(t, m, &p, "region", kind);
    tiny_policy(&p, DD_PATCH_AUTO, 1e9);
    check_loop(t, m, &p, "auto", kind);
    p.cfg_scale = 3;
    check_loop(t, m, &p, "auto with two branches", kind);
    p.keep_steps = false;
    check_loop(t, m, &p, "auto with two branches, nothing kept", kind);
    p.policy.kind = DD_PATCH_SCHEDULE;
    p.policy.schedule = &schedule;
    check_loop(t, m, &p, "schedule", kind);
    p.trimmed_text = 7;
    check_loop(t, m, &p, "schedule with trimmed text", kind);
    p.coarse_free = true;
    check_loop(t, m, &p, "free schedule", kind);
    dd_patch_schedule_deinit(&schedule);
}

static void the_step_loop_allocates_nothing(dd_test *t) { on_all(t, "adapter", check_memory); }

/* ---------------------------------------------------------------------------------------------- runs after runs */

static void check_cancel(dd_test *t, tiny_model *m, tiny_kind kind) {
    dd_sampler *s;
    float *noise = tiny_noise(TINY_H, TINY_W, 2);
    dd_sampler_params p = tiny_params(m);
    (void)kind;
    tiny_policy(&p, DD_PATCH_AUTO, 1e9);
    float *fresh = final_of(t, m, &p, 1, noise);
    DD_NEED_OK(t, tiny_sampler(&s, m, &p, 1, &t->err));
    for (int k = 1; k <= p.steps; k += 2) {
        watcher w = {.memory = &m->memory, .stop_at = k};
        int count;
        DD_FAILS(t, dd_sampler_run(s, noise, watch, &w, &t->err), DDIT_ERR_CANCELLED, "cancelled after step");
        const dd_step_record *records = dd_sampler_records(s, &count);
        DD_CHECK(t, w.calls == k && count == k && records[k - 1].index == k - 1);
        DD_CHECK(t, dd_sampler_kept_latent(s, k - 1) && !dd_sampler_kept_latent(s, k) && !dd_sampler_kept_velocity(s, k));
        DD_OK(t, dd_sampler_run(s, noise, NULL, NULL, &t->err));
        DD_CHECK(t, memcmp(fresh, tiny_latent(s), tiny_values() * sizeof *fresh) == 0);
    }
    dd_sampler_free(s);
    free(fresh);
    free(noise);
}

static void a_cancelled_run_leaves_nothing_behind(dd_test *t) { on_all(t, "adapter", check_cancel); }

static void check_history(dd_test *t, tiny_model *m, tiny_kind kind) {
    dd_sampler *s;
    float *noise[2] = {tiny_noise(TINY_H, TINY_W, 3), tiny_noise(TINY_H, TINY_W, 4)};
    dd_sampler_params p = tiny_params(m);
    p.policy.order = kind.precision == DD_PRECISION_BF16 ? 1 : 3;
    tiny_policy(&p, DD_PATCH_REGION, 0.2);
    float *fresh[2] = {final_of(t, m, &p, 1, noise[0]), final_of(t, m, &p, 1, noise[1])};
    DD_NEED_OK(t, tiny_sampler(&s, m, &p, 1, &t->err));
    for (int i = 0; i < 4; i++) {
        int which = i == 2, count;
        DD_OK(t, dd_sampler_run(s, noise[which], NULL, NULL, &t->err));
        DD_CHECK(t, memcmp(fresh[which], tiny_latent(s), tiny_values() * sizeof(float)) == 0);
        const dd_step_record *records = dd_sampler_records(s, &count);
        for (int k = 0; k < p.policy.order; k++) /* an empty history is no statistic and factor 1 */
            DD_CHECK(t, isnan(records[k].stat[1]) && isnan(records[k].stat[2]) &&
                     records[k].cells[1] + records[k].cells[2] == 0);
    }
    dd_sampler_free(s);
    for (int i = 0; i < 2; i++) {
        free(noise[i]);
        free(fresh[i]);
    }
}

static void history_belongs_to_one_picture(dd_test *t) { on_all(t, "adapter", check_history); }

/* ---------------------------------------------------------------------------------------------- records */

static void check_records(dd_test *t, tiny_model *m, tiny_kind kind) {
    static const int cells[3][3] = {{96, 0, 0}, {0, 24, 0}, {0, 0, 6}};
    static const int expected[TINY_STEPS] = {0, 0, 1, 1, 2, 2, 2, 0, 0};
    dd_patch_schedule schedule = schedule_of(t, "1x2,2x2,4x3,1x2");
    dd_sampler_params p = tiny_params(m);
    dd_sampler *s;
    float *noise = tiny_noise(TINY_H, TINY_W, 5);
    (void)kind;
    p.policy.kind = DD_PATCH_SCHEDULE;
    p.policy.schedule = &schedule;
    p.trimmed_text = 7;
    DD_NEED_OK(t, tiny_sampler(&s, m, &p, 1, &t->err));
    DD_OK(t, dd_sampler_run(s, noise, NULL, NULL, &t->err));
    int count;
    const dd_step_record *r = dd_sampler_records(s, &count);
    const dd_noise_schedule *levels = dd_sampler_noise(s);
    DD_CHECK(t, count == TINY_STEPS && levels->steps == TINY_STEPS);
    for (int k = 0; k < count; k++) {
        const int *want = cells[expected[k]];
        DD_CHECK(t, r[k].index == k && r[k].sigma == levels->sigma[k] && r[k].sigma_next == levels->sigma[k + 1]);
        DD_CHECK(t, memcmp(r[k].cells, want, sizeof r[k].cells) == 0 && r[k].layout == NULL && r[k].seconds > 0);
        DD_CHECK(t, r[k].image_tokens == want[0] + want[1] + want[2] && r[k].text_tokens == (expected[k] ? 7 : TINY_TEXT));
        /* statistics are traced with schedules too */
        DD_CHECK(t, isnan(r[k].stat[1]) == (k < 3) && isnan(r[k].stat[2]) == (k < 3));
    }
    DD_CHECK(t, memcmp(dd_sampler_kept_latent(s, 0), noise, tiny_values() * sizeof *noise) == 0);
    dd_sampler_free(s);
    free(noise);
    dd_patch_schedule_deinit(&schedule);
}

static void records_say_what_ran(dd_test *t) { on_all(t, "adapter", check_records); }

/* Kept latents and velocities are those of Euler's steps; the last step ends at the final latent. */
static void check_euler(dd_test *t, tiny_model *m, tiny_kind kind) {
    dd_sampler_params p = tiny_params(m);
    dd_sampler *s;
    float *noise = tiny_noise(TINY_H, TINY_W, 6);
    double worst = 0;
    p.cfg_scale = 2.5f;
    tiny_policy(&p, DD_PATCH_REGION, 0.2);
    DD_NEED_OK(t, tiny_sampler(&s, m, &p, 1, &t->err));
    DD_OK(t, dd_sampler_run(s, noise, NULL, NULL, &t->err));
    const float *sigma = dd_sampler_noise(s)->sigma;
    for (int k = 0; k < p.steps; k++) {
        const float *z = dd_sampler_kept_latent(s, k), *v = dd_sampler_kept_velocity(s, k);
        const float *next = k + 1 < p.steps ? dd_sampler_kept_latent(s, k + 1) : tiny_latent(s);
        for (size_t i = 0; i < tiny_values(); i++) {
            double want = (double)z[i] + ((double)sigma[k + 1] - (double)sigma[k]) * (double)v[i];
            worst = fmax(worst, fabs(want - (double)next[i]) / (fabs((double)z[i]) + fabs(want) + 1e-3));
        }
    }
    if (!(worst < 3e-7)) dd_test_fail(t, __FILE__, __LINE__, "%s: a step is off by %.2e", kind.name, worst);
    DD_CHECK(t, !dd_sampler_kept_latent(s, p.steps));
    dd_sampler_free(s);
    free(noise);
}

static void kept_latents_are_the_steps_of_euler(dd_test *t) { on_all(t, "adapter", check_euler); }

/* ---------------------------------------------------------------------------------------------- two branches, same bytes */

static void check_guidance(dd_test *t, tiny_model *m, tiny_kind kind) {
    dd_sampler_params p = tiny_params(m);
    float *noise = tiny_noise(TINY_H, TINY_W, 7);
    (void)kind;
    float *one = final_of(t, m, &p, 0, noise);
    p.cfg_scale = 4;
    float *equal = final_of(t, m, &p, 0, noise), *other = final_of(t, m, &p, 1, noise);
    DD_CHECK(t, dd_test_rel_l2(equal, one, tiny_values()) < (kind.precision == DD_PRECISION_BF16 ? 1e-3 : 1e-5));
    DD_CHECK(t, dd_test_rel_l2(other, one, tiny_values()) > 1e-2);
    p.cfg_scale = 1;
    float *off = final_of(t, m, &p, 1, noise);
    DD_CHECK(t, memcmp(off, one, tiny_values() * sizeof *off) == 0);
    free(one);
    free(equal);
    free(other);
    free(off);
    free(noise);
}

static void equal_prompts_make_guidance_vanish(dd_test *t) { on_all(t, "adapter", check_guidance); }

static void check_base(dd_test *t, tiny_model *m, tiny_kind kind) {
    dd_patch_schedule schedule = schedule_of(t, "1x9");
    tiny_model bare;
    float *noise = tiny_noise(TINY_H, TINY_W, 8);
    DD_NEED_OK(t, tiny_open(&bare, kind, NULL, &t->err));
    dd_sampler_params p = tiny_params(m), q = tiny_params(&bare);
    float *off = final_of(t, m, &p, 0, noise), *without = final_of(t, &bare, &q, 0, noise);
    p.policy.kind = DD_PATCH_SCHEDULE;
    p.policy.schedule = &schedule;
    p.trimmed_text = 7;
    float *ones = final_of(t, m, &p, 0, noise);
    tiny_policy(&p, DD_PATCH_AUTO, 1e-30); /* never fires */
    float *never = final_of(t, m, &p, 0, noise);
    DD_CHECK(t, memcmp(off, without, tiny_values() * sizeof *off) == 0);
    DD_CHECK(t, memcmp(off, ones, tiny_values() * sizeof *off) == 0);
    DD_CHECK(t, memcmp(off, never, tiny_values() * sizeof *off) == 0);
    free(off);
    free(without);
    free(ones);
    free(never);
    free(noise);
    dd_patch_schedule_deinit(&schedule);
    DD_CHECK(t, tiny_close(&bare));
}

static void off_and_ones_and_no_adapter_are_the_same_bytes(dd_test *t) { on_all(t, "adapter", check_base); }

/* ---------------------------------------------------------------------------------------------- refusals */

static void check_refused(dd_test *t, tiny_model *m, tiny_kind kind) {
    dd_sampler *s;
    (void)kind;
    dd_patch_schedule four = schedule_of(t, "4x9"), mixed = schedule_of(t, "1x9");
    DD_OK(t, dd_patch_schedule_set_step(&mixed, 4, "(1111)4(1111)(1111)(1111)(1111)", (int64_t[3]){80, 0, 1}, &t->err));
    dd_sampler_params p = tiny_params(m);
    size_t live = m->memory.live;
    p.coarse_free = true;
    tiny_policy(&p, DD_PATCH_REGION, 1);
    DD_FAILS(t, dd_sampler_create(&s, m->dit, &p, &t->err), DDIT_ERR_ARGUMENT, "region");
    p.policy.kind = DD_PATCH_SCHEDULE;
    p.policy.schedule = &mixed;
    DD_FAILS(t, dd_sampler_create(&s, m->dit, &p, &t->err), DDIT_ERR_ARGUMENT, "step 4");
    p.policy.schedule = &four;
    p.latent_width = TINY_W + 2;
    DD_FAILS(t, dd_sampler_create(&s, m->dit, &p, &t->err), DDIT_ERR_ARGUMENT, "multiples of 64; found 208 x 128");
    p.latent_width = TINY_W;
    p.steps = 8;
    DD_FAILS(t, dd_sampler_create(&s, m->dit, &p, &t->err), DDIT_ERR_ARGUMENT, "9");
    p.steps = 0;
    DD_FAILS(t, dd_sampler_create(&s, m->dit, &p, &t->err), DDIT_ERR_ARGUMENT, "steps");
    DD_CHECK(t, s == NULL && m->memory.live == live);
    dd_sampler_free(NULL);
    dd_patch_schedule_deinit(&four);
    dd_patch_schedule_deinit(&mixed);
}

static void what_cannot_run_is_refused(dd_test *t) { on_all(t, "adapter", check_refused); }

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"the_step_loop_allocates_nothing", the_step_loop_allocates_nothing},
        {"a_cancelled_run_leaves_nothing_behind", a_cancelled_run_leaves_nothing_behind},
        {"history_belongs_to_one_picture", history_belongs_to_one_picture},
        {"records_say_what_ran", records_say_what_ran},
        {"kept_latents_are_the_steps_of_euler", kept_latents_are_the_steps_of_euler},
        {"equal_prompts_make_guidance_vanish", equal_prompts_make_guidance_vanish},
        {"off_and_ones_and_no_adapter_are_the_same_bytes", off_and_ones_and_no_adapter_are_the_same_bytes},
        {"what_cannot_run_is_refused", what_cannot_run_is_refused},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
