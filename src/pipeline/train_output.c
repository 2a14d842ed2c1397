/* What a training writes at its end: an adapter file, or the folder of a new model. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/folder.h"
#include "base/number_text.h"
#include "base/out_file.h"
#include "pipeline/train.h"
#include "train/adapter_write.h"

#define WEIGHTS_NAME "diffusion_pytorch_model.safetensors"

ddit_status dd_train_make_folder(const char *path, ddit_err *err) {
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return dd_fail(err, DDIT_ERR_OUTPUT_PATH, "%s: is a file, expected a folder or nothing", path);
    return dd_make_folder(path, err);
}

/* ---------------------------------------------------------------------------------------------- adapter */

static void guidance_text(const dd_train_settings *s, char *text, size_t size) {
    char low[DD_NUMBER_SIZE], high[DD_NUMBER_SIZE];
    dd_number_text(low, (double)s->guidance_low);
    dd_number_text(high, (double)s->guidance_high);
    if (s->guidance_low == s->guidance_high) snprintf(text, size, "%s", low);
    else snprintf(text, size, "%s,%s", low, high);
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

ddit_status dd_train_write_adapter(dd_train_run *run, const char *path, const float *values, ddit_err *err) {
    char guidance[2 * DD_NUMBER_SIZE];
    guidance_text(&run->s, guidance, sizeof guidance);
    dd_adapter_about about = {.config = &run->model->config.transformer,
                              .options = &run->s.options,
                              .base = run->model->config.ddit.name,
                              .init = run->init ? file_name(dd_safetensors_path(run->init)) : "pinv-bilinear",
                              .guidance = guidance,
                              .steps_trained = run->optimizer.step,
                              .policy = run->init ? run->init : run->policy};
    return dd_adapter_write(path, dd_flux_trainee_params(run->student.trainee), values, &about, err);
}

/* ---------------------------------------------------------------------------------------------- model folder */

/* The new model is put together beside its place, then renamed. */
typedef struct copying {
    const dd_allocator *a;
    const char *from, *to;
} copying;

static ddit_status copy_bytes(const dd_allocator *a, const char *from, const char *to, ddit_err *err) {
    dd_mapped_file in;
    dd_out_file out;
    DD_TRY(dd_mapped_file_open(&in, from, err));
    ddit_status status = dd_out_file_open(&out, a, to, err);
    if (status == DDIT_OK) {
        if (in.size) fwrite(in.data, 1, in.size, out.stream); /* an error is found by commit */
        status = dd_out_file_commit(&out, err);
    }
    dd_mapped_file_close(&in);
    return status;
}

/* A link costs nothing; across file systems it is a copy. */
static ddit_status copy_file(const dd_allocator *a, const char *from, const char *to, ddit_err *err) {
    if (linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) == 0) return DDIT_OK;
    return copy_bytes(a, from, to, err);
}

static bool begins_with(const char *text, const char *begin) { return strncmp(text, begin, strlen(begin)) == 0; }

/* What belongs to the old weights alone, and runs of trainings: the new model's own may lie in the old one's folder. */
static bool is_left_out(const char *name, bool transformer) {
    if (name[0] == '.' || strcmp(name, DD_ADAPTER_NAME) == 0 || strcmp(name, "README.md") == 0) return true;
    size_t length = strlen(name);
    if (length > 4 && strcmp(name + length - 4, ".run") == 0) return true;
    return transformer && begins_with(name, "diffusion_pytorch_model");
}

static ddit_status copy_folder(const copying *c, const char *name, ddit_err *err);

static ddit_status copy_entry(const copying *c, const char *name, bool nested, ddit_err *err) {
    char *from = NULL, *to = NULL;
    struct stat info;
    ddit_status status;
    DD_GO(dd_path_join(c->a, &from, c->from, name, err));
    DD_GO(dd_path_join(c->a, &to, c->to, name, err));
    if (stat(from, &info) != 0) status = dd_fail(err, DDIT_ERR_READ, "%s: cannot be read: %s", from, strerror(errno));
    else if (S_ISREG(info.st_mode)) status = copy_file(c->a, from, to, err);
    else if (S_ISDIR(info.st_mode) && !nested) status = copy_folder(&(copying){c->a, from, to}, name, err);
done:
    dd_free(c->a, from);
    dd_free(c->a, to);
    return status;
}

/* Parts lie one folder deep. name: of the folder, NULL for the model itself. */
static ddit_status copy_folder(const copying *c, const char *name, ddit_err *err) {
    DD_TRY(dd_train_make_folder(c->to, err));
    DIR *folder = opendir(c->from);
    if (!folder) return dd_fail(err, DDIT_ERR_READ, "%s: cannot be read: %s", c->from, strerror(errno));
    ddit_status status = DDIT_OK;
    for (struct dirent *e = readdir(folder); e && status == DDIT_OK; e = readdir(folder))
        if (!is_left_out(e->d_name, name && strcmp(name, "transformer") == 0))
            status = copy_entry(c, e->d_name, name != NULL, err);
    closedir(folder);
    return status;
}

static ddit_status write_weights(dd_train_run *run, const char *folder, const float *values, ddit_err *err) {
    char *path;
    char steps[32];
    snprintf(steps, sizeof steps, "%" PRId64, run->optimizer.step);
    dd_safetensors_pair pairs[] = {{"format", "pt"}, {"steps_trained", steps}};
    DD_TRY(dd_path_join(run->a, &path, folder, "transformer/" WEIGHTS_NAME, err));
    ddit_status status = dd_param_list_write(dd_flux_trainee_params(run->student.trainee), path, DD_DTYPE_BF16, values, pairs,
                                             2, err);
    dd_free(run->a, path);
    return status;
}

ddit_status dd_train_write_model(dd_train_run *run, const float *values, ddit_err *err) {
    char *part;
    ddit_status status;
    DD_TRY(dd_train_path(run, &part, "model", err));
    copying c = {run->a, run->model->folder, part};
    DD_GO(copy_folder(&c, NULL, err));
    DD_GO(write_weights(run, part, values, err));
    if (rename(part, run->s.output) != 0)
        status = dd_fail(err, DDIT_ERR_WRITE, "%s: cannot be written: %s; the new model is in %s", run->s.output,
                         strerror(errno), part);
done:
    dd_free(run->a, part);
    return status;
}
