#include "media/png.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/mapped_file.h"
#include "harness.h"

enum { WIDTH = 20, HEIGHT = 12, PATH_SIZE = 64 };

/* A folder of its own for each case. */
static bool make_folder(char folder[PATH_SIZE]) {
    snprintf(folder, PATH_SIZE, "/tmp/ddit-test-png-XXXXXX");
    return mkdtemp(folder) != NULL;
}

static void file_in(char path[2 * PATH_SIZE], const char *folder, const char *name) {
    snprintf(path, 2 * PATH_SIZE, "%s/%s", folder, name);
}

static void fill(uint8_t *rgb) {
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++) rgb[i] = (uint8_t)(i * 7 + i / 60);
}

static ddit_status write_sample(const char *path, const dd_png_text *texts, int count, ddit_err *err) {
    uint8_t rgb[WIDTH * HEIGHT * 3];
    fill(rgb);
    return dd_png_write(&dd_allocator_libc, path, WIDTH, HEIGHT, rgb, texts, count, err);
}

static void write_bytes(const char *path, const void *data, size_t size) {
    FILE *stream = fopen(path, "wb");
    if (!stream) return;
    fwrite(data, 1, size, stream);
    fclose(stream);
}

static void remove_all(const char *folder, const char *path) {
    unlink(path);
    rmdir(folder);
}

/* Is the chunk type in the file? */
static bool has_chunk(const char *path, const char *type) {
    char *data;
    size_t size;
    bool found = false;
    if (dd_read_file(&dd_allocator_libc, path, 1 << 20, &data, &size, NULL) != DDIT_OK) return false;
    for (size_t i = 0; i + 4 <= size; i++) found = found || memcmp(data + i, type, 4) == 0;
    dd_free(&dd_allocator_libc, data);
    return found;
}

static void texts_come_back(dd_test *t) {
    static const struct { const char *text, *chunk; } cases[] = {
        {"a red apple", "tEXt"},
        {"", "tEXt"},
        {"two\nlines", "tEXt"},
        {"caf\xc3\xa9 \xc3\xbf", "tEXt"},
        {"a\ttab", "iTXt"},
        {"\xe7\xba\xa2\xe8\x8b\xb9\xe6\x9e\x9c \xf0\x9f\x8d\x8e", "iTXt"},
        {"next line \xc2\x85", "iTXt"},
        {"half \xe2\x82\xac", "iTXt"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[PATH_SIZE], path[2 * PATH_SIZE];
        dd_png_text text = {(char *)"parameters", (char *)cases[i].text};
        dd_png_info info;
        DD_NEED(t, make_folder(folder));
        file_in(path, folder, "a.png");
        DD_OK(t, write_sample(path, &text, 1, &t->err));
        DD_NEED_OK(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err));
        DD_CHECK(t, info.width == WIDTH && info.height == HEIGHT && info.count == 1);
        const char *found = dd_png_info_find(&info, "parameters");
        DD_CHECK(t, found && strcmp(found, cases[i].text) == 0);
        DD_CHECK(t, !dd_png_info_find(&info, "other"));
        DD_CHECK(t, has_chunk(path, cases[i].chunk));
        dd_png_info_deinit(&info);
        DD_CHECK(t, access(path, R_OK) == 0 && dd_png_probe(path));
        remove_all(folder, path);
    }
}

static void long_text_and_no_text(dd_test *t) {
    char folder[PATH_SIZE], path[2 * PATH_SIZE];
    enum { LONG = 200000 };
    char *text = malloc(LONG + 1);
    dd_png_info info;
    DD_NEED(t, text && make_folder(folder));
    file_in(path, folder, "a.png");
    memset(text, 'x', LONG);
    text[LONG] = '\0';
    dd_png_text texts[2] = {{(char *)"parameters", (char *)"p"}, {(char *)"ddit", text}};
    DD_OK(t, write_sample(path, texts, 2, &t->err));
    DD_NEED_OK(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err));
    const char *found = dd_png_info_find(&info, "ddit");
    DD_CHECK(t, found && strcmp(found, text) == 0);
    dd_png_info_deinit(&info);
    DD_OK(t, write_sample(path, NULL, 0, &t->err));
    DD_NEED_OK(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err));
    DD_CHECK(t, info.count == 0);
    dd_png_info_deinit(&info);
    dd_png_info_deinit(&info);
    free(text);
    remove_all(folder, path);
}

static void refuses_to_write(dd_test *t) {
    char folder[PATH_SIZE], path[2 * PATH_SIZE];
    DD_NEED(t, make_folder(folder));
    DD_FAILS(t, write_sample(folder, NULL, 0, &t->err), DDIT_ERR_OUTPUT_PATH, folder);
    file_in(path, folder, "missing/a.png");
    DD_FAILS(t, write_sample(path, NULL, 0, &t->err), DDIT_ERR_OUTPUT_PATH, "missing");
    /* a keyword that PNG does not allow is libpng's to refuse; nothing may be left behind */
    file_in(path, folder, "a.png");
    char key[200];
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    dd_png_text text = {key, (char *)"x"};
    ddit_status status = write_sample(path, &text, 1, &t->err);
    DD_CHECK(t, (status == DDIT_OK) == (access(path, F_OK) == 0));
    uint8_t rgb[3] = {0};
    DD_FAILS(t, dd_png_write(&dd_allocator_libc, path, 0, 0, rgb, NULL, 0, &t->err), DDIT_ERR_INTERNAL, "libpng");
    unlink(path);
    DD_CHECK(t, rmdir(folder) == 0);
}

static void refuses_to_read(dd_test *t) {
    char folder[PATH_SIZE], path[2 * PATH_SIZE];
    dd_png_info info;
    DD_NEED(t, make_folder(folder));
    file_in(path, folder, "a.png");
    DD_FAILS(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err), DDIT_ERR_NOT_FOUND, "a.png");
    DD_FAILS(t, dd_png_read_info(&info, &dd_allocator_libc, folder, &t->err), DDIT_ERR_READ, NULL);
    DD_CHECK(t, !dd_png_probe(path) && !dd_png_probe(folder));
    write_bytes(path, "GIF89a, surely", 14);
    DD_FAILS(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err), DDIT_ERR_FORMAT, "no PNG");
    DD_CHECK(t, !dd_png_probe(path) && info.texts == NULL);
    write_bytes(path, "", 0);
    DD_FAILS(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err), DDIT_ERR_FORMAT, "no PNG");
    remove_all(folder, path);
}

/* Every cut is noticed: whatever is missing, the end chunk is. */
static void notices_every_cut(dd_test *t) {
    char folder[PATH_SIZE], path[2 * PATH_SIZE];
    char *data;
    size_t size;
    dd_png_info info;
    dd_png_text text = {(char *)"parameters", (char *)"\xe8\x8b\xb9"};
    DD_NEED(t, make_folder(folder));
    file_in(path, folder, "a.png");
    DD_NEED_OK(t, write_sample(path, &text, 1, &t->err));
    DD_NEED_OK(t, dd_read_file(&dd_allocator_libc, path, 1 << 20, &data, &size, &t->err));
    for (size_t cut = 0; cut < size; cut++) {
        write_bytes(path, data, cut);
        DD_FAILS(t, dd_png_read_info(&info, &dd_allocator_libc, path, &t->err), DDIT_ERR_FORMAT, "a.png");
    }
    dd_free(&dd_allocator_libc, data);
    remove_all(folder, path);
}

/* One wrong bit anywhere: refused, since every chunk has a checksum (reserved bits of lengths included), and nothing leaks. */
static void notices_wrong_bits(dd_test *t) {
    char folder[PATH_SIZE], path[2 * PATH_SIZE];
    char *data;
    size_t size;
    dd_png_text texts[2] = {{(char *)"parameters", (char *)"\xe8\x8b\xb9"}, {(char *)"ddit", (char *)"{}"}};
    int refused = 0, flips = 0;
    DD_NEED(t, make_folder(folder));
    file_in(path, folder, "a.png");
    DD_NEED_OK(t, write_sample(path, texts, 2, &t->err));
    DD_NEED_OK(t, dd_read_file(&dd_allocator_libc, path, 1 << 20, &data, &size, &t->err));
    for (size_t at = 0; at < size; at++)
        for (int bit = 0; bit < 8; bit += 3, flips++) {
            dd_png_info info;
            data[at] ^= (char)(1 << bit);
            write_bytes(path, data, size);
            data[at] ^= (char)(1 << bit);
            ddit_status status = dd_png_read_info(&info, &dd_allocator_libc, path, &t->err);
            if (status == DDIT_OK) dd_png_info_deinit(&info);
            else refused += status == DDIT_ERR_FORMAT;
            DD_CHECK(t, status == DDIT_OK || status == DDIT_ERR_FORMAT);
        }
    DD_CHECK(t, refused == flips);
    dd_free(&dd_allocator_libc, data);
    remove_all(folder, path);
}

static void fails_at_every_allocation(dd_test *t) {
    char folder[PATH_SIZE], path[2 * PATH_SIZE];
    dd_png_text texts[2] = {{(char *)"parameters", (char *)"\xe8\x8b\xb9"}, {(char *)"ddit", (char *)"{}"}};
    uint8_t rgb[WIDTH * HEIGHT * 3];
    fill(rgb);
    DD_NEED(t, make_folder(folder));
    file_in(path, folder, "a.png");
    ddit_status status = DDIT_ERR_NO_MEMORY;
    for (size_t n = 1; status != DDIT_OK && n < 200; n++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        status = dd_png_write(&a.allocator, path, WIDTH, HEIGHT, rgb, texts, 2, &t->err);
        DD_CHECK(t, a.live == 0);
        DD_CHECK(t, status == DDIT_OK || status == DDIT_ERR_NO_MEMORY || a.total < n);
        DD_CHECK(t, status == DDIT_OK || access(path, F_OK) != 0);
    }
    DD_CHECK(t, status == DDIT_OK);
    status = DDIT_ERR_NO_MEMORY;
    for (size_t n = 1; status != DDIT_OK && n < 200; n++) {
        dd_test_allocator a;
        dd_png_info info;
        dd_test_allocator_init(&a);
        a.fail_at = n;
        status = dd_png_read_info(&info, &a.allocator, path, &t->err);
        if (status == DDIT_OK) dd_png_info_deinit(&info);
        DD_CHECK(t, status == DDIT_OK || status == DDIT_ERR_NO_MEMORY);
        DD_CHECK(t, a.live == 0);
    }
    DD_CHECK(t, status == DDIT_OK);
    remove_all(folder, path);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"texts come back", texts_come_back},
        {"long text and no text", long_text_and_no_text},
        {"refuses to write", refuses_to_write},
        {"refuses to read", refuses_to_read},
        {"notices every cut", notices_every_cut},
        {"notices wrong bits", notices_wrong_bits},
        {"fails at every allocation", fails_at_every_allocation},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
