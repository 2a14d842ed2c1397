/* The writer, and weights in one file, in shards and in folders. */
#include "format/weights.h"

#include <signal.h>
#include <sys/resource.h>

#include "base/mapped_file.h"
#include "format/safetensors_write.h"
#include "format_test.h"

static const float numbers[6] = {1, 2, 3, 4, 5, 6};

static dd_safetensors_item item(const char *name, dd_dtype dtype, int64_t n, const void *data) {
    return (dd_safetensors_item){.name = name, .dtype = dtype, .rank = 1, .shape = {n}, .data = data};
}

/* The bytes that the reference writer makes of the same tensors (safetensors.torch.save). */
static void writes_as_the_reference(dd_test *t) {
    static const char expected[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"z\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                                   "\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[24,26]},"
                                   "\"b\":{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[26,26]}}";
    char folder[64], path[256];
    make_folder(folder);
    in_folder(path, folder, "out.safetensors");
    dd_tensor z = dd_tensor_2d((void *)(uintptr_t)numbers, DD_DTYPE_F32, 2, 3);
    uint16_t one = 0x3f80;
    dd_safetensors_item items[] = {item("b", DD_DTYPE_BF16, 0, NULL), item("a", DD_DTYPE_BF16, 1, &one),
                                   dd_safetensors_item_of("z", &z)};
    dd_safetensors_pair pair = {"format", "pt"};
    DD_NEED_OK(t, dd_safetensors_write(&dd_allocator_libc, path, items, 3, &pair, 1, &t->err));
    char *data;
    size_t size;
    DD_NEED_OK(t, dd_read_file(&dd_allocator_libc, path, 1 << 20, &data, &size, &t->err));
    size_t header = (uint8_t)data[0] + 256u * (uint8_t)data[1];
    DD_CHECK(t, header % 8 == 0 && header - strlen(expected) < 8 && size == 8 + header + 26);
    DD_CHECK(t, memcmp(data + 8, expected, strlen(expected)) == 0);
    DD_CHECK(t, memcmp(data + 8 + header, numbers, 24) == 0 && memcmp(data + 8 + header + 24, &one, 2) == 0);
    dd_free(&dd_allocator_libc, data);
    dd_safetensors *file;
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, path, &t->err));
    float back[6];
    DD_OK(t, dd_tensor_entry_to_f32(dd_safetensors_find(file, "z"), back, &t->err));
    DD_CHECK(t, memcmp(back, numbers, sizeof back) == 0 && dd_safetensors_count(file) == 3);
    dd_safetensors_close(file);
    remove_folder(folder);
}

static void writes_zeros_and_nothing(dd_test *t) {
    char folder[64], path[256];
    make_folder(folder);
    in_folder(path, folder, "out.safetensors");
    dd_safetensors_item zeros = {.name = "zeros", .dtype = DD_DTYPE_F64, .rank = 2, .shape = {50, 30}};
    dd_safetensors *file;
    DD_NEED_OK(t, dd_safetensors_write(&dd_allocator_libc, path, &zeros, 1, NULL, 0, &t->err));
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, path, &t->err));
    const dd_tensor_entry *entry = dd_safetensors_find(file, "zeros");
    DD_CHECK(t, entry && entry->bytes == 12000 && entry->data[0] == 0 && entry->data[11999] == 0);
    dd_safetensors_close(file);
    DD_NEED_OK(t, dd_safetensors_write(&dd_allocator_libc, path, NULL, 0, NULL, 0, &t->err));
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, path, &t->err));
    DD_CHECK(t, dd_safetensors_count(file) == 0);
    dd_safetensors_close(file);
    remove_folder(folder);
}

static void refuses_to_write(dd_test *t) {
    const dd_allocator *a = &dd_allocator_libc;
    char folder[64], path[256];
    make_folder(folder);
    in_folder(path, folder, "out.safetensors");
    dd_safetensors_item twice[] = {item("a", DD_DTYPE_F32, 6, numbers), item("a", DD_DTYPE_U8, 1, numbers)};
    DD_FAILS(t, dd_safetensors_write(a, path, twice, 2, NULL, 0, &t->err), DDIT_ERR_ARGUMENT, "two tensors");
    dd_safetensors_item bad[] = {
        item("", DD_DTYPE_F32, 6, numbers),
        item("__metadata__", DD_DTYPE_F32, 6, numbers),
        item("a", DD_DTYPE_Q8_0, 32, numbers),
        item("a", DD_DTYPE_COUNT, 6, numbers),
        item("a", DD_DTYPE_F32, -1, numbers),
        item("a", DD_DTYPE_F64, INT64_MAX, numbers),
        item("a\xff", DD_DTYPE_F32, 6, numbers),
        {.name = "a", .rank = 7},
        {.name = "a", .rank = -1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        DD_FAILS(t, dd_safetensors_write(a, path, &bad[i], 1, NULL, 0, &t->err), DDIT_ERR_ARGUMENT, "expected");
        DD_CHECK(t, strstr(t->err.text, path));
    }
    dd_safetensors_item huge[] = {item("a", DD_DTYPE_U8, INT64_MAX, NULL), item("b", DD_DTYPE_U8, INT64_MAX, NULL)};
    DD_FAILS(t, dd_safetensors_write(a, path, huge, 2, NULL, 0, &t->err), DDIT_ERR_ARGUMENT, "2^63");
    dd_safetensors_pair pair = {"key", "\xff"};
    DD_FAILS(t, dd_safetensors_write(a, path, NULL, 0, &pair, 1, &t->err), DDIT_ERR_ARGUMENT, "UTF-8");
    DD_CHECK(t, access(path, F_OK) != 0); /* nothing was left behind */
    DD_FAILS(t, dd_safetensors_write(a, "/nonexistent-folder/x.safetensors", NULL, 0, NULL, 0, &t->err), DDIT_ERR_OUTPUT_PATH,
             NULL);
    remove_folder(folder);
}

static void out_of_memory_when_writing(dd_test *t) {
    char folder[64], path[256];
    make_folder(folder);
    in_folder(path, folder, "out.safetensors");
    dd_safetensors_item one = item("a", DD_DTYPE_F32, 6, numbers);
    for (size_t n = 1;; n++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        ddit_status status = dd_safetensors_write(&a.allocator, path, &one, 1, NULL, 0, &t->err);
        DD_CHECK(t, a.live == 0 && (status == DDIT_OK) == (access(path, F_OK) == 0));
        if (status == DDIT_OK) break;
        DD_CHECK(t, status == DDIT_ERR_NO_MEMORY);
    }
    remove_folder(folder);
}

/* A disk that is full after 4096 bytes: an error, and nothing left behind. */
static void a_full_disk(dd_test *t) {
    char folder[64], path[256];
    struct rlimit old, small;
    make_folder(folder);
    in_folder(path, folder, "out.safetensors");
    uint8_t *bytes = calloc(1, 100000);
    dd_safetensors_item items[] = {item("a", DD_DTYPE_U8, 100000, bytes), item("a", DD_DTYPE_U8, 100000, NULL)};
    if (getrlimit(RLIMIT_FSIZE, &old) != 0) abort();
    small = (struct rlimit){4096, old.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < 2; i++) {
        if (setrlimit(RLIMIT_FSIZE, &small) != 0) abort();
        ddit_status status = dd_safetensors_write(&dd_allocator_libc, path, &items[i], 1, NULL, 0, &t->err);
        if (setrlimit(RLIMIT_FSIZE, &old) != 0) abort();
        DD_CHECK(t, status == DDIT_ERR_WRITE && strstr(t->err.text, path) && access(path, F_OK) != 0);
    }
    DD_CHECK(t, rmdir(folder) == 0); /* no temporary file either */
    signal(SIGXFSZ, handler);
    free(bytes);
}

static void write_model(dd_test *t, const char *folder, const char *name, const char *first, const char *second) {
    char path[256];
    dd_safetensors_item items[] = {
        {.name = first, .dtype = DD_DTYPE_F32, .rank = 2, .shape = {2, 3}, .data = numbers},
        {.name = second, .dtype = DD_DTYPE_I32, .rank = 1, .shape = {4}},
    };
    DD_OK(t, dd_safetensors_write(&dd_allocator_libc, in_folder(path, folder, name), items, 2, NULL, 0, &t->err));
}

static void single_files_and_folders(dd_test *t) {
    const dd_allocator *a = &dd_allocator_libc;
    static const char *const names[] = {"model.fp16.safetensors", "model.bf16.safetensors", "model.safetensors",
                                        "diffusion_pytorch_model.safetensors"};
    char folder[64], path[256];
    dd_weight_files *files;
    make_folder(folder);
    DD_FAILS(t, dd_weight_files_open(&files, a, folder, &t->err), DDIT_ERR_NOT_FOUND, folder);
    DD_CHECK(t, files == NULL && strstr(t->err.text, "expected diffusion_pytorch_model.safetensors, model.safetensors"));
    for (size_t i = 0; i < 4; i++) { /* each is preferred to those before it */
        write_model(t, folder, names[i], "a", "b");
        DD_NEED_OK(t, dd_weight_files_open(&files, a, folder, &t->err));
        DD_CHECK(t, strcmp(dd_weight_files_path(files), in_folder(path, folder, names[i])) == 0);
        dd_weight_files_close(files);
    }
    DD_NEED_OK(t, dd_weight_files_open(&files, a, in_folder(path, folder, names[0]), &t->err));
    DD_CHECK(t, dd_weight_files_count(files) == 2 && dd_weight_files_bytes(files) == 40);
    DD_CHECK(t, strcmp(dd_weight_files_at(files, 1)->name, "b") == 0 && !dd_weight_files_find(files, "c"));
    const dd_tensor_entry *entry;
    DD_OK(t, dd_weight_files_need(files, "a", 2, (int64_t[]){2, 3}, &entry, &t->err));
    DD_CHECK(t, entry && memcmp(entry->data, numbers, 24) == 0);
    dd_weight_files_release(entry);
    DD_FAILS(t, dd_weight_files_need(files, "c.weight", 2, (int64_t[]){7, 9}, &entry, &t->err), DDIT_ERR_MISMATCH, "[7, 9]");
    DD_CHECK(t, !entry && strstr(t->err.text, "c.weight") && strstr(t->err.text, path));
    DD_FAILS(t, dd_weight_files_need(files, "a", 2, (int64_t[]){3, 2}, &entry, &t->err), DDIT_ERR_MISMATCH,
             "found shape [2, 3], expected [3, 2]");
    DD_FAILS(t, dd_weight_files_need(files, "a", 1, (int64_t[]){2}, &entry, &t->err), DDIT_ERR_MISMATCH, "[2]");
    DD_FAILS(t, dd_weight_files_need(files, "b", 1, (int64_t[]){4}, &entry, &t->err), DDIT_ERR_UNSUPPORTED, "I32");
    DD_CHECK(t, strstr(t->err.text, "offset") && strstr(t->err.text, "expected"));
    dd_weight_files_close(files);
    dd_weight_files_close(NULL);
    DD_FAILS(t, dd_weight_files_open(&files, a, in_folder(path, folder, "no.safetensors"), &t->err), DDIT_ERR_NOT_FOUND, path);
    remove_folder(folder);
}

static void sharded(dd_test *t) {
    const dd_allocator *a = &dd_allocator_libc;
    char folder[64], path[256];
    dd_weight_files *files;
    make_folder(folder);
    write_model(t, folder, "m-00001-of-00002.safetensors", "z", "y");
    write_model(t, folder, "m-00002-of-00002.safetensors", "b", "unlisted");
    write_text(folder, "model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":80},\"weight_map\":{\"z\":\"m-00001-of-00002.safetensors\","
               "\"b\":\"m-00002-of-00002.safetensors\",\"y\":\"m-00001-of-00002.safetensors\"}}");
    for (int k = 0; k < 2; k++) { /* as a folder and by the index itself */
        DD_NEED_OK(
            t, dd_weight_files_open(&files, a, k ? in_folder(path, folder, "model.safetensors.index.json") : folder, &t->err));
        DD_CHECK(t, dd_weight_files_count(files) == 3 && dd_weight_files_bytes(files) == 64);
        DD_CHECK(t, dd_weight_files_find(files, "z") && dd_weight_files_find(files, "y") && dd_weight_files_find(files, "b"));
        DD_CHECK(t, !dd_weight_files_find(files, "unlisted"));
        DD_CHECK(t, strstr(dd_safetensors_path(dd_weight_files_find(files, "b")->file), "m-00002"));
        dd_weight_files_close(files);
    }
    for (size_t n = 1;; n++) {
        dd_test_allocator counting;
        dd_test_allocator_init(&counting);
        counting.fail_at = n;
        ddit_status status = dd_weight_files_open(&files, &counting.allocator, folder, &t->err);
        if (status == DDIT_OK) dd_weight_files_close(files);
        DD_CHECK(t, counting.live == 0 && (status == DDIT_OK || status == DDIT_ERR_NO_MEMORY));
        if (status == DDIT_OK) break;
    }
    write_text(folder, "model.safetensors.index.json", "{\"weight_map\":{\"q\":\"m-00001-of-00002.safetensors\"}}");
    DD_FAILS(t, dd_weight_files_open(&files, a, folder, &t->err), DDIT_ERR_MISMATCH, "m-00001-of-00002.safetensors");
    DD_CHECK(t, !files && strstr(t->err.text, "\"q\"") && strstr(t->err.text, "expected"));
    write_text(folder, "model.safetensors.index.json", "{\"weight_map\":{\"q\":\"gone.safetensors\"}}");
    DD_FAILS(t, dd_weight_files_open(&files, a, folder, &t->err), DDIT_ERR_NOT_FOUND, "gone.safetensors");
    DD_CHECK(t, strstr(t->err.text, "expected a shard"));
    write_text(folder, "model.safetensors.index.json", "{\"weight_map\":{\"q\":\"model.safetensors.index.json\"}}");
    DD_FAILS(t, dd_weight_files_open(&files, a, folder, &t->err), DDIT_ERR_FORMAT, "model.safetensors.index.json");
    remove_folder(folder);
}

static void an_index_without_folder_in_its_path(dd_test *t) {
    char folder[64], old[256];
    dd_weight_files *files;
    make_folder(folder);
    write_model(t, folder, "m.safetensors", "z", "y");
    write_text(folder, "i.json", "{\"weight_map\":{\"z\":\"m.safetensors\"}}");
    DD_NEED(t, getcwd(old, sizeof old) && chdir(folder) == 0);
    DD_OK(t, dd_weight_files_open(&files, &dd_allocator_libc, "i.json", &t->err));
    dd_weight_files_close(files);
    DD_NEED(t, chdir(old) == 0);
    remove_folder(folder);
}

static void too_many_shards(dd_test *t) {
    enum { N = 4097 };
    char folder[64], *text = malloc(N * 40);
    dd_weight_files *files;
    size_t used = (size_t)sprintf(text, "{\"weight_map\":{");
    for (int i = 0; i < N; i++) used += (size_t)sprintf(text + used, "%s\"t%d\":\"s%d\"", i ? "," : "", i, i);
    strcpy(text + used, "}}");
    make_folder(folder);
    write_text(folder, "model.safetensors.index.json", text);
    DD_FAILS(t, dd_weight_files_open(&files, &dd_allocator_libc, folder, &t->err), DDIT_ERR_FORMAT, "4097 shards");
    remove_folder(folder);
    free(text);
}

static void malformed_indexes(dd_test *t) {
    static const char *const bad[] = {
        "",
        "[]",
        "{",
        "{}",
        "{\"weight_map\":7}",
        "{\"weight_map\":null}",
        "{\"weight_map\":{}}",
        "{\"weight_map\":[\"a\"]}",
        "{\"weight_map\":{\"a\":7}}",
        "{\"weight_map\":{\"a\":null}}",
        "{\"weight_map\":{\"a\":\"\"}}",
        "{\"weight_map\":{\"a\":\"..\"}}",
        "{\"weight_map\":{\"a\":\".\"}}",
        "{\"weight_map\":{\"a\":\"../x.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
        "{\"weight_map\":{\"a\":\"x/y.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"x\\\\y.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"x.safetensors\\u0000\"}}",
        "{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}",
        "{\"weight_map\":{\"a\":\"x\"},\"weight_map\":{\"b\":\"y\"}}",
        "{\"weight_map\":{\"a\":\".hidden\"}}",
        "{\"weight_map\":{\"a\":\"\xff\"}}",
        "{\"weight_map\":{\"a\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
        "xxxxxxxxxxxxxxxxxxxxxxxxx\"}}",
    };
    size_t tensors = 9;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        DD_FAILS(t, dd_weight_index_check(&dd_allocator_libc, bad[i], strlen(bad[i]), "x.json", &tensors, &t->err),
                 DDIT_ERR_FORMAT, "expected");
        DD_CHECK(t, tensors == 0 && strstr(t->err.text, "x.json"));
    }
    const char *good = "{\"weight_map\":{\"a\":\"x\",\"b\":\"x\"}}";
    DD_OK(t, dd_weight_index_check(&dd_allocator_libc, good, strlen(good), "x.json", &tensors, &t->err));
    DD_CHECK(t, tensors == 2);
    DD_OK(t, dd_weight_index_check(&dd_allocator_libc, good, strlen(good), "x.json", NULL, &t->err));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"writes_as_the_reference", writes_as_the_reference},
        {"writes_zeros_and_nothing", writes_zeros_and_nothing},
        {"refuses_to_write", refuses_to_write},
        {"out_of_memory_when_writing", out_of_memory_when_writing},
        {"a_full_disk", a_full_disk},
        {"single_files_and_folders", single_files_and_folders},
        {"sharded", sharded},
        {"an_index_without_folder_in_its_path", an_index_without_folder_in_its_path},
        {"too_many_shards", too_many_shards},
        {"malformed_indexes", malformed_indexes},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
