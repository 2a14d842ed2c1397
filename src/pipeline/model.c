#include <string.h>
#include <sys/stat.h>

#include "base/folder.h"
#include "pipeline/pipeline.h"

ddit_status dd_model_part_open(const ddit_model *model, const char *part, dd_weight_files **files, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    char *path;
    DD_TRY(dd_path_join(a, &path, model->folder, part, err));
    ddit_status status = dd_weight_files_open(files, a, path, err);
    dd_free(a, path);
    return status;
}

static ddit_status open_transformer(ddit_model *model, ddit_err *err) {
    DD_TRY(dd_model_part_open(model, "transformer", &model->files, err));
    return dd_flux_dit_open(&model->dit, model->context->backend, &model->config.transformer, model->files, err);
}

/* Where the adapter lies: as asked for, or in the model's folder if it is there. *path NULL = none. */
static ddit_status find_adapter(const ddit_model *model, const char *asked, char **path, ddit_err *err) {
    const dd_allocator *a = &model->context->allocator;
    *path = NULL;
    if (asked && strcmp(asked, "none") == 0) return DDIT_OK;
    if (asked) return dd_strdup(a, path, asked, err);
    DD_TRY(dd_path_join(a, path, model->folder, DD_ADAPTER_NAME, err));
    struct stat info;
    if (stat(*path, &info) == 0) return DDIT_OK;
    dd_free(a, *path);
    *path = NULL;
    return DDIT_OK;
}

ddit_status dd_model_adapter_open(ddit_model *model, const char *asked, ddit_err *err) {
    DD_TRY(find_adapter(model, asked, &model->adapter_path, err));
    if (!model->adapter_path) return DDIT_OK;
    DD_TRY(dd_adapter_open(&model->adapter, &model->context->allocator, model->adapter_path, err));
    return dd_adapter_check(&model->adapter, &model->config.transformer, err);
}

ddit_status ddit_model_open(ddit_model **out, ddit_context *context, const char *folder, const char *adapter, ddit_err *err) {
    const dd_allocator *a = &context->allocator;
    ddit_model *model;
    *out = NULL;
    if (!folder) return dd_fail(err, DDIT_ERR_ARGUMENT, "no model folder was given");
    DD_TRY(dd_alloc(a, &model, 1, sizeof *model, "the model", err));
    model->context = context;
    context->children++;
    ddit_status status;
    DD_GO(dd_strdup(a, &model->folder, folder, err));
    DD_GO(dd_model_folder_read(&model->config, a, folder, err));
    DD_GO(open_transformer(model, err));
    DD_GO(dd_model_adapter_open(model, adapter, err));
    if (model->adapter.file) DD_GO(dd_flux_dit_add_adapter(model->dit, &model->adapter, err));
    *out = model;
    return DDIT_OK;
done:
    ddit_model_close(model);
    return status;
}

void ddit_model_close(ddit_model *model) {
    if (!model || model->children > 0) return;
    ddit_context *context = model->context;
    dd_flux_dit_close(model->dit);
    dd_adapter_close(&model->adapter);
    dd_weight_files_close(model->files);
    dd_free(&context->allocator, model->adapter_path);
    dd_free(&context->allocator, model->folder);
    dd_free(&context->allocator, model);
    context->children--;
}
