#include "pipeline/picture_encode.h"

#include "backend/registry.h"
#include "harness.h"

/* From file to latent, mirrored or not; a picture that cannot be read is named. */
static void encodes(dd_test *t) {
    dd_backend *b;
    dd_weight_files *files;
    dd_vae_config config;
    dd_flux_vae_encoder *e;
    float plain[5 * 4 * 6], mirrored[5 * 4 * 6];
    DD_NEED_OK(t, dd_backend_open(&b, "ref", DD_PRECISION_F32, 1, &dd_allocator_libc, &t->err));
    DD_NEED_OK(t, dd_vae_config_read(&config, &dd_allocator_libc, "tests/golden/vae/vae/config.json", &t->err));
    DD_NEED_OK(t, dd_weight_files_open(&files, &dd_allocator_libc, "tests/golden/vae/vae", &t->err));
    DD_NEED_OK(t, dd_flux_vae_encoder_open(&e, b, files, &config, &t->err));
    const char *picture = "tests/golden/picture/rgb.png";
    DD_OK(t, dd_picture_encode(e, &dd_allocator_libc, picture, 24, 16, false, plain, &t->err));
    DD_OK(t, dd_picture_encode(e, &dd_allocator_libc, picture, 24, 16, true, mirrored, &t->err));
    DD_CHECK(t, isfinite(plain[0]) && isfinite(mirrored[0]) && dd_test_rel_l2(plain, mirrored, 120) > 0.01);
    DD_FAILS(t, dd_picture_encode(e, &dd_allocator_libc, "README.md", 24, 16, false, plain, &t->err), DDIT_ERR_FORMAT,
             "README.md");
    DD_FAILS(t, dd_picture_encode(e, &dd_allocator_libc, picture, 23, 16, false, plain, &t->err), DDIT_ERR_ARGUMENT, "23 x 16");
    dd_flux_vae_encoder_close(e);
    dd_weight_files_close(files);
    dd_backend_close(b);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {{"encodes", encodes}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
