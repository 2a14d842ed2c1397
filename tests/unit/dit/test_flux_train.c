/* Gradients of the transformer beside torch's autograd (tools/make_train_goldens.py), lanes beside each other and beside
 * inference, and the start of training. */
#include <pthread.h>

#include "unit/dit/train_test.h"

enum { GOLDENS = 9, SAMPLE = 512 };

/* ---------------------------------------------------------------------------------------------- goldens */

typedef struct golden {
    dd_safetensors *file;
    const char *adapter;
    bool all;
    float sigma, guidance;
    double loss;
    int text_tokens, h, w;
    size_t count;
    float *latent, *target, *text, *pooled, *velocity;
} golden;

static float *values_of(const dd_safetensors *file, const char *name, ddit_err *err) {
    const dd_tensor_entry *entry = dd_safetensors_find(file, name);
    float *values = malloc(entry->count * sizeof *values);
    dd_tensor_entry_to_f32(entry, values, err);
    return values;
}

static ddit_status golden_open(golden *g, int index, ddit_err *err) {
    char path[96];
    snprintf(path, sizeof path, "tests/golden/train/grad_%02d.safetensors", index);
    *g = (golden){0};
    DD_TRY(dd_safetensors_open(&g->file, &dd_allocator_libc, path, err));
    const dd_tensor_entry *latent = dd_safetensors_find(g->file, "latent");
    g->adapter = dd_safetensors_metadata(g->file, "adapter");
    g->all = strcmp(g->adapter, "all") == 0;
    g->sigma = strtof(dd_safetensors_metadata(g->file, "sigma"), NULL);
    g->guidance = strtof(dd_safetensors_metadata(g->file, "guidance"), NULL);
    g->loss = strtod(dd_safetensors_metadata(g->file, "loss"), NULL);
    g->text_tokens = (int)dd_safetensors_find(g->file, "t5")->shape[0];
    g->h = (int)latent->shape[1];
    g->w = (int)latent->shape[2];
    g->count = latent->count;
    g->latent = values_of(g->file, "latent", err);
    g->target = values_of(g->file, "target", err);
    g->text = values_of(g->file, "t5", err);
    g->pooled = values_of(g->file, "pooled", err);
    g->velocity = values_of(g->file, "velocity", err);
    return DDIT_OK;
}

static void golden_close(golden *g) {
    free(g->latent);
    free(g->target);
    free(g->text);
    free(g->pooled);
    free(g->velocity);
    dd_safetensors_close(g->file);
}

/* The options that an adapter file was trained with, and its values where it has any. */
static ddit_status adapter_options(const char *name, dd_train_options *o, dd_adapter *adapter, ddit_err *err) {
    char path[96];
    snprintf(path, sizeof path, "tests/golden/adapter/%s.safetensors", name);
    DD_TRY(dd_adapter_open(adapter, &dd_allocator_libc, path, err));
    *o = (dd_train_options){.scope = DD_TRAIN_ADAPTER, .rank = adapter->rank, .alpha = adapter->alpha,
                            .lora_targets = DD_LORA_ALL, .residual_linear = adapter->residual_linear,
                            .residual_hf = adapter->residual_hf};
    for (int f = 1; f < DD_FACTOR_COUNT; f++) o->factor[f] = adapter->factor[f].present;
    return DDIT_OK;
}

/* m with the golden's adapter, or all of the transformer, its values in the weights. */
static ddit_status open_for(tiny_trainee *m, tiny_kind kind, const golden *g, int samples, ddit_err *err) {
    dd_train_options options = {.scope = DD_TRAIN_ALL};
    dd_adapter adapter = {0};
    ddit_status status;
    if (!g->all) DD_TRY(adapter_options(g->adapter, &options, &adapter, err));
    DD_GO(tiny_trainee_open(m, kind, &options, samples, g->text_tokens, err));
    DD_GO(g->all ? dd_flux_trainee_start(m->trainee, 0, m->values, err)
                 : dd_param_list_read(m->params, adapter.file, m->values, err));
    DD_GO(dd_flux_trainee_update(m->trainee, m->values, err));
done:
    if (adapter.file) dd_adapter_close(&adapter);
    return status;
}

static ddit_status layout_of(dd_layout *layout, const golden *g, ddit_err *err) {
    const char *text = dd_safetensors_metadata(g->file, "layout");
    DD_TRY(dd_layout_init(layout, &dd_allocator_libc, (dd_grid){g->h / 2, g->w / 2, 2}, err));
    if (strncmp(text, "uniform ", 8) == 0) {
        dd_layout_set_uniform(layout, atoi(text + 8));
        return DDIT_OK;
    }
    return dd_layout_set_string(layout, text, err);
}

/* The sample at `index`: its loss, and the gradient added to `gradient`. */
static ddit_status one_sample(dd_flux_lane *lane, dd_flux_batch *batch, int index, const golden *g, float *gradient,
                              float *velocity, double *loss, ddit_err *err) {
    dd_layout layout;
    float *d = malloc(g->count * sizeof *d);
    ddit_status status;
    DD_GO(layout_of(&layout, g, err));
    DD_GO(dd_flux_lane_forward(lane, batch, index, g->sigma, &layout, g->latent, velocity, err));
    *loss = 0;
    for (size_t i = 0; i < g->count; i++) {
        double off = (double)velocity[i] - g->target[i];
        *loss += off * off / (double)g->count;
        d[i] = (float)(2 * off / (double)g->count);
    }
    dd_layout_deinit(&layout); /* the lane remembers what it needs */
    DD_GO(dd_flux_lane_backward(lane, d, gradient, err));
done:
    free(d);
    return status;
}

/* The gradient of one parameter against the file; returns how far it is off, relative. */
static double distance(const tiny_trainee *m, const dd_param *p, const dd_safetensors *file, double *norm_off) {
    char name[256];
    snprintf(name, sizeof name, "grad.%s", p->name);
    const dd_tensor_entry *entry = dd_safetensors_find(file, name);
    float *expected = values_of(file, name, NULL), found[SAMPLE];
    snprintf(name, sizeof name, "norm.%s", p->name);
    double norm, sum = 0;
    memcpy(&norm, dd_safetensors_find(file, name)->data, sizeof norm);
    int64_t step = p->count > SAMPLE ? p->count / SAMPLE : 1;
    if (p->count > SAMPLE && step % 2 == 0) step--;
    for (size_t i = 0; i < entry->count; i++) found[i] = m->gradient[p->offset + (int64_t)i * step];
    for (int64_t i = 0; i < p->count; i++) sum += (double)m->gradient[p->offset + i] * m->gradient[p->offset + i];
    double off = norm > 0 ? dd_test_rel_l2(found, expected, entry->count) : sqrt(sum);
    *norm_off = norm > 0 ? fabs(sqrt(sum) - norm) / norm : sqrt(sum);
    free(expected);
    return off;
}

static void check_gradients(dd_test *t, const tiny_trainee *m, const golden *g, tiny_kind kind, int index) {
    double worst = 0, bar = kind.precision == DD_PRECISION_BF16 ? 5e-2 : 1e-4;
    const char *name = "";
    for (int i = 0; i < m->params->count; i++) {
        const dd_param *p = &m->params->items[i];
        double norm_off, off = distance(m, p, g->file, &norm_off);
        if (norm_off > off) off = norm_off;
        if (off > worst) {
            worst = off;
            name = p->name;
        }
        if (!(off <= bar))
            dd_test_fail(t, __FILE__, __LINE__, "%s, grad_%02d (%s): %s is off by %.2e", kind.name, index,
                         dd_safetensors_metadata(g->file, "what"), p->name, off);
    }
    printf("     %s %s grad_%02d: worst %.1e (%s)\n", kind.name, bar > 1e-3 ? "bf16" : "f32", index, worst, name);
}

static void check_golden(dd_test *t, tiny_kind kind, int index) {
    golden g;
    tiny_trainee m;
    dd_flux_lane *lane = NULL;
    double loss = 0;
    DD_NEED_OK(t, golden_open(&g, index, &t->err));
    DD_NEED_OK(t, open_for(&m, kind, &g, 1, &t->err));
    float *velocity = malloc(g.count * sizeof *velocity);
    dd_flux_condition sample = {g.text, g.pooled, 1000.0f * g.sigma, g.guidance};
    dd_flux_lane_params params = {{g.h / 2, g.w / 2, 2}, g.text_tokens, g.h * g.w / 4};
    DD_OK(t, dd_flux_batch_condition(m.batch, &sample, 1, &t->err));
    DD_NEED_OK(t, dd_flux_lane_create(&lane, m.trainee, m.b, &params, &t->err));
    DD_OK(t, one_sample(lane, m.batch, 0, &g, m.accumulator, velocity, &loss, &t->err));
    if (g.all) DD_OK(t, dd_flux_batch_backward(m.batch, m.accumulator, &t->err));
    DD_OK(t, dd_op_download(m.b, m.gradient, m.accumulator, (size_t)m.params->total * sizeof(float), &t->err));
    double bar = kind.precision == DD_PRECISION_BF16 ? 3e-2 : 1e-5, off = dd_test_rel_l2(velocity, g.velocity, g.count);
    if (!(off < bar)) dd_test_fail(t, __FILE__, __LINE__, "%s: the velocity is off by %.2e", kind.name, off);
    DD_CHECK(t, fabs(loss - g.loss) < bar * g.loss);
    check_gradients(t, &m, &g, kind, index);
    dd_flux_lane_free(lane);
    free(velocity);
    DD_CHECK(t, tiny_trainee_close(&m));
    golden_close(&g);
}

static void gradients_equal_autograd(dd_test *t, tiny_kind kind) {
    if (!tiny_can_train(kind)) {
        dd_test_skip(t, "%s does not train here", kind.name);
        return;
    }
    for (int i = 0; i < GOLDENS; i++) check_golden(t, kind, i);
}

static void gradients_on_ref(dd_test *t) { gradients_equal_autograd(t, tiny_kinds[0]); }
static void gradients_on_cpu_f32(dd_test *t) { gradients_equal_autograd(t, tiny_kinds[1]); }
static void gradients_on_cpu_bf16(dd_test *t) { gradients_equal_autograd(t, tiny_kinds[2]); }

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"gradients_on_ref", gradients_on_ref},
        {"gradients_on_cpu_f32", gradients_on_cpu_f32},
        {"gradients_on_cpu_bf16", gradients_on_cpu_bf16},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
