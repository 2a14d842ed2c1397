/* The safetensors reader: valid corner cases, more than 60 malformed files, truncation at every byte, memory failures. */
#include "format/safetensors.h"

#include "format_test.h"

static const char label[] = "made.safetensors";

static ddit_status open_json(dd_safetensors **file, uint8_t **bytes, const char *json, size_t data_size, ddit_err *err) {
    size_t size;
    *bytes = make_file(json, data_size, &size);
    return dd_safetensors_open_memory(file, &dd_allocator_libc, *bytes, size, label, err);
}

typedef struct malformed {
    const char *json;
    size_t data;
    const char *part; /* of the sentence */
} malformed;

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const malformed malformed_files[] = {
    /* JSON */
    {"", 0, "JSON"},
    {" ", 0, "JSON"},
    {"{", 0, "JSON"},
    {"}", 0, "JSON"},
    {"[]", 0, "an object"},
    {"[{}]", 0, "an object"},
    {"null", 0, "JSON"},
    {"\"a\"", 0, "JSON"},
    {"7", 0, "JSON"},
    {"{}{}", 0, "JSON"},
    {"{},", 0, "JSON"},
    {"{} x", 0, "JSON"},
    {"{}\x01", 0, "JSON"},
    {"\xef\xbb\xbf{}", 0, "JSON"},
    {"{'a':1}", 0, "JSON"},
    {"{\"a\":1,}", 0, "JSON"},
    {"{\"a\xff\":" T("F32", "[1]", "[0,4]") "}", 4, "JSON"},
    {"{\"a\xc0\xaf\":" T("F32", "[1]", "[0,4]") "}", 4, "JSON"},
    {"{\"a\\u0000\":" T("F32", "[1]", "[0,4]") "}", 4, "JSON"},
    {"{\"a\\ud800\":" T("F32", "[1]", "[0,4]") "}", 4, "JSON"},
    {"{\"a\n\":" T("F32", "[1]", "[0,4]") "}", 4, "JSON"},
    {"{\"a\":NaN}", 0, "JSON"},
    /* duplicates */
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]") "}", 8, "duplicate"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"\\u0061\":" T("F32", "[1]", "[4,8]") "}", 8, "duplicate"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "duplicate"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "duplicate"},
    /* metadata */
    {"{\"__metadata__\":7}", 0, "__metadata__"},
    {"{\"__metadata__\":null}", 0, "__metadata__"},
    {"{\"__metadata__\":[\"a\"]}", 0, "__metadata__"},
    {"{\"__metadata__\":{\"key\":7}}", 0, "\"key\""},
    {"{\"__metadata__\":{\"key\":{\"a\":\"b\"}}}", 0, "\"key\""},
    {"{\"__metadata__\":{\"key\":null}}", 0, "\"key\""},
    /* entries */
    {"{\"a\":7}", 0, "\"a\""},
    {"{\"a\":null}", 0, "\"a\""},
    {"{\"a\":[]}", 0, "\"a\""},
    {"{\"a\":{}}", 0, "dtype"},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype"},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "F33"},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "f32"},
    {"{\"a\":{\"dtype\":\"Q8_0\",\"shape\":[32],\"data_offsets\":[0,34]}}", 34, "Q8_0"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "no \"shape\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "no \"data_offsets\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":4}}", 4, "[begin, end]"},
    /* shapes */
    {"{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, "negative"},
    {"{\"a\":" T("F32", "[1.0]", "[0,4]") "}", 4, "no integer"},
    {"{\"a\":" T("F32", "[\"1\"]", "[0,4]") "}", 4, "no integer"},
    {"{\"a\":" T("F32", "[null]", "[0,4]") "}", 4, "no integer"},
    {"{\"a\":" T("F32", "[[1]]", "[0,4]") "}", 4, "no integer"},
    {"{\"a\":" T("F32", "[true]", "[0,4]") "}", 4, "no integer"},
    {"{\"a\":" T("F32", "[18446744073709551616]", "[0,4]") "}", 4, "JSON"},
    {"{\"a\":" T("F32", "[9223372036854775807,3]", "[0,4]") "}", 4, "64 bits"},
    {"{\"a\":" T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "64 bits"},
    {"{\"a\":" T("F32", "[4611686018427387905,4]", "[0,16]") "}", 16, "64 bits"},
    {"{\"a\":" T("F32", "[9223372036854775807,9,0]", "[0,0]") "}", 0, "64 bits"},
    {"{\"a\":" T("F64", "[2305843009213693952]", "[0,0]") "}", 0, "64 bits"},
    {"{\"a\":" T("F4", "[9223372036854775807]", "[0,4]") "}", 4, "64 bits"},
    /* sizes */
    {"{\"a\":" T("F32", "[1]", "[0,3]") "}", 3, "found 3 bytes"},
    {"{\"a\":" T("F32", "[1]", "[0,5]") "}", 5, "found 5 bytes"},
    {"{\"a\":" T("F32", "[]", "[0,0]") "}", 0, "expected 32 bits"},
    {"{\"a\":" T("F32", "[0]", "[0,4]") "}", 4, "found 4 bytes"},
    {"{\"a\":" T("BF16", "[2,3]", "[0,6]") "}", 6, "[2, 3]"},
    {"{\"a\":" T("F4", "[3]", "[0,1]") "}", 1, "12 bits"},
    {"{\"a\":" T("F4", "[3]", "[0,2]") "}", 2, "12 bits"},
    {"{\"a\":" T("F6_E2M3", "[3]", "[0,2]") "}", 2, "18 bits"},
    /* offsets */
    {"{\"a\":" T("F32", "[1]", "[]") "}", 4, "[begin, end]"},
    {"{\"a\":" T("F32", "[1]", "[0]") "}", 4, "[begin, end]"},
    {"{\"a\":" T("F32", "[1]", "[0,4,8]") "}", 8, "[begin, end]"},
    {"{\"a\":" T("F32", "[1]", "[0.0,4]") "}", 4, "no integers"},
    {"{\"a\":" T("F32", "[1]", "[0,\"4\"]") "}", 4, "no integers"},
    {"{\"a\":" T("F32", "[1]", "[-4,0]") "}", 4, "negative"},
    {"{\"a\":" T("F32", "[1]", "[0,-4]") "}", 4, "negative"},
    {"{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, "begin <= end"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") "}", 3, "cut short"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") "}", 0, "cut short"},
    {"{\"a\":" T("F32", "[1]", "[9223372036854775803,9223372036854775807]") "}", 4, "cut short"},
    {"{\"a\":" T("F32", "[1]", "[0,18446744073709551615]") "}", 4, "JSON"},
    /* tiling */
    {"{}", 1, "trailing"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") "}", 5, "trailing"},
    {"{\"a\":" T("F32", "[1]", "[4,8]") "}", 8, "the header ends"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12, "hole"},
    {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[4,8]") "}", 8, "overlap"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4, "overlap"},
    {"{\"a\":" T("F32", "[0]", "[2,2]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4, "overlap"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[0]", "[8,8]") "}", 8, "hole"},
};

static void malformed_are_refused(dd_test *t) {
    size_t count = sizeof malformed_files / sizeof *malformed_files;
    DD_CHECK(t, count >= 60);
    for (size_t i = 0; i < count; i++) {
        const malformed *m = &malformed_files[i];
        dd_safetensors *file = (dd_safetensors *)t;
        uint8_t *bytes;
        int before = t->failures;
        DD_FAILS(t, open_json(&file, &bytes, m->json, m->data, &t->err), DDIT_ERR_FORMAT, m->part);
        DD_CHECK(t, file == NULL && strstr(t->err.text, label) && strstr(t->err.text, "expected"));
        if (t->failures > before) printf("  case %zu %s\n  %s\n", i, m->json, t->err.text);
        free(bytes);
    }
}

static void bad_lengths_are_refused(dd_test *t) {
    static const struct {
        uint64_t length;
        size_t size;
        const char *part;
    } cases[] = {
        {0, 0, "at least 8"},
        {0, 7, "at least 8"},
        {0, 8, "JSON"},
        {1, 8, "the 0 that follow"},
        {3, 10, "the 2 that follow"},
        {100000000, 10, "cut short"},
        {100000001, 10, "100000000"},
        {UINT64_MAX, 10, "at most"},
        {UINT64_MAX - 7, 10, "at most"},
        {(uint64_t)1 << 63, 10, "at most"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t *bytes = malloc(cases[i].size ? cases[i].size : 1);
        dd_safetensors *file;
        for (size_t k = 0; k < cases[i].size; k++)
            bytes[k] = k < 8 ? (uint8_t)(cases[i].length >> (8 * k)) : (uint8_t)("{}"[k % 2]);
        DD_FAILS(t, dd_safetensors_open_memory(&file, &dd_allocator_libc, bytes, cases[i].size, label, &t->err),
                 DDIT_ERR_FORMAT, cases[i].part);
        DD_CHECK(t, strstr(t->err.text, label) && strstr(t->err.text, "expected"));
        free(bytes);
    }
}

static const char valid_json[] = " \n{\"b.weight\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                                 "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                 "\"none\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[16,16]},"
                                 "\"four\":{\"dtype\":\"F4\",\"shape\":[2,1,1,1,1,1,1,1],\"data_offsets\":[16,17]},"
                                 "\"none2\":{\"dtype\":\"I64\",\"shape\":[0],\"data_offsets\":[16,16]},"
                                 "\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[17,18],\"more\":1},"
                                 "\"__metadata__\":{\"format\":\"pt\",\"a\":\"\"}}\t\r\n  ";

static void valid_corners(dd_test *t) {
    dd_safetensors *file;
    uint8_t *bytes;
    DD_NEED_OK(t, open_json(&file, &bytes, valid_json, 18, &t->err));
    DD_CHECK(t, dd_safetensors_count(file) == 6 && strcmp(dd_safetensors_path(file), label) == 0);
    DD_CHECK(t, dd_safetensors_size(file) == 8 + strlen(valid_json) + 18);
    const dd_tensor_entry *b = dd_safetensors_find(file, "b.weight"), *a = dd_safetensors_find(file, "a");
    DD_NEED(t, a && b);
    DD_CHECK(t, b->rank == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->count == 6 && b->bytes == 12);
    DD_CHECK(t, b->dtype == DD_DTYPE_BF16 && strcmp(b->dtype_name, "BF16") == 0 && b->file == file);
    DD_CHECK(t, b->offset == 8 + strlen(valid_json) + 4 && b->data == bytes + b->offset);
    DD_CHECK(t, a->rank == 0 && a->count == 1 && a->bytes == 4);
    const dd_tensor_entry *four = dd_safetensors_find(file, "four");
    DD_CHECK(t, four && four->dtype == DD_DTYPE_OTHER && four->rank == 8 && strcmp(four->dtype_name, "F4") == 0);
    DD_CHECK(t, dd_safetensors_find(file, "") && dd_safetensors_find(file, "none")->count == 0);
    DD_CHECK(t, !dd_safetensors_find(file, "b") && !dd_safetensors_find(file, "__metadata__"));
    for (size_t i = 1; i < 6; i++)
        DD_CHECK(t, strcmp(dd_safetensors_at(file, i - 1)->name, dd_safetensors_at(file, i)->name) < 0);
    DD_CHECK(t, dd_safetensors_metadata_count(file) == 2 && strcmp(dd_safetensors_metadata(file, "format"), "pt") == 0);
    const char *key, *value;
    dd_safetensors_metadata_at(file, 0, &key, &value);
    DD_CHECK(t, strcmp(key, "a") == 0 && value[0] == '\0' && !dd_safetensors_metadata(file, "b"));
    float out[6];
    uint16_t bf16[6];
    DD_OK(t, dd_tensor_entry_to_f32(b, out, &t->err));
    DD_OK(t, dd_tensor_entry_to_bf16(b, bf16, &t->err));
    DD_FAILS(t, dd_tensor_entry_to_f32(four, out, &t->err), DDIT_ERR_UNSUPPORTED, "F4");
    DD_FAILS(t, dd_tensor_entry_to_bf16(dd_safetensors_find(file, ""), bf16, &t->err), DDIT_ERR_UNSUPPORTED, "U8");
    DD_CHECK(t, strstr(t->err.text, label) && strstr(t->err.text, "expected"));
    dd_tensor_entry_release(b); /* memory of the caller: must stay as it is */
    dd_safetensors_close(file);
    dd_safetensors_close(NULL);
    free(bytes);
}

static void empty_files(dd_test *t) {
    static const char *const jsons[] = {"{}", "  {}  ", "{\"__metadata__\":{}}"};
    for (size_t i = 0; i < 3; i++) {
        dd_safetensors *file;
        uint8_t *bytes;
        DD_NEED_OK(t, open_json(&file, &bytes, jsons[i], 0, &t->err));
        DD_CHECK(t, dd_safetensors_count(file) == 0 && !dd_safetensors_find(file, "a") && !dd_safetensors_metadata(file, "a"));
        dd_safetensors_close(file);
        free(bytes);
    }
}

static void every_dtype(dd_test *t) {
    static const struct {
        const char *name;
        unsigned bits;
    } dtypes[] = {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
                  {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
                  {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
                  {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        char json[200];
        dd_safetensors *file;
        uint8_t *bytes;
        snprintf(json, sizeof json, "{\"a\":{\"dtype\":\"%s\",\"shape\":[4,2],\"data_offsets\":[0,%u]}}", dtypes[i].name,
                 dtypes[i].bits);
        DD_OK(t, open_json(&file, &bytes, json, dtypes[i].bits, &t->err));
        const dd_tensor_entry *entry = file ? dd_safetensors_find(file, "a") : NULL;
        DD_CHECK(t, entry && strcmp(entry->dtype_name, dtypes[i].name) == 0);
        DD_CHECK(t, entry && (entry->dtype == DD_DTYPE_OTHER || strcmp(dd_dtype_name(entry->dtype), dtypes[i].name) == 0));
        dd_safetensors_close(file);
        free(bytes);
    }
}

/* Every shorter file is refused: cut at each byte of header and data. */
static void truncation_at_every_byte(dd_test *t) {
    size_t size;
    uint8_t *whole = make_file(valid_json, 18, &size);
    for (size_t cut = 0; cut < size; cut++) {
        dd_safetensors *file;
        uint8_t *part = malloc(cut ? cut : 1);
        memcpy(part, whole, cut);
        DD_FAILS(t, dd_safetensors_open_memory(&file, &dd_allocator_libc, part, cut, label, &t->err), DDIT_ERR_FORMAT, label);
        DD_CHECK(t, strstr(t->err.text, "expected"));
        free(part);
    }
    free(whole);
}

/* One changed byte never crashes the reader; what is accepted can be walked through. */
static void changed_bytes(dd_test *t) {
    size_t size;
    uint8_t *bytes = make_file(valid_json, 18, &size);
    for (size_t at = 0; at < size - 18; at++) {
        uint8_t old = bytes[at];
        for (int k = 0; k < 256; k += 5) {
            dd_safetensors *file;
            bytes[at] = (uint8_t)(old ^ k);
            if (dd_safetensors_open_memory(&file, &dd_allocator_libc, bytes, size, label, &t->err) != DDIT_OK) continue;
            for (size_t i = 0; i < dd_safetensors_count(file); i++) {
                const dd_tensor_entry *entry = dd_safetensors_at(file, i);
                DD_CHECK(t, entry->offset + entry->bytes <= size && dd_safetensors_find(file, entry->name) == entry);
            }
            dd_safetensors_close(file);
        }
        bytes[at] = old;
    }
    free(bytes);
}

static void out_of_memory(dd_test *t) {
    size_t size, n = 1;
    uint8_t *bytes = make_file(valid_json, 18, &size);
    for (;; n++) {
        dd_test_allocator a;
        dd_safetensors *file;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        ddit_status status = dd_safetensors_open_memory(&file, &a.allocator, bytes, size, label, &t->err);
        if (status == DDIT_OK) dd_safetensors_close(file);
        DD_CHECK(t, a.live == 0 && (status == DDIT_OK || status == DDIT_ERR_NO_MEMORY));
        if (status == DDIT_OK) break;
    }
    DD_CHECK(t, n >= 6);
    free(bytes);
}

static void files_on_disk(dd_test *t) {
    char folder[64], path[256];
    size_t size;
    dd_safetensors *file;
    uint8_t *bytes = make_file(valid_json, 18, &size);
    make_folder(folder);
    write_bytes(folder, "a.safetensors", bytes, size);
    write_text(folder, "empty.safetensors", "");
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, in_folder(path, folder, "a.safetensors"), &t->err));
    dd_tensor_entry_release(dd_safetensors_find(file, "b.weight"));
    DD_CHECK(t, strcmp(dd_safetensors_path(file), path) == 0);
    dd_safetensors_close(file);
    DD_FAILS(t, dd_safetensors_open(&file, &dd_allocator_libc, in_folder(path, folder, "no.safetensors"), &t->err),
             DDIT_ERR_NOT_FOUND, path);
    DD_FAILS(t, dd_safetensors_open(&file, &dd_allocator_libc, in_folder(path, folder, "empty.safetensors"), &t->err),
             DDIT_ERR_FORMAT, path);
    DD_FAILS(t, dd_safetensors_open(&file, &dd_allocator_libc, folder, &t->err), DDIT_ERR_READ, folder);
    remove_folder(folder);
    free(bytes);
}

/* 100,000 tensors: found by name, in order. */
static void many_tensors(dd_test *t) {
    enum { N = 100000 };
    char *json = malloc((size_t)N * 90);
    size_t used = 1, size;
    json[0] = '{';
    for (int i = 0; i < N; i++)
        used += (size_t)sprintf(json + used, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                                i ? "," : "", i, N - 1 - i, N - i);
    strcpy(json + used, "}");
    uint8_t *bytes = make_file(json, N, &size);
    dd_safetensors *file;
    DD_NEED_OK(t, dd_safetensors_open_memory(&file, &dd_allocator_libc, bytes, size, label, &t->err));
    DD_CHECK(t, dd_safetensors_count(file) == N);
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        const dd_tensor_entry *entry = dd_safetensors_find(file, name);
        if (!entry || entry->data != bytes + size - 1 - i) dd_test_fail(t, __FILE__, __LINE__, "%s", name);
    }
    dd_safetensors_close(file);
    free(json), free(bytes);
}

static void shapes_and_names_in_sentences(dd_test *t) {
    char text[20];
    DD_CHECK(t, strcmp(dd_shape_text(text, sizeof text, 2, (int64_t[]){3072, 64}), "[3072, 64]") == 0);
    DD_CHECK(t, strcmp(dd_shape_text(text, sizeof text, 0, NULL), "[]") == 0);
    DD_CHECK(t, strcmp(dd_shape_text(text, sizeof text, 5, (int64_t[]){1000, 2000, 3000, 4000, 5000}), "[1000, 2000...]") == 0);
    DD_CHECK(t, strcmp(dd_shape_text(text, 8, 1, (int64_t[]){INT64_MAX}), "[...]") == 0);
    /* a long name with control characters is cut between characters and made harmless */
    char json[400] = "{\"\\u001b[31m", name[200] = "";
    for (int i = 0; i < 60; i++) strcat(name, "\xc3\xa9");
    strcat(strcat(json, name), "\":7}");
    dd_safetensors *file;
    uint8_t *bytes;
    DD_FAILS(t, open_json(&file, &bytes, json, 0, &t->err), DDIT_ERR_FORMAT, "\"?[31m\xc3\xa9");
    DD_CHECK(t, strstr(t->err.text, "\xc3\xa9...\"") && !strchr(t->err.text, '\x1b'));
    free(bytes);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"malformed_are_refused", malformed_are_refused},
        {"bad_lengths_are_refused", bad_lengths_are_refused},
        {"valid_corners", valid_corners},
        {"empty_files", empty_files},
        {"every_dtype", every_dtype},
        {"truncation_at_every_byte", truncation_at_every_byte},
        {"changed_bytes", changed_bytes},
        {"out_of_memory", out_of_memory},
        {"files_on_disk", files_on_disk},
        {"many_tensors", many_tensors},
        {"shapes_and_names_in_sentences", shapes_and_names_in_sentences},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
