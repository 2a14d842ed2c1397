#include "format/adapter.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/factor_list.h"
#include "format/json_read.h"

enum { NAME_SIZE = 320, MAX_WIDTH = 65536 };

/* A decimal number in the spelling of JSON, whatever the locale. */
static bool parse_number(const char *text, size_t length, double *out) {
    json_t *value = json_loadb(text, length, JSON_DECODE_ANY, NULL);
    bool ok = json_is_number(value);
    if (ok) *out = json_number_value(value);
    json_decref(value);
    return ok;
}

/* Metadata. The first failure stays in `status`, as in json_read.h. */

typedef struct meta_reader {
    const dd_safetensors *file;
    ddit_err *err;
    ddit_status status;
} meta_reader;

static void fail_meta(meta_reader *r, ddit_status code, const char *key, const char *found, const char *expected) {
    char shown[DD_SHOW_SIZE];
    if (r->status != DDIT_OK) return;
    r->status = dd_fail(r->err, code, "%s: adapter metadata \"%s\": found %s%s%s, expected %s", dd_safetensors_path(r->file),
                        key, found ? "\"" : "", found ? dd_show(shown, found) : "nothing", found ? "\"" : "", expected);
}

static double meta_number(meta_reader *r, const char *key, double fallback, double min, double max) {
    const char *text = dd_safetensors_metadata(r->file, key);
    double value;
    if (!text || text[0] == '\0') return fallback;
    if (parse_number(text, strlen(text), &value) && value >= min && value <= max) return value;
    char expected[80];
    snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
    fail_meta(r, DDIT_ERR_FORMAT, key, text, expected);
    return fallback;
}

static int meta_int(meta_reader *r, const char *key, int fallback, int min, int max) {
    double value = meta_number(r, key, fallback, min, max);
    if (value != floor(value)) fail_meta(r, DDIT_ERR_FORMAT, key, dd_safetensors_metadata(r->file, key), "an integer");
    return (int)value;
}

static const char *meta_string(const meta_reader *r, const char *key) {
    const char *text = dd_safetensors_metadata(r->file, key);
    return text ? text : "";
}

/* Keys with one meaning implemented; absent means that one, unless it is required. */
static void meta_expect(meta_reader *r, const char *key, const char *expected, bool required) {
    const char *text = dd_safetensors_metadata(r->file, key);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"%s\"", expected);
    if (!text ? required : strcmp(text, expected) != 0)
        fail_meta(r, required && strcmp(key, "format") == 0 ? DDIT_ERR_FORMAT : DDIT_ERR_UNSUPPORTED, key, text, wanted);
}

static void read_residual(dd_adapter *adapter, meta_reader *r) {
    const char *text = dd_safetensors_metadata(r->file, "residual");
    if (!text) {
        adapter->residual_linear =
            dd_safetensors_find(r->file, "ddit.x2.res.weight") || dd_safetensors_find(r->file, "ddit.x4.res.weight");
        return;
    }
    adapter->residual_linear = strcmp(text, "linear") == 0 || strcmp(text, "linear+hf") == 0;
    adapter->residual_hf = strcmp(text, "hf") == 0 || strcmp(text, "linear+hf") == 0;
    if (!adapter->residual_linear && !adapter->residual_hf && strcmp(text, "none") != 0)
        fail_meta(r, DDIT_ERR_UNSUPPORTED, "residual", text, "none, linear, hf or linear+hf");
}

static ddit_status read_metadata(dd_adapter *adapter, ddit_err *err) {
    meta_reader r = {adapter->file, err, DDIT_OK};
    meta_expect(&r, "format", "ddit-adapter", true);
    meta_expect(&r, "version", "1", true);
    meta_expect(&r, "arch", "flux", true);
    meta_expect(&r, "position", "center", false);
    meta_expect(&r, "id_scope", "image", false);
    meta_expect(&r, "std", "joint", false);
    adapter->arch = meta_string(&r, "arch");
    adapter->base = meta_string(&r, "base");
    adapter->base_hash = meta_string(&r, "base_hash");
    adapter->patch = meta_int(&r, "patch", 2, 1, 16);
    adapter->hidden = meta_int(&r, "hidden", 0, 0, MAX_WIDTH); /* 0: whatever the tensors say */
    adapter->channels_in = meta_int(&r, "channels_in", 0, 0, 1024);
    adapter->channels_out = meta_int(&r, "channels_out", 0, 0, 1024);
    adapter->rank = meta_int(&r, "rank", 0, 0, MAX_WIDTH);
    adapter->alpha = (float)meta_number(&r, "alpha", NAN, 0, 1e6);
    adapter->order = meta_int(&r, "sched_order", 3, 1, 3);
    adapter->tau = (float)meta_number(&r, "tau", NAN, 0, 1e6);
    adapter->rho = (float)meta_number(&r, "rho", NAN, 0, 1);
    adapter->tau_steps = meta_int(&r, "tau_steps", 50, 1, 100000);
    adapter->tau_region = (float)meta_number(&r, "tau_region", adapter->tau, 0, 1e6);
    adapter->anchor = meta_int(&r, "anchor", 0, 0, 1000);
    adapter->text_tokens = meta_int(&r, "text_tokens", 0, 0, 65536);
    read_residual(adapter, &r);
    DD_TRY(r.status);
    const char *floors = meta_string(&r, "sigma_min");
    if (floors[0] == '\0' || dd_sigma_min_parse(adapter->sigma_min, floors, NULL) == DDIT_OK) return DDIT_OK;
    fail_meta(&r, DDIT_ERR_FORMAT, "sigma_min", floors, "factors with numbers from 0 to 1 such as 2:0.3,4:0.9");
    return r.status;
}

/* Tensors */

static ddit_status fail_shape(const dd_tensor_entry *entry, const char *expected, ddit_err *err) {
    char shape[100], shown[DD_SHOW_SIZE];
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: adapter tensor \"%s\" at offset %" PRIu64 ": found shape %s, expected %s",
                   dd_safetensors_path(entry->file), dd_show(shown, entry->name), entry->offset,
                   dd_shape_text(shape, sizeof shape, entry->rank, entry->shape), expected);
}

/* The tensor ddit.xF.part with the given shape, where -1 stands for any size up to MAX_WIDTH. *out is NULL if there is none. */
static ddit_status take(const dd_adapter *adapter, int factor, const char *part, int rank, const int64_t *shape,
                        const dd_tensor_entry **out, ddit_err *err) {
    char name[64], expected[100];
    snprintf(name, sizeof name, "ddit.x%d.%s", factor, part);
    *out = dd_safetensors_find(adapter->file, name);
    if (!*out) return DDIT_OK;
    bool fits = (*out)->rank == rank;
    for (int i = 0; fits && i < rank; i++) {
        int64_t size = (*out)->shape[i];
        fits = shape[i] < 0 ? size > 0 && size <= MAX_WIDTH : size == shape[i];
    }
    return fits ? DDIT_OK : fail_shape(*out, dd_shape_text(expected, sizeof expected, rank, shape), err);
}

static ddit_status fail_missing(const dd_adapter *adapter, int factor, const char *part, ddit_err *err) {
    return dd_fail(err, DDIT_ERR_FORMAT,
                   "%s: found no tensor \"ddit.x%d.%s\", expected it because the file has others of factor %d",
                   dd_safetensors_path(adapter->file), factor, part, factor);
}

static int64_t known(int size) { return size > 0 ? size : -1; }

static ddit_status read_factor(dd_adapter *adapter, int index, ddit_err *err) {
    dd_adapter_factor *f = &adapter->factor[index];
    int factor = 1 << index;
    int64_t n = (int64_t)adapter->patch * factor;
    DD_TRY(take(adapter, factor, "embed.weight", 4, (int64_t[]){known(adapter->hidden), known(adapter->channels_in), n, n},
                &f->embed_weight, err));
    if (!f->embed_weight) return fail_missing(adapter, factor, "embed.weight", err);
    int64_t d = adapter->hidden = (int)f->embed_weight->shape[0];
    adapter->channels_in = (int)f->embed_weight->shape[1];
    DD_TRY(take(adapter, factor, "deembed.weight", 4, (int64_t[]){known(adapter->channels_out), n, n, d}, &f->deembed_weight,
                err));
    if (!f->deembed_weight) return fail_missing(adapter, factor, "deembed.weight", err);
    int64_t c = adapter->channels_out = (int)f->deembed_weight->shape[0];
    DD_TRY(take(adapter, factor, "embed.bias", 1, &d, &f->embed_bias, err));
    DD_TRY(take(adapter, factor, "deembed.bias", 3, (int64_t[]){c, n, n}, &f->deembed_bias, err));
    DD_TRY(take(adapter, factor, "id", 1, &d, &f->id, err));
    DD_TRY(take(adapter, factor, "res.weight", 2, (int64_t[]){c, adapter->channels_in}, &f->res_weight, err));
    DD_TRY(take(adapter, factor, "res.bias", 1, &c, &f->res_bias, err));
    if (!f->embed_bias) return fail_missing(adapter, factor, "embed.bias", err);
    if (!f->deembed_bias) return fail_missing(adapter, factor, "deembed.bias", err);
    if (adapter->residual_linear && !f->res_weight) return fail_missing(adapter, factor, "res.weight", err);
    if (adapter->residual_linear && !f->res_bias) return fail_missing(adapter, factor, "res.bias", err);
    if (!adapter->residual_linear) f->res_weight = f->res_bias = NULL;
    return DDIT_OK;
}

/* "ddit.x2.lora.MODULE.A": index of the factor, the module and which of the two. False for other names. */
static bool split_lora_name(const char *name, int *index, char module[NAME_SIZE], char *which) {
    size_t length = strlen(name);
    const size_t begin = strlen("ddit.xF.lora.");
    if (strncmp(name, "ddit.x", 6) != 0 || (name[6] != '2' && name[6] != '4') || strncmp(name + 7, ".lora.", 6) != 0)
        return false;
    if (length < begin + 3 || length >= NAME_SIZE || name[length - 2] != '.') return false;
    *index = name[6] == '2' ? 1 : 2;
    *which = name[length - 1];
    if (*which != 'A' && *which != 'B') return false;
    memcpy(module, name + begin, length - begin - 2);
    module[length - begin - 2] = '\0';
    return true;
}

/* A [r, in] and B [out, r] must both be there, with the one rank of the file. */
static ddit_status check_lora(dd_adapter *adapter, const dd_tensor_entry *entry, int index, const char *module, char which,
                              ddit_err *err) {
    char shape[64], shown[DD_SHOW_SIZE];
    const dd_tensor_entry *down, *up;
    if (!dd_adapter_lora(adapter, 1 << index, module, &down, &up))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found \"%s\" without its other half, expected both .A and .B",
                       dd_safetensors_path(adapter->file), dd_show(shown, entry->name));
    int64_t rank = entry->rank == 2 ? entry->shape[which == 'A' ? 0 : 1] : 0;
    if (adapter->rank == 0 && rank > 0 && rank <= MAX_WIDTH) adapter->rank = (int)rank;
    snprintf(shape, sizeof shape, which == 'A' ? "[%d, in]" : "[out, %d]", adapter->rank);
    if (entry->rank != 2 || adapter->rank == 0 || rank != adapter->rank) return fail_shape(entry, shape, err);
    adapter->factor[index].has_lora = true;
    return DDIT_OK;
}

/* The tensors of a factor besides its LoRA. */
static bool known_part(const char *name) {
    static const char *const known_parts[] = {"embed.weight", "embed.bias", "deembed.weight", "deembed.bias",
                                              "id",           "res.weight", "res.bias"};
    for (size_t i = 0; i < sizeof known_parts / sizeof *known_parts; i++)
        if (strcmp(name, known_parts[i]) == 0) return true;
    return false;
}

/* Every tensor of the file must have a meaning, and a dtype that converts. Finds which factors there are. */
static ddit_status read_names(dd_adapter *adapter, ddit_err *err) {
    for (size_t i = 0; i < dd_safetensors_count(adapter->file); i++) {
        const dd_tensor_entry *entry = dd_safetensors_at(adapter->file, i);
        const char *name = entry->name;
        char module[NAME_SIZE], which, shown[DD_SHOW_SIZE];
        int index = 0;
        if (entry->dtype != DD_DTYPE_BF16 && entry->dtype != DD_DTYPE_F16 && entry->dtype != DD_DTYPE_F32)
            return dd_fail(err, DDIT_ERR_UNSUPPORTED, "%s: adapter tensor \"%s\": found dtype %s, expected BF16, F16 or F32",
                           dd_safetensors_path(adapter->file), dd_show(shown, name), entry->dtype_name);
        if (split_lora_name(name, &index, module, &which)) {
            DD_TRY(check_lora(adapter, entry, index, module, which, err));
        } else if (strncmp(name, "ddit.x", 6) == 0 && (name[6] == '2' || name[6] == '4') && name[7] == '.' &&
                   known_part(name + 8)) {
            index = name[6] == '2' ? 1 : 2;
        } else {
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s: found a tensor \"%s\", expected only ddit.x2. and ddit.x4. embed, deembed, id, res "
                           "and lora (is this an adapter?)",
                           dd_safetensors_path(adapter->file), dd_show(shown, name));
        }
        adapter->factor[index].present = true;
    }
    return DDIT_OK;
}

/* The metadata key "factors" must list exactly the factors that are there. */
static ddit_status check_factors(const dd_adapter *adapter, ddit_err *err) {
    const char *text = dd_safetensors_metadata(adapter->file, "factors");
    bool two = adapter->factor[1].present, four = adapter->factor[2].present;
    const char *found = two && four ? "2,4" : two ? "2" : four ? "4" : "";
    char shown[DD_SHOW_SIZE];
    if (!two && !four)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found no tensors, expected those of factor 2 or 4",
                       dd_safetensors_path(adapter->file));
    if (!text || strcmp(text, found) == 0 || (two && four && strcmp(text, "4,2") == 0)) return DDIT_OK;
    return dd_fail(err, DDIT_ERR_FORMAT,
                   "%s: adapter metadata \"factors\": found \"%s\", expected \"%s\", the factors of its tensors",
                   dd_safetensors_path(adapter->file), dd_show(shown, text), found);
}

static ddit_status read_adapter(dd_adapter *adapter, ddit_err *err) {
    DD_TRY(read_metadata(adapter, err));
    DD_TRY(read_names(adapter, err));
    DD_TRY(check_factors(adapter, err));
    for (int i = 1; i < DD_ADAPTER_FACTORS; i++)
        if (adapter->factor[i].present) DD_TRY(read_factor(adapter, i, err));
    if (isnan(adapter->alpha)) adapter->alpha = (float)adapter->rank;
    return DDIT_OK;
}

static ddit_status finish(dd_adapter *adapter, ddit_status status, ddit_err *err) {
    if (status == DDIT_OK) status = read_adapter(adapter, err);
    if (status != DDIT_OK) dd_adapter_close(adapter);
    return status;
}

ddit_status dd_adapter_open(dd_adapter *adapter, const dd_allocator *a, const char *path, ddit_err *err) {
    *adapter = (dd_adapter){0};
    return finish(adapter, dd_safetensors_open(&adapter->file, a, path, err), err);
}

ddit_status dd_adapter_open_memory(dd_adapter *adapter, const dd_allocator *a, const void *data, size_t size, const char *label,
                                   ddit_err *err) {
    *adapter = (dd_adapter){0};
    return finish(adapter, dd_safetensors_open_memory(&adapter->file, a, data, size, label, err), err);
}

void dd_adapter_close(dd_adapter *adapter) {
    dd_safetensors_close(adapter->file);
    *adapter = (dd_adapter){0};
}

bool dd_adapter_lora(const dd_adapter *adapter, int factor, const char *module, const dd_tensor_entry **down,
                     const dd_tensor_entry **up) {
    char name[NAME_SIZE];
    int length = snprintf(name, sizeof name, "ddit.x%d.lora.%s.A", factor, module);
    *down = *up = NULL;
    if (length < 0 || (size_t)length >= sizeof name) return false;
    *down = dd_safetensors_find(adapter->file, name);
    name[length - 1] = 'B';
    *up = dd_safetensors_find(adapter->file, name);
    if (*down && *up) return true;
    *down = *up = NULL;
    return false;
}

/* Fitting a model */

/* The linear layers of a block that may carry LoRA, with their sides in units of hidden and mlp_hidden. */
typedef struct lora_place {
    bool single;
    const char *name;
    int in_hidden, in_mlp, out_hidden, out_mlp;
} lora_place;

static const lora_place lora_places[] = {
    {false, "ff.net.0.proj", 1, 0, 0, 1},    {false, "ff.net.2", 0, 1, 1, 0}, {false, "ff_context.net.0.proj", 1, 0, 0, 1},
    {false, "ff_context.net.2", 0, 1, 1, 0}, {true, "proj_mlp", 1, 0, 0, 1},  {true, "proj_out", 1, 1, 1, 0},
};
enum { LORA_PLACES = sizeof lora_places / sizeof *lora_places };

static const char *block_prefix(bool single) { return single ? "single_transformer_blocks." : "transformer_blocks."; }

/* Splits "transformer_blocks.12.ff.net.2"; false if no block has such a module. */
static bool find_place(const char *module, const lora_place **place, long *block) {
    for (int i = 0; i < LORA_PLACES; i++) {
        const char *prefix = block_prefix(lora_places[i].single), *at = module + strlen(prefix);
        if (strncmp(module, prefix, strlen(prefix)) != 0) continue;
        size_t digits = strspn(at, "0123456789");
        if (digits == 0 || digits > 6 || (digits > 1 && at[0] == '0') || at[digits] != '.') return false;
        if (strcmp(at + digits + 1, lora_places[i].name) != 0) continue;
        *place = &lora_places[i];
        *block = 0;
        for (size_t k = 0; k < digits; k++) *block = *block * 10 + (at[k] - '0');
        return true;
    }
    return false;
}

static const char *const cure = "pass --adapter none or the adapter of this model";

static ddit_status check_module(const dd_adapter *adapter, const dd_tensor_entry *entry, const char *module, char which,
                                const dd_flux_config *model, ddit_err *err) {
    const char *path = dd_safetensors_path(adapter->file);
    const lora_place *place;
    long block;
    char shown[DD_SHOW_SIZE], shape[64];
    if (!find_place(module, &place, &block))
        return dd_fail(err, DDIT_ERR_UNSUPPORTED, "%s: found LoRA for \"%s\", expected feed-forward layers of FLUX blocks (%s)",
                       path, dd_show(shown, module), cure);
    int blocks = place->single ? model->num_single_layers : model->num_layers;
    if (block >= blocks)
        return dd_fail(err, DDIT_ERR_MISMATCH,
                       "%s: found LoRA for \"%s\", expected blocks below %d, as many as the model has: this adapter "
                       "was made for another model (%s)",
                       path, dd_show(shown, module), blocks, cure);
    int64_t side = which == 'A' ? (int64_t)place->in_hidden * model->hidden + (int64_t)place->in_mlp * model->mlp_hidden
                                : (int64_t)place->out_hidden * model->hidden + (int64_t)place->out_mlp * model->mlp_hidden;
    int64_t found = entry->shape[which == 'A' ? 1 : 0];
    if (found == side) return DDIT_OK;
    return dd_fail(err, DDIT_ERR_MISMATCH,
                   "%s: adapter tensor \"%s\": found shape %s, expected %" PRId64 " %s, as the model has (%s)", path,
                   dd_show(shown, entry->name), dd_shape_text(shape, sizeof shape, entry->rank, entry->shape), side,
                   which == 'A' ? "columns" : "rows", cure);
}

/* Has block number `block` any LoRA of that factor? */
static bool block_has_lora(const dd_adapter *adapter, int factor, bool single, int block) {
    for (int i = 0; i < LORA_PLACES; i++) {
        char module[NAME_SIZE];
        const dd_tensor_entry *down, *up;
        snprintf(module, sizeof module, "%s%d.%s", block_prefix(single), block, lora_places[i].name);
        if (lora_places[i].single == single && dd_adapter_lora(adapter, factor, module, &down, &up)) return true;
    }
    return false;
}

static ddit_status check_depth(const dd_adapter *adapter, int factor, bool single, int blocks, ddit_err *err) {
    for (int block = 0; block < blocks; block++)
        if (!block_has_lora(adapter, factor, single, block))
            return dd_fail(err, DDIT_ERR_MISMATCH,
                           "%s: found no LoRA of factor %d for %s%d, expected some in each of the model's %d blocks "
                           "of this kind: this adapter was made for another model (%s)",
                           dd_safetensors_path(adapter->file), factor, block_prefix(single), block, blocks, cure);
    return DDIT_OK;
}

ddit_status dd_adapter_check(const dd_adapter *adapter, const dd_flux_config *model, ddit_err *err) {
    const struct {
        const char *what;
        int found, expected;
    } pairs[] = {
        {"hidden size", adapter->hidden, model->hidden},
        {"patch size", adapter->patch, model->patch},
        {"number of input channels", adapter->channels_in, model->latent_channels},
        {"number of output channels", adapter->channels_out, model->out_channels / (model->patch * model->patch)},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (pairs[i].found != pairs[i].expected)
            return dd_fail(err, DDIT_ERR_MISMATCH, "%s: found an adapter made for %s %d, expected %d, which the model has (%s)",
                           dd_safetensors_path(adapter->file), pairs[i].what, pairs[i].found, pairs[i].expected, cure);
    for (size_t i = 0; i < dd_safetensors_count(adapter->file); i++) {
        const dd_tensor_entry *entry = dd_safetensors_at(adapter->file, i);
        char module[NAME_SIZE], which;
        int index;
        if (split_lora_name(entry->name, &index, module, &which))
            DD_TRY(check_module(adapter, entry, module, which, model, err));
    }
    for (int i = 1; i < DD_ADAPTER_FACTORS; i++) {
        if (!adapter->factor[i].has_lora) continue;
        DD_TRY(check_depth(adapter, 1 << i, false, model->num_layers, err));
        DD_TRY(check_depth(adapter, 1 << i, true, model->num_single_layers, err));
    }
    return DDIT_OK;
}
