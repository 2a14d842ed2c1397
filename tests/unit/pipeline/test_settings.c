/* Every refusal of a parameter: one sentence that names it, what was found and what was expected. */
#include "format/safetensors_write.h"
#include "unit/pipeline/pipeline_test.h"

/* With `change` made to good parameters `p`, no session comes out. */
#define REFUSED(t, o, change, expected, part) \
    do { \
        ddit_params p = tiny_params(); \
        ddit_session *made = (ddit_session *)(void *)(o); \
        change; \
        DD_FAILS(t, ddit_session_create(&made, (o)->model, &p, &(t)->err), expected, part); \
        DD_CHECK(t, made == NULL && (o)->model->children == 0 && (t)->err.code == (expected)); \
    } while (0)

#define ACCEPTED(t, o, change) \
    do { \
        ddit_params p = tiny_params(); \
        ddit_session *made; \
        change; \
        DD_OK(t, ddit_session_create(&made, (o)->model, &p, &(t)->err)); \
        ddit_session_free(made); \
    } while (0)

static void numbers_out_of_range(dd_test *t) {
    opened o;
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err));
    REFUSED(t, &o, p.width = 100, DDIT_ERR_ARGUMENT, "width is 100, expected a multiple of 16 from 64 to 4096");
    REFUSED(t, &o, p.width = 48, DDIT_ERR_ARGUMENT, "width is 48");
    REFUSED(t, &o, p.height = 4112, DDIT_ERR_ARGUMENT, "height is 4112");
    REFUSED(t, &o, p.height = -64, DDIT_ERR_ARGUMENT, "height is -64");
    REFUSED(t, &o, p.steps = -1, DDIT_ERR_ARGUMENT, "steps is -1, expected 1 to 1000");
    REFUSED(t, &o, p.steps = 1001, DDIT_ERR_ARGUMENT, "steps is 1001");
    REFUSED(t, &o, p.guidance = INFINITY, DDIT_ERR_ARGUMENT, "guidance is inf, expected a number from 0");
    REFUSED(t, &o, p.guidance = -1, DDIT_ERR_ARGUMENT, "guidance is -1");
    REFUSED(t, &o, p.cfg_scale = INFINITY, DDIT_ERR_ARGUMENT, "cfg scale is inf, expected");
    REFUSED(t, &o, p.cfg_scale = -0.5f, DDIT_ERR_ARGUMENT, "cfg scale is -0.5");
    REFUSED(t, &o, p.cfg_scale = 101, DDIT_ERR_ARGUMENT, "cfg scale is 101");
    REFUSED(t, &o, p.max_sequence_length = -1, DDIT_ERR_ARGUMENT, "max sequence length is -1, expected 1 to");
    REFUSED(t, &o, p.max_sequence_length = 5000, DDIT_ERR_ARGUMENT, "max sequence length is 5000");
    REFUSED(t, &o, p.rho = 1.5, DDIT_ERR_ARGUMENT, "rho 1.5 was given; expected");
    REFUSED(t, &o, p.rho = -0.1, DDIT_ERR_ARGUMENT, "rho -0.1");
    REFUSED(t, &o, p.rho = INFINITY, DDIT_ERR_ARGUMENT, "rho inf");
    REFUSED(t, &o, p.tau = 0, DDIT_ERR_ARGUMENT, "tau 0 was given; expected");
    REFUSED(t, &o, p.tau = -1, DDIT_ERR_ARGUMENT, "tau -1");
    REFUSED(t, &o, p.tau = INFINITY, DDIT_ERR_ARGUMENT, "tau inf");
    REFUSED(t, &o, p.order = 4, DDIT_ERR_ARGUMENT, "order 4 was given; expected 1 to 3");
    REFUSED(t, &o, p.order = -1, DDIT_ERR_ARGUMENT, "order -1");
    REFUSED(t, &o, p.sigma_min = "3:0.5", DDIT_ERR_ARGUMENT, "sigma_min \"3:0.5\", character 1");
    REFUSED(t, &o, p.sigma_min = "2:1.5", DDIT_ERR_ARGUMENT, "a sigma from 0 to 1");
    REFUSED(t, &o, p.anchor = -2, DDIT_ERR_ARGUMENT, "anchor is -2, expected 0 (none) to 1000 steps");
    REFUSED(t, &o, p.anchor = 1001, DDIT_ERR_ARGUMENT, "anchor is 1001, expected");
    ACCEPTED(t, &o, p.anchor = 1000);
    REFUSED(t, &o, p.struct_size = sizeof p - 8, DDIT_ERR_ARGUMENT, "call ddit_params_init");
    ACCEPTED(t, &o, (p.guidance = NAN, p.cfg_scale = NAN, p.tau = NAN, p.rho = NAN)); /* NaN: not set */
    ACCEPTED(t, &o, (p.guidance = 0, p.cfg_scale = 0, p.rho = 1, p.order = 1, p.sigma_min = "none"));
    DD_CHECK(t, close_all(&o));
}

/* The tiny adapter as FILE, its metadata with `anchor` added. */
static ddit_status write_anchored(const char *path, const char *anchor, ddit_err *err) {
    dd_safetensors *from;
    dd_safetensors_item items[256];
    dd_safetensors_pair pairs[64] = {{"anchor", anchor}};
    DD_TRY(dd_safetensors_open(&from, &dd_allocator_libc, TINY_ADAPTER, err));
    size_t count = dd_safetensors_count(from), keys = dd_safetensors_metadata_count(from);
    ddit_status status = DDIT_ERR_INTERNAL;
    for (size_t i = 0; i < count && i < 256; i++) {
        const dd_tensor_entry *entry = dd_safetensors_at(from, i);
        items[i] = (dd_safetensors_item){.name = entry->name, .dtype = entry->dtype, .rank = entry->rank, .data = entry->data};
        memcpy(items[i].shape, entry->shape, (size_t)entry->rank * sizeof *entry->shape);
    }
    for (size_t i = 0; i < keys && i < 63; i++) dd_safetensors_metadata_at(from, i, &pairs[i + 1].key, &pairs[i + 1].value);
    if (count <= 256 && keys <= 63) status = dd_safetensors_write(&dd_allocator_libc, path, items, count, pairs, keys + 1, err);
    dd_safetensors_close(from);
    return status;
}

/* The anchor a session comes out with; -1 = none came out. */
static int anchor_of(const opened *o, int anchor, const char *coarse) {
    ddit_session *s;
    ddit_params p = tiny_params();
    p.anchor = anchor;
    p.coarse = coarse;
    if (ddit_session_create(&s, o->model, &p, NULL) != DDIT_OK) return -1;
    anchor = s->settings.anchor;
    ddit_session_free(s);
    return anchor;
}

static void anchors(dd_test *t) {
    static const char *const names[] = {"adapter.safetensors"};
    scratch dir = scratch_make();
    opened o;
    DD_CHECK(t, tiny_params().anchor == -1); /* the adapter's, unless given */
    DD_NEED_OK(t, write_anchored(scratch_path(&dir, names[0]), "6", &t->err));
    DD_NEED_OK(t, open_tiny(&o, dir.path, &t->err));
    DD_CHECK(t, anchor_of(&o, -1, NULL) == 6 && anchor_of(&o, -1, "adapter") == 6);
    DD_CHECK(t, anchor_of(&o, 0, NULL) == 0 && anchor_of(&o, 3, NULL) == 3);
    /* the adapter says nothing about free steps */
    DD_CHECK(t, anchor_of(&o, -1, "free") == 0 && anchor_of(&o, 8, "free") == 8);
    DD_CHECK(t, close_all(&o));
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err)); /* without the key */
    DD_CHECK(t, anchor_of(&o, -1, NULL) == 0 && anchor_of(&o, 4, NULL) == 4);
    DD_CHECK(t, close_all(&o));
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    DD_CHECK(t, anchor_of(&o, -1, NULL) == 0 && anchor_of(&o, 4, NULL) == 4);
    DD_CHECK(t, close_all(&o));
    scratch_remove(&dir, names, 1);
}

static void prompts(dd_test *t) {
    opened o;
    char *longest = malloc(32002);
    memset(longest, 'a', 32001);
    longest[32001] = '\0';
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    REFUSED(t, &o, p.prompt = NULL, DDIT_ERR_ARGUMENT, "no prompt");
    REFUSED(t, &o, p.prompt = "red \xff apple", DDIT_ERR_ARGUMENT, "found byte 0xFF at byte 4");
    REFUSED(t, &o, p.negative_prompt = "caf\xc3", DDIT_ERR_ARGUMENT, "negative prompt");
    REFUSED(t, &o, p.prompt = longest, DDIT_ERR_ARGUMENT, "32001 bytes, at most 32000");
    longest[32000] = '\0';
    ACCEPTED(t, &o, p.prompt = longest);
    ACCEPTED(t, &o, p.prompt = "");
    free(longest);
    DD_CHECK(t, close_all(&o));
}

static void policies(dd_test *t) {
    opened o;
    DD_NEED_OK(t, open_tiny(&o, "tests/golden/adapter/adapter_linear.safetensors", &t->err));
    REFUSED(t, &o, p.patch = "sometimes", DDIT_ERR_ARGUMENT,
            "patch (off, auto, region, a schedule such as 1x3,2x20, or @FILE)");
    REFUSED(t, &o, p.patch = "", DDIT_ERR_ARGUMENT, "found the end");
    REFUSED(t, &o, p.patch = "1x3,5x3", DDIT_ERR_ARGUMENT, "character 5: found factor 5, expected 1, 2 or 4");
    REFUSED(t, &o, p.patch = "1x0,1x6", DDIT_ERR_ARGUMENT, "0 steps");
    REFUSED(t, &o, p.patch = "1x3,2x4", DDIT_ERR_ARGUMENT, "the schedule has 7 steps, but 6 were asked for");
    REFUSED(t, &o, (p.patch = "1x600,1x500", p.steps = 0), DDIT_ERR_ARGUMENT, "more than 1000 steps");
    REFUSED(t, &o, p.patch = "1x3,4x3", DDIT_ERR_ARGUMENT,
            "step 3 of the schedule has factor 4, which the adapter tests/golden");
    REFUSED(t, &o, p.coarse = "both", DDIT_ERR_ARGUMENT, "coarse is \"both\", expected adapter or free");
    REFUSED(t, &o, (p.coarse = "free", p.patch = "region"), DDIT_ERR_ARGUMENT, "region mixes sizes");
    REFUSED(t, &o, (p.coarse = "free", p.patch = "1x3,4x3"), DDIT_ERR_ARGUMENT, "multiples of 64, found 96 x 64");
    REFUSED(t, &o, (p.coarse = "free", p.patch = "2x6", p.height = 80), DDIT_ERR_ARGUMENT, "multiples of 32, found 96 x 80");
    ACCEPTED(t, &o, (p.coarse = "free", p.patch = "2x6"));
    ACCEPTED(t, &o, (p.patch = "1x3, 2p*20", p.steps = 0));
    DD_CHECK(t, close_all(&o));
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    REFUSED(t, &o, p.coarse = "adapter", DDIT_ERR_ARGUMENT, "none is loaded");
    REFUSED(t, &o, p.patch = "region", DDIT_ERR_ARGUMENT, "region");
    ACCEPTED(t, &o, p.patch = NULL); /* off without an adapter */
    DD_CHECK(t, close_all(&o));
}

static void files_to_replay(dd_test *t) {
    static const char *const names[] = {"a.json", "a.png"};
    scratch dir = scratch_make();
    char at[160];
    opened o;
    DD_NEED_OK(t, open_tiny(&o, TINY_ADAPTER, &t->err));
    snprintf(at, sizeof at, "@%s/a.json", dir.folder);
    REFUSED(t, &o, p.patch = at, DDIT_ERR_NOT_FOUND, "a.json");
    REFUSED(t, &o, p.patch = "@/tmp", DDIT_ERR_READ, "/tmp");
    static const struct { const char *text, *part; ddit_status code; } bad[] = {
        {"", "as JSON it fails", DDIT_ERR_FORMAT},
        {"{\"steps\": [", "as JSON it fails at byte", DDIT_ERR_FORMAT},
        {"{\"steps\": 3}", "expected a trace with \"steps\"", DDIT_ERR_FORMAT},
        {"{\"steps\": []}", "found 0", DDIT_ERR_FORMAT},
        {"{\"steps\": [1]}", "step 0 has no object \"cells\"", DDIT_ERR_FORMAT},
        {"{\"steps\": [{\"cells\": {\"1\": 24}}, {\"cells\": {\"1\": -3}}]}", "step 1: cells \"1\" is no count",
         DDIT_ERR_FORMAT},
        {"{\"steps\": [{\"cells\": {\"1\": 2.5}}]}", "is no count", DDIT_ERR_FORMAT},
        {"{\"steps\": [{\"cells\": {\"1\": 4, \"2\": 5}}]}", "exactly one factor", DDIT_ERR_FORMAT},
        {"{\"steps\": [{\"cells\": {\"1\": 4}, \"layout\": \"(1111)x\"}]}", "found 'x', expected '4' or '('",
         DDIT_ERR_MISMATCH},
        {"{\"steps\": [{\"cells\": {\"1\": 4}, \"layout\": \"4\"}]}", "does not fit a latent of 4 x 6 base cells",
         DDIT_ERR_MISMATCH},
        {"{\"steps\": [{\"cells\": {\"1\": 4}, \"layout\": \"44\"}]}", "hangs over the edge", DDIT_ERR_MISMATCH},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_write(&dir, "a.json", bad[i].text);
        REFUSED(t, &o, (p.patch = at, p.steps = 0), bad[i].code, bad[i].part);
        DD_CHECK(t, bad[i].code != DDIT_ERR_FORMAT || strstr(t->err.text, "a.json") != NULL);
    }
    scratch_write(&dir, "a.json", "{\"steps\": [{\"cells\": {\"1\": 4}, \"layout\": \"4(1111)\"}]}");
    ACCEPTED(t, &o, (p.patch = at, p.steps = 0));
    REFUSED(t, &o, p.patch = at, DDIT_ERR_ARGUMENT, "the schedule has 1 steps, but 6");
    snprintf(at, sizeof at, "@%s/a.png", dir.folder);
    ddit_image *image;
    ddit_params one_step = tiny_params();
    one_step.steps = 1;
    DD_NEED_OK(t, ddit_generate(&image, o.model, &one_step, &t->err));
    ddit_image_strip(image);
    DD_OK(t, ddit_image_save_png(image, scratch_path(&dir, "a.png"), &t->err));
    ddit_image_free(image);
    REFUSED(t, &o, p.patch = at, DDIT_ERR_FORMAT, "holds no \"ddit\" text");
    scratch_remove(&dir, names, 2);
    DD_CHECK(t, close_all(&o));
}

/* Writes one tensor [c, h, w] of zeros, the last value `last`. */
static void write_noise(scratch *dir, const char *name, int64_t c, int64_t h, int64_t w, float last) {
    float *values = calloc((size_t)(c * h * w), sizeof *values);
    values[c * h * w - 1] = last;
    dd_safetensors_item items[2] = {{.name = name, .dtype = DD_DTYPE_F32, .rank = 3, .shape = {c, h, w}, .data = values},
                                    {.name = "other", .dtype = DD_DTYPE_F32, .rank = 1, .shape = {1}, .data = values}};
    dd_safetensors_write(&dd_allocator_libc, scratch_path(dir, "noise"), items, 2, NULL, 0, NULL);
    free(values);
}

static void noise_files(dd_test *t) {
    static const char *const names[] = {"noise"};
    scratch dir = scratch_make();
    opened o;
    DD_NEED_OK(t, open_tiny(&o, "none", &t->err));
    REFUSED(t, &o, p.noise_file = scratch_path(&dir, "noise"), DDIT_ERR_NOT_FOUND, "noise");
    write_noise(&dir, "noise", 16, 12, 8, 0);
    REFUSED(t, &o, p.noise_file = dir.path, DDIT_ERR_MISMATCH,
            "tensor \"noise\" is [16, 12, 8], expected [16, 8, 12] for 96 x 64 pixels");
    write_noise(&dir, "random", 16, 8, 12, 0);
    REFUSED(t, &o, p.noise_file = dir.path, DDIT_ERR_FORMAT, "neither a tensor \"noise\" nor \"latent\"");
    write_noise(&dir, "latent", 16, 8, 12, NAN);
    REFUSED(t, &o, p.noise_file = dir.path, DDIT_ERR_FORMAT,
            "tensor \"latent\" holds a value that is not a finite number at 1535");
    write_noise(&dir, "latent", 16, 8, 12, INFINITY);
    REFUSED(t, &o, p.noise_file = dir.path, DDIT_ERR_FORMAT, "finite");
    write_noise(&dir, "latent", 16, 8, 12, 0);
    ACCEPTED(t, &o, p.noise_file = dir.path);
    scratch_write(&dir, "noise", "{}");
    REFUSED(t, &o, p.noise_file = dir.path, DDIT_ERR_FORMAT, NULL);
    scratch_remove(&dir, names, 1);
    DD_CHECK(t, close_all(&o));
}

static void contexts(dd_test *t) {
    ddit_context *context = (ddit_context *)t;
    ddit_context_params p = ddit_context_params_init();
    p.struct_size = 8;
    DD_FAILS(t, ddit_context_create(&context, &p, &t->err), DDIT_ERR_ARGUMENT, "call ddit_context_params_init");
    DD_CHECK(t, context == NULL);
    p = ddit_context_params_init();
    p.precision = "f8";
    DD_FAILS(t, ddit_context_create(&context, &p, &t->err), DDIT_ERR_ARGUMENT, "precision \"f8\": expected auto, f32 or bf16");
    p = ddit_context_params_init();
    p.threads = -1;
    DD_FAILS(t, ddit_context_create(&context, &p, &t->err), DDIT_ERR_ARGUMENT, "threads is -1, expected 0");
    p.threads = 5000;
    DD_FAILS(t, ddit_context_create(&context, &p, &t->err), DDIT_ERR_ARGUMENT, "threads is 5000");
    p = ddit_context_params_init();
    p.backend = "cuda";
    DD_FAILS(t, ddit_context_create(&context, &p, &t->err), DDIT_ERR_UNSUPPORTED, "\"cuda\"");
    p.backend = "ref";
    p.precision = "bf16";
    DD_FAILS(t, ddit_context_create(&context, &p, &t->err), DDIT_ERR_UNSUPPORTED, "float32 only");
    p = ddit_context_params_init();
    p.free = dd_allocator_libc.free;
    DD_FAILS(t, ddit_context_create(&context, &p, &t->err), DDIT_ERR_ARGUMENT, "alloc and free come together");
    p = ddit_context_params_init();
    p.threads = -1;
    DD_CHECK(t, ddit_context_create(&context, &p, NULL) == DDIT_ERR_ARGUMENT); /* no error record */
    DD_CHECK(t, ddit_status_text(DDIT_ERR_CANCELLED) && strcmp(ddit_version(), DDIT_VERSION) == 0);
    DD_CHECK(t, strcmp(ddit_status_text((ddit_status)77), "unknown status") == 0);
    ddit_context_free(NULL);
    ddit_model_close(NULL);
    ddit_session_free(NULL);
    ddit_image_free(NULL);
}

static void models(dd_test *t) {
    opened o;
    ddit_model *m = (ddit_model *)t;
    DD_NEED_OK(t, open_context(&o, "ref", "f32", 1, &t->err));
    DD_FAILS(t, ddit_model_open(&m, o.context, NULL, NULL, &t->err), DDIT_ERR_ARGUMENT, "no model folder");
    DD_CHECK(t, m == NULL);
    DD_FAILS(t, ddit_model_open(&m, o.context, "tests/golden/nowhere", NULL, &t->err), DDIT_ERR_NOT_FOUND, "nowhere");
    DD_FAILS(t, ddit_model_open(&m, o.context, "tests/golden", NULL, &t->err), DDIT_ERR_NOT_FOUND, "model_index.json");
    DD_FAILS(t, ddit_model_open(&m, o.context, TINY_MODEL "/vae/config.json", NULL, &t->err), DDIT_ERR_FORMAT,
             "expected a model folder");
    DD_FAILS(t, ddit_model_open(&m, o.context, TINY_MODEL, "nowhere.safetensors", &t->err), DDIT_ERR_NOT_FOUND, "nowhere");
    DD_FAILS(t, ddit_model_open(&m, o.context, TINY_MODEL, TINY_MODEL "/vae/diffusion_pytorch_model.safetensors", &t->err),
             DDIT_ERR_FORMAT,
             NULL);
    DD_FAILS(t, ddit_model_open(&m, o.context, "tests/golden/flux_head64", TINY_ADAPTER, &t->err), DDIT_ERR_MISMATCH, "hidden");
    DD_CHECK(t, m == NULL && o.context->children == 0);
    DD_CHECK(t, close_all(&o));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"numbers_out_of_range", numbers_out_of_range},
        {"anchors", anchors},
        {"prompts", prompts},
        {"policies", policies},
        {"files_to_replay", files_to_replay},
        {"noise_files", noise_files},
        {"contexts", contexts},
        {"models", models},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
