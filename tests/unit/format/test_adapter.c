/* The adapter's reader: files made here for a model of hidden size 8 with 2 double and 1 single block. */
#include "format/adapter.h"

#include "base/mapped_file.h"
#include "format/safetensors_write.h"
#include "format_test.h"

enum { MAX_ITEMS = 64, HIDDEN = 8, MLP = 32, CHANNELS = 4, RANK = 2 };

/* An adapter being put together; tests change it before it is written. */
typedef struct made {
    dd_safetensors_item items[MAX_ITEMS];
    char names[MAX_ITEMS][96];
    size_t count;
    dd_safetensors_pair pairs[32];
    size_t pair_count;
} made;

static void add(made *m, const char *name, int rank, const int64_t *shape) {
    snprintf(m->names[m->count], sizeof m->names[0], "%s", name);
    dd_safetensors_item *item = &m->items[m->count];
    *item = (dd_safetensors_item){.name = m->names[m->count], .dtype = DD_DTYPE_BF16, .rank = rank};
    memcpy(item->shape, shape, (size_t)rank * sizeof *shape);
    m->count++;
}

static void set(made *m, const char *key, const char *value) {
    for (size_t i = 0; i < m->pair_count; i++) {
        if (strcmp(m->pairs[i].key, key) != 0) continue;
        if (value)
            m->pairs[i].value = value;
        else
            m->pairs[i] = m->pairs[--m->pair_count];
        return;
    }
    if (value) m->pairs[m->pair_count++] = (dd_safetensors_pair){key, value};
}

static dd_safetensors_item *find(made *m, const char *name) {
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->names[i], name) == 0) return &m->items[i];
    abort();
}

static void drop(made *m, const char *name) {
    dd_safetensors_item *item = find(m, name);
    memmove(m->names[item - m->items], m->names[m->count - 1], sizeof m->names[0]);
    const char *kept = item->name;
    *item = m->items[--m->count];
    item->name = kept;
}

static void add_lora(made *m, int factor, const char *module, int64_t in, int64_t out) {
    char name[96];
    snprintf(name, sizeof name, "ddit.x%d.lora.%s.A", factor, module);
    add(m, name, 2, (int64_t[]){RANK, in});
    snprintf(name, sizeof name, "ddit.x%d.lora.%s.B", factor, module);
    add(m, name, 2, (int64_t[]){out, RANK});
}

static void add_factor(made *m, int factor) {
    int64_t n = 2 * factor;
    char prefix[16], name[96];
    snprintf(prefix, sizeof prefix, "ddit.x%d", factor);
#define PART(part, rank, ...)                                                                                                  \
    do {                                                                                                                       \
        snprintf(name, sizeof name, "%s." part, prefix);                                                                       \
        add(m, name, rank, (int64_t[]){__VA_ARGS__});                                                                          \
    } while (0)
    PART("embed.weight", 4, HIDDEN, CHANNELS, n, n);
    PART("embed.bias", 1, HIDDEN);
    PART("deembed.weight", 4, CHANNELS, n, n, HIDDEN);
    PART("deembed.bias", 3, CHANNELS, n, n);
    PART("id", 1, HIDDEN);
    PART("res.weight", 2, CHANNELS, CHANNELS);
    PART("res.bias", 1, CHANNELS);
#undef PART
    add_lora(m, factor, "transformer_blocks.0.ff.net.0.proj", HIDDEN, MLP);
    add_lora(m, factor, "transformer_blocks.1.ff_context.net.2", MLP, HIDDEN);
    add_lora(m, factor, "single_transformer_blocks.0.proj_out", HIDDEN + MLP, HIDDEN);
    add_lora(m, factor, "single_transformer_blocks.0.proj_mlp", HIDDEN, MLP);
}

static const dd_flux_config model = {.in_channels = 16,
                                     .out_channels = 16,
                                     .num_layers = 2,
                                     .num_single_layers = 1,
                                     .hidden = HIDDEN,
                                     .mlp_hidden = MLP,
                                     .patch = 2,
                                     .latent_channels = CHANNELS};

static void make(made *m) {
    memset(m, 0, sizeof *m);
    add_factor(m, 2);
    add_factor(m, 4);
    static const dd_safetensors_pair pairs[] = {
        {"format", "ddit-adapter"},
        {"version", "1"},
        {"arch", "flux"},
        {"patch", "2"},
        {"factors", "2,4"},
        {"hidden", "8"},
        {"rank", "2"},
        {"alpha", "4"},
        {"position", "center"},
        {"id_scope", "image"},
        {"residual", "linear+hf"},
        {"tau", "0.02"},
        {"rho", "0.4"},
        {"sched_order", "2"},
        {"std", "joint"},
        {"channels_in", "4"},
        {"channels_out", "4"},
        {"sigma_min", "2:0.3,4:0.9"},
        {"base", "tiny"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) m->pairs[m->pair_count++] = pairs[i];
}

/* Writes, opens and, if that works, checks against the model. The adapter stays open on success. */
static ddit_status open_made(const made *m, dd_adapter *adapter, const dd_flux_config *against, ddit_err *err) {
    char folder[64], path[256];
    make_folder(folder);
    in_folder(path, folder, "adapter.safetensors");
    ddit_status status = dd_safetensors_write(&dd_allocator_libc, path, m->items, m->count, m->pairs, m->pair_count, err);
    if (status == DDIT_OK) status = dd_adapter_open(adapter, &dd_allocator_libc, path, err);
    if (status == DDIT_OK && (status = dd_adapter_check(adapter, against, err)) != DDIT_OK) dd_adapter_close(adapter);
    remove_folder(folder);
    return status;
}

static void reads_everything(dd_test *t) {
    made m;
    dd_adapter a;
    make(&m);
    DD_NEED_OK(t, open_made(&m, &a, &model, &t->err));
    DD_CHECK(t, a.hidden == 8 && a.patch == 2 && a.channels_in == 4 && a.channels_out == 4 && a.rank == 2 && a.alpha == 4);
    DD_CHECK(t, a.residual_linear && a.residual_hf && a.order == 2 && a.tau == 0.02f && a.rho == 0.4f && a.tau_steps == 50);
    DD_CHECK(t, a.tau_region == 0.02f && a.text_tokens == 0 && a.anchor == 0);
    DD_CHECK(t, strcmp(a.arch, "flux") == 0 && strcmp(a.base, "tiny") == 0);
    DD_CHECK(t, a.base_hash[0] == '\0' && a.sigma_min[0] == 0 && a.sigma_min[1] == 0.3 && a.sigma_min[2] == 0.9);
    DD_CHECK(t, !a.factor[0].present && a.factor[1].present && a.factor[2].present && a.factor[2].has_lora);
    DD_CHECK(t, a.factor[2].embed_weight->shape[3] == 8 && a.factor[1].deembed_bias->rank == 3 && a.factor[1].id);
    DD_CHECK(t, a.factor[1].res_weight && a.factor[1].res_bias && a.factor[1].embed_bias && a.factor[1].deembed_weight);
    const dd_tensor_entry *down, *up;
    DD_CHECK(t, dd_adapter_lora(&a, 4, "single_transformer_blocks.0.proj_out", &down, &up));
    DD_CHECK(t, down && up && down->shape[1] == HIDDEN + MLP && up->shape[0] == HIDDEN);
    DD_CHECK(t, !dd_adapter_lora(&a, 4, "single_transformer_blocks.1.proj_out", &down, &up) && !down && !up);
    char name[400];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    DD_CHECK(t, !dd_adapter_lora(&a, 2, name, &down, &up));
    dd_adapter_close(&a);
    dd_adapter_close(&a); /* closing twice is harmless */
}

static void the_untrained_start(dd_test *t) {
    made m;
    dd_adapter a;
    memset(&m, 0, sizeof m);
    add(&m, "ddit.x2.embed.weight", 4, (int64_t[]){HIDDEN, CHANNELS, 4, 4});
    add(&m, "ddit.x2.embed.bias", 1, (int64_t[]){HIDDEN});
    add(&m, "ddit.x2.deembed.weight", 4, (int64_t[]){CHANNELS, 4, 4, HIDDEN});
    add(&m, "ddit.x2.deembed.bias", 3, (int64_t[]){CHANNELS, 4, 4});
    set(&m, "format", "ddit-adapter"), set(&m, "version", "1"), set(&m, "arch", "flux");
    DD_NEED_OK(t, open_made(&m, &a, &model, &t->err));
    DD_CHECK(t, a.factor[1].present && !a.factor[2].present && !a.factor[1].has_lora && !a.factor[1].id && a.rank == 0);
    DD_CHECK(t, !a.residual_linear && !a.residual_hf && isnan(a.tau) && isnan(a.rho) && isnan(a.tau_region) && a.order == 3);
    DD_CHECK(t, a.hidden == HIDDEN && a.channels_in == CHANNELS && a.sigma_min[1] == 0);
    dd_adapter_close(&a);
}

static void optional_metadata(dd_test *t) {
    made m;
    dd_adapter a;
    make(&m);
    set(&m, "rank", NULL), set(&m, "alpha", NULL), set(&m, "residual", NULL), set(&m, "factors", "4,2");
    set(&m, "text_tokens", "128"), set(&m, "tau_region", "0.5"), set(&m, "tau_steps", "28"), set(&m, "sigma_min", NULL);
    set(&m, "rho", ""), set(&m, "anchor", "6");
    DD_NEED_OK(t, open_made(&m, &a, &model, &t->err));
    DD_CHECK(t, a.rank == 2 && a.alpha == 2 && a.residual_linear && !a.residual_hf && a.text_tokens == 128);
    DD_CHECK(t, a.tau_region == 0.5f && a.tau_steps == 28 && a.sigma_min[2] == 0 && isnan(a.rho) && a.anchor == 6);
    dd_adapter_close(&a);
    set(&m, "residual", "none"), set(&m, "factors", NULL);
    DD_NEED_OK(t, open_made(&m, &a, &model, &t->err));
    DD_CHECK(t, !a.residual_linear && !a.factor[1].res_weight);
    dd_adapter_close(&a);
    set(&m, "residual", "hf");
    DD_NEED_OK(t, open_made(&m, &a, &model, &t->err));
    DD_CHECK(t, !a.residual_linear && a.residual_hf);
    dd_adapter_close(&a);
}

static void bad_metadata(dd_test *t) {
    static const struct {
        const char *key, *value;
        ddit_status code;
    } bad[] = {
        {"format", NULL, DDIT_ERR_FORMAT},
        {"format", "pt", DDIT_ERR_FORMAT},
        {"version", "2", DDIT_ERR_UNSUPPORTED},
        {"version", NULL, DDIT_ERR_UNSUPPORTED},
        {"arch", "wan", DDIT_ERR_UNSUPPORTED},
        {"position", "corner", DDIT_ERR_UNSUPPORTED},
        {"id_scope", "all", DDIT_ERR_UNSUPPORTED},
        {"std", "channel", DDIT_ERR_UNSUPPORTED},
        {"residual", "cubic", DDIT_ERR_UNSUPPORTED},
        {"patch", "0", DDIT_ERR_FORMAT},
        {"patch", "two", DDIT_ERR_FORMAT},
        {"rank", "-1", DDIT_ERR_FORMAT},
        {"rank", "2.5", DDIT_ERR_FORMAT},
        {"alpha", "1e9", DDIT_ERR_FORMAT},
        {"tau", "nan", DDIT_ERR_FORMAT},
        {"tau", "-0.1", DDIT_ERR_FORMAT},
        {"rho", "1.5", DDIT_ERR_FORMAT},
        {"rho", "0x1", DDIT_ERR_FORMAT},
        {"sched_order", "4", DDIT_ERR_FORMAT},
        {"tau_steps", "0", DDIT_ERR_FORMAT},
        {"sigma_min", "3:0.5", DDIT_ERR_FORMAT},
        {"factors", "2", DDIT_ERR_FORMAT},
        {"factors", "2,4,8", DDIT_ERR_FORMAT},
        {"text_tokens", "-3", DDIT_ERR_FORMAT},
        {"anchor", "-1", DDIT_ERR_FORMAT},
        {"anchor", "1001", DDIT_ERR_FORMAT},
        {"anchor", "often", DDIT_ERR_FORMAT},
    };
    made m;
    dd_adapter a;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make(&m);
        set(&m, bad[i].key, bad[i].value);
        DD_FAILS(t, open_made(&m, &a, &model, &t->err), bad[i].code, bad[i].key);
        DD_CHECK(t, !a.file && strstr(t->err.text, "adapter.safetensors") && strstr(t->err.text, "expected"));
    }
}

/* Changes one tensor, then expects a sentence that names it. */
static void expect_bad_shape(dd_test *t, const char *name, int axis, int64_t size, ddit_status code, const char *part) {
    made m;
    dd_adapter a;
    make(&m);
    find(&m, name)->shape[axis] = size;
    DD_FAILS(t, open_made(&m, &a, &model, &t->err), code, part);
    DD_CHECK(t, strstr(t->err.text, "adapter.safetensors") && strstr(t->err.text, "expected"));
}

static void bad_tensors(dd_test *t) {
    expect_bad_shape(t, "ddit.x2.embed.weight", 0, 9, DDIT_ERR_FORMAT, "[8, 4, 4, 4]");
    expect_bad_shape(t, "ddit.x2.embed.weight", 1, 3, DDIT_ERR_FORMAT, "found shape [8, 3, 4, 4]");
    expect_bad_shape(t, "ddit.x4.embed.weight", 2, 4, DDIT_ERR_FORMAT, "[8, 4, 8, 8]");
    expect_bad_shape(t, "ddit.x4.embed.bias", 0, 7, DDIT_ERR_FORMAT, "embed.bias");
    expect_bad_shape(t, "ddit.x2.deembed.weight", 3, 7, DDIT_ERR_FORMAT, "deembed.weight");
    expect_bad_shape(t, "ddit.x2.deembed.bias", 0, 5, DDIT_ERR_FORMAT, "deembed.bias");
    expect_bad_shape(t, "ddit.x2.id", 0, 5, DDIT_ERR_FORMAT, "ddit.x2.id");
    expect_bad_shape(t, "ddit.x2.res.weight", 0, 5, DDIT_ERR_FORMAT, "res.weight");
    expect_bad_shape(t, "ddit.x2.res.bias", 0, 5, DDIT_ERR_FORMAT, "res.bias");
    expect_bad_shape(t, "ddit.x2.lora.transformer_blocks.0.ff.net.0.proj.A", 0, 3, DDIT_ERR_FORMAT, "[2, in]");
    expect_bad_shape(t, "ddit.x2.lora.transformer_blocks.0.ff.net.0.proj.B", 1, 3, DDIT_ERR_FORMAT, "[out, 2]");
    static const char *const needed[] = {"ddit.x2.embed.weight",
                                         "ddit.x2.embed.bias",
                                         "ddit.x4.deembed.weight",
                                         "ddit.x4.deembed.bias",
                                         "ddit.x2.res.weight",
                                         "ddit.x4.res.bias",
                                         "ddit.x2.lora.transformer_blocks.0.ff.net.0.proj.A",
                                         "ddit.x2.lora.transformer_blocks.0.ff.net.0.proj.B"};
    made m;
    dd_adapter a;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        make(&m);
        drop(&m, needed[i]);
        DD_FAILS(t, open_made(&m, &a, &model, &t->err), DDIT_ERR_FORMAT, "found");
        DD_CHECK(t, i > 5 || strstr(t->err.text, needed[i]));
    }
    static const char *const unknown[] = {"other",           "ddit.x8.id", "ddit.x2.more", "ddit.x2id", "ddit.x2.lora.a.C",
                                          "ddit.x2.lora..A", "ddit.x"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        make(&m);
        add(&m, unknown[i], 1, (int64_t[]){HIDDEN});
        DD_FAILS(t, open_made(&m, &a, &model, &t->err), DDIT_ERR_FORMAT, unknown[i]);
    }
    make(&m);
    find(&m, "ddit.x2.id")->dtype = DD_DTYPE_I32;
    DD_FAILS(t, open_made(&m, &a, &model, &t->err), DDIT_ERR_UNSUPPORTED, "I32");
    m.count = 0;
    DD_FAILS(t, open_made(&m, &a, &model, &t->err), DDIT_ERR_FORMAT, "no tensors");
    make(&m);
    set(&m, "hidden", "16");
    DD_FAILS(t, open_made(&m, &a, &model, &t->err), DDIT_ERR_FORMAT, "[16, 4, 4, 4]");
}

static void other_models(dd_test *t) {
    made m;
    dd_adapter a;
    make(&m);
    dd_flux_config other = model;
    other.hidden = 16;
    DD_FAILS(t, open_made(&m, &a, &other, &t->err), DDIT_ERR_MISMATCH, "hidden size 8, expected 16");
    DD_CHECK(t, strstr(t->err.text, "--adapter none") && strstr(t->err.text, "adapter.safetensors"));
    other = model, other.latent_channels = 16;
    DD_FAILS(t, open_made(&m, &a, &other, &t->err), DDIT_ERR_MISMATCH, "input channels 4, expected 16");
    other = model, other.out_channels = 64;
    DD_FAILS(t, open_made(&m, &a, &other, &t->err), DDIT_ERR_MISMATCH, "output channels 4, expected 16");
    other = model, other.num_layers = 1;
    DD_FAILS(t, open_made(&m, &a, &other, &t->err), DDIT_ERR_MISMATCH, "transformer_blocks.1");
    DD_CHECK(t, strstr(t->err.text, "another model"));
    other = model, other.num_layers = 3;
    DD_FAILS(t, open_made(&m, &a, &other, &t->err), DDIT_ERR_MISMATCH, "transformer_blocks.2");
    other = model, other.num_single_layers = 2;
    DD_FAILS(t, open_made(&m, &a, &other, &t->err), DDIT_ERR_MISMATCH, "single_transformer_blocks.1");
    other = model, other.mlp_hidden = 24;
    DD_FAILS(t, open_made(&m, &a, &other, &t->err), DDIT_ERR_MISMATCH, "as the model has");
    static const char *const modules[] = {
        "transformer_blocks.0.attn.to_q",     "transformer_blocks.x.ff.net.2", "blocks.0.ffn.net.2",
        "transformer_blocks.01.ff.net.2",     "transformer_blocks.0ff.net.2",  "single_transformer_blocks.0.ff.net.2",
        "transformer_blocks.9999999.ff.net.2"};
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        make(&m);
        add_lora(&m, 2, modules[i], HIDDEN, HIDDEN);
        DD_FAILS(t, open_made(&m, &a, &model, &t->err), DDIT_ERR_UNSUPPORTED, modules[i]);
    }
    make(&m);
    add_lora(&m, 4, "transformer_blocks.12.ff.net.2", MLP, HIDDEN);
    DD_FAILS(t, open_made(&m, &a, &model, &t->err), DDIT_ERR_MISMATCH, "blocks below 2");
}

static void embedded_adapter(dd_test *t) {
    dd_flux_config c;
    dd_adapter a;
    char *data;
    size_t size;
    const char *path = "models/emoji/ddit-adapter.safetensors";
    if (access(path, F_OK) != 0) {
        dd_test_skip(t, "models/emoji is not here");
        return;
    }
    DD_NEED_OK(t, dd_flux_config_read(&c, &dd_allocator_libc, "models/emoji/transformer/config.json", &t->err));
    DD_NEED_OK(t, dd_adapter_open(&a, &dd_allocator_libc, path, &t->err));
    DD_OK(t, dd_adapter_check(&a, &c, &t->err));
    DD_CHECK(t, a.rank == 32 && a.factor[1].has_lora && a.factor[2].has_lora && !a.residual_linear && a.residual_hf);
    dd_adapter_close(&a);
    DD_NEED_OK(t, dd_read_file(&dd_allocator_libc, path, (size_t)1 << 30, &data, &size, &t->err));
    DD_OK(t, dd_adapter_open_memory(&a, &dd_allocator_libc, data, size, "memory", &t->err));
    dd_adapter_close(&a);
    DD_FAILS(t, dd_adapter_open_memory(&a, &dd_allocator_libc, data, size - 1, "memory", &t->err), DDIT_ERR_FORMAT, "memory");
    dd_free(&dd_allocator_libc, data);
    DD_FAILS(t,
             dd_adapter_open(&a, &dd_allocator_libc, "models/emoji/transformer/diffusion_pytorch_model.safetensors", &t->err),
             DDIT_ERR_FORMAT, "ddit-adapter");
    DD_FAILS(t, dd_adapter_open(&a, &dd_allocator_libc, "models/emoji/no", &t->err), DDIT_ERR_NOT_FOUND, "models/emoji/no");
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"reads_everything", reads_everything},
        {"the_untrained_start", the_untrained_start},
        {"optional_metadata", optional_metadata},
        {"bad_metadata", bad_metadata},
        {"bad_tensors", bad_tensors},
        {"other_models", other_models},
        {"embedded_adapter", embedded_adapter},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
