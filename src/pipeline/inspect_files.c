/* What single files hold: safetensors, adapters, pictures. */
#include <math.h>
#include <string.h>

#include "media/png.h"
#include "pipeline/inspect.h"

static json_t *begin(const char *kind, const char *path) {
    return json_pack("{s:s,s:i,s:s,s:s}", "format", "ddit-inspect", "version", 1, "kind", kind, "path", path);
}

/* object[key] += amount */
static void add(json_t *object, const char *key, uint64_t amount) {
    json_int_t before = json_integer_value(json_object_get(object, key));
    json_object_set_new(object, key, json_integer(before + (json_int_t)amount));
}

static void count_tensor(json_t *counts, const dd_tensor_entry *entry) {
    json_t *dtypes = json_object_get(counts, "dtypes");
    add(counts, "tensors", 1);
    add(counts, "parameters", entry->count);
    add(counts, "bytes", entry->bytes);
    add(dtypes, entry->dtype_name, 1);
}

static json_t *empty_counts(void) {
    return json_pack("{s:i,s:i,s:i,s:{}}", "tensors", 0, "parameters", 0, "bytes", 0, "dtypes");
}

json_t *dd_inspect_weights(const dd_weight_files *files) {
    json_t *counts = empty_counts();
    for (size_t i = 0; i < dd_weight_files_count(files); i++) count_tensor(counts, dd_weight_files_at(files, i));
    return counts;
}

static json_t *tensor_json(const dd_tensor_entry *entry) {
    json_t *shape = json_array();
    for (int i = 0; i < entry->rank; i++) json_array_append_new(shape, json_integer((json_int_t)entry->shape[i]));
    return json_pack("{s:s,s:s,s:o,s:I}", "name", entry->name, "dtype", entry->dtype_name, "shape", shape, "bytes",
                     (json_int_t)entry->bytes);
}

ddit_status dd_inspect_weight_folder(json_t **out, const dd_allocator *a, const char *path, ddit_err *err) {
    dd_weight_files *files;
    *out = NULL;
    DD_TRY(dd_weight_files_open(&files, a, path, err));
    json_t *root = begin("weights", dd_weight_files_path(files)), *counts = dd_inspect_weights(files), *tensors = json_array();
    json_object_update(root, counts);
    json_decref(counts);
    for (size_t i = 0; i < dd_weight_files_count(files); i++)
        json_array_append_new(tensors, tensor_json(dd_weight_files_at(files, i)));
    json_object_set_new(root, "list", tensors);
    dd_weight_files_close(files);
    *out = root;
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- adapters */

static json_t *number_or_null(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static json_t *by_factor(const dd_adapter *adapter, const double *values) {
    json_t *object = json_object();
    static const char *const names[DD_ADAPTER_FACTORS] = {"1", "2", "4"};
    for (int f = 1; f < DD_ADAPTER_FACTORS; f++)
        if (adapter->factor[f].present) json_object_set_new(object, names[f], json_real(values[f]));
    return object;
}

json_t *dd_inspect_adapter(const dd_adapter *adapter) {
    const char *residual = adapter->residual_linear && adapter->residual_hf ? "linear+hf"
                           : adapter->residual_linear                       ? "linear"
                           : adapter->residual_hf                           ? "hf"
                                                                            : "none";
    json_t *object = json_object(), *factors = json_array();
    for (int f = 1; f < DD_ADAPTER_FACTORS; f++)
        if (adapter->factor[f].present) json_array_append_new(factors, json_integer(1 << f));
    json_object_set_new(object, "arch", json_string(adapter->arch));
    json_object_set_new(object, "base", json_string(adapter->base));
    json_object_set_new(object, "base_hash", json_string(adapter->base_hash));
    json_object_set_new(object, "factors", factors);
    json_object_set_new(object, "hidden", json_integer(adapter->hidden));
    json_object_set_new(object, "channels", json_integer(adapter->channels_in));
    json_object_set_new(object, "rank", json_integer(adapter->rank));
    json_object_set_new(object, "alpha", json_real((double)adapter->alpha));
    json_object_set_new(object, "residual", json_string(residual));
    json_object_set_new(object, "tau", number_or_null((double)adapter->tau));
    json_object_set_new(object, "tau_region", number_or_null((double)adapter->tau_region));
    json_object_set_new(object, "tau_steps", json_integer(adapter->tau_steps));
    json_object_set_new(object, "rho", number_or_null((double)adapter->rho));
    json_object_set_new(object, "order", json_integer(adapter->order));
    json_object_set_new(object, "sigma_min", by_factor(adapter, adapter->sigma_min));
    json_object_set_new(object, "anchor", json_integer(adapter->anchor));
    json_object_set_new(object, "text_tokens", json_integer(adapter->text_tokens));
    return object;
}

static bool is_adapter(const dd_safetensors *file) {
    const char *format = dd_safetensors_metadata(file, "format");
    return format && strcmp(format, "ddit-adapter") == 0;
}

static ddit_status add_adapter(json_t *root, const dd_allocator *a, const char *path, ddit_err *err) {
    dd_adapter adapter;
    DD_TRY(dd_adapter_open(&adapter, a, path, err));
    json_object_set_new(root, "kind", json_string("adapter"));
    json_object_set_new(root, "adapter", dd_inspect_adapter(&adapter));
    dd_adapter_close(&adapter);
    return DDIT_OK;
}

/* ---------------------------------------------------------------------------------------------- safetensors */

static json_t *safetensors_json(const dd_safetensors *file, const char *path) {
    json_t *root = begin("safetensors", path), *counts = empty_counts(), *list = json_array(), *metadata = json_object();
    for (size_t i = 0; i < dd_safetensors_count(file); i++) {
        count_tensor(counts, dd_safetensors_at(file, i));
        json_array_append_new(list, tensor_json(dd_safetensors_at(file, i)));
    }
    for (size_t i = 0; i < dd_safetensors_metadata_count(file); i++) {
        const char *key, *value;
        dd_safetensors_metadata_at(file, i, &key, &value);
        json_object_set_new(metadata, key, json_string(value));
    }
    json_object_update(root, counts);
    json_decref(counts);
    json_object_set_new(root, "metadata", metadata);
    json_object_set_new(root, "list", list);
    return root;
}

ddit_status dd_inspect_safetensors(json_t **out, const dd_allocator *a, const char *path, ddit_err *err) {
    dd_safetensors *file;
    *out = NULL;
    DD_TRY(dd_safetensors_open(&file, a, path, err));
    json_t *root = safetensors_json(file, path);
    ddit_status status = is_adapter(file) ? add_adapter(root, a, path, err) : DDIT_OK;
    dd_safetensors_close(file);
    if (status != DDIT_OK) json_decref(root);
    else *out = root;
    return status;
}

/* ---------------------------------------------------------------------------------------------- pictures */

/* Our own text is JSON; a text that is not is passed on as it is. */
static json_t *text_json(const dd_png_text *text) {
    json_t *parsed = strcmp(text->key, "ddit") == 0 ? json_loads(text->text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    return parsed ? parsed : json_string(text->text);
}

ddit_status dd_inspect_picture(json_t **out, const dd_allocator *a, const char *path, ddit_err *err) {
    dd_png_info info;
    *out = NULL;
    DD_TRY(dd_png_read_info(&info, a, path, err));
    json_t *root = begin("picture", path), *texts = json_object();
    json_object_set_new(root, "width", json_integer(info.width));
    json_object_set_new(root, "height", json_integer(info.height));
    for (int i = 0; i < info.count; i++) json_object_set_new(texts, info.texts[i].key, text_json(&info.texts[i]));
    json_object_set_new(root, "texts", texts);
    dd_png_info_deinit(&info);
    *out = root;
    return DDIT_OK;
}
