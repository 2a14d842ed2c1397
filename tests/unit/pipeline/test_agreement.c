/* From prompt to picture against diffusers in float32 on tiny random pipelines of three shapes (head size 32, 64, 128; with and
 * without guidance; sharded; bf16 and f16 on disk; non-square sizes), and schedules against the float64 model of
 * tools/ddit_reference.py. Goldens: tests/golden/flux_NAME/case_N.safetensors, tests/golden/adapter/schedule_N.safetensors. */
#include "harness.h"
#include "pipeline/pipeline.h"

/* The bars of agreement; torch's own float32 differs from float64 by about 1e-6. */
#define EMBEDDING_TOLERANCE 1e-5
#define VELOCITY_TOLERANCE 2e-5
#define LATENT_TOLERANCE 1e-4

typedef struct golden {
    dd_safetensors *file;
    char path[256], model[160], adapter[256];
} golden;

static const char *meta(const golden *g, const char *key, const char *fallback) {
    const char *value = dd_safetensors_metadata(g->file, key);
    return value ? value : fallback;
}

static double distance(const golden *g, const char *name, const float *got, size_t offset, size_t count) {
    const dd_tensor_entry *entry = dd_safetensors_find(g->file, name);
    if (!entry || offset + count > entry->count) return INFINITY;
    float *want = malloc(entry->count * sizeof *want);
    dd_tensor_entry_to_f32(entry, want, NULL);
    double result = dd_test_rel_l2(got, want + offset, count);
    free(want);
    return result;
}

#define CLOSE(t, g, what, d, tolerance)                                                                                        \
    do {                                                                                                                       \
        double d_ = (d);                                                                                                       \
        if (getenv("DD_SHOW")) printf("  %s %s %.2e\n", (g)->path, what, d_);                                                  \
        if (!(d_ <= (tolerance)))                                                                                              \
            dd_test_fail(t, __FILE__, __LINE__, "%s: %s is off by %.2e, at most %.0e", (g)->path, what, d_, tolerance);        \
    } while (0)

static ddit_params params_of(const golden *g) {
    ddit_params p = ddit_params_init();
    p.prompt = meta(g, "prompt", NULL);
    p.negative_prompt = meta(g, "negative", "");
    p.width = atoi(meta(g, "width", "0"));
    p.height = atoi(meta(g, "height", "0"));
    p.steps = atoi(meta(g, "steps", "0"));
    p.seed = strtoull(meta(g, "seed", "0"), NULL, 10);
    p.guidance = strtof(meta(g, "guidance", "1"), NULL);
    p.cfg_scale = strtof(meta(g, "cfg_scale", "1"), NULL);
    p.max_sequence_length = atoi(meta(g, "max_sequence_length", "0"));
    p.noise_file = g->path;
    p.patch = meta(g, "schedule", "off");
    p.coarse = dd_safetensors_metadata(g->file, "coarse");
    p.keep_steps = 1;
    return p;
}

static void check_embeddings(dd_test *t, const golden *g, const ddit_model *model, const ddit_params *p) {
    dd_prompt_embedding e = {0};
    char notes[256] = "";
    DD_NEED_OK(t, dd_prompts_encode(model, &p->prompt, 1, p->max_sequence_length, &e, notes, sizeof notes, &t->err));
    CLOSE(t, g, "T5 embedding", distance(g, "t5", e.text, 0, (size_t)p->max_sequence_length * (size_t)model->config.t5.d_model),
          EMBEDDING_TOLERANCE);
    CLOSE(t, g, "pooled CLIP embedding", distance(g, "pooled", e.pooled, 0, (size_t)model->config.clip.hidden_size),
          EMBEDDING_TOLERANCE);
    dd_prompt_embedding_deinit(&e, &model->context->allocator);
}

static void check_image(dd_test *t, const golden *g, ddit_session *session) {
    const dd_tensor_entry *want = dd_safetensors_find(g->file, "image");
    ddit_image *image;
    if (!want) return;
    DD_NEED_OK(t, ddit_session_decode(session, &image, &t->err));
    int worst = 0;
    const uint8_t *pixels = ddit_image_pixels(image);
    for (size_t i = 0; i < want->count; i++) {
        int d = abs((int)pixels[i] - (int)want->data[i]);
        if (d > worst) worst = d;
    }
    if (worst > 1) dd_test_fail(t, __FILE__, __LINE__, "%s: an 8-bit value is off by %d, at most 1", g->path, worst);
    ddit_image_free(image);
}

static void check_run(dd_test *t, const golden *g, ddit_model *model, const ddit_params *p) {
    ddit_session *session;
    DD_NEED_OK(t, ddit_session_create(&session, model, p, &t->err));
    ddit_status status = ddit_session_run(session, &t->err);
    DD_OK(t, status);
    if (status == DDIT_OK) {
        size_t count = dd_safetensors_find(g->file, "latent")->count;
        CLOSE(t, g, "first velocity", distance(g, "step.0.velocity", dd_sampler_kept_velocity(session->sampler, 0), 0, count),
              VELOCITY_TOLERANCE);
        CLOSE(t, g, "final latent", distance(g, "latent", dd_sampler_latent(session->sampler).data, 0, count),
              LATENT_TOLERANCE);
        check_image(t, g, session);
    }
    ddit_session_free(session);
}

static void check_golden(dd_test *t, ddit_context *context, golden *g, bool embeddings) {
    ddit_model *model;
    DD_NEED_OK(t, ddit_model_open(&model, context, g->model, g->adapter, &t->err));
    ddit_params p = params_of(g);
    if (embeddings) check_embeddings(t, g, model, &p);
    check_run(t, g, model, &p);
    ddit_model_close(model);
}

static void on_backend(dd_test *t, const char *backend) {
    static const char *const models[] = {"flux_head32", "flux_head64", "flux_head128"};
    ddit_context_params cp = ddit_context_params_init();
    cp.backend = backend;
    cp.precision = "f32";
    cp.threads = 2;
    ddit_context *context;
    DD_NEED_OK(t, ddit_context_create(&context, &cp, &t->err));
    int cases = 0;
    for (int m = 0; m < 3; m++)
        for (int i = 0; i < 3; i++) {
            golden g = {.adapter = "none"};
            snprintf(g.model, sizeof g.model, "tests/golden/%s", models[m]);
            snprintf(g.path, sizeof g.path, "%s/case_%d.safetensors", g.model, i);
            if (dd_safetensors_open(&g.file, &dd_allocator_libc, g.path, NULL) != DDIT_OK) continue;
            check_golden(t, context, &g, true);
            dd_safetensors_close(g.file);
            cases++;
        }
    DD_CHECK(t, cases == 8);
    for (int i = 0; i < 3; i++) {
        golden g = {0};
        snprintf(g.path, sizeof g.path, "tests/golden/adapter/schedule_%d.safetensors", i);
        DD_NEED_OK(t, dd_safetensors_open(&g.file, &dd_allocator_libc, g.path, &t->err));
        const char *adapter = meta(&g, "adapter", "none");
        snprintf(g.model, sizeof g.model, "tests/golden/%s", meta(&g, "model", ""));
        if (strcmp(adapter, "none") == 0) snprintf(g.adapter, sizeof g.adapter, "none");
        else snprintf(g.adapter, sizeof g.adapter, "tests/golden/adapter/%s.safetensors", adapter);
        check_golden(t, context, &g, false);
        dd_safetensors_close(g.file);
    }
    ddit_context_free(context);
}

static void ref_agrees(dd_test *t) { on_backend(t, "ref"); }
static void cpu_agrees(dd_test *t) { on_backend(t, "cpu"); }

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"ref_agrees", ref_agrees}, {"cpu_agrees", cpu_agrees}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
