/* Held-out sets: what is read of them, what is refused, and that losses over them are those of the parts. */
#include "harness.h"
#include "format/safetensors_write.h"
#include "unit/pipeline/train_public.h"

enum { PROMPTS = 2, LEVELS = 3, HEIGHT = 8, WIDTH = 12, VALUES = 16 * HEIGHT * WIDTH, ALL = PROMPTS * LEVELS * VALUES };

/* A set to be written, with one thing after another made wrong. */
typedef struct set {
    int8_t codes[ALL];
    float values[ALL];
    float scale, sigma[LEVELS];
    dd_safetensors_item items[3];
    dd_safetensors_pair pairs[2];
    size_t item_count, pair_count;
} set;

static void set_init(set *s, dd_dtype dtype) {
    uint64_t state = 4;
    s->scale = 0.03125f;
    for (int i = 0; i < ALL; i++) {
        s->codes[i] = (int8_t)(dd_test_random(&state) * 100);
        s->values[i] = (float)s->codes[i] * s->scale;
    }
    for (int i = 0; i < LEVELS; i++) s->sigma[i] = 0.9f - 0.3f * (float)i;
    s->items[0] = (dd_safetensors_item){.name = "latent", .dtype = dtype, .rank = 5,
                                        .shape = {PROMPTS, LEVELS, 16, HEIGHT, WIDTH},
                                        .data = dtype == DD_DTYPE_I8 ? (const void *)s->codes : s->values};
    s->items[1] = (dd_safetensors_item){.name = "sigma", .dtype = DD_DTYPE_F32, .rank = 1, .shape = {LEVELS}, .data = s->sigma};
    s->items[2] = (dd_safetensors_item){.name = "scale", .dtype = DD_DTYPE_F32, .rank = 1, .shape = {1}, .data = &s->scale};
    s->pairs[0] = (dd_safetensors_pair){"prompts", "[\"panda\", \"red apple\"]"};
    s->pairs[1] = (dd_safetensors_pair){"guidance", "1.5"};
    s->item_count = dtype == DD_DTYPE_I8 ? 3 : 2;
    s->pair_count = 2;
}

static void set_write(dd_test *t, const set *s, const char *path) {
    DD_OK(t, dd_safetensors_write(&dd_allocator_libc, path, s->items, s->item_count, s->pairs, s->pair_count, &t->err));
}

static double measure(dd_test *t, opened *o, tiny_run *r, const char *kind) {
    char *json = NULL;
    DD_OK(t, tiny_train(o, r, &json, &t->err));
    json_t *root = json ? json_loads(json, 0, NULL) : NULL;
    double loss = json_number_value(json_object_get(json_object_get(root, "heldout_last"), kind));
    json_decref(root);
    ddit_text_free(o->context, json);
    return loss;
}

static void measures(dd_test *t) {
    scratch s = train_scratch();
    opened one, two;
    tiny_run r;
    static set coded, plain;
    DD_NEED_OK(t, open_context(&one, "cpu", "f32", 1, &t->err));
    DD_NEED_OK(t, open_context(&two, "cpu", "f32", 2, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    r.p.prompts = NULL;
    r.p.steps = -1;
    char path[128];
    snprintf(path, sizeof path, "%s", scratch_path(&s, "set.safetensors"));
    r.p.eval = path;
    set_init(&coded, DD_DTYPE_I8);
    set_init(&plain, DD_DTYPE_F32);
    set_write(t, &coded, path);
    double loss = measure(t, &one, &r, "x2"), mixed = measure(t, &two, &r, "mixed");
    DD_CHECK(t, loss > 0 && isfinite(loss) && mixed > 0);
    DD_CHECK(t, measure(t, &two, &r, "x2") == loss);
    set_write(t, &plain, path);
    DD_CHECK(t, measure(t, &two, &r, "x2") == loss); /* the same latents in float32 */
    r.p.batch = 1;
    DD_CHECK(t, fabs(measure(t, &two, &r, "x2") - loss) < 1e-6 * loss);
    DD_CHECK(t, close_all(&one) && close_all(&two));
    scratch_remove_all(&s);
}

static void no_scale(set *s) { s->item_count = 2; }
static void no_metadata(set *s) { s->pair_count = 0; }
static void no_guidance(set *s) { s->pair_count = 1; }
static void few_prompts(set *s) { s->pairs[0].value = "[\"panda\"]"; }
static void no_texts(set *s) { s->pairs[0].value = "[1, 2]"; }
static void no_json(set *s) { s->pairs[0].value = "panda"; }
static void bad_guidance(set *s) { s->pairs[1].value = "nan"; }
static void bad_sigma(set *s) { s->sigma[1] = -1; }
static void short_sigma(set *s) { s->items[1].shape[0] = 2; }
static void flat(set *s) {
    s->items[0] = (dd_safetensors_item){.name = "latent", .dtype = DD_DTYPE_I8, .rank = 4, .data = s->codes,
                                        .shape = {PROMPTS * LEVELS, 16, HEIGHT, WIDTH}};
}
static void other_size(set *s) { s->items[0].shape[3] = WIDTH, s->items[0].shape[4] = HEIGHT; }
static void other_dtype(set *s) { s->items[0].dtype = DD_DTYPE_U8; }

static void refuses(dd_test *t) {
    static const struct {
        void (*change)(set *);
        ddit_status status;
        const char *sentence;
    } bad[] = {
        {no_scale, DDIT_ERR_FORMAT, "scale"}, {no_metadata, DDIT_ERR_FORMAT, "metadata"},
        {no_guidance, DDIT_ERR_FORMAT, "guidance"}, {few_prompts, DDIT_ERR_FORMAT, "prompts"},
        {no_texts, DDIT_ERR_FORMAT, "no text"}, {no_json, DDIT_ERR_FORMAT, "JSON"},
        {bad_guidance, DDIT_ERR_FORMAT, "finite"}, {bad_sigma, DDIT_ERR_FORMAT, "sigma"},
        {short_sigma, DDIT_ERR_FORMAT, "sigma"},
        {flat, DDIT_ERR_FORMAT, "5 axes"}, {other_size, DDIT_ERR_MISMATCH, "latents are [16, 12, 8]"},
        {other_dtype, DDIT_ERR_FORMAT, "dtype"},
    };
    scratch s = train_scratch();
    opened o;
    tiny_run r;
    static set wrong;
    DD_NEED_OK(t, open_context(&o, "cpu", "f32", 1, &t->err));
    tiny_run_init(&r, &s, "a.safetensors");
    char path[128];
    snprintf(path, sizeof path, "%s", scratch_path(&s, "set.safetensors"));
    r.p.eval = path;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        set_init(&wrong, DD_DTYPE_I8);
        bad[i].change(&wrong);
        set_write(t, &wrong, path);
        DD_FAILS(t, tiny_train(&o, &r, NULL, &t->err), bad[i].status, bad[i].sentence);
        DD_CHECK(t, access(scratch_path(&s, "a.run"), F_OK) != 0);
    }
    DD_CHECK(t, close_all(&o));
    scratch_remove_all(&s);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"measures", measures}, {"refuses", refuses}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
