#include "train/pictures.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

enum { COUNT = 7, C = 3, H = 4, W = 5, VALUES = C * H * W, PER_STEP = 3, PATH_SIZE = 512 };

/* An encoder that counts and whose latents are 10 * picture + value / 100, mirrored: negative. */
typedef struct fake {
    int calls, fail_at;
    float bad; /* != 0: the first value of every latent */
} fake;

static ddit_status encode(void *user, int index, bool mirrored, float *latent, ddit_err *err) {
    fake *f = user;
    f->calls++;
    if (f->fail_at && f->calls == f->fail_at) return dd_fail(err, DDIT_ERR_FORMAT, "picture %d is broken", index);
    for (int k = 0; k < VALUES; k++) latent[k] = (mirrored ? -1.0f : 1.0f) * (10.0f * (float)index + (float)k / 100);
    if (f->bad != 0) latent[0] = f->bad;
    return DDIT_OK;
}

static const char *const stamps[COUNT] = {"a.png 1", "b.png 2", "c.png 3", "d.png 4", "e.png 5", "f.png 6", "g.png 7"};

typedef struct fixture {
    char folder[32];
    float texts[COUNT + 1];
    dd_pictures_item items[COUNT];
    dd_train_prompt empty;
    dd_pictures_params params;
} fixture;

static bool setup(fixture *f) {
    *f = (fixture){.folder = "/tmp/ddit-pictures-XXXXXX"};
    if (!mkdtemp(f->folder)) return false;
    for (int i = 0; i < COUNT; i++) f->items[i] = (dd_pictures_item){stamps[i], {&f->texts[i], &f->texts[i]}};
    f->empty = (dd_train_prompt){&f->texts[COUNT], &f->texts[COUNT]};
    f->params = (dd_pictures_params){.folder = f->folder, .key = "vae 1 size 4x5", .shape = {C, H, W}, .items = f->items,
                                     .count = COUNT, .samples_per_step = PER_STEP, .seed = 42, .has_target = true,
                                     .guidance_low = 1, .guidance_high = 3};
    return true;
}

static void teardown(const fixture *f) {
    char path[PATH_SIZE];
    DIR *d = opendir(f->folder);
    for (const struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", f->folder, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(f->folder);
}

static int files_in(const char *folder) {
    int count = 0;
    DIR *d = opendir(folder);
    for (const struct dirent *e; d && (e = readdir(d));) count += e->d_name[0] != '.';
    if (d) closedir(d);
    return count;
}

static dd_pictures *make(dd_test *t, fixture *f, fake *encoder, int *missing) {
    dd_pictures *p = NULL;
    DD_OK(t, dd_pictures_open(&p, &dd_allocator_libc, &f->params, missing, &t->err));
    if (p) DD_OK(t, dd_pictures_make(p, encode, encoder, NULL, NULL, &t->err));
    return p;
}

/* Which picture a latent without noise is. */
static int picture_of(const float *x) { return (int)floorf(fabsf(x[0]) / 10 + 0.5f); }

/* z = (1 - sigma) x + sigma e and target = e - x give back x = z - sigma * target: the picture, the same for every order of
 * calls; every picture once in a pass; noise of mean 0 and variance 1. */
static void gives_samples(dd_test *t) {
    fixture f;
    fake encoder = {0};
    int missing, seen[COUNT] = {0}, other_order = 0;
    double sum = 0, squares = 0;
    const dd_train_source *s;
    DD_NEED(t, setup(&f));
    dd_pictures *p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, missing == COUNT && encoder.calls == COUNT && files_in(f.folder) == COUNT);
    DD_NEED_OK(t, dd_pictures_source(p, &s, &t->err));
    for (int n = 0; n < 2 * COUNT; n++) {
        float z[VALUES], target[VALUES], again[VALUES], x[VALUES];
        dd_train_sample sample;
        DD_OK(t, s->plan(s, (uint64_t)(n / PER_STEP), n % PER_STEP, &sample, &t->err));
        DD_OK(t, s->fetch(s, (uint64_t)(n / PER_STEP), n % PER_STEP, z, target, &t->err));
        DD_OK(t, s->fetch(s, (uint64_t)(n / PER_STEP), n % PER_STEP, again, NULL, &t->err));
        DD_CHECK(t, memcmp(z, again, sizeof z) == 0);
        DD_CHECK(t, sample.sigma > 0 && sample.sigma <= 1 && sample.has_target);
        DD_CHECK(t, sample.guidance >= 1 && sample.guidance < 3);
        for (int k = 0; k < VALUES; k++) x[k] = z[k] - sample.sigma * target[k];
        int j = picture_of(x);
        DD_NEED(t, j >= 0 && j < COUNT);
        DD_CHECK(t, sample.text == &f.texts[j] && sample.pooled == &f.texts[j]);
        DD_CHECK(t, fabsf(x[VALUES - 1] - (10.0f * (float)j + (VALUES - 1) / 100.0f)) < 0.05f);
        if (n < COUNT) seen[j]++;
        else other_order += seen[j]--;
        for (int k = 0; k < VALUES; k++) {
            double e = target[k] + x[k];
            sum += e;
            squares += e * e;
        }
    }
    for (int j = 0; j < COUNT; j++) DD_CHECK(t, seen[j] == 0);
    DD_CHECK(t, other_order == COUNT);
    int total = 2 * COUNT * VALUES;
    DD_CHECK(t, fabs(sum / total) < 4 / sqrt(total) && fabs(squares / total - 1) < 6 / sqrt(total));
    dd_pictures_close(p);
    teardown(&f);
}

static float twice(const void *user, double u) { return (float)(u * *(const double *)user); }

/* Shares and distributions over many samples. */
static void draws_as_told(dd_test *t) {
    enum { N = 20000 };
    fixture f;
    fake encoder = {0};
    int missing, dropped = 0, mirrored = 0;
    double levels = 0, logits = 0, squares = 0, factor = 0.5;
    const dd_train_source *s;
    DD_NEED(t, setup(&f));
    f.params.caption_dropout = 0.1;
    f.params.empty = &f.empty;
    f.params.flip = true;
    f.params.has_target = false;
    f.params.sigma_of = twice;
    f.params.sigma_user = &factor;
    dd_pictures *p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, encoder.calls == 2 * COUNT);
    DD_NEED_OK(t, dd_pictures_source(p, &s, &t->err));
    for (int n = 0; n < N; n++) {
        dd_train_sample sample;
        DD_OK(t, s->plan(s, (uint64_t)n, 0, &sample, &t->err));
        dropped += sample.text == f.empty.text;
        levels += sample.sigma;
        DD_CHECK(t, !sample.has_target && sample.sigma > 0 && sample.sigma <= 0.5f);
        if (n >= 2000) continue;
        float z[VALUES], target[VALUES];
        DD_OK(t, s->fetch(s, (uint64_t)n, 0, z, target, &t->err));
        mirrored += z[VALUES - 1] - sample.sigma * target[VALUES - 1] < 0;
    }
    DD_CHECK(t, abs(dropped - N / 10) < 4 * sqrt(N * 0.09));
    DD_CHECK(t, fabs(levels / N - 0.25) < 4 * 0.5 * 0.289 / sqrt(N));
    DD_CHECK(t, abs(mirrored - 1000) < 4 * sqrt(500));
    dd_pictures_close(p);
    f.params.levels = DD_NOISE_LOGIT_NORMAL;
    f.params.logit_mean = 0.5;
    f.params.logit_std = 1.5;
    f.params.sigma_of = NULL;
    p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, missing == 0 && encoder.calls == 2 * COUNT);
    DD_NEED_OK(t, dd_pictures_source(p, &s, &t->err));
    for (int n = 0; n < N; n++) {
        dd_train_sample sample;
        DD_OK(t, s->plan(s, (uint64_t)n, 1, &sample, &t->err));
        double logit = log(sample.sigma / (1 - (double)sample.sigma));
        logits += logit;
        squares += (logit - 0.5) * (logit - 0.5);
    }
    DD_CHECK(t, fabs(logits / N - 0.5) < 4 * 1.5 / sqrt(N));
    DD_CHECK(t, fabs(sqrt(squares / N) - 1.5) < 0.05);
    dd_pictures_close(p);
    teardown(&f);
}

static int stop_after_two(void *user, int made, int missing) {
    (void)user;
    return made == 2 && missing == COUNT;
}

/* What was made stays; only what is missing, changed or damaged is made again. */
static void resumes(dd_test *t) {
    fixture f;
    fake encoder = {.fail_at = 5};
    int missing;
    dd_pictures *p;
    const dd_train_source *s;
    DD_NEED(t, setup(&f));
    DD_NEED_OK(t, dd_pictures_open(&p, &dd_allocator_libc, &f.params, &missing, &t->err));
    DD_FAILS(t, dd_pictures_make(p, encode, &encoder, stop_after_two, NULL, &t->err), DDIT_ERR_CANCELLED, "2 of 7");
    DD_FAILS(t, dd_pictures_source(p, &s, &t->err), DDIT_ERR_NOT_FOUND, "c.png 3");
    DD_CHECK(t, dd_pictures_missing(p) == 5 && s == NULL);
    DD_FAILS(t, dd_pictures_make(p, encode, &encoder, NULL, NULL, &t->err), DDIT_ERR_FORMAT, "picture 4 is broken");
    dd_pictures_close(p);
    p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, missing == 3 && encoder.calls == 8);
    dd_pictures_close(p);
    f.items[3].stamp = "d.png 44"; /* a picture changed, and one is gone */
    f.params.items = f.items + 1;
    f.params.count = COUNT - 1;
    p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, missing == 1 && encoder.calls == 9);
    dd_pictures_close(p);
    f.params.key = "vae 2 size 4x5";
    p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, missing == COUNT - 1 && encoder.calls == 9 + COUNT - 1);
    dd_pictures_close(p);
    f.params.flip = true; /* other contents under the same names */
    p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, missing == COUNT - 1);
    dd_pictures_close(p);
    DIR *d = opendir(f.folder);
    for (const struct dirent *e; d && (e = readdir(d));) {
        char path[PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s", f.folder, e->d_name);
        if (e->d_name[0] != '.') DD_CHECK(t, truncate(path, 100) == 0);
    }
    if (d) closedir(d);
    p = make(t, &f, &encoder, &missing);
    DD_CHECK(t, missing == COUNT - 1);
    dd_pictures_close(p);
    teardown(&f);
}

static void divides_over_ranks(dd_test *t) {
    fixture f;
    fake encoders[2] = {{0}};
    dd_pictures *p[2];
    int missing;
    const dd_train_source *s;
    DD_NEED(t, setup(&f));
    for (int r = 0; r < 2; r++) {
        f.params.rank = r;
        f.params.ranks = 2;
        DD_NEED_OK(t, dd_pictures_open(&p[r], &dd_allocator_libc, &f.params, &missing, &t->err));
        DD_CHECK(t, missing == (r ? COUNT / 2 : COUNT));
        DD_OK(t, dd_pictures_make(p[r], encode, &encoders[r], NULL, NULL, &t->err));
    }
    DD_CHECK(t, encoders[0].calls == COUNT - COUNT / 2 && encoders[1].calls == COUNT / 2);
    DD_CHECK(t, dd_pictures_missing(p[0]) == 0);
    DD_OK(t, dd_pictures_source(p[0], &s, &t->err));
    dd_pictures_close(p[0]);
    dd_pictures_close(p[1]);
    teardown(&f);
}

static void says_what_is_wrong(dd_test *t) {
    fixture f;
    int missing;
    dd_pictures *p;
    DD_NEED(t, setup(&f));
    f.params.caption_dropout = 1.5;
    DD_FAILS(t, dd_pictures_open(&p, &dd_allocator_libc, &f.params, &missing, &t->err), DDIT_ERR_ARGUMENT,
             "caption_dropout is 1.5");
    f.params.caption_dropout = 0.5;
    DD_FAILS(t, dd_pictures_open(&p, &dd_allocator_libc, &f.params, &missing, &t->err), DDIT_ERR_INTERNAL, "empty prompt");
    f.params.caption_dropout = 0;
    f.params.count = 0;
    DD_FAILS(t, dd_pictures_open(&p, &dd_allocator_libc, &f.params, &missing, &t->err), DDIT_ERR_ARGUMENT, "0 pictures");
    f.params.count = COUNT;
    f.params.folder = "/tmp/ddit-there-is-no-such-folder/inner";
    DD_FAILS(t, dd_pictures_open(&p, &dd_allocator_libc, &f.params, &missing, &t->err), DDIT_ERR_OUTPUT_PATH, "does not exist");
    f.params.folder = f.folder;
    DD_CHECK(t, p == NULL);
    fake encoder = {.bad = 1e6f};
    DD_NEED_OK(t, dd_pictures_open(&p, &dd_allocator_libc, &f.params, &missing, &t->err));
    DD_FAILS(t, dd_pictures_make(p, encode, &encoder, NULL, NULL, &t->err), DDIT_ERR_BACKEND,
             "a.png 1: its latent holds 1e+06");
    encoder.bad = NAN;
    DD_FAILS(t, dd_pictures_make(p, encode, &encoder, NULL, NULL, &t->err), DDIT_ERR_BACKEND, "nan");
    DD_CHECK(t, files_in(f.folder) == 0);
    dd_pictures_close(p);
    teardown(&f);
}

static void survives_failing_memory(dd_test *t) {
    for (size_t fail_at = 1; fail_at < 2000; fail_at++) {
        dd_test_allocator a;
        fixture f;
        fake encoder = {0};
        int missing;
        dd_pictures *p = NULL;
        DD_NEED(t, setup(&f));
        dd_test_allocator_init(&a);
        a.fail_at = fail_at;
        ddit_status status = dd_pictures_open(&p, &a.allocator, &f.params, &missing, &t->err);
        if (status == DDIT_OK) status = dd_pictures_make(p, encode, &encoder, NULL, NULL, &t->err);
        bool reached = a.total >= fail_at;
        /* a failure while looking at what is there only makes a picture missing */
        DD_CHECK(t, status == DDIT_OK || status == DDIT_ERR_NO_MEMORY);
        DD_CHECK(t, reached || status == DDIT_OK);
        dd_pictures_close(p);
        DD_CHECK(t, a.live == 0);
        teardown(&f);
        if (!reached) break;
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"gives samples", gives_samples},
        {"draws as told", draws_as_told},
        {"resumes", resumes},
        {"divides over ranks", divides_over_ranks},
        {"says what is wrong", says_what_is_wrong},
        {"survives failing memory", survives_failing_memory},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
