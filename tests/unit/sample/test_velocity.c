/* One call of the transformer against the float64 model of tools/ddit_reference.py: base, adapter at uniform 2 and 4, mixed
 * layouts, cells over the edge, each kind of residual, and the free coarse step. Goldens:
 * tests/golden/adapter/velocity_NN.safetensors. */
#include "backend/registry.h"
#include "format/config.h"
#include "harness.h"
#include "sample/free_velocity.h"
#include "schedule/free_step.h"

enum { CASES = 17 };
#define TOLERANCE 2e-5 /* the bar; observed on ref: at most 1.8e-6 (torch float32 itself is 1e-6 from float64) */

/* Everything one golden needs. */
typedef struct fixture {
    dd_backend *b;
    dd_safetensors *golden;
    dd_model_folder config;
    dd_weight_files *files;
    dd_flux_dit *dit;
    dd_adapter adapter;
    dd_flux_run *run;
    dd_layout layout, small;
    float *memory[4]; /* latent, velocity, pooled, pooled velocity: backend memory */
    float sigma;
    int factor; /* of the free step; 0 = by layout */
} fixture;

static const char *meta(const fixture *f, const char *key) { return dd_safetensors_metadata(f->golden, key); }

static float *values_of(const dd_safetensors *file, const char *name, size_t *count) {
    const dd_tensor_entry *entry = dd_safetensors_find(file, name);
    float *out = malloc(entry->count * sizeof *out);
    dd_tensor_entry_to_f32(entry, out, NULL);
    if (count) *count = entry->count;
    return out;
}

static ddit_status open_model(fixture *f, ddit_err *err) {
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s", meta(f, "model"));
    DD_TRY(dd_model_folder_read(&f->config, &dd_allocator_libc, path, err));
    snprintf(path, sizeof path, "tests/golden/%s/transformer", meta(f, "model"));
    DD_TRY(dd_weight_files_open(&f->files, &dd_allocator_libc, path, err));
    DD_TRY(dd_flux_dit_open(&f->dit, f->b, &f->config.transformer, f->files, err));
    if (strcmp(meta(f, "adapter"), "none") == 0) return DDIT_OK;
    snprintf(path, sizeof path, "tests/golden/adapter/%s.safetensors", meta(f, "adapter"));
    DD_TRY(dd_adapter_open(&f->adapter, &dd_allocator_libc, path, err));
    DD_TRY(dd_adapter_check(&f->adapter, &f->config.transformer, err));
    return dd_flux_dit_add_adapter(f->dit, &f->adapter, err);
}

static ddit_status set_layout(fixture *f, dd_grid grid, ddit_err *err) {
    const char *text = meta(f, "layout");
    DD_TRY(dd_layout_init(&f->layout, &dd_allocator_libc, grid, err));
    if (strncmp(text, "uniform ", 8) == 0) dd_layout_set_uniform(&f->layout, atoi(text + 8));
    else if (strncmp(text, "free ", 5) == 0) {
        f->factor = atoi(text + 5);
        DD_TRY(dd_layout_init(&f->small, &dd_allocator_libc, (dd_grid){grid.rows / f->factor, grid.cols / f->factor, 2}, err));
        dd_layout_set_uniform(&f->small, 1);
    } else DD_TRY(dd_layout_set_string(&f->layout, text, err));
    return DDIT_OK;
}

static ddit_status open_run(fixture *f, ddit_err *err) {
    const dd_tensor_entry *t5 = dd_safetensors_find(f->golden, "t5"), *latent = dd_safetensors_find(f->golden, "latent");
    dd_grid grid = {(int)latent->shape[1] / 2, (int)latent->shape[2] / 2, 2};
    f->sigma = strtof(meta(f, "sigma"), NULL);
    DD_TRY(set_layout(f, grid, err));
    float time = f->factor ? dd_free_step_at(f->sigma, f->factor, 0).time : 1000.0f * f->sigma;
    dd_flux_run_params params = {.grid = grid, .text_tokens = (int)t5->shape[0], .branches = 1, .times = &time, .time_count = 1,
                                 .guidance = strtof(meta(f, "guidance"), NULL)};
    DD_TRY(dd_flux_run_create(&f->run, f->dit, &params, err));
    float *text = values_of(f->golden, "t5", NULL), *pooled = values_of(f->golden, "pooled", NULL);
    ddit_status status = dd_flux_run_condition(f->run, 0, text, pooled, err);
    free(text);
    free(pooled);
    for (int i = 0; i < 4 && status == DDIT_OK; i++)
        status = dd_op_alloc(f->b, (void **)&f->memory[i], latent->bytes, "a latent", err);
    if (status == DDIT_OK) status = dd_op_upload(f->b, f->memory[0], latent->data, latent->bytes, err);
    return status;
}

static ddit_status compute(fixture *f, ddit_err *err) {
    const int64_t *s = dd_safetensors_find(f->golden, "latent")->shape;
    dd_tensor z = dd_tensor_3d(f->memory[0], DD_DTYPE_F32, s[0], s[1], s[2]);
    dd_tensor velocity = dd_tensor_3d(f->memory[1], DD_DTYPE_F32, s[0], s[1], s[2]);
    if (!f->factor) return dd_flux_run_velocity(f->run, 0, 0, f->sigma, &f->layout, z, velocity, err);
    int k = f->factor;
    return dd_free_velocity(
        &(dd_free_velocity_args){.run = f->run,
                                 .factor = k,
                                 .sigma = f->sigma,
                                 .detail = strtof(meta(f, "detail"), NULL),
                                 .small = &f->small,
                                 .z = z,
                                 .velocity = velocity,
                                 .z_small = dd_tensor_3d(f->memory[2], DD_DTYPE_F32, s[0], s[1] / k, s[2] / k),
                                 .v_small = dd_tensor_3d(f->memory[3], DD_DTYPE_F32, s[0], s[1] / k, s[2] / k)},
        f->b, err);
}

static void close_fixture(fixture *f) {
    for (int i = 0; i < 4; i++) dd_op_free(f->b, f->memory[i]);
    dd_flux_run_free(f->run);
    dd_layout_deinit(&f->layout);
    dd_layout_deinit(&f->small);
    dd_flux_dit_close(f->dit);
    if (f->adapter.file) dd_adapter_close(&f->adapter);
    dd_weight_files_close(f->files);
    dd_safetensors_close(f->golden);
}

static void check_case(dd_test *t, dd_backend *b, const char *backend, int index) {
    fixture f = {.b = b};
    char path[128];
    snprintf(path, sizeof path, "tests/golden/adapter/velocity_%02d.safetensors", index);
    DD_NEED_OK(t, dd_safetensors_open(&f.golden, &dd_allocator_libc, path, &t->err));
    ddit_status status = open_model(&f, &t->err);
    if (status == DDIT_OK) status = open_run(&f, &t->err);
    if (status == DDIT_OK) status = compute(&f, &t->err);
    DD_OK(t, status);
    if (status == DDIT_OK) {
        size_t count;
        float *want = values_of(f.golden, "velocity", &count);
        double distance = dd_test_rel_l2(f.memory[1], want, count);
        if (getenv("DD_SHOW")) printf("%s %d %.2e %s\n", backend, index, distance, meta(&f, "what"));
        if (!(distance <= TOLERANCE))
            dd_test_fail(t, __FILE__, __LINE__, "%s, %s (%s): distance %.2e", backend, path, meta(&f, "what"), distance);
        free(want);
    }
    close_fixture(&f);
}

static void run_backend(dd_test *t, const char *name) {
    dd_backend *b;
    DD_NEED_OK(t, dd_backend_open(&b, name, DD_PRECISION_F32, 2, &dd_allocator_libc, &t->err));
    for (int i = 0; i < CASES; i++) check_case(t, b, name, i);
    dd_backend_close(b);
}

static void velocities_on_ref(dd_test *t) { run_backend(t, "ref"); }
static void velocities_on_cpu(dd_test *t) { run_backend(t, "cpu"); }

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"velocities_on_ref", velocities_on_ref},
        {"velocities_on_cpu", velocities_on_cpu},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
