/* Lanes beside inference and beside each other; what they cost; the values that training starts from. */
#include <pthread.h>

#include "unit/dit/train_test.h"

/* The cases that train on every backend. */
static void on_all(dd_test *t, int golden_index, void (*check)(dd_test *t, tiny_trainee *m, const golden *g, tiny_kind kind)) {
    for (int k = 0; k < TINY_KINDS; k++) {
        golden g;
        tiny_trainee m;
        if (!tiny_can_train(tiny_kinds[k])) continue;
        DD_NEED_OK(t, golden_open(&g, golden_index, &t->err));
        ddit_status status = open_for(&m, tiny_kinds[k], &g, 2, &t->err);
        DD_OK(t, status);
        if (status == DDIT_OK) check(t, &m, &g, tiny_kinds[k]);
        DD_CHECK(t, tiny_trainee_close(&m));
        golden_close(&g);
    }
}

static dd_flux_lane_params params_of(const golden *g) {
    return (dd_flux_lane_params){{g->h / 2, g->w / 2, 2}, g->text_tokens, g->h * g->w / 4};
}

/* Two samples: the golden's, and the same text at another time and guidance. */
static ddit_status condition(tiny_trainee *m, const golden *g, int count, ddit_err *err) {
    dd_flux_condition samples[2] = {{g->text, g->pooled, 1000.0f * g->sigma, g->guidance}, {g->text, g->pooled, 321.0f, 2.0f}};
    return dd_flux_batch_condition(m->batch, samples, count, err);
}

static ddit_status clear(tiny_trainee *m, ddit_err *err) {
    memset(m->gradient, 0, (size_t)m->params->total * sizeof(float));
    return dd_op_upload(m->b, m->accumulator, m->gradient, (size_t)m->params->total * sizeof(float), err);
}

static ddit_status fetch(tiny_trainee *m, ddit_err *err) {
    return dd_op_download(m->b, m->gradient, m->accumulator, (size_t)m->params->total * sizeof(float), err);
}

/* ---------------------------------------------------------------------------------------------- beside inference */

/* What dd_flux_run_velocity makes of the golden's sample on the same dit. */
static ddit_status run_velocity(dd_flux_dit *dit, const golden *g, const dd_layout *layout, float *velocity, ddit_err *err) {
    float time = 1000.0f * g->sigma;
    dd_backend *b = dd_flux_dit_backend(dit);
    dd_flux_run_params params = {.grid = layout->grid, .text_tokens = g->text_tokens, .branches = 1, .guidance = g->guidance,
                                 .times = &time, .time_count = 1};
    dd_flux_run *run = NULL;
    float *z = NULL, *v = NULL;
    ddit_status status;
    DD_GO(dd_flux_run_create(&run, dit, &params, err));
    DD_GO(dd_flux_run_condition(run, 0, g->text, g->pooled, err));
    DD_GO(dd_op_alloc(b, (void **)&z, g->count * sizeof(float), "a latent", err));
    DD_GO(dd_op_alloc(b, (void **)&v, g->count * sizeof(float), "a velocity", err));
    DD_GO(dd_op_upload(b, z, g->latent, g->count * sizeof(float), err));
    DD_GO(dd_flux_run_velocity(run, 0, 0, g->sigma, layout, dd_tensor_3d(z, DD_DTYPE_F32, 16, g->h, g->w),
                               dd_tensor_3d(v, DD_DTYPE_F32, 16, g->h, g->w), err));
    DD_GO(dd_op_download(b, velocity, v, g->count * sizeof(float), err));
done:
    dd_op_free(b, z);
    dd_op_free(b, v);
    dd_flux_run_free(run);
    return status;
}

/* The same by inference's own way: a dit opened for drawing, with the adapter of the golden. */
static void inference(dd_test *t, tiny_kind kind, const golden *g, const dd_layout *layout, float *velocity) {
    tiny_model m;
    DD_OK(t, tiny_open(&m, kind, g->all ? NULL : g->adapter, &t->err));
    DD_OK(t, run_velocity(m.dit, g, layout, velocity, &t->err));
    DD_CHECK(t, tiny_close(&m));
}

static void check_same(dd_test *t, tiny_trainee *m, const golden *g, tiny_kind kind) {
    dd_flux_lane *lane;
    dd_layout layout;
    size_t bytes = g->count * sizeof(float);
    float *expected = malloc(bytes), *found = malloc(bytes);
    dd_flux_lane_params params = params_of(g);
    DD_NEED_OK(t, layout_of(&layout, g, &t->err));
    DD_OK(t, condition(m, g, 1, &t->err));
    DD_NEED_OK(t, dd_flux_lane_create(&lane, m->trainee, m->b, &params, &t->err));
    inference(t, kind, g, &layout, expected);
    DD_OK(t, dd_flux_lane_forward(lane, m->batch, 0, g->sigma, &layout, g->latent, found, &t->err));
    DD_CHECK(t, memcmp(expected, found, bytes) == 0);
    memset(found, 0, bytes);
    DD_OK(t, dd_flux_lane_velocity(lane, m->batch, 0, g->sigma, &layout, g->latent, found, &t->err));
    DD_CHECK(t, memcmp(expected, found, bytes) == 0);
    memset(found, 0, bytes);
    DD_OK(t, run_velocity(m->dit, g, &layout, found, &t->err)); /* a run of the trained dit sees the values */
    DD_CHECK(t, memcmp(expected, found, bytes) == 0);
    dd_layout_set_uniform(&layout, 1); /* the teacher is the base, whatever the adapter */
    golden base = *g;
    base.all = true;
    inference(t, kind, &base, &layout, expected);
    DD_OK(t, dd_flux_lane_velocity(lane, m->batch, 0, g->sigma, &layout, g->latent, found, &t->err));
    DD_CHECK(t, memcmp(expected, found, bytes) == 0);
    dd_flux_lane_free(lane);
    dd_layout_deinit(&layout);
    free(expected);
    free(found);
}

static void lanes_give_the_bytes_of_inference(dd_test *t) {
    on_all(t, 0, check_same);
    on_all(t, 2, check_same);
    on_all(t, 6, check_same);
    on_all(t, 8, check_same);
}

/* ---------------------------------------------------------------------------------------------- beside each other */

typedef struct worker {
    dd_flux_lane *lane;
    tiny_trainee *m;
    const golden *g;
    int index;
    float *gradient, *velocity;
    double loss;
    ddit_status status;
    ddit_err err;
} worker;

static void *work(void *user) {
    worker *w = user;
    w->status = one_sample(w->lane, w->m->batch, w->index, w->g, w->gradient, w->velocity, &w->loss, &w->err);
    return NULL;
}

static void check_two(dd_test *t, tiny_trainee *m, const golden *g, tiny_kind kind) {
    if (strcmp(kind.name, "ref") == 0) return; /* allocates in its calls, and the counting allocator is for one thread */
    size_t total = (size_t)m->params->total, bytes = total * sizeof(float);
    float *zeros = calloc(total, sizeof(float)), *alone[2], *gradient = calloc(total, sizeof(float));
    dd_flux_lane_params params = params_of(g);
    worker w[2];
    dd_backend *backend[2];
    pthread_t threads[2];
    DD_OK(t, condition(m, g, 2, &t->err));
    for (int i = 0; i < 2; i++) {
        w[i] = (worker){.m = m, .g = g, .index = i, .velocity = malloc(g->count * sizeof(float))};
        alone[i] = malloc(bytes);
        DD_NEED_OK(t, dd_op_lane_open(m->b, i, &backend[i], &t->err));
        DD_NEED_OK(t, dd_flux_lane_create(&w[i].lane, m->trainee, backend[i], &params, &t->err));
        DD_NEED_OK(t, dd_op_alloc(m->b, (void **)&w[i].gradient, bytes, "a gradient", &t->err));
    }
    for (int i = 0; i < 2; i++) { /* each by itself, on the other lane */
        DD_OK(t, dd_op_upload(m->b, w[i].gradient, zeros, bytes, &t->err));
        DD_OK(t, one_sample(w[1 - i].lane, m->batch, i, g, w[i].gradient, w[i].velocity, &w[i].loss, &t->err));
        DD_OK(t, dd_op_download(m->b, alone[i], w[i].gradient, bytes, &t->err));
        DD_OK(t, dd_op_upload(m->b, w[i].gradient, zeros, bytes, &t->err));
    }
    DD_CHECK(t, memcmp(alone[0], alone[1], bytes) != 0);
    size_t before = m->memory.total;
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, work, &w[i]);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    if (m->memory.total != before)
        dd_test_fail(t, __FILE__, __LINE__, "two samples made %zu allocations", m->memory.total - before);
    for (int i = 0; i < 2; i++) {
        DD_CHECK(t, w[i].status == DDIT_OK);
        DD_OK(t, dd_op_download(m->b, gradient, w[i].gradient, bytes, &t->err));
        DD_CHECK(t, memcmp(alone[i], gradient, bytes) == 0);
    }
    for (int i = 0; i < 2; i++) {
        dd_flux_lane_free(w[i].lane);
        dd_op_lane_close(backend[i]);
        dd_op_free(m->b, w[i].gradient);
        free(w[i].velocity);
        free(alone[i]);
    }
    free(zeros);
    free(gradient);
}

static void lanes_side_by_side_give_the_same_bytes(dd_test *t) {
    on_all(t, 0, check_two);
    on_all(t, 3, check_two);
    on_all(t, 8, check_two);
}

/* With all of the transformer trained, two samples of a batch give the sum of what each gives alone. */
static void check_sum(dd_test *t, tiny_trainee *m, const golden *g, tiny_kind kind) {
    size_t total = (size_t)m->params->total;
    double *sum = calloc(total, sizeof *sum), loss, off = 0, norm = 0;
    float *velocity = malloc(g->count * sizeof *velocity);
    size_t text = (size_t)g->text_tokens * (size_t)m->config.transformer.joint_attention_dim;
    size_t pooled = (size_t)m->config.transformer.pooled_projection_dim;
    float *other = malloc((text + pooled) * sizeof *other); /* another text, then its pooled vector */
    for (size_t i = 0; i < text; i++) other[i] = 0.5f - g->text[i];
    for (size_t i = 0; i < pooled; i++) other[text + i] = 0.5f - g->pooled[i];
    dd_flux_condition samples[2] = {{g->text, g->pooled, 700.0f, 3.0f}, {other, other + text, 321.0f, 2.0f}};
    dd_flux_lane *lane;
    dd_flux_lane_params params = params_of(g);
    DD_NEED_OK(t, dd_flux_lane_create(&lane, m->trainee, m->b, &params, &t->err));
    for (int i = 0; i < 3; i++) { /* the first, the second, both */
        DD_OK(t, clear(m, &t->err));
        DD_OK(t, dd_flux_batch_condition(m->batch, samples + i % 2, i < 2 ? 1 : 2, &t->err));
        for (int k = 0; k < (i < 2 ? 1 : 2); k++)
            DD_OK(t, one_sample(lane, m->batch, k, g, m->accumulator, velocity, &loss, &t->err));
        DD_OK(t, dd_flux_batch_backward(m->batch, m->accumulator, &t->err));
        DD_OK(t, fetch(m, &t->err));
        for (size_t v = 0; i < 2 && v < total; v++) sum[v] += m->gradient[v];
    }
    for (size_t v = 0; v < total; v++) {
        off += (m->gradient[v] - sum[v]) * (m->gradient[v] - sum[v]);
        norm += sum[v] * sum[v];
    }
    if (!(sqrt(off / norm) < (kind.precision == DD_PRECISION_BF16 ? 1e-2 : 1e-5)))
        dd_test_fail(t, __FILE__, __LINE__, "%s: the gradient of two samples is off by %.2e", kind.name, sqrt(off / norm));
    dd_flux_lane_free(lane);
    free(velocity);
    free(other);
    free(sum);
}

static void samples_of_a_batch_add_up(dd_test *t) { on_all(t, 8, check_sum); }

/* A teacher's velocity between forward and backward, at another layout, changes nothing. */
static void check_between(dd_test *t, tiny_trainee *m, const golden *g, tiny_kind kind) {
    size_t bytes = (size_t)m->params->total * sizeof(float);
    float *velocity = malloc(g->count * sizeof(float)), *expected = malloc(bytes), *other = malloc(g->count * sizeof(float));
    dd_flux_lane *lane;
    dd_layout layout;
    dd_flux_lane_params params = params_of(g);
    (void)kind;
    for (size_t i = 0; i < g->count; i++) other[i] = -g->latent[i];
    DD_OK(t, condition(m, g, 2, &t->err));
    DD_NEED_OK(t, dd_flux_lane_create(&lane, m->trainee, m->b, &params, &t->err));
    for (int round = 0; round < 2; round++) {
        DD_OK(t, clear(m, &t->err));
        DD_NEED_OK(t, layout_of(&layout, g, &t->err));
        DD_OK(t, dd_flux_lane_forward(lane, m->batch, 0, g->sigma, &layout, g->latent, velocity, &t->err));
        if (round == 1) {
            dd_layout_set_uniform(&layout, 1);
            DD_OK(t, dd_flux_lane_velocity(lane, m->batch, 1, 0.3f, &layout, other, velocity, &t->err));
        }
        DD_OK(t, dd_flux_lane_backward(lane, g->target, m->accumulator, &t->err));
        DD_OK(t, fetch(m, &t->err));
        if (round == 0) memcpy(expected, m->gradient, bytes);
        dd_layout_deinit(&layout);
    }
    DD_CHECK(t, memcmp(expected, m->gradient, bytes) == 0);
    DD_FAILS(t, dd_flux_lane_backward(lane, g->target, m->accumulator, &t->err), DDIT_ERR_INTERNAL, "without a forward pass");
    dd_flux_lane_free(lane);
    free(velocity);
    free(expected);
    free(other);
}

static void a_teacher_between_changes_nothing(dd_test *t) { on_all(t, 3, check_between); }

/* ---------------------------------------------------------------------------------------------- cost and failure */

/* A table of ops that counts the bytes that are taken. */
typedef struct spy {
    dd_backend_ops ops; /* first, so that a backend's table leads back to the spy */
    const dd_backend_ops *real;
    uint64_t bytes;
} spy;

static ddit_status counted_alloc(dd_backend *b, void **memory, size_t bytes, const char *what, ddit_err *err) {
    spy *s = (spy *)(uintptr_t)b->ops;
    s->bytes += bytes;
    return s->real->alloc(b, memory, bytes, what, err);
}

static void check_cost(dd_test *t, tiny_trainee *m, const golden *g, tiny_kind kind) {
    dd_train_options options = {.scope = DD_TRAIN_ALL};
    dd_adapter adapter = {0};
    if (!g->all) DD_OK(t, adapter_options(g, &options, &adapter, &t->err));
    if (adapter.file) dd_adapter_close(&adapter);
    dd_flux_lane_params params = params_of(g);
    params.max_image_tokens -= 3;
    dd_flux_train_bytes bytes = dd_flux_train_measure(&m->config.transformer, m->b->activation, &options, &params, 5);
    spy s = {.ops = *m->b->ops, .real = m->b->ops};
    dd_flux_lane *lane;
    dd_flux_batch *batch;
    s.ops.alloc = counted_alloc;
    m->b->ops = &s.ops;
    DD_OK(t, dd_flux_lane_create(&lane, m->trainee, m->b, &params, &t->err));
    DD_CHECK(t, s.bytes == bytes.checkpoints + bytes.block);
    s.bytes = 0;
    DD_OK(t, dd_flux_batch_create(&batch, m->trainee, 5, g->text_tokens, &t->err));
    DD_CHECK(t, s.bytes == bytes.batch);
    m->b->ops = s.real;
    dd_flux_batch_free(batch);
    dd_flux_lane_free(lane);
    dd_flux_dit *plain;
    DD_NEED_OK(t, dd_flux_dit_open(&plain, m->b, &m->config.transformer, m->files, &t->err));
    double added = (double)(dd_flux_dit_weight_bytes(m->dit) - dd_flux_dit_weight_bytes(plain));
    dd_flux_dit_close(plain);
    if (strcmp(kind.name, "ref") == 0) return; /* views of the file, and no transposes */
    if (!(added >= (double)bytes.weights && added < 1.25 * (double)bytes.weights)) /* tiny matrices are padded much */
        dd_test_fail(t, __FILE__, __LINE__, "%s: training adds %.0f bytes of weights, %.0f were told", kind.name, added,
                     (double)bytes.weights);
}

static void the_price_told_beforehand_is_paid(dd_test *t) {
    on_all(t, 0, check_cost);
    on_all(t, 8, check_cost);
}

/* Makes trainee, batch and lane with the n-th allocation failing; false when nothing failed any more. */
static bool fails_cleanly(dd_test *t, tiny_trainee *m, const dd_train_options *options, size_t n) {
    dd_test_allocator *memory = &m->memory;
    dd_flux_trainee *trainee = NULL;
    dd_flux_batch *batch = NULL;
    dd_flux_lane *lane = NULL;
    dd_flux_lane_params params = {{4, 4, 2}, 3, 16};
    size_t live = memory->live;
    uint64_t bytes = dd_flux_dit_weight_bytes(m->dit);
    ddit_status status;
    memory->total = 0;
    memory->fail_at = n;
    memory->fail_on = n % 2 == 0;
    DD_GO(dd_flux_trainee_create(&trainee, m->dit, options, &t->err));
    DD_GO(dd_flux_batch_create(&batch, trainee, 2, 3, &t->err));
    DD_GO(dd_flux_lane_create(&lane, trainee, m->b, &params, &t->err));
done:
    memory->fail_at = 0;
    if (status != DDIT_OK) DD_CHECK(t, status == DDIT_ERR_NO_MEMORY);
    dd_flux_lane_free(lane);
    dd_flux_batch_free(batch);
    dd_flux_trainee_free(trainee);
    DD_CHECK(t, memory->live <= live + 1); /* backends keep scratch that was reserved */
    DD_CHECK(t, dd_flux_dit_weight_bytes(m->dit) == bytes && !dd_flux_dit_has_factor(m->dit, 2));
    return status != DDIT_OK;
}

static void failing_memory_leaves_nothing_behind(dd_test *t) {
    static const dd_train_options options = {.scope = DD_TRAIN_ADAPTER, .factor = {false, true, true}, .rank = 2, .alpha = 2,
                                             .lora_targets = DD_LORA_ALL, .residual_linear = true};
    tiny_trainee m;
    DD_NEED_OK(t, tiny_trainee_open(&m, tiny_kinds[0], "flux_head32", &options, 1, 3, &t->err));
    dd_flux_batch_free(m.batch);
    dd_flux_trainee_free(m.trainee);
    m.batch = NULL;
    m.trainee = NULL;
    size_t n = 1;
    while (n < 5000 && fails_cleanly(t, &m, &options, n)) n++;
    DD_CHECK(t, n > 20 && n < 5000);
    DD_CHECK(t, tiny_trainee_close(&m));
}

static void check_refused(dd_test *t, tiny_trainee *m, const golden *g, tiny_kind kind) {
    float *velocity = malloc(g->count * sizeof *velocity);
    dd_flux_lane *lane;
    dd_layout layout;
    dd_flux_lane_params params = params_of(g);
    (void)kind;
    params.max_image_tokens = 3;
    DD_OK(t, condition(m, g, 1, &t->err));
    DD_NEED_OK(t, layout_of(&layout, g, &t->err));
    DD_NEED_OK(t, dd_flux_lane_create(&lane, m->trainee, m->b, &params, &t->err));
    DD_FAILS(t, dd_flux_lane_forward(lane, m->batch, 0, 0.5f, &layout, g->latent, velocity, &t->err), DDIT_ERR_ARGUMENT,
             "at most 3");
    DD_OK(t, dd_flux_lane_velocity(lane, m->batch, 0, 0.5f, &layout, g->latent, velocity, &t->err));
    DD_FAILS(t, dd_flux_lane_velocity(lane, m->batch, 1, 0.5f, &layout, g->latent, velocity, &t->err), DDIT_ERR_INTERNAL,
             "sample 1 of 1");
    dd_layout_set_uniform(&layout, 4); /* adapter_none has factor 2 alone */
    DD_FAILS(t, dd_flux_lane_velocity(lane, m->batch, 0, 0.5f, &layout, g->latent, velocity, &t->err), DDIT_ERR_MISMATCH,
             "factor 4");
    DD_FAILS(t, dd_flux_lane_backward(lane, g->target, m->accumulator, &t->err), DDIT_ERR_INTERNAL, "without a forward pass");
    DD_FAILS(t, dd_flux_batch_backward(m->batch, m->accumulator, &t->err), DDIT_ERR_INTERNAL, "without gradients");
    dd_flux_lane_free(lane);
    dd_layout_deinit(&layout);
    free(velocity);
}

static void wrong_calls_are_refused(dd_test *t) { on_all(t, 5, check_refused); }

/* ---------------------------------------------------------------------------------------------- the start */

static const float *segment(const tiny_trainee *m, const char *name) {
    return m->values + dd_param_list_find(m->params, name)->offset;
}

/* What the embedding says of a cell that is itself a patch of two, upsampled, is what the base says of that patch; the
 * de-embedding's corners are the base's own. factor 2 or 4. */
static void check_start(dd_test *t, const tiny_trainee *m, int factor) {
    static const double rows4[4][2] = {{1, 0}, {.75, .25}, {.25, .75}, {0, 1}};
    static const double rows8[8][2] = {{1, 0}, {1, 0}, {.875, .125}, {.625, .375}, {.375, .625}, {.125, .875}, {0, 1}, {0, 1}};
    const double(*up)[2] = factor == 2 ? rows4 : rows8;
    int n = 2 * factor, d = m->config.transformer.hidden;
    char name[64];
    float *base = malloc((size_t)(d * 64) * sizeof *base), *out = malloc((size_t)(64 * d) * sizeof *out);
    DD_OK(t, dd_tensor_entry_to_f32(dd_weight_files_find(m->files, "x_embedder.weight"), base, &t->err));
    DD_OK(t, dd_tensor_entry_to_f32(dd_weight_files_find(m->files, "proj_out.weight"), out, &t->err));
    snprintf(name, sizeof name, "ddit.x%d.embed.weight", factor);
    const float *embed = segment(m, name);
    snprintf(name, sizeof name, "ddit.x%d.deembed.weight", factor);
    const float *deembed = segment(m, name);
    uint64_t state = 9;
    double worst = 0, corners = 0, inside = 0;
    for (int k = 0; k < d * 16; k++) {
        double small[4], want = 0, found = 0;
        for (int i = 0; i < 4; i++) want += (small[i] = dd_test_random(&state)) * base[k * 4 + i];
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                double z = 0;
                for (int a = 0; a < 4; a++) z += up[i][a / 2] * up[j][a % 2] * small[a];
                found += z * embed[(k * n + i) * n + j];
            }
        worst = fmax(worst, fabs(want - found));
    }
    for (int c = 0; c < 16; c++)
        for (int i = 0; i < d; i++) {
            const float *coarse = deembed + (size_t)c * n * n * d + i, *fine = out + (size_t)c * 4 * d + i;
            corners = fmax(corners, fabs(coarse[0] - fine[0]) + fabs(coarse[(n * n - 1) * d] - fine[3 * d]));
            inside = fmax(inside, fabs(coarse[(n / 2) * d] - (up[n / 2][0] * fine[0] + up[n / 2][1] * fine[d])));
        }
    DD_CHECK(t, worst < 1e-6 && corners == 0 && inside < 1e-7);
    free(base);
    free(out);
}

/* The embeddings that the reference made from the same base (residual none, no id, factor 2). */
static void check_against_reference(dd_test *t, const tiny_trainee *m) {
    static const char *const names[] = {"ddit.x2.embed.weight", "ddit.x2.embed.bias", "ddit.x2.deembed.weight",
                                        "ddit.x2.deembed.bias"};
    dd_safetensors *file;
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, "tests/golden/adapter/adapter_init.safetensors", &t->err));
    for (int i = 0; i < 4; i++) {
        float *expected = values_of(file, names[i], &t->err);
        DD_CHECK(t, dd_test_rel_l2(segment(m, names[i]), expected, dd_safetensors_find(file, names[i])->count) < 1e-7);
        free(expected);
    }
    dd_safetensors_close(file);
}

static void the_start_is_the_pseudo_inverse(dd_test *t) {
    static const dd_train_options options = {.scope = DD_TRAIN_ADAPTER, .factor = {false, true, true}, .rank = 3, .alpha = 3,
                                             .lora_targets = DD_LORA_DOUBLE_IMAGE | DD_LORA_SINGLE_OUT,
                                             .residual_linear = true};
    tiny_trainee m;
    DD_NEED_OK(t, tiny_trainee_open(&m, tiny_kinds[0], "flux_head32", &options, 1, 3, &t->err));
    DD_OK(t, dd_flux_trainee_start(m.trainee, 7, m.values, &t->err));
    check_start(t, &m, 2);
    check_start(t, &m, 4);
    check_against_reference(t, &m);
    size_t total = (size_t)m.params->total;
    float *again = malloc(total * sizeof *again);
    DD_OK(t, dd_flux_trainee_start(m.trainee, 7, again, &t->err));
    DD_CHECK(t, memcmp(m.values, again, total * sizeof *again) == 0);
    DD_OK(t, dd_flux_trainee_start(m.trainee, 8, again, &t->err));
    DD_CHECK(t, memcmp(m.values, again, total * sizeof *again) != 0);
    DD_CHECK(t, !dd_param_list_find(m.params, "ddit.x2.lora.transformer_blocks.0.ff_context.net.2.A"));
    DD_CHECK(t, !dd_param_list_find(m.params, "ddit.x2.lora.single_transformer_blocks.0.proj_mlp.A"));
    for (int i = 0; i < m.params->count; i++) {
        const dd_param *p = &m.params->items[i];
        const char *end = p->name + strlen(p->name) - 2;
        double least = 1e9, most = 0, bound = 1 / sqrt((double)p->shape[p->rank - 1]);
        for (int64_t v = 0; v < p->count; v++) {
            most = fmax(most, fabs(m.values[p->offset + v]));
            least = fmin(least, m.values[p->offset + v]);
        }
        if (strcmp(end, ".A") == 0) DD_CHECK(t, most <= bound && most > 0.9 * bound && least < -0.8 * bound);
        if (strcmp(end, ".B") == 0 || strcmp(end, "id") == 0 || strstr(p->name, ".res.")) DD_CHECK(t, most == 0);
    }
    free(again);
    DD_CHECK(t, tiny_trainee_close(&m));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"lanes_give_the_bytes_of_inference", lanes_give_the_bytes_of_inference},
        {"lanes_side_by_side_give_the_same_bytes", lanes_side_by_side_give_the_same_bytes},
        {"samples_of_a_batch_add_up", samples_of_a_batch_add_up},
        {"a_teacher_between_changes_nothing", a_teacher_between_changes_nothing},
        {"the_price_told_beforehand_is_paid", the_price_told_beforehand_is_paid},
        {"failing_memory_leaves_nothing_behind", failing_memory_leaves_nothing_behind},
        {"wrong_calls_are_refused", wrong_calls_are_refused},
        {"the_start_is_the_pseudo_inverse", the_start_is_the_pseudo_inverse},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
