/* Allocation number n fails, for n from the first on: opening, making a session, running, decoding and saving each say
 * DDIT_ERR_NO_MEMORY, hold nothing afterwards, and work when they are asked again. */
#include "unit/pipeline/pipeline_test.h"

/* The objects of one way from nothing to files. */
typedef struct journey {
    dd_test_allocator memory;
    ddit_context *context;
    ddit_model *model;
    ddit_session *session;
    ddit_image *image;
    scratch dir;
} journey;

static ddit_status open_all(journey *j, ddit_err *err) {
    ddit_context_params p = ddit_context_params_init();
    p.precision = "f32";
    p.threads = 1;
    p.alloc = j->memory.allocator.alloc;
    p.free = j->memory.allocator.free;
    p.user = &j->memory;
    DD_TRY(ddit_context_create(&j->context, &p, err));
    return ddit_model_open(&j->model, j->context, TINY_MODEL, TINY_ADAPTER, err);
}

static ddit_status draw(journey *j, ddit_err *err) {
    ddit_params p = tiny_params();
    p.patch = "region";
    p.width = 64;
    p.steps = 4;
    p.cfg_scale = 2;
    p.keep_steps = 1;
    DD_TRY(ddit_session_create(&j->session, j->model, &p, err));
    DD_TRY(ddit_session_run(j->session, err));
    return ddit_session_decode(j->session, &j->image, err);
}

static ddit_status save(journey *j, ddit_err *err) {
    const char *trace;
    ddit_image *joined;
    DD_TRY(ddit_session_trace(j->session, &trace, err));
    DD_TRY(ddit_session_save_latent(j->session, scratch_path(&j->dir, "latent"), err));
    DD_TRY(ddit_image_join(&joined, j->image, j->image, err));
    ddit_image_free(joined);
    return ddit_image_save_png(j->image, scratch_path(&j->dir, "a.png"), err);
}

static void close_journey(journey *j) {
    ddit_image_free(j->image);
    ddit_session_free(j->session);
    ddit_model_close(j->model);
    ddit_context_free(j->context);
    j->image = NULL;
    j->session = NULL;
    j->model = NULL;
    j->context = NULL;
}

static ddit_status way(journey *j, ddit_err *err) {
    ddit_status status = open_all(j, err);
    if (status == DDIT_OK) status = draw(j, err);
    if (status == DDIT_OK) status = save(j, err);
    return status;
}

/* Allocations of the whole way when none fails. */
static size_t count_all(dd_test *t, journey *j) {
    j->memory.total = 0;
    DD_OK(t, way(j, &t->err));
    size_t total = j->memory.total;
    close_journey(j);
    return total;
}

static void check_failure(dd_test *t, journey *j, size_t n, bool all_later) {
    j->memory.total = 0;
    j->memory.fail_at = n;
    j->memory.fail_on = all_later;
    t->err = (ddit_err){0};
    ddit_status status = way(j, &t->err);
    if (status != DDIT_ERR_NO_MEMORY || t->err.code != status || !strstr(t->err.text, "out of memory"))
        dd_test_fail(t, __FILE__, __LINE__, "allocation %zu%s -> %d: %s", n, all_later ? " and later" : "", status,
                     t->err.text);
    j->memory.fail_at = 0;
    DD_CHECK(t, (status != DDIT_OK && !j->image) || j->session);
    close_journey(j);
    if (j->memory.live)
        dd_test_fail(t, __FILE__, __LINE__, "allocation %zu%s: %zu blocks are still held", n, all_later ? " and later" : "",
                     j->memory.live);
    j->memory.live = 0;
}

static void on_the_whole_way(dd_test *t) {
    static const char *const names[] = {"latent", "a.png"};
    journey j = {.dir = scratch_make()};
    dd_test_allocator_init(&j.memory);
    size_t total = count_all(t, &j);
    if (getenv("DD_SHOW")) printf("%zu allocations\n", total);
    for (size_t n = 1; n <= total; n++) {
        check_failure(t, &j, n, false);
        if (n % 4 == 0) check_failure(t, &j, n, true);
    }
    DD_CHECK(t, count_all(t, &j) == total); /* and the way is free again */
    scratch_remove(&j.dir, names, 2);
}

/* A model stays usable when a session could not be made, and a session when decoding failed. */
static void what_stands_stays_usable(dd_test *t) {
    journey j = {.dir = scratch_make()};
    dd_test_allocator_init(&j.memory);
    DD_NEED_OK(t, open_all(&j, &t->err));
    DD_NEED_OK(t, draw(&j, &t->err));
    ddit_image *want = j.image;
    ddit_session_free(j.session);
    j.session = NULL;
    size_t live = j.memory.live;
    for (size_t n = 1; n < 2000; n += 37) {
        j.memory.total = 0;
        j.memory.fail_at = n;
        j.memory.fail_on = n % 2;
        j.image = NULL;
        ddit_status status = draw(&j, &t->err);
        j.memory.fail_at = 0;
        if (status == DDIT_OK) { /* beyond the last allocation */
            ddit_image_free(j.image);
            ddit_session_free(j.session);
            j.session = NULL;
            break;
        }
        DD_CHECK(t, status == DDIT_ERR_NO_MEMORY);
        if (j.session) { /* running or decoding failed: once more */
            DD_OK(t, ddit_session_run(j.session, &t->err));
            DD_OK(t, ddit_session_decode(j.session, &j.image, &t->err));
            DD_CHECK(t, j.image && ddit_image_psnr(j.image, want) == INFINITY);
            ddit_image_free(j.image);
            ddit_session_free(j.session);
            j.session = NULL;
        }
        DD_CHECK(t, j.memory.live <= live + 4); /* the backend may keep larger scratch */
    }
    j.image = want;
    close_journey(&j);
    DD_CHECK(t, j.memory.live == 0);
    scratch_remove(&j.dir, NULL, 0);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"on_the_whole_way", on_the_whole_way},
        {"what_stands_stays_usable", what_stands_stays_usable},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
