#include "format/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json_read.h"

enum { MAX_HEADER = 100000000, LENGTH_BYTES = 8 };

typedef struct pair {
    const char *key, *value; /* in texts */
} pair;

struct dd_safetensors {
    const dd_allocator *allocator;
    char *path;           /* owned */
    dd_mapped_file map;   /* zero when the bytes are the caller's */
    const uint8_t *bytes; /* the whole file */
    size_t size;
    size_t data_begin;        /* offset of the first byte of data */
    dd_tensor_entry *entries; /* owned [count], by name */
    size_t count;
    pair *metadata; /* owned [metadata_count], by key */
    size_t metadata_count;
    int64_t *shapes; /* owned: the entries' shapes */
    char *texts;     /* owned: names, keys and values, each with its NUL */
};

/* dtypes of the format. Those without a dd_dtype are checked for size and cannot be used. */
typedef struct format_dtype {
    const char *name;
    unsigned bits;
    dd_dtype dtype;
} format_dtype;

static const format_dtype format_dtypes[] = {
    {"BF16", 16, DD_DTYPE_BF16},
    {"F32", 32, DD_DTYPE_F32},
    {"F16", 16, DD_DTYPE_F16},
    {"F64", 64, DD_DTYPE_F64},
    {"F8_E4M3", 8, DD_DTYPE_F8_E4M3},
    {"F8_E5M2", 8, DD_DTYPE_F8_E5M2},
    {"I8", 8, DD_DTYPE_I8},
    {"U8", 8, DD_DTYPE_U8},
    {"I16", 16, DD_DTYPE_I16},
    {"U16", 16, DD_DTYPE_U16},
    {"I32", 32, DD_DTYPE_I32},
    {"U32", 32, DD_DTYPE_U32},
    {"I64", 64, DD_DTYPE_I64},
    {"U64", 64, DD_DTYPE_U64},
    {"BOOL", 8, DD_DTYPE_BOOL},
    {"F4", 4, DD_DTYPE_OTHER},
    {"F6_E2M3", 6, DD_DTYPE_OTHER},
    {"F6_E3M2", 6, DD_DTYPE_OTHER},
    {"F8_E8M0", 8, DD_DTYPE_OTHER},
    {"F8_E4M3FNUZ", 8, DD_DTYPE_OTHER},
    {"F8_E5M2FNUZ", 8, DD_DTYPE_OTHER},
    {"C64", 64, DD_DTYPE_OTHER},
};

static const format_dtype *find_dtype(const char *name) {
    for (size_t i = 0; i < sizeof format_dtypes / sizeof *format_dtypes; i++)
        if (strcmp(format_dtypes[i].name, name) == 0) return &format_dtypes[i];
    return NULL;
}

/* What reading the header carries from call to call. */
typedef struct header_reader {
    dd_safetensors *file;
    const char *name; /* of the tensor being read */
    char shown[DD_SHOW_SIZE];
    int64_t *shapes_next;
    char *texts_next;
    ddit_err *err;
} header_reader;

static ddit_status fail_tensor(header_reader *r, const char *found, const char *expected) {
    return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: tensor \"%s\": found %s, expected %s", r->file->path,
                   dd_show(r->shown, r->name), found, expected);
}

static const char *keep_text(header_reader *r, const char *text) {
    size_t size = strlen(text) + 1;
    char *kept = memcpy(r->texts_next, text, size);
    r->texts_next += size;
    return kept;
}

/* Shape and count of values: the product is checked in 64 bits. */
static ddit_status read_shape(header_reader *r, dd_tensor_entry *entry, const json_t *shape) {
    if (!json_is_array(shape))
        return fail_tensor(r, shape ? "a \"shape\" of another kind" : "no \"shape\"", "an array of sizes");
    entry->rank = (int)json_array_size(shape);
    entry->shape = r->shapes_next;
    entry->count = 1;
    for (int i = 0; i < entry->rank; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return fail_tensor(r, "a size in \"shape\" that is negative or no integer", "integers from 0");
        *r->shapes_next++ = json_integer_value(size);
        if (!dd_mul_u64(entry->count, (uint64_t)json_integer_value(size), &entry->count))
            return fail_tensor(r, "a \"shape\" whose product is over 64 bits", "the size of its data");
    }
    return DDIT_OK;
}

/* Offsets relative to the data: begin and bytes. */
static ddit_status read_offsets(header_reader *r, dd_tensor_entry *entry, const json_t *offsets) {
    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return fail_tensor(r, offsets ? "other \"data_offsets\"" : "no \"data_offsets\"", "an array [begin, end]");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_integer(begin) || !json_is_integer(end) || json_integer_value(begin) < 0 || json_integer_value(end) < 0)
        return fail_tensor(r, "\"data_offsets\" that are negative or no integers", "integers [begin, end] from 0");
    uint64_t first = (uint64_t)json_integer_value(begin), last = (uint64_t)json_integer_value(end);
    uint64_t available = r->file->size - r->file->data_begin;
    if (last < first || last > available)
        return dd_fail(r->err, DDIT_ERR_FORMAT,
                       "%s: tensor \"%s\": found data_offsets [%" PRIu64 ", %" PRIu64 "], expected begin <= end <= %" PRIu64
                       ", the bytes of data in the file (is the file cut short?)",
                       r->file->path, dd_show(r->shown, r->name), first, last, available);
    entry->offset = first;
    entry->bytes = last - first;
    return DDIT_OK;
}

static ddit_status read_tensor(header_reader *r, dd_tensor_entry *entry, const char *name, const json_t *value) {
    r->name = name;
    if (!json_is_object(value))
        return fail_tensor(r, "a value of another kind", "an object with dtype, shape and data_offsets");
    const char *dtype_name = json_string_value(json_object_get(value, "dtype"));
    if (!dtype_name) return fail_tensor(r, "no \"dtype\" string", "a dtype such as \"BF16\"");
    const format_dtype *dtype = find_dtype(dtype_name);
    if (!dtype) {
        char shown[DD_SHOW_SIZE];
        return fail_tensor(r, dd_show(shown, dtype_name), "a dtype of the format, such as F32, BF16 or F16");
    }
    DD_TRY(read_shape(r, entry, json_object_get(value, "shape")));
    DD_TRY(read_offsets(r, entry, json_object_get(value, "data_offsets")));
    uint64_t bits;
    if (!dd_mul_u64(entry->count, dtype->bits, &bits))
        return fail_tensor(r, "a size in bits over 64 bits", "the size of its data");
    if (bits % 8 != 0 || bits / 8 != entry->bytes) {
        char shape[100];
        return dd_fail(r->err, DDIT_ERR_FORMAT,
                       "%s: tensor \"%s\": found %" PRIu64 " bytes at data offset %" PRIu64 ", expected %" PRIu64
                       " bits for %s of shape %s",
                       r->file->path, dd_show(r->shown, name), entry->bytes, entry->offset, bits, dtype->name,
                       dd_shape_text(shape, sizeof shape, entry->rank, entry->shape));
    }
    entry->name = keep_text(r, name);
    entry->dtype = dtype->dtype;
    entry->dtype_name = dtype->name;
    entry->file = r->file;
    return DDIT_OK;
}

static ddit_status read_metadata(header_reader *r, const json_t *table) {
    dd_safetensors *file = r->file;
    const char *key;
    json_t *value;
    size_t i = 0;
    json_object_foreach ((json_t *)(uintptr_t)table, key, value) {
        if (!json_is_string(value))
            return dd_fail(r->err, DDIT_ERR_FORMAT, "%s: __metadata__ key \"%s\": found no string, expected strings only",
                           file->path, dd_show(r->shown, key));
        file->metadata[i].key = keep_text(r, key);
        file->metadata[i++].value = keep_text(r, json_string_value(value));
    }
    return DDIT_OK;
}

static int compare_offsets(const void *x, const void *y) {
    const dd_tensor_entry *a = x, *b = y;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int compare_names(const void *x, const void *y) {
    return strcmp(((const dd_tensor_entry *)x)->name, ((const dd_tensor_entry *)y)->name);
}

static int compare_keys(const void *x, const void *y) { return strcmp(((const pair *)x)->key, ((const pair *)y)->key); }

/* The tensors must tile the data: then no byte is unclaimed, and none is claimed twice. */
static ddit_status check_tiling(header_reader *r) {
    dd_safetensors *file = r->file;
    qsort(file->entries, file->count, sizeof *file->entries, compare_offsets);
    uint64_t end = 0;
    const char *before = NULL;
    for (size_t i = 0; i < file->count; i++) {
        const dd_tensor_entry *entry = &file->entries[i];
        if (entry->offset != end) {
            char shown[DD_SHOW_SIZE];
            return dd_fail(r->err, DDIT_ERR_FORMAT,
                           "%s: tensor \"%s\" begins at data offset %" PRIu64 ", expected %" PRIu64 ", where %s%s ends (%s)",
                           file->path, dd_show(r->shown, entry->name), entry->offset, end, before ? "tensor " : "the header",
                           before ? dd_show(shown, before) : "", entry->offset > end ? "there is a hole" : "they overlap");
        }
        end += entry->bytes;
        before = entry->name;
    }
    uint64_t available = file->size - file->data_begin;
    if (end == available) return DDIT_OK;
    return dd_fail(r->err, DDIT_ERR_FORMAT,
                   "%s: found %" PRIu64 " bytes of data, expected %" PRIu64
                   ", where the last tensor ends (trailing bytes, or a damaged file)",
                   file->path, available, end);
}

/* Room needed for names, keys and values with their NULs, and for all shapes. */
static void measure(const json_t *root, const json_t *metadata, size_t *text_bytes, size_t *dims) {
    const char *key;
    json_t *value;
    *text_bytes = *dims = 0;
    json_object_foreach ((json_t *)(uintptr_t)root, key, value) {
        *text_bytes += strlen(key) + 1;
        *dims += json_array_size(json_object_get(value, "shape"));
    }
    json_object_foreach ((json_t *)(uintptr_t)metadata, key, value) {
        *text_bytes += strlen(key) + 1 + (json_is_string(value) ? json_string_length(value) + 1 : 0);
    }
}

static ddit_status read_header(dd_safetensors *file, const json_t *root, ddit_err *err) {
    const dd_allocator *a = file->allocator;
    const json_t *metadata = json_object_get(root, "__metadata__");
    if (metadata && !json_is_object(metadata))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: __metadata__: found no object, expected an object of strings", file->path);
    size_t text_bytes, dims;
    measure(root, metadata, &text_bytes, &dims);
    DD_TRY(dd_alloc_raw(a, &file->texts, text_bytes, 1, "the names of a safetensors file", err));
    DD_TRY(dd_alloc_raw(a, &file->shapes, dims, sizeof *file->shapes, "the shapes of a safetensors file", err));
    DD_TRY(
        dd_alloc(a, &file->entries, json_object_size(root), sizeof *file->entries, "the tensors of a safetensors file", err));
    DD_TRY(dd_alloc(a, &file->metadata, json_object_size(metadata), sizeof *file->metadata, "safetensors metadata", err));
    header_reader r = {.file = file, .shapes_next = file->shapes, .texts_next = file->texts, .err = err};
    const char *name;
    json_t *value;
    json_object_foreach ((json_t *)(uintptr_t)root, name, value) {
        if (value == metadata) continue;
        DD_TRY(read_tensor(&r, &file->entries[file->count], name, value));
        file->count++;
    }
    DD_TRY(read_metadata(&r, metadata));
    file->metadata_count = json_object_size(metadata);
    DD_TRY(check_tiling(&r));
    qsort(file->entries, file->count, sizeof *file->entries, compare_names);
    qsort(file->metadata, file->metadata_count, sizeof *file->metadata, compare_keys);
    for (size_t i = 0; i < file->count; i++) {
        file->entries[i].offset += file->data_begin;
        file->entries[i].data = file->bytes + file->entries[i].offset;
    }
    return DDIT_OK;
}

static uint64_t read_u64_le(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

static ddit_status read_file(dd_safetensors *file, ddit_err *err) {
    if (file->size < LENGTH_BYTES)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: found %zu bytes, expected at least 8, the length of a safetensors header",
                       file->path, file->size);
    uint64_t header = read_u64_le(file->bytes), available = file->size - LENGTH_BYTES;
    if (header > MAX_HEADER)
        return dd_fail(err, DDIT_ERR_FORMAT,
                       "%s: found a header length of %" PRIu64 " bytes, expected at most %d (is this a safetensors "
                       "file?)",
                       file->path, header, (int)MAX_HEADER);
    if (header > available)
        return dd_fail(err, DDIT_ERR_FORMAT,
                       "%s: found a header length of %" PRIu64 " bytes, expected at most the %" PRIu64
                       " that follow (is the file cut short?)",
                       file->path, header, available);
    file->data_begin = LENGTH_BYTES + (size_t)header;
    json_t *root;
    DD_TRY(dd_json_load(&root, 0, (const char *)file->bytes + LENGTH_BYTES, (size_t)header, file->path, err));
    ddit_status status = read_header(file, root, err);
    json_decref(root);
    return status;
}

static ddit_status create(dd_safetensors **out, const dd_allocator *a, const char *path, ddit_err *err) {
    *out = NULL;
    dd_safetensors *file;
    DD_TRY(dd_alloc(a, &file, 1, sizeof *file, "a safetensors file", err));
    file->allocator = a;
    *out = file;
    return dd_strdup(a, &file->path, path, err);
}

ddit_status dd_safetensors_open(dd_safetensors **out, const dd_allocator *a, const char *path, ddit_err *err) {
    ddit_status status = DDIT_OK;
    DD_GO(create(out, a, path, err));
    DD_GO(dd_mapped_file_open(&(*out)->map, path, err));
    (*out)->bytes = (*out)->map.data;
    (*out)->size = (*out)->map.size;
    status = read_file(*out, err);
done:
    if (status != DDIT_OK) {
        dd_safetensors_close(*out);
        *out = NULL;
    }
    return status;
}

ddit_status dd_safetensors_open_memory(dd_safetensors **out, const dd_allocator *a, const void *data, size_t size,
                                       const char *label, ddit_err *err) {
    ddit_status status = DDIT_OK;
    DD_GO(create(out, a, label, err));
    (*out)->bytes = data;
    (*out)->size = size;
    status = read_file(*out, err);
done:
    if (status != DDIT_OK) {
        dd_safetensors_close(*out);
        *out = NULL;
    }
    return status;
}

void dd_safetensors_close(dd_safetensors *file) {
    if (!file) return;
    dd_mapped_file_close(&file->map);
    dd_free(file->allocator, file->texts);
    dd_free(file->allocator, file->shapes);
    dd_free(file->allocator, file->metadata);
    dd_free(file->allocator, file->entries);
    dd_free(file->allocator, file->path);
    dd_free(file->allocator, file);
}

const char *dd_safetensors_path(const dd_safetensors *file) { return file->path; }
uint64_t dd_safetensors_size(const dd_safetensors *file) { return file->size; }
size_t dd_safetensors_count(const dd_safetensors *file) { return file->count; }
const dd_tensor_entry *dd_safetensors_at(const dd_safetensors *file, size_t index) { return &file->entries[index]; }

const dd_tensor_entry *dd_safetensors_find(const dd_safetensors *file, const char *name) {
    dd_tensor_entry key = {.name = name};
    return bsearch(&key, file->entries, file->count, sizeof key, compare_names);
}

const char *dd_safetensors_metadata(const dd_safetensors *file, const char *key) {
    pair wanted = {.key = key};
    const pair *found = bsearch(&wanted, file->metadata, file->metadata_count, sizeof wanted, compare_keys);
    return found ? found->value : NULL;
}

size_t dd_safetensors_metadata_count(const dd_safetensors *file) { return file->metadata_count; }

void dd_safetensors_metadata_at(const dd_safetensors *file, size_t index, const char **key, const char **value) {
    *key = file->metadata[index].key;
    *value = file->metadata[index].value;
}

void dd_tensor_entry_release(const dd_tensor_entry *entry) {
    const dd_mapped_file *map = &entry->file->map;
    if (map->data) dd_mapped_file_release(map, (size_t)entry->offset, (size_t)entry->bytes);
}

char *dd_shape_text(char *text, size_t size, int rank, const int64_t *shape) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank; i++) {
        char number[32];
        int length = snprintf(number, sizeof number, "%s%" PRId64, i ? ", " : "", shape[i]);
        if (used + (size_t)length + 5 > size) { /* room for "...]" is always left */
            used += (size_t)snprintf(text + used, size - used, "...");
            break;
        }
        used += (size_t)snprintf(text + used, size - used, "%s", number);
    }
    snprintf(text + used, size - used, "]");
    return text;
}

static ddit_status fail_use(const dd_tensor_entry *entry, ddit_err *err) {
    char shown[DD_SHOW_SIZE];
    return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                   "%s: tensor \"%s\": found dtype %s, expected F32, BF16, F16, F64, F8_E4M3 or F8_E5M2 "
                   "(convert the file)",
                   entry->file->path, dd_show(shown, entry->name), entry->dtype_name);
}

ddit_status dd_tensor_entry_to_f32(const dd_tensor_entry *entry, float *out, ddit_err *err) {
    return dd_to_f32(out, entry->data, entry->dtype, entry->count, NULL) == DDIT_OK ? DDIT_OK : fail_use(entry, err);
}

ddit_status dd_tensor_entry_to_bf16(const dd_tensor_entry *entry, uint16_t *out, ddit_err *err) {
    return dd_to_bf16(out, entry->data, entry->dtype, entry->count, NULL) == DDIT_OK ? DDIT_OK : fail_use(entry, err);
}
