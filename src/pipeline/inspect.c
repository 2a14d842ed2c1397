/* ddit_inspect: finds out what a path is and lets the right function describe it. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/folder.h"
#include "media/png.h"
#include "pipeline/inspect.h"

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool has_file(const dd_allocator *a, const char *folder, const char *name) {
    char *path;
    struct stat info;
    if (dd_path_join(a, &path, folder, name, NULL) != DDIT_OK) return false;
    bool found = stat(path, &info) == 0;
    dd_free(a, path);
    return found;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && strcmp(text + length - wanted, end) == 0;
}

/* A folder without model_index.json is a part of a model if it holds weights; else the model's reader says what is missing. */
static ddit_status inspect_folder(json_t **out, ddit_context *context, const char *path, const ddit_params *params,
                                  ddit_err *err) {
    const dd_allocator *a = &context->allocator;
    if (!has_file(a, path, "model_index.json") && dd_inspect_weight_folder(out, a, path, NULL) == DDIT_OK) return DDIT_OK;
    return dd_inspect_model(out, context, path, params, err);
}

static ddit_status describe(json_t **out, ddit_context *context, const char *path, const ddit_params *params, ddit_err *err) {
    const dd_allocator *a = &context->allocator;
    if (is_folder(path)) return inspect_folder(out, context, path, params, err);
    if (dd_png_probe(path)) return dd_inspect_picture(out, a, path, err);
    if (ends_with(path, ".index.json")) return dd_inspect_weight_folder(out, a, path, err);
    ddit_status status = dd_inspect_safetensors(out, a, path, err);
    if (status == DDIT_ERR_FORMAT && !ends_with(path, ".safetensors"))
        return dd_fail(err, status, "%s: is neither a model folder, a safetensors file nor a PNG picture", path);
    return status;
}

ddit_status ddit_inspect(char **json, ddit_context *context, const char *path, const ddit_params *params, ddit_err *err) {
    json_t *root = NULL;
    *json = NULL;
    if (!path) return dd_fail(err, DDIT_ERR_ARGUMENT, "no path was given");
    if (params && params->struct_size != sizeof *params)
        return dd_fail(err, DDIT_ERR_ARGUMENT, "parameters of %zu bytes, expected %zu: call ddit_params_init",
                       params->struct_size, sizeof *params);
    DD_TRY(describe(&root, context, path, params, err));
    char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!text) return dd_fail(err, DDIT_ERR_NO_MEMORY, "out of memory: the description of %s", path);
    ddit_status status = dd_strdup(&context->allocator, json, text, err);
    free(text);
    return status;
}
