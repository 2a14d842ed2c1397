/* The same machine, seed and parameters give the same bytes for any number of threads: final latents and pictures
 * for 1, 2 and 3 threads. bench/determinism.sh does it with the program, full runs, five times each. */
#include <sys/stat.h>

#include "unit/pipeline/pipeline_test.h"

enum { THREADS = 3 };

typedef struct result {
    float *latent;
    ddit_image *image;
    size_t count;
    char layouts[2048]; /* what the steps ran with */
} result;

static void note_layouts(const ddit_session *s, result *r) {
    int count;
    const dd_step_record *records = dd_sampler_records(s->sampler, &count);
    size_t used = 0;
    for (int k = 0; k < count && used < sizeof r->layouts; k++)
        used += (size_t)snprintf(r->layouts + used, sizeof r->layouts - used, "%d %d %d; ", records[k].cells[0],
                                 records[k].cells[1], records[k].cells[2]);
}

static ddit_status run(result *r, ddit_model *model, const ddit_params *p, ddit_err *err) {
    ddit_session *s;
    *r = (result){0};
    DD_TRY(ddit_session_create(&s, model, p, err));
    ddit_status status = ddit_session_run(s, err);
    bool decode = strcmp(p->patch, "off") == 0; /* the autoencoder sees a latent, not a policy */
    if (status == DDIT_OK && decode) status = ddit_session_decode(s, &r->image, err);
    if (status == DDIT_OK) {
        r->count = latent_count(s);
        r->latent = malloc(r->count * sizeof *r->latent);
        memcpy(r->latent, dd_sampler_latent(s->sampler).data, r->count * sizeof *r->latent);
        note_layouts(s, r);
    }
    ddit_session_free(s);
    return status;
}

static void free_result(result *r) {
    free(r->latent);
    ddit_image_free(r->image);
    *r = (result){0};
}

/* One set of parameters on models opened with 1, 2 and 3 threads. */
static void check_same(dd_test *t, const opened *with, const ddit_params *p) {
    result first = {0};
    for (int i = 0; i < THREADS; i++) {
        result r;
        ddit_status status = run(&r, with[i].model, p, &t->err);
        DD_OK(t, status);
        if (status == DDIT_OK && i == 0) {
            first = r;
            if (getenv("DD_SHOW")) printf("%dx%d %s: %s\n", p->width, p->height, p->patch, r.layouts);
            continue;
        }
        bool same = status == DDIT_OK && first.latent && memcmp(first.latent, r.latent, r.count * sizeof(float)) == 0;
        if (!same)
            dd_test_fail(t, __FILE__, __LINE__, "%dx%d %s: latents of 1 and %d threads differ", p->width, p->height, p->patch,
                         i + 1);
        DD_CHECK(t, !same || !r.image || ddit_image_psnr(first.image, r.image) == INFINITY);
        free_result(&r);
    }
    free_result(&first);
}

/* Opens the model for each number of threads; the caller closes what was opened. */
static ddit_status open_each(opened with[THREADS], const char *precision, const char *model, const char *adapter,
                             ddit_err *err) {
    for (int i = 0; i < THREADS; i++) with[i] = (opened){0};
    for (int i = 0; i < THREADS; i++) {
        DD_TRY(open_context(&with[i], "cpu", precision, i + 1, err));
        DD_TRY(ddit_model_open(&with[i].model, with[i].context, model, adapter, err));
    }
    return DDIT_OK;
}

static void close_each(dd_test *t, opened with[THREADS]) {
    for (int i = 0; i < THREADS; i++) DD_CHECK(t, close_all(&with[i]));
}

static void tiny_in_float32(dd_test *t) {
    static const char *const patches[] = {"off", "region", "1x1,2x2,4x1"};
    opened with[THREADS];
    ddit_status status = open_each(with, "f32", TINY_MODEL, TINY_ADAPTER, &t->err);
    DD_OK(t, status);
    for (size_t i = 0; i < sizeof patches / sizeof *patches && status == DDIT_OK; i++) {
        ddit_params p = tiny_params();
        p.patch = patches[i];
        p.steps = 4;
        p.cfg_scale = i == 1 ? 2.0f : 1.0f;
        check_same(t, with, &p);
    }
    close_each(t, with);
}

static bool can_bf16(void) {
    dd_backend *b;
    if (dd_backend_open(&b, "cpu", DD_PRECISION_BF16, 1, &dd_allocator_libc, NULL) != DDIT_OK) return false;
    dd_backend_close(b);
    return true;
}

/* The embedded model, few steps. Thresholds by hand, so that `auto` and `region` decide differently from step to step. */
static void emoji_at(dd_test *t, int width, int height) {
    static const struct { const char *patch; double tau; } policies[] = {{"off", NAN}, {"auto", 0.28}, {"region", 0.28}};
    opened with[THREADS];
    struct stat info;
    if (stat("models/emoji/model_index.json", &info) != 0) {
        dd_test_skip(t, "models/emoji is not there");
        return;
    }
    ddit_status status = open_each(with, can_bf16() ? "bf16" : "f32", "models/emoji", NULL, &t->err);
    DD_OK(t, status);
    for (size_t i = 0; i < sizeof policies / sizeof *policies && status == DDIT_OK; i++) {
        ddit_params p = ddit_params_init();
        p.prompt = "red apple";
        p.width = width;
        p.height = height;
        p.steps = 4;
        p.seed = 3;
        p.patch = policies[i].patch;
        p.tau = policies[i].tau;
        p.order = 1;
        p.sigma_min = "none";
        check_same(t, with, &p);
    }
    close_each(t, with);
}

static void emoji_at_256_x_256(dd_test *t) { emoji_at(t, 256, 256); }
static void emoji_at_272_x_400(dd_test *t) { emoji_at(t, 272, 400); }

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"tiny_in_float32", tiny_in_float32},
        {"emoji_at_256_x_256", emoji_at_256_x_256},
        {"emoji_at_272_x_400", emoji_at_272_x_400},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
