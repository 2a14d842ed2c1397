/* Gradients of the transformer beside torch's autograd (tools/make_train_goldens.py). */
#include "unit/dit/train_test.h"

enum { GOLDENS = 12, SAMPLE = 512 };

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
