/* Parameters as segments of one vector: offsets, names, and their way through a file. */
#include <unistd.h>

#include "bind/param_list.h"
#include "harness.h"

static ddit_status fill(dd_param_list *list, int64_t offsets[4], ddit_err *err) {
    DD_TRY(dd_param_list_add(list, "b.weight", 2, (int64_t[]){3, 5}, &offsets[0], err));
    DD_TRY(dd_param_list_add(list, "b.bias", 1, (int64_t[]){3}, &offsets[1], err));
    DD_TRY(dd_param_list_add(list, "a.weight", 4, (int64_t[]){2, 2, 2, 4}, &offsets[2], err));
    return dd_param_list_add(list, "one", 1, (int64_t[]){1}, &offsets[3], err);
}

static void segments_are_aligned_and_found(dd_test *t) {
    dd_param_list list;
    int64_t offsets[4];
    dd_param_list_init(&list, &dd_allocator_libc);
    DD_NEED_OK(t, fill(&list, offsets, &t->err));
    DD_CHECK(t, list.count == 4 && list.total == 16 + 16 + 32 + 16);
    DD_CHECK(t, offsets[0] == 0 && offsets[1] == 16 && offsets[2] == 32 && offsets[3] == 64);
    const dd_param *p = dd_param_list_find(&list, "a.weight");
    DD_NEED(t, p);
    DD_CHECK(t, p->rank == 4 && p->count == 32 && p->offset == 32 && p->shape[3] == 4);
    DD_CHECK(t, !dd_param_list_find(&list, "a.weigh") && !dd_param_list_find(&list, ""));
    DD_FAILS(t, dd_param_list_add(&list, "b.bias", 1, (int64_t[]){3}, NULL, &t->err), DDIT_ERR_INTERNAL, "b.bias");
    DD_CHECK(t, list.count == 4 && list.total == 80);
    for (int i = 0; i < 200; i++) { /* more than the first room */
        char name[16];
        snprintf(name, sizeof name, "p%d", i);
        DD_OK(t, dd_param_list_add(&list, name, 1, (int64_t[]){i + 1}, NULL, &t->err));
    }
    DD_CHECK(t, dd_param_list_find(&list, "p199")->offset % 16 == 0 && dd_param_list_find(&list, "p199")->count == 200);
    dd_param_list_deinit(&list);
    dd_param_list_deinit(&list); /* a zeroed list is accepted */
}

static void round_trip(dd_test *t, dd_dtype dtype, const char *path) {
    static const dd_safetensors_pair pairs[] = {{"format", "test"}, {"rank", "4"}};
    dd_param_list list;
    int64_t offsets[4];
    float values[80] = {0}, again[80];
    uint64_t state = 3;
    dd_safetensors *file;
    dd_param_list_init(&list, &dd_allocator_libc);
    DD_NEED_OK(t, fill(&list, offsets, &t->err));
    for (int i = 0; i < list.count; i++)
        for (int64_t k = 0; k < list.items[i].count; k++) values[list.items[i].offset + k] = dd_test_random(&state);
    DD_OK(t, dd_param_list_write(&list, path, dtype, values, pairs, 2, &t->err));
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, path, &t->err));
    DD_CHECK(t, dd_safetensors_count(file) == 4 && strcmp(dd_safetensors_metadata(file, "rank"), "4") == 0);
    memset(again, 0xff, sizeof again);
    DD_OK(t, dd_param_list_read(&list, file, again, &t->err));
    for (int i = 0; i < 80; i++) {
        float expected = dtype == DD_DTYPE_F32 ? values[i] : dd_f32_from_bf16(dd_bf16_from_f32(values[i]));
        DD_CHECK(t, again[i] == expected);
    }
    dd_param_list more; /* a list that wants what the file does not have */
    dd_param_list_init(&more, &dd_allocator_libc);
    DD_OK(t, dd_param_list_add(&more, "c", 1, (int64_t[]){3}, NULL, &t->err));
    DD_FAILS(t, dd_param_list_read(&more, file, again, &t->err), DDIT_ERR_MISMATCH, "\"c\" is missing");
    dd_param_list_deinit(&more);
    dd_param_list_init(&more, &dd_allocator_libc);
    DD_OK(t, dd_param_list_add(&more, "b.weight", 2, (int64_t[]){5, 3}, NULL, &t->err));
    DD_FAILS(t, dd_param_list_read(&more, file, again, &t->err), DDIT_ERR_MISMATCH, "[3, 5], expected [5, 3]");
    dd_param_list_deinit(&more);
    dd_safetensors_close(file);
    dd_param_list_deinit(&list);
    unlink(path);
}

static void values_go_through_a_file(dd_test *t) {
    char path[] = "/tmp/ddit_params_XXXXXX";
    int fd = mkstemp(path);
    DD_NEED(t, fd >= 0);
    close(fd);
    round_trip(t, DD_DTYPE_F32, path);
    round_trip(t, DD_DTYPE_BF16, path);
}

static void wrong_dtypes_are_refused(dd_test *t) {
    static const int32_t numbers[3] = {1, 2, 3};
    char path[] = "/tmp/ddit_params_XXXXXX";
    int fd = mkstemp(path);
    float values[16];
    dd_param_list list;
    dd_safetensors *file;
    DD_NEED(t, fd >= 0);
    close(fd);
    dd_safetensors_item item = {.name = "n", .dtype = DD_DTYPE_I32, .rank = 1, .shape = {3}, .data = numbers};
    DD_OK(t, dd_safetensors_write(&dd_allocator_libc, path, &item, 1, NULL, 0, &t->err));
    DD_NEED_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, path, &t->err));
    dd_param_list_init(&list, &dd_allocator_libc);
    DD_OK(t, dd_param_list_add(&list, "n", 1, (int64_t[]){3}, NULL, &t->err));
    DD_FAILS(t, dd_param_list_read(&list, file, values, &t->err), DDIT_ERR_MISMATCH, "is I32");
    DD_FAILS(t, dd_param_list_write(&list, path, DD_DTYPE_F16, values, NULL, 0, &t->err), DDIT_ERR_INTERNAL, "F16");
    dd_param_list_deinit(&list);
    dd_safetensors_close(file);
    unlink(path);
}

static void failing_memory_leaves_the_list_whole(dd_test *t) {
    dd_test_allocator memory;
    dd_test_allocator_init(&memory);
    for (size_t n = 1; n < 100; n++) {
        dd_param_list list;
        int64_t offsets[4];
        memory.total = 0;
        memory.fail_at = n;
        dd_param_list_init(&list, &memory.allocator);
        ddit_status status = fill(&list, offsets, &t->err);
        memory.fail_at = 0;
        for (int i = 0; i < list.count; i++) DD_CHECK(t, list.items[i].name);
        dd_param_list_deinit(&list);
        DD_CHECK(t, memory.live == 0);
        if (status == DDIT_OK) return;
        DD_CHECK(t, status == DDIT_ERR_NO_MEMORY);
    }
    DD_CHECK(t, false);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"segments_are_aligned_and_found", segments_are_aligned_and_found},
        {"values_go_through_a_file", values_go_through_a_file},
        {"wrong_dtypes_are_refused", wrong_dtypes_are_refused},
        {"failing_memory_leaves_the_list_whole", failing_memory_leaves_the_list_whole},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
