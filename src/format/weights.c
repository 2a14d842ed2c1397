#include "format/weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/folder.h"
#include "format/json_read.h"

enum { MAX_INDEX_BYTES = 100000000, MAX_SHARDS = 4096 };

struct dd_weight_files {
    const dd_allocator *allocator;
    char *path;              /* owned: the file or the index */
    dd_safetensors **shards; /* owned [shard_count] */
    size_t shard_count;
    const dd_tensor_entry **entries; /* owned [count], by name */
    size_t count;
    uint64_t bytes;
};

/* Where a folder may keep its weights, in the order of preference. */
static const char *const file_names[] = {
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.bf16.safetensors",
    "diffusion_pytorch_model.safetensors.index.bf16.json",
    "model.bf16.safetensors",
    "model.safetensors.index.bf16.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
};

/* A shard is a file beside its index: no folders, nothing hidden. */
static bool plain_file_name(const char *name) {
    return name[0] != '\0' && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\') && strlen(name) < 256;
}

/* *map is the weight_map of the index, borrowed from it, every value checked to be a plain file name. */
static ddit_status check_index(const json_t *index, const char *label, const json_t **map, ddit_err *err) {
    *map = json_object_get(index, "weight_map");
    if (!json_is_object(*map))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found no \"weight_map\" object, expected the index of a sharded model",
                       label);
    if (json_object_size(*map) == 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found an empty \"weight_map\", expected names of tensors", label);
    const char *name;
    json_t *value;
    char shown[DD_SHOW_SIZE], shown_file[DD_SHOW_SIZE];
    json_object_foreach ((json_t *)(uintptr_t)*map, name, value) {
        const char *file = json_string_value(value);
        if (!file)
            return dd_fail(err, DDIT_ERR_FORMAT, "%s: weight_map of \"%s\": found no string, expected the name of a shard",
                           label, dd_show(shown, name));
        if (!plain_file_name(file))
            return dd_fail(err, DDIT_ERR_FORMAT,
                           "%s: weight_map of \"%s\": found \"%s\", expected the name of a file beside the index, "
                           "without folders",
                           label, dd_show(shown, name), dd_show(shown_file, file));
    }
    return DDIT_OK;
}

ddit_status dd_weight_index_check(const dd_allocator *a, const char *text, size_t size, const char *label, size_t *tensors,
                                  ddit_err *err) {
    (void)a;
    json_t *index;
    const json_t *map;
    if (tensors) *tensors = 0;
    DD_TRY(dd_json_load(&index, 0, text, size, label, err));
    ddit_status status = check_index(index, label, &map, err);
    if (status == DDIT_OK && tensors) *tensors = json_object_size(map);
    json_decref(index);
    return status;
}

static ddit_status open_single(dd_weight_files *w, ddit_err *err) {
    const dd_allocator *a = w->allocator;
    DD_TRY(dd_alloc(a, &w->shards, 1, sizeof *w->shards, "a list of weight files", err));
    DD_TRY(dd_safetensors_open(&w->shards[0], a, w->path, err));
    w->shard_count = 1;
    size_t count = dd_safetensors_count(w->shards[0]);
    DD_TRY(dd_alloc_raw(a, &w->entries, count, sizeof *w->entries, "a list of tensors", err));
    for (size_t i = 0; i < count; i++) w->entries[i] = dd_safetensors_at(w->shards[0], i);
    w->count = count;
    return DDIT_OK;
}

static int compare_strings(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

static int compare_entries(const void *x, const void *y) {
    return strcmp((*(const dd_tensor_entry *const *)x)->name, (*(const dd_tensor_entry *const *)y)->name);
}

/* The distinct shard names of the map, sorted, borrowed from it, into names[json_object_size(map)]. */
static size_t list_shards(const json_t *map, const char **names) {
    size_t count = 0, distinct = 0;
    const char *name;
    json_t *value;
    json_object_foreach ((json_t *)(uintptr_t)map, name, value) names[count++] = json_string_value(value);
    qsort(names, count, sizeof *names, compare_strings);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(names[i], names[distinct - 1]) != 0) names[distinct++] = names[i];
    return distinct;
}

static ddit_status open_shard(dd_weight_files *w, const char *name, ddit_err *err) {
    const dd_allocator *a = w->allocator;
    const char *slash = strrchr(w->path, '/');
    char *folder = NULL, *path = NULL;
    ddit_status status = DDIT_OK;
    DD_GO(dd_strndup(a, &folder, slash ? w->path : ".", slash ? (size_t)(slash - w->path) + 1 : 1, err));
    DD_GO(dd_path_join(a, &path, folder, name, err));
    status = dd_safetensors_open(&w->shards[w->shard_count], a, path, err);
    if (status == DDIT_OK)
        w->shard_count++;
    else if (status == DDIT_ERR_NOT_FOUND)
        dd_fail(err, status, "%s: found no such file, expected a shard that %s names (was the download complete?)", path,
                w->path);
done:
    dd_free(a, path);
    dd_free(a, folder);
    return status;
}

/* names[shard_count] are the shards' names in the order of w->shards. */
static ddit_status find_in_shards(dd_weight_files *w, const json_t *map, const char **names, ddit_err *err) {
    const char *name;
    json_t *value;
    json_object_foreach ((json_t *)(uintptr_t)map, name, value) {
        const char *file = json_string_value(value);
        const char **place = bsearch(&file, names, w->shard_count, sizeof *names, compare_strings);
        const dd_safetensors *shard = w->shards[place - names];
        const dd_tensor_entry *entry = dd_safetensors_find(shard, name);
        char shown[DD_SHOW_SIZE];
        if (!entry)
            return dd_fail(err, DDIT_ERR_MISMATCH,
                           "%s: found no tensor \"%s\", expected it because %s says so (shards of another "
                           "download?)",
                           dd_safetensors_path(shard), dd_show(shown, name), w->path);
        w->entries[w->count++] = entry;
    }
    return DDIT_OK;
}

static ddit_status open_shards(dd_weight_files *w, const json_t *map, ddit_err *err) {
    const dd_allocator *a = w->allocator;
    size_t count = json_object_size(map);
    const char **names = NULL;
    ddit_status status = DDIT_OK;
    DD_GO(dd_alloc_raw(a, &names, count, sizeof *names, "the names of shards", err));
    size_t shards = list_shards(map, names);
    if (shards > MAX_SHARDS) {
        status = dd_fail(err, DDIT_ERR_FORMAT, "%s: found %zu shards, expected at most %d", w->path, shards, (int)MAX_SHARDS);
        goto done;
    }
    DD_GO(dd_alloc(a, &w->shards, shards, sizeof *w->shards, "a list of weight files", err));
    DD_GO(dd_alloc_raw(a, &w->entries, count, sizeof *w->entries, "a list of tensors", err));
    for (size_t i = 0; i < shards; i++) DD_GO(open_shard(w, names[i], err));
    DD_GO(find_in_shards(w, map, names, err));
    qsort(w->entries, w->count, sizeof *w->entries, compare_entries);
done:
    dd_free(a, names);
    return status;
}

static ddit_status open_index(dd_weight_files *w, ddit_err *err) {
    char *text = NULL;
    size_t size;
    json_t *index = NULL;
    const json_t *map;
    ddit_status status = DDIT_OK;
    DD_GO(dd_read_file(w->allocator, w->path, MAX_INDEX_BYTES, &text, &size, err));
    DD_GO(dd_json_load(&index, 0, text, size, w->path, err));
    DD_GO(check_index(index, w->path, &map, err));
    status = open_shards(w, map, err);
done:
    json_decref(index);
    dd_free(w->allocator, text);
    return status;
}

/* w->path = the file in the folder that holds the weights. */
static ddit_status look_in_folder(dd_weight_files *w, const char *folder, ddit_err *err) {
    for (size_t i = 0; i < sizeof file_names / sizeof *file_names; i++) {
        struct stat info;
        DD_TRY(dd_path_join(w->allocator, &w->path, folder, file_names[i], err));
        if (stat(w->path, &info) == 0) return DDIT_OK;
        dd_free(w->allocator, w->path);
        w->path = NULL;
    }
    return dd_fail(err, DDIT_ERR_NOT_FOUND,
                   "%s: found a folder without weights, expected %s, %s or their .index.json (was the download "
                   "complete?)",
                   folder, file_names[0], file_names[2]);
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

ddit_status dd_weight_files_open(dd_weight_files **out, const dd_allocator *a, const char *path, ddit_err *err) {
    *out = NULL;
    dd_weight_files *w;
    struct stat info;
    DD_TRY(dd_alloc(a, &w, 1, sizeof *w, "weight files", err));
    w->allocator = a;
    ddit_status status = DDIT_OK;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        DD_GO(look_in_folder(w, path, err));
    else
        DD_GO(dd_strdup(a, &w->path, path, err));
    DD_GO(ends_with(w->path, ".json") ? open_index(w, err) : open_single(w, err));
    for (size_t i = 0; i < w->count; i++) w->bytes += w->entries[i]->bytes;
    *out = w;
    return DDIT_OK;
done:
    dd_weight_files_close(w);
    return status;
}

void dd_weight_files_close(dd_weight_files *files) {
    if (!files) return;
    for (size_t i = 0; i < files->shard_count; i++) dd_safetensors_close(files->shards[i]);
    dd_free(files->allocator, files->shards);
    dd_free(files->allocator, (void *)files->entries);
    dd_free(files->allocator, files->path);
    dd_free(files->allocator, files);
}

const char *dd_weight_files_path(const dd_weight_files *files) { return files->path; }
size_t dd_weight_files_count(const dd_weight_files *files) { return files->count; }
const dd_tensor_entry *dd_weight_files_at(const dd_weight_files *files, size_t index) { return files->entries[index]; }
uint64_t dd_weight_files_bytes(const dd_weight_files *files) { return files->bytes; }

const dd_tensor_entry *dd_weight_files_find(const dd_weight_files *files, const char *name) {
    dd_tensor_entry key = {.name = name};
    const dd_tensor_entry *wanted = &key;
    const dd_tensor_entry **found = bsearch(&wanted, files->entries, files->count, sizeof *files->entries, compare_entries);
    return found ? *found : NULL;
}

static bool converts_to_float(dd_dtype dtype) { return dd_to_f32(NULL, NULL, dtype, 0, NULL) == DDIT_OK; }

ddit_status dd_weight_files_need(const dd_weight_files *files, const char *name, int rank, const int64_t *shape,
                                 const dd_tensor_entry **out, ddit_err *err) {
    char found[80], expected[80];
    *out = NULL;
    const dd_tensor_entry *entry = dd_weight_files_find(files, name);
    dd_shape_text(expected, sizeof expected, rank, shape);
    if (!entry)
        return dd_fail(err, DDIT_ERR_MISMATCH,
                       "%s: found no tensor \"%s\", expected one of shape %s (is config.json the one of this file, "
                       "and the file complete?)",
                       files->path, name, expected);
    if (entry->rank != rank || (rank > 0 && memcmp(entry->shape, shape, (size_t)rank * sizeof *shape) != 0))
        return dd_fail(err, DDIT_ERR_MISMATCH,
                       "%s: tensor \"%s\" at offset %" PRIu64 ": found shape %s, expected %s (is config.json the "
                       "one of this file?)",
                       dd_safetensors_path(entry->file), name, entry->offset,
                       dd_shape_text(found, sizeof found, entry->rank, entry->shape), expected);
    if (!converts_to_float(entry->dtype))
        return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                       "%s: tensor \"%s\" at offset %" PRIu64 ": found dtype %s, expected F32, BF16, F16, F64, "
                       "F8_E4M3 or F8_E5M2 (convert the file)",
                       dd_safetensors_path(entry->file), name, entry->offset, entry->dtype_name);
    *out = entry;
    return DDIT_OK;
}

void dd_weight_files_release(const dd_tensor_entry *entry) { dd_tensor_entry_release(entry); }
