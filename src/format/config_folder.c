/* A model's folder as a whole: model_index.json, ddit.json, and all configurations together. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/folder.h"
#include "base/mapped_file.h"
#include "format/config.h"
#include "format/json_read.h"

/* ddit.json */

static void read_free_detail(dd_ddit_config *c, dd_json_reader *r, const json_t *table) {
    if (r->status != DDIT_OK || !table || json_is_null(table)) return;
    if (!json_is_object(table)) {
        dd_json_fail(r, DDIT_ERR_FORMAT,
                     "\"free_detail\": expected an object such as {\"2\": 0.36, \"4\": 0.51}, found another value");
        return;
    }
    const char *key;
    json_t *value;
    char shown[DD_SHOW_SIZE];
    json_object_foreach ((json_t *)(uintptr_t)table, key, value) {
        if (strcmp(key, "2") != 0 && strcmp(key, "4") != 0)
            dd_json_fail(r, DDIT_ERR_FORMAT, "\"free_detail\": found factor \"%s\", expected \"2\" or \"4\"",
                         dd_show(shown, key));
    }
    dd_json_reader inner = {table, r->label, r->err, r->status};
    c->free_detail[1] = (float)dd_json_number(&inner, "2", 0, 0, 1000);
    c->free_detail[2] = (float)dd_json_number(&inner, "4", 0, 0, 1000);
    r->status = inner.status;
}

static void read_defaults(dd_ddit_config *c, dd_json_reader *r) {
    const json_t *table = json_object_get(r->object, "defaults");
    if (json_is_null(table)) table = NULL;
    if (table && !json_is_object(table)) {
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"defaults\": expected an object, found another value");
        return;
    }
    dd_json_reader inner = {table, r->label, r->err, r->status}; /* without a table every key is absent */
    c->width = (int)dd_json_int(&inner, "width", 0, 0, 4096);
    c->height = (int)dd_json_int(&inner, "height", 0, 0, 4096);
    c->steps = (int)dd_json_int(&inner, "steps", 0, 0, 1000);
    c->max_sequence_length = (int)dd_json_int(&inner, "max_sequence_length", 0, 0, 4096);
    c->guidance = (float)dd_json_number(&inner, "guidance", NAN, 0, 1e4);
    c->seed = dd_json_int(&inner, "seed", -1, -1, INT64_MAX);
    dd_json_copy_string(&inner, "patch", c->patch, sizeof c->patch);
    if (c->width % 16 || c->height % 16)
        dd_json_fail(&inner, DDIT_ERR_FORMAT, "\"width\" and \"height\": found %d x %d, expected multiples of 16", c->width,
                     c->height);
    r->status = inner.status;
}

static void fill_ddit(void *out, dd_json_reader *r) {
    dd_ddit_config *c = out;
    c->found = true;
    dd_json_copy_string(r, "name", c->name, sizeof c->name);
    dd_json_copy_string(r, "license", c->license, sizeof c->license);
    read_defaults(c, r);
    read_free_detail(c, r, json_object_get(r->object, "free_detail"));
}

ddit_status dd_ddit_config_parse(dd_ddit_config *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_json_parse_struct(out, sizeof *out, fill_ddit, 0, text, size, label, err);
}

/* model_index.json */

typedef struct part {
    const char *key, *class_name, *other_class_name;
} part;

static const part parts[] = {
    {"transformer", "FluxTransformer2DModel", NULL},
    {"vae", "AutoencoderKL", NULL},
    {"text_encoder", "CLIPTextModel", NULL},
    {"text_encoder_2", "T5EncoderModel", NULL},
    {"tokenizer", "CLIPTokenizer", "CLIPTokenizerFast"},
    {"tokenizer_2", "T5Tokenizer", "T5TokenizerFast"},
    {"scheduler", "FlowMatchEulerDiscreteScheduler", NULL},
};

static void check_part(dd_json_reader *r, const part *p) {
    const json_t *value = json_object_get(r->object, p->key);
    const char *name = json_string_value(json_array_get(value, 1));
    char shown[DD_SHOW_SIZE];
    if (!name)
        dd_json_fail(r, DDIT_ERR_FORMAT, "found no part \"%s\", expected [library, \"%s\"] (is the model complete?)", p->key,
                     p->class_name);
    else if (strcmp(name, p->class_name) != 0 && (!p->other_class_name || strcmp(name, p->other_class_name) != 0))
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED, "\"%s\": found the class %s, expected %s", p->key, dd_show(shown, name),
                     p->class_name);
}

typedef struct nothing {
    char unused;
} nothing;

static void check_index(void *out, dd_json_reader *r) {
    (void)out;
    const char *name = dd_json_string(r, "_class_name", NULL);
    char shown[DD_SHOW_SIZE];
    if (!name)
        dd_json_fail(r, DDIT_ERR_FORMAT,
                     "found no \"_class_name\", expected \"FluxPipeline\" (is this the index of a diffusers model?)");
    else if (strcmp(name, "FluxPipeline") != 0)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED,
                     "found a model of class %s, expected FluxPipeline: other kinds of models are not supported",
                     dd_show(shown, name));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) check_part(r, &parts[i]);
}

ddit_status dd_model_index_parse(const char *text, size_t size, const char *label, ddit_err *err) {
    nothing none;
    return dd_json_parse_struct(&none, sizeof none, check_index, 0, text, size, label, err);
}

/* files */

typedef ddit_status parse_function(void *out, const char *text, size_t size, const char *label, ddit_err *err);

static ddit_status read_with(parse_function *parse, void *out, const dd_allocator *a, const char *path, ddit_err *err) {
    char *text = NULL;
    size_t size;
    ddit_status status = dd_read_file(a, path, DD_CONFIG_MAX_BYTES, &text, &size, err);
    if (status == DDIT_OK) status = parse(out, text, size, path, err);
    dd_free(a, text);
    return status;
}

/* One adapter per type: a struct pointer becomes the void pointer of parse_function without a cast of functions. */
static ddit_status parse_flux(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_flux_config_parse(out, text, size, label, err);
}
static ddit_status parse_vae(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_vae_config_parse(out, text, size, label, err);
}
static ddit_status parse_clip(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_clip_config_parse(out, text, size, label, err);
}
static ddit_status parse_t5(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_t5_config_parse(out, text, size, label, err);
}
static ddit_status parse_scheduler(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_scheduler_config_parse(out, text, size, label, err);
}
static ddit_status parse_tokenizer(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_tokenizer_config_parse(out, text, size, label, err);
}
static ddit_status parse_ddit(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_ddit_config_parse(out, text, size, label, err);
}
static ddit_status parse_index(void *out, const char *text, size_t size, const char *label, ddit_err *err) {
    (void)out;
    return dd_model_index_parse(text, size, label, err);
}

ddit_status dd_flux_config_read(dd_flux_config *out, const dd_allocator *a, const char *path, ddit_err *err) {
    return read_with(parse_flux, out, a, path, err);
}
ddit_status dd_vae_config_read(dd_vae_config *out, const dd_allocator *a, const char *path, ddit_err *err) {
    return read_with(parse_vae, out, a, path, err);
}
ddit_status dd_clip_config_read(dd_clip_config *out, const dd_allocator *a, const char *path, ddit_err *err) {
    return read_with(parse_clip, out, a, path, err);
}
ddit_status dd_t5_config_read(dd_t5_config *out, const dd_allocator *a, const char *path, ddit_err *err) {
    return read_with(parse_t5, out, a, path, err);
}
ddit_status dd_scheduler_config_read(dd_scheduler_config *out, const dd_allocator *a, const char *path, ddit_err *err) {
    return read_with(parse_scheduler, out, a, path, err);
}

/* Reads folder/name. An optional file that is not there leaves *out alone. */
static ddit_status read_part(parse_function *parse, void *out, const dd_allocator *a, const char *folder, const char *name,
                             bool optional, ddit_err *err) {
    char *path;
    struct stat info;
    DD_TRY(dd_path_join(a, &path, folder, name, err));
    ddit_status status = DDIT_OK;
    if (!optional || stat(path, &info) == 0) status = read_with(parse, out, a, path, err);
    dd_free(a, path);
    return status;
}

static ddit_status has_file(const dd_allocator *a, const char *folder, const char *name, bool *found, ddit_err *err) {
    char *path;
    struct stat info;
    *found = false;
    DD_TRY(dd_path_join(a, &path, folder, name, err));
    *found = stat(path, &info) == 0;
    dd_free(a, path);
    return DDIT_OK;
}

/* Says what is wrong with a path that is no model folder. */
static ddit_status check_folder(const dd_allocator *a, const char *path, ddit_err *err) {
    struct stat info;
    if (stat(path, &info) != 0)
        return dd_fail(err, errno == EACCES ? DDIT_ERR_READ : DDIT_ERR_NOT_FOUND,
                       "%s: found nothing that can be read (%s), expected a "
                       "model folder in the diffusers layout",
                       path, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return dd_fail(err, DDIT_ERR_FORMAT,
                       "%s: found a file, expected a model folder in the diffusers layout (one that holds "
                       "model_index.json)",
                       path);
    bool found;
    DD_TRY(has_file(a, path, "model_index.json", &found, err));
    if (found) return DDIT_OK;
    static const char *const of_parts[] = {"config.json", "scheduler_config.json", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof of_parts / sizeof *of_parts; i++) {
        DD_TRY(has_file(a, path, of_parts[i], &found, err));
        if (found)
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s: found a single part of a model, expected the folder above it, which holds "
                           "model_index.json",
                           path);
    }
    return dd_fail(err, DDIT_ERR_NOT_FOUND,
                   "%s: found a folder without model_index.json, expected a model folder in the diffusers "
                   "layout (was the download complete?)",
                   path);
}

static ddit_status check_fit(const dd_model_folder *m, const char *path, ddit_err *err) {
    const struct {
        const char *left, *right;
        int found, expected;
    } pairs[] = {
        {"the autoencoder's latent_channels", "in_channels / 4 of the transformer", m->vae.latent_channels,
         m->transformer.latent_channels},
        {"the CLIP text encoder's hidden_size", "pooled_projection_dim of the transformer", m->clip.hidden_size,
         m->transformer.pooled_projection_dim},
        {"the T5 text encoder's d_model", "joint_attention_dim of the transformer", m->t5.d_model,
         m->transformer.joint_attention_dim},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (pairs[i].found != pairs[i].expected)
            return dd_fail(err, DDIT_ERR_MISMATCH, "%s: found %d for %s, expected %d, %s (parts of different models?)", path,
                           pairs[i].found, pairs[i].left, pairs[i].expected, pairs[i].right);
    return DDIT_OK;
}

ddit_status dd_model_folder_read(dd_model_folder *out, const dd_allocator *a, const char *path, ddit_err *err) {
    *out = (dd_model_folder){.tokenizer.extra_ids = -1, .tokenizer_2.extra_ids = -1, .ddit = {.guidance = NAN, .seed = -1}};
    const struct {
        const char *name;
        parse_function *parse;
        void *out;
        bool optional;
    } files[] = {
        {"model_index.json", parse_index, NULL, false},
        {"transformer/config.json", parse_flux, &out->transformer, false},
        {"vae/config.json", parse_vae, &out->vae, false},
        {"text_encoder/config.json", parse_clip, &out->clip, false},
        {"text_encoder_2/config.json", parse_t5, &out->t5, false},
        {"scheduler/scheduler_config.json", parse_scheduler, &out->scheduler, false},
        {"tokenizer/tokenizer_config.json", parse_tokenizer, &out->tokenizer, true},
        {"tokenizer_2/tokenizer_config.json", parse_tokenizer, &out->tokenizer_2, true},
        {"ddit.json", parse_ddit, &out->ddit, true},
    };
    DD_TRY(check_folder(a, path, err));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        DD_TRY(read_part(files[i].parse, files[i].out, a, path, files[i].name, files[i].optional, err));
    return check_fit(out, path, err);
}
