#include "train/checkpoint.h"

#include "train_test.h"

enum { COUNT = 1000 };

static const char settings[] = "rank=32\nlr=0.0001\nfactors=2,4\n";

static ddit_status make(dd_optimizer *o, int kind, double ema_decay, const dd_allocator *a, ddit_err *err) {
    float start[COUNT];
    uint64_t seed = 4;
    dd_optimizer_params params = dd_optimizer_defaults((dd_optimizer_kind)kind);
    params.ema_decay = ema_decay;
    for (int i = 0; i < COUNT; i++) start[i] = dd_test_random(&seed);
    return dd_optimizer_init(o, a, &params, start, COUNT, err);
}

static void steps(dd_test *t, dd_optimizer *o, int count) {
    float gradient[COUNT];
    dd_optimizer_report report;
    for (int k = 0; k < count; k++) {
        uint64_t seed = 100 + (uint64_t)o->step;
        for (int i = 0; i < COUNT; i++) gradient[i] = o->values[i] + dd_test_random(&seed);
        DD_OK(t, dd_optimizer_step(o, NULL, gradient, &report, &t->err));
    }
}

static bool same(const float *x, const float *y) { return (!x && !y) || (x && y && memcmp(x, y, COUNT * sizeof *x) == 0); }

static void check_same(dd_test *t, const dd_optimizer *x, const dd_optimizer *y) {
    DD_CHECK(t, same(x->values, y->values) && same(x->m, y->m) && same(x->v, y->v));
    DD_CHECK(t, same(x->ema, y->ema) && same(x->s, y->s) && same(x->start, y->start));
    DD_CHECK(t, x->step == y->step && x->d == y->d && x->d_max == y->d_max && x->d_numerator == y->d_numerator);
}

/* 30 steps in one go and 17, a stop, 13: the same bytes. */
static void goes_on_as_if_nothing_had_been(dd_test *t) {
    for (int kind = 0; kind < 4; kind++) {
        char folder[TEST_PATH_SIZE], *path;
        dd_optimizer whole, first, second;
        double seconds;
        DD_NEED(t, test_folder(folder));
        DD_NEED_OK(t, make(&whole, kind / 2, kind % 2 ? 0.9 : 0, &dd_allocator_libc, &t->err));
        DD_NEED_OK(t, make(&first, kind / 2, kind % 2 ? 0.9 : 0, &dd_allocator_libc, &t->err));
        DD_NEED_OK(t, make(&second, kind / 2, kind % 2 ? 0.9 : 0, &dd_allocator_libc, &t->err));
        steps(t, &whole, 30);
        steps(t, &first, 17);
        DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &first, 1.0 / 3, settings, 2, &t->err));
        DD_NEED_OK(t, dd_checkpoint_newest(&dd_allocator_libc, folder, &path, &t->err));
        DD_NEED(t, path && strstr(path, "/checkpoint-00000017.safetensors"));
        DD_NEED_OK(t, dd_checkpoint_load(&dd_allocator_libc, path, &second, &seconds, settings, &t->err));
        DD_CHECK(t, seconds == 1.0 / 3);
        check_same(t, &first, &second);
        steps(t, &second, 13);
        check_same(t, &whole, &second);
        dd_optimizer_deinit(&whole);
        dd_optimizer_deinit(&first);
        dd_optimizer_deinit(&second);
        dd_free(&dd_allocator_libc, path);
        DD_CHECK(t, test_files(folder, true) == 1);
    }
}

static void scalars_are_exact(dd_test *t) {
    static const double cases[] = {0,    -0.0,          1.0 / 3, -1e300, 5e-324, 2.2250738585072014e-308,
                                   1e-6, 123456789.125, 0x1.fffffffffffffp1023};
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2];
    dd_optimizer o;
    DD_NEED(t, test_folder(folder));
    DD_NEED_OK(t, make(&o, 1, 0, &dd_allocator_libc, &t->err));
    test_path(path, folder, "checkpoint-00000000.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double seconds = 7;
        o.d_numerator = cases[i];
        o.d = fabs(cases[i]);
        DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, cases[i], settings, 1, &t->err));
        o.d_numerator = o.d = 7;
        DD_OK(t, dd_checkpoint_load(&dd_allocator_libc, path, &o, &seconds, settings, &t->err));
        DD_CHECK(t, memcmp(&seconds, &cases[i], sizeof seconds) == 0);
        DD_CHECK(t, memcmp(&o.d_numerator, &cases[i], sizeof seconds) == 0 && o.d == fabs(cases[i]));
    }
    dd_optimizer_deinit(&o);
    test_files(folder, true);
}

static bool exists(const char *folder, const char *name) {
    char path[TEST_PATH_SIZE * 2];
    return access(test_path(path, folder, name), F_OK) == 0;
}

static void keeps_the_newest(dd_test *t) {
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2], *newest;
    dd_optimizer o;
    DD_NEED(t, test_folder(folder));
    DD_NEED_OK(t, make(&o, 0, 0, &dd_allocator_libc, &t->err));
    DD_CHECK(t, test_write(test_path(path, folder, "notes.txt"), "x", 1));
    DD_CHECK(t, test_write(test_path(path, folder, "checkpoint-7.safetensors"), "x", 1)); /* not one of ours */
    DD_CHECK(t, test_write(test_path(path, folder, ".checkpoint-00000003.safetensors.123.0"), "x", 1)); /* a killed run's */
    for (o.step = 10; o.step <= 50; o.step += 10)
        DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 3, &t->err));
    DD_CHECK(t, test_files(folder, false) == 5 && exists(folder, "notes.txt") && exists(folder, "checkpoint-7.safetensors"));
    DD_CHECK(t, exists(folder, "checkpoint-00000030.safetensors") && exists(folder, "checkpoint-00000050.safetensors"));
    /* back behind 40 and 50: they go, the new one stays even when only one is kept */
    o.step = 35;
    DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 2, &t->err));
    DD_CHECK(t, test_files(folder, false) == 4 && exists(folder, "checkpoint-00000030.safetensors"));
    o.step = 123456789;
    DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 0, &t->err));
    DD_CHECK(t, test_files(folder, false) == 3 && exists(folder, "checkpoint-123456789.safetensors"));
    DD_NEED_OK(t, dd_checkpoint_newest(&dd_allocator_libc, folder, &newest, &t->err));
    DD_CHECK(t, newest && strstr(newest, "123456789"));
    dd_free(&dd_allocator_libc, newest);
    dd_optimizer_deinit(&o);
    test_files(folder, true);
}

/* The newest one cut or with a wrong bit: the one before is taken. */
static void passes_over_damage(dd_test *t) {
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2], *newest;
    dd_optimizer o;
    size_t size;
    double seconds;
    DD_NEED(t, test_folder(folder));
    DD_NEED_OK(t, make(&o, 1, 0.9, &dd_allocator_libc, &t->err));
    steps(t, &o, 1);
    DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 9, &t->err));
    steps(t, &o, 1);
    DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 9, &t->err));
    char *data = test_read(test_path(path, folder, "checkpoint-00000002.safetensors"), &size);
    DD_NEED(t, data);
    for (size_t at = 0; at < size; at += at < 1000 ? 7 : 301) {
        bool cut = at % 2;
        char old = data[at];
        if (!cut) data[at] ^= 4;
        DD_CHECK(t, test_write(path, data, cut ? at : size));
        data[at] = old;
        DD_NEED_OK(t, dd_checkpoint_newest(&dd_allocator_libc, folder, &newest, &t->err));
        DD_CHECK(t, newest && strstr(newest, "00000001"));
        ddit_status status = dd_checkpoint_load(&dd_allocator_libc, path, &o, &seconds, settings, &t->err);
        DD_CHECK(t, status == DDIT_ERR_FORMAT && strstr(t->err.text, "00000002"));
        dd_free(&dd_allocator_libc, newest);
    }
    unlink(path);
    DD_CHECK(t, test_write(test_path(path, folder, "checkpoint-00000001.safetensors"), "no", 2));
    DD_OK(t, dd_checkpoint_newest(&dd_allocator_libc, folder, &newest, &t->err));
    DD_CHECK(t, newest == NULL);
    DD_OK(t, dd_checkpoint_newest(&dd_allocator_libc, "/nowhere/at/all", &newest, &t->err));
    DD_CHECK(t, newest == NULL);
    DD_FAILS(t, dd_checkpoint_newest(&dd_allocator_libc, path, &newest, &t->err), DDIT_ERR_READ, "cannot be listed");
    dd_free(&dd_allocator_libc, data);
    dd_optimizer_deinit(&o);
    test_files(folder, true);
}

static void refuses_other_settings(dd_test *t) {
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2];
    dd_optimizer o, other;
    double seconds;
    DD_NEED(t, test_folder(folder));
    DD_NEED_OK(t, make(&o, 0, 0, &dd_allocator_libc, &t->err));
    DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 1, &t->err));
    test_path(path, folder, "checkpoint-00000000.safetensors");
    static const struct { const char *ours, *part; } cases[] = {
        {"rank=16\nlr=0.0001\nfactors=2,4\n", "found the setting rank=32, expected rank=16"},
        {"rank=32\nlr=0.001\nfactors=2,4\n", "found the setting lr=0.0001, expected lr=0.001 "},
        {"rank=32\nlr=0.0001\n", "found the setting factors=2,4, expected (nothing)"},
        {"rank=32\nlr=0.0001\nfactors=2,4\nnew=1\n", "found the setting (nothing), expected new=1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        DD_FAILS(t, dd_checkpoint_load(&dd_allocator_libc, path, &o, &seconds, cases[i].ours, &t->err), DDIT_ERR_MISMATCH,
                 cases[i].part);
    DD_NEED_OK(t, make(&other, 1, 0, &dd_allocator_libc, &t->err));
    DD_FAILS(t, dd_checkpoint_load(&dd_allocator_libc, path, &other, &seconds, settings, &t->err), DDIT_ERR_MISMATCH,
             "another optimizer");
    dd_optimizer_deinit(&other);
    DD_NEED_OK(t, make(&other, 0, 0, &dd_allocator_libc, &t->err));
    other.count--;
    DD_FAILS(t, dd_checkpoint_load(&dd_allocator_libc, path, &other, &seconds, settings, &t->err), DDIT_ERR_MISMATCH,
             "found 1000 trained values, expected the 999");
    dd_optimizer_deinit(&other);
    dd_optimizer_deinit(&o);
    DD_FAILS(t, dd_checkpoint_load(&dd_allocator_libc, "/nowhere", &o, &seconds, settings, &t->err), DDIT_ERR_NOT_FOUND, NULL);
    test_files(folder, true);
}

static void full_disk_loses_nothing(dd_test *t) {
    char folder[TEST_PATH_SIZE], missing[TEST_PATH_SIZE * 2], *newest;
    dd_optimizer o;
    double seconds;
    DD_NEED(t, test_folder(folder));
    DD_NEED_OK(t, make(&o, 0, 0, &dd_allocator_libc, &t->err));
    steps(t, &o, 1);
    DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 1, &t->err));
    steps(t, &o, 1);
    test_limit_files(5000);
    ddit_status status = dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 1, &t->err);
    test_limit_files(RLIM_INFINITY);
    DD_CHECK(t, status == DDIT_ERR_WRITE && strstr(t->err.text, "00000002"));
    DD_CHECK(t, test_files(folder, false) == 1);
    DD_NEED_OK(t, dd_checkpoint_newest(&dd_allocator_libc, folder, &newest, &t->err));
    DD_NEED(t, newest);
    DD_OK(t, dd_checkpoint_load(&dd_allocator_libc, newest, &o, &seconds, settings, &t->err));
    DD_CHECK(t, o.step == 1);
    DD_FAILS(t, dd_checkpoint_save(&dd_allocator_libc, test_path(missing, folder, "missing"), &o, 1, settings, 1, &t->err),
             DDIT_ERR_OUTPUT_PATH, "missing");
    dd_free(&dd_allocator_libc, newest);
    dd_optimizer_deinit(&o);
    test_files(folder, true);
}

static void memory(dd_test *t) {
    char folder[TEST_PATH_SIZE], path[TEST_PATH_SIZE * 2], *newest;
    dd_optimizer o;
    double seconds;
    DD_NEED(t, test_folder(folder));
    DD_NEED_OK(t, make(&o, 1, 0.9, &dd_allocator_libc, &t->err));
    DD_OK(t, dd_checkpoint_save(&dd_allocator_libc, folder, &o, 1, settings, 1, &t->err));
    test_path(path, folder, "checkpoint-00000000.safetensors");
    for (int what = 0; what < 3; what++) {
        ddit_status status = DDIT_ERR_NO_MEMORY;
        for (size_t n = 1; status != DDIT_OK && n < 200; n++) {
            dd_test_allocator a;
            dd_test_allocator_init(&a);
            a.fail_at = n;
            newest = NULL;
            status = what == 0   ? dd_checkpoint_save(&a.allocator, folder, &o, 1, settings, 1, &t->err)
                     : what == 1 ? dd_checkpoint_newest(&a.allocator, folder, &newest, &t->err)
                                 : dd_checkpoint_load(&a.allocator, path, &o, &seconds, settings, &t->err);
            DD_CHECK(t, status == DDIT_OK || status == DDIT_ERR_NO_MEMORY);
            DD_CHECK(t, (status == DDIT_OK && what == 1) == (newest != NULL));
            dd_free(&a.allocator, newest);
            DD_CHECK(t, a.live == 0);
        }
        DD_CHECK(t, status == DDIT_OK && test_files(folder, false) == 1);
    }
    dd_optimizer_deinit(&o);
    test_files(folder, true);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"goes on as if nothing had been", goes_on_as_if_nothing_had_been},
        {"scalars are exact", scalars_are_exact},
        {"keeps the newest", keeps_the_newest},
        {"passes over damage", passes_over_damage},
        {"refuses other settings", refuses_other_settings},
        {"full disk loses nothing", full_disk_loses_nothing},
        {"memory", memory},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
