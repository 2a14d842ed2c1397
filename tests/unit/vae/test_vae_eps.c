/* The group norms' eps. No picture of 8 bits shows whether it is diffusers' 1e-6 or PyTorch's default of 1e-5 (in our
 * tiny models the difference is below half a grey level), so this test looks at the calls themselves. */
#include "backend/registry.h"
#include "harness.h"
#include "vae/flux_vae.h"

/* A table of ops that watches one of them; the backend's own table behind it. */
typedef struct spy {
    dd_backend_ops ops; /* first, so that a backend's table leads back to the spy */
    const dd_backend_ops *real;
    int calls, wrong_eps, wrong_groups, groups;
} spy;

static ddit_status watched_group_norm(dd_backend *b, const dd_group_norm_args *a, ddit_err *err) {
    spy *s = (spy *)(uintptr_t)b->ops;
    s->calls++;
    s->wrong_eps += a->eps != 1e-6f;
    s->wrong_groups += a->groups != s->groups;
    return s->real->group_norm(b, a, err);
}

static void group_norms_have_the_eps_of_diffusers(dd_test *t) {
    const char *folder = "tests/golden/flux_head64/vae";
    static const float latent[16] = {0.5f, -0.25f};
    uint8_t rgb[8 * 8 * 3];
    dd_backend *b;
    dd_vae_config config;
    dd_weight_files *files;
    dd_flux_vae *vae;
    DD_NEED_OK(t, dd_backend_open(&b, "ref", DD_PRECISION_F32, 1, &dd_allocator_libc, &t->err));
    DD_NEED_OK(t, dd_vae_config_read(&config, &dd_allocator_libc, "tests/golden/flux_head64/vae/config.json", &t->err));
    DD_NEED_OK(t, dd_weight_files_open(&files, &dd_allocator_libc, folder, &t->err));
    spy s = {.ops = *b->ops, .real = b->ops, .groups = config.norm_num_groups};
    s.ops.group_norm = watched_group_norm;
    b->ops = &s.ops;
    DD_NEED_OK(t, dd_flux_vae_open(&vae, b, files, &config, &t->err));
    dd_tensor z = dd_tensor_3d((void *)(uintptr_t)latent, DD_DTYPE_F32, 16, 1, 1);
    DD_OK(t, dd_flux_vae_decode(vae, &z, rgb, &t->err));
    /* two per resnet (two in the middle, layers_per_block + 1 at each of four levels), attention, the last */
    DD_CHECK(t, config.level_count == 4 && s.calls == 2 * (2 + 4 * (config.layers_per_block + 1)) + 2);
    DD_CHECK(t, s.wrong_eps == 0);
    DD_CHECK(t, s.wrong_groups == 0);
    b->ops = s.real;
    dd_flux_vae_close(vae);
    dd_weight_files_close(files);
    dd_backend_close(b);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"group_norms_have_the_eps_of_diffusers", group_norms_have_the_eps_of_diffusers},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
