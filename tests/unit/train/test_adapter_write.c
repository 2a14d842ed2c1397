/* The adapter file that training writes is one that the reader accepts, for all options, and carries values and policy. */
#include <unistd.h>

#include "harness.h"
#include "train/adapter_write.h"
#include "unit/train/train_fixture.h"

static const char path[] = "/tmp/ddit-test-adapter-write.safetensors";

static void round_trip(dd_test *t, const dd_train_options *options) {
    fixture f;
    dd_adapter adapter = {0};
    DD_NEED_OK(t, fixture_open(&f, options, 1, 1, &t->err));
    const dd_param_list *list = f.m.params;
    for (int64_t i = 0; i < list->total; i++) f.m.values[i] = (float)(i % 31) * 0.125f;
    dd_adapter_about about = {.config = &f.m.config.transformer, .options = options, .base = "tiny", .init = "pinv-bilinear",
                              .guidance = "1,4", .steps_trained = 77};
    DD_OK(t, dd_adapter_write(path, list, f.m.values, &about, &t->err));
    DD_OK(t, dd_adapter_open(&adapter, &dd_allocator_libc, path, &t->err));
    if (adapter.file) {
        DD_OK(t, dd_adapter_check(&adapter, &f.m.config.transformer, &t->err));
        DD_CHECK(t, adapter.residual_linear == options->residual_linear && adapter.residual_hf == options->residual_hf);
        DD_CHECK(t, adapter.rank == options->rank && adapter.factor[1].present == options->factor[1]);
        DD_CHECK(t, strcmp(dd_safetensors_metadata(adapter.file, "steps_trained"), "77") == 0);
        DD_CHECK(t, dd_safetensors_metadata(adapter.file, "tau") == NULL);
        float *back = calloc((size_t)list->total, sizeof(float));
        DD_OK(t, dd_param_list_read(list, adapter.file, back, &t->err));
        for (int p = 0; p < list->count; p++) {
            size_t at = (size_t)list->items[p].offset, bytes = (size_t)list->items[p].count * sizeof(float);
            DD_CHECK(t, memcmp(back + at, f.m.values + at, bytes) == 0); /* multiples of an eighth fit bf16 */
        }
        free(back);
    }
    dd_adapter_close(&adapter);
    unlink(path);
    DD_CHECK(t, fixture_close(&f));
}

static void all_options(dd_test *t) {
    for (int i = 0; i < 12; i++) {
        dd_train_options o = fixture_options();
        o.residual_linear = i & 1;
        o.residual_hf = i & 2;
        o.factor[1] = i / 4 != 1;
        o.factor[2] = i / 4 != 2;
        if (i % 3 == 0) o.rank = 0, o.alpha = 0, o.lora_targets = 0;
        round_trip(t, &o);
    }
}

static void policy_is_kept(dd_test *t) {
    fixture f;
    dd_train_options options = fixture_options();
    options.alpha = 0.0625000075f; /* all that a float holds */
    dd_safetensors *old, *made;
    DD_NEED_OK(t, fixture_open(&f, &options, 1, 1, &t->err));
    DD_NEED_OK(t, dd_safetensors_open(&old, &dd_allocator_libc, "models/emoji/ddit-adapter.safetensors", &t->err));
    dd_adapter_about about = {.config = &f.m.config.transformer, .options = &options, .base = "", .init = "x", .guidance = "1",
                              .policy = old};
    DD_OK(t, dd_adapter_write(path, f.m.params, f.m.values, &about, &t->err));
    DD_NEED_OK(t, dd_safetensors_open(&made, &dd_allocator_libc, path, &t->err));
    static const char *const keys[] = {"tau", "tau_steps", "rho", "sigma_min", "anchor"};
    for (int i = 0; i < 5; i++) {
        const char *want = dd_safetensors_metadata(old, keys[i]), *got = dd_safetensors_metadata(made, keys[i]);
        DD_CHECK(t, (want == NULL) == (got == NULL) && (!want || strcmp(want, got) == 0));
    }
    DD_CHECK(t, strcmp(dd_safetensors_metadata(made, "alpha"), "0.0625000075") == 0);
    dd_safetensors_close(old);
    dd_safetensors_close(made);
    unlink(path);
    DD_CHECK(t, fixture_close(&f));
}

static void no_folder(dd_test *t) {
    fixture f;
    dd_train_options options = fixture_options();
    DD_NEED_OK(t, fixture_open(&f, &options, 1, 1, &t->err));
    dd_adapter_about about = {.config = &f.m.config.transformer, .options = &options, .base = "", .init = "x", .guidance = "1"};
    DD_FAILS(t, dd_adapter_write("/tmp/no-such-folder-ddit/a.safetensors", f.m.params, f.m.values, &about, &t->err),
             DDIT_ERR_OUTPUT_PATH, "does not exist");
    fixture_close(&f);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"every kind of adapter is read back", all_options},
        {"the policy of another adapter is kept", policy_is_kept},
        {"the folder is missing", no_folder},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
