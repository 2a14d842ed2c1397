#include "format/safetensors.h"
#include "harness.h"
#include "media/picture.h"

#define FOLDER "tests/golden/picture/"

enum { PATH_SIZE = 256 };

static dd_safetensors *open_goldens(dd_test *t) {
    dd_safetensors *file = NULL;
    DD_OK(t, dd_safetensors_open(&file, &dd_allocator_libc, FOLDER "pictures.safetensors", &t->err));
    return file;
}

static void compare(dd_test *t, const char *name, const dd_picture *p, const dd_tensor_entry *e, int bound) {
    if (p->height != e->shape[0] || p->width != e->shape[1]) {
        dd_test_fail(t, __FILE__, __LINE__, "%s: is %d x %d", name, p->width, p->height);
        return;
    }
    int largest = 0;
    for (size_t i = 0; i < e->bytes; i++) {
        int difference = abs(p->rgb[i] - e->data[i]);
        if (difference > largest) largest = difference;
    }
    if (largest > bound) dd_test_fail(t, __FILE__, __LINE__, "%s: off by %d, at most %d expected", name, largest, bound);
}

static bool ends(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* Whether this build reads files of that name. */
static bool is_read(const char *name) {
    if (ends(name, ".jpg")) return strstr(dd_picture_formats(), "JPEG");
    return !ends(name, ".webp") || strstr(dd_picture_formats(), "WebP");
}

/* PNG and lossless WebP exactly; JPEG and lossy WebP as another decoder may round; 16 bits as libpng scales them. */
static void reads_all_formats(dd_test *t) {
    dd_safetensors *goldens = open_goldens(t);
    int read = 0;
    for (size_t i = 0; goldens && i < dd_safetensors_count(goldens); i++) {
        const dd_tensor_entry *e = dd_safetensors_at(goldens, i);
        char path[PATH_SIZE];
        dd_picture p;
        if (strncmp(e->name, "resize", 6) == 0) continue;
        snprintf(path, sizeof path, FOLDER "%s", e->name);
        if (!is_read(e->name)) {
            DD_FAILS(t, dd_picture_read(&p, &dd_allocator_libc, path, &t->err), DDIT_ERR_UNSUPPORTED, "this build");
            continue;
        }
        DD_OK(t, dd_picture_read(&p, &dd_allocator_libc, path, &t->err));
        bool lossy = ends(e->name, ".jpg") || strcmp(e->name, "lossy.webp") == 0;
        if (p.rgb) compare(t, e->name, &p, e, lossy ? 2 : strcmp(e->name, "grey16.png") == 0);
        dd_picture_deinit(&p);
        read++;
    }
    DD_CHECK(t, read >= 8);
    dd_safetensors_close(goldens);
}

/* Up to rounding in the other direction. */
static void resizes_as_pillow(dd_test *t) {
    dd_safetensors *goldens = open_goldens(t);
    dd_picture in, out;
    DD_NEED(t, goldens);
    DD_NEED_OK(t, dd_picture_read(&in, &dd_allocator_libc, FOLDER "rgb.png", &t->err));
    int cases = 0;
    for (size_t i = 0; i < dd_safetensors_count(goldens); i++) {
        const dd_tensor_entry *e = dd_safetensors_at(goldens, i);
        if (strncmp(e->name, "resize", 6) != 0) continue;
        DD_NEED_OK(t, dd_picture_resize(&out, &dd_allocator_libc, &in, (int)e->shape[1], (int)e->shape[0], &t->err));
        compare(t, e->name, &out, e, 1);
        dd_picture_deinit(&out);
        cases++;
    }
    DD_CHECK(t, cases == 8);
    dd_picture_deinit(&in);
    dd_safetensors_close(goldens);
}

/* A flat colour stays what it is, and a picture mirrored before is the result mirrored. */
static void resizes_evenly(dd_test *t) {
    static const int sizes[][2] = {{5, 3}, {40, 2}, {1, 9}, {17, 17}, {100, 61}};
    enum { W = 31, H = 14 };
    uint8_t flat[H * W * 3], values[H * W * 3], mirrored[H * W * 3];
    uint64_t state = 1;
    for (size_t i = 0; i < sizeof flat; i++) flat[i] = i % 3 == 0 ? 255 : i % 3 == 1 ? 0 : 77;
    for (size_t i = 0; i < sizeof values; i++) values[i] = (uint8_t)dd_test_random_u32(&state);
    for (int i = 0; i < H * W; i++) memcpy(mirrored + 3 * i, values + 3 * (i / W * W + W - 1 - i % W), 3);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int w = sizes[s][0], h = sizes[s][1];
        dd_picture a, b, c;
        DD_NEED_OK(t, dd_picture_resize(&a, &dd_allocator_libc, &(dd_picture){.width = W, .height = H, .rgb = flat}, w, h,
                                        &t->err));
        DD_NEED_OK(t, dd_picture_resize(&b, &dd_allocator_libc, &(dd_picture){.width = W, .height = H, .rgb = values}, w, h,
                                        &t->err));
        DD_NEED_OK(t, dd_picture_resize(&c, &dd_allocator_libc, &(dd_picture){.width = W, .height = H, .rgb = mirrored}, w, h,
                                        &t->err));
        for (int i = 0; i < w * h; i++) {
            const uint8_t *m = c.rgb + 3 * (i / w * w + w - 1 - i % w);
            DD_CHECK(t, memcmp(a.rgb + 3 * i, flat, 3) == 0);
            for (int k = 0; k < 3; k++) DD_CHECK(t, abs(b.rgb[3 * i + k] - m[k]) <= 1);
        }
        dd_picture_deinit(&a);
        dd_picture_deinit(&b);
        dd_picture_deinit(&c);
    }
}

static void write_file(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    if (f && size) fwrite(data, 1, size, f);
    if (f) fclose(f);
}

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(1 << 20);
    *size = f ? fread(data, 1, 1 << 20, f) : 0;
    if (f) fclose(f);
    return data;
}

static void refuses(dd_test *t, const char *path, const void *data, size_t size, ddit_status status, const char *part) {
    dd_picture p;
    write_file(path, data, size);
    DD_FAILS(t, dd_picture_read(&p, &dd_allocator_libc, path, &t->err), status, part);
    DD_CHECK(t, p.rgb == NULL);
}

static void says_what_is_wrong(dd_test *t) {
    char path[] = "/tmp/ddit-picture-XXXXXX";
    dd_picture p;
    int fd = mkstemp(path);
    DD_NEED(t, fd >= 0);
    DD_FAILS(t, dd_picture_read(&p, &dd_allocator_libc, FOLDER "nothing.png", &t->err), DDIT_ERR_NOT_FOUND, "no such file");
    DD_FAILS(t, dd_picture_read(&p, &dd_allocator_libc, "tests/golden", &t->err), DDIT_ERR_READ, "folder");
    refuses(t, path, "", 0, DDIT_ERR_FORMAT, "no picture");
    refuses(t, path, "GIF89a......", 12, DDIT_ERR_FORMAT, "no picture");
    refuses(t, path, "\x89PNG\r\n\x1a\n", 8, DDIT_ERR_FORMAT, "damaged PNG");
    static const uint8_t huge[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x40\x01\0\0\0\1\x08\2\0\0\0\x99\x38\xd8\xff";
    size_t size;
    uint8_t *png = read_file(FOLDER "rgb.png", &size);
    refuses(t, path, png, size - 20, DDIT_ERR_FORMAT, "damaged PNG");
    png[size / 2] ^= 1;
    refuses(t, path, png, size, DDIT_ERR_FORMAT, "damaged PNG");
    free(png);
    refuses(t, path, huge, sizeof huge - 1, DDIT_ERR_FORMAT, NULL);
    if (strstr(dd_picture_formats(), "JPEG")) {
        uint8_t *jpeg = read_file(FOLDER "rgb.jpg", &size);
        refuses(t, path, jpeg, size - 200, DDIT_ERR_FORMAT, "damaged JPEG");
        refuses(t, path, jpeg, 4, DDIT_ERR_FORMAT, "damaged JPEG");
        for (size_t i = 0; i + 9 < size; i++)
            if (jpeg[i] == 0xff && jpeg[i + 1] == 0xc0) jpeg[i + 5] = jpeg[i + 7] = 0x41; /* 16640 and more pixels */
        refuses(t, path, jpeg, size, DDIT_ERR_FORMAT, "expected 1 to 16384");
        free(jpeg);
    }
    if (strstr(dd_picture_formats(), "WebP")) {
        uint8_t *webp = read_file(FOLDER "lossy.webp", &size);
        refuses(t, path, webp, size - 50, DDIT_ERR_FORMAT, "damaged WebP");
        refuses(t, path, webp, 16, DDIT_ERR_FORMAT, "damaged WebP");
        free(webp);
        DD_FAILS(t, dd_picture_read(&p, &dd_allocator_libc, FOLDER "animated.webp", &t->err), DDIT_ERR_UNSUPPORTED, "animated");
    }
    remove(path);
}

/* Whatever bytes change, a picture or a sentence comes back. */
static void survives_damage(dd_test *t) {
    static const char *const names[] = {"rgba.png", "palette_clear.png", "progressive.jpg", "turned6.jpg", "cmyk.jpg",
                                        "rgba.webp", "lossy.webp"};
    char path[] = "/tmp/ddit-picture-XXXXXX", from[PATH_SIZE];
    int fd = mkstemp(path), wrong = 0;
    uint64_t state = 11;
    DD_NEED(t, fd >= 0);
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        size_t size;
        snprintf(from, sizeof from, FOLDER "%s", names[n]);
        uint8_t *data = read_file(from, &size), *copy = malloc(size);
        for (int i = 0; i < 300; i++) {
            dd_picture p;
            memcpy(copy, data, size);
            for (int k = 0; k <= i % 4; k++) copy[dd_test_random_u32(&state) % size] = (uint8_t)dd_test_random_u32(&state);
            write_file(path, copy, i % 5 ? size : dd_test_random_u32(&state) % size);
            ddit_status status = dd_picture_read(&p, &dd_allocator_libc, path, &t->err);
            wrong += (status == DDIT_OK) != (p.rgb != NULL);
            dd_picture_deinit(&p);
        }
        free(copy);
        free(data);
    }
    DD_CHECK(t, wrong == 0);
    remove(path);
}

static void survives_failing_memory(dd_test *t) {
    static const char *const names[] = {"rgba.png", "cmyk.jpg", "turned6.jpg", "rgba.webp"};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        if (!is_read(names[n])) continue;
        for (size_t fail_at = 1; fail_at < 1000; fail_at++) {
            char path[PATH_SIZE];
            dd_test_allocator a;
            dd_picture in = {0}, out = {0};
            dd_test_allocator_init(&a);
            a.fail_at = fail_at;
            snprintf(path, sizeof path, FOLDER "%s", names[n]);
            ddit_status status = dd_picture_read(&in, &a.allocator, path, &t->err);
            if (status == DDIT_OK) status = dd_picture_resize(&out, &a.allocator, &in, 8, 8, &t->err);
            bool reached = a.total >= fail_at;
            DD_CHECK(t, status == (reached ? DDIT_ERR_NO_MEMORY : DDIT_OK));
            dd_picture_deinit(&in);
            dd_picture_deinit(&out);
            DD_CHECK(t, a.live == 0);
            if (!reached) break;
        }
    }
}

static void knows_names(dd_test *t) {
    DD_CHECK(t, dd_picture_name("a.png") && dd_picture_name("a.b.JPG") && dd_picture_name("x.jpeg") &&
             dd_picture_name("x.WebP"));
    DD_CHECK(t, !dd_picture_name(".png") && !dd_picture_name("png") && !dd_picture_name("a.png.txt") && !dd_picture_name(""));
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"reads all formats", reads_all_formats},
        {"resizes as Pillow does", resizes_as_pillow},
        {"resizes evenly", resizes_evenly},
        {"says what is wrong", says_what_is_wrong},
        {"survives damage", survives_damage},
        {"survives failing memory", survives_failing_memory},
        {"knows names", knows_names},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
