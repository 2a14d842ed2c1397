/* The transformer's norms have eps 1e-6 (diffusers' FluxTransformer2DModel). The variances are so far above it that a bar on
 * velocities may not notice 1e-5, so this test looks at the calls themselves. */
#include "unit/dit/dit_test.h"

/* A table of ops that watches two of them; the backend's own table behind it. */
typedef struct spy {
    dd_backend_ops ops; /* first, so that a backend's table leads back to the spy */
    const dd_backend_ops *real;
    int norms, heads, wrong_eps;
} spy;

static spy *spy_of(const dd_backend *b) { return (spy *)(uintptr_t)b->ops; }

static ddit_status watched_norm(dd_backend *b, const dd_norm_args *a, ddit_err *err) {
    spy_of(b)->norms++;
    spy_of(b)->wrong_eps += a->eps != 1e-6f || a->kind != DD_NORM_LAYER;
    return spy_of(b)->real->norm(b, a, err);
}

static ddit_status watched_qk_norm_rope(dd_backend *b, const dd_qk_norm_rope_args *a, ddit_err *err) {
    spy_of(b)->heads++;
    spy_of(b)->wrong_eps += a->eps != 1e-6f;
    return spy_of(b)->real->qk_norm_rope(b, a, err);
}

static ddit_status run_once(tiny_model *m, float *latent, float *velocity, ddit_err *err) {
    static const float time = 800.0f;
    dd_grid grid = {2, 2, 2};
    dd_flux_run_params params = {.grid = grid, .text_tokens = TINY_TEXT, .branches = 1, .guidance = 3.5f, .times = &time,
                                 .time_count = 1};
    dd_flux_run *run = NULL;
    dd_layout layout = {0};
    ddit_status status;
    DD_GO(dd_flux_run_create(&run, m->dit, &params, err));
    DD_GO(dd_flux_run_condition(run, 0, m->text[0], m->pooled[0], err));
    DD_GO(dd_layout_init(&layout, &dd_allocator_libc, grid, err));
    DD_GO(dd_flux_run_velocity(run, 0, 0, 0.8f, &layout, dd_tensor_3d(latent, DD_DTYPE_F32, 16, 4, 4),
                               dd_tensor_3d(velocity, DD_DTYPE_F32, 16, 4, 4), err));
done:
    dd_layout_deinit(&layout);
    dd_flux_run_free(run);
    return status;
}

static void norms_have_the_eps_of_diffusers(dd_test *t) {
    static const float zeros[16 * 4 * 4] = {0};
    float latent[16 * 4 * 4], velocity[16 * 4 * 4];
    tiny_model m;
    memcpy(latent, zeros, sizeof latent);
    DD_NEED_OK(t, tiny_open(&m, tiny_kinds[0], NULL, &t->err));
    spy s = {.ops = *m.b->ops, .real = m.b->ops};
    s.ops.norm = watched_norm;
    s.ops.qk_norm_rope = watched_qk_norm_rope;
    m.b->ops = &s.ops;
    DD_OK(t, run_once(&m, latent, velocity, &t->err));
    m.b->ops = s.real;
    const dd_flux_config *c = &m.config.transformer;
    DD_CHECK(t, s.norms == 4 * c->num_layers + c->num_single_layers + 1); /* two a stream, one a single block, the last */
    DD_CHECK(t, s.heads == 4 * c->num_layers + 2 * c->num_single_layers); /* q and k of every stream */
    DD_CHECK(t, s.wrong_eps == 0);
    DD_CHECK(t, tiny_close(&m));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"norms_have_the_eps_of_diffusers", norms_have_the_eps_of_diffusers},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
