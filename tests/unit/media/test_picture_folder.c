#include "media/picture_folder.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

enum { PATH_SIZE = 512 };

static void put(const char *folder, const char *name, const char *data, size_t size) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (f && size) fwrite(data, 1, size, f);
    if (f) fclose(f);
}

static void put_text(const char *folder, const char *name, const char *text) { put(folder, name, text, strlen(text)); }

static void empty_folder(const char *folder) {
    char path[PATH_SIZE];
    DIR *d = opendir(folder);
    for (const struct dirent *e; d && (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] != '.' || e->d_name[1] == 'h') remove(path);
    }
    if (d) closedir(d);
}

static void reads_captions(dd_test *t) {
    char folder[] = "/tmp/ddit-folder-XXXXXX", inner[PATH_SIZE];
    dd_picture_folder f;
    DD_NEED(t, mkdtemp(folder));
    put_text(folder, "b.png", "x");
    put_text(folder, "a.JPG", "xx");
    put_text(folder, "Z.webp", "");
    put_text(folder, "c.d.jpeg", "xxx");
    put_text(folder, ".hidden.png", "");
    put_text(folder, "notes.md", "no picture");
    put_text(folder, "b.txt", "\xef\xbb\xbf  red apple \r\n\r\n on a  table\n\n");
    put_text(folder, "a.txt", "grinning face");
    put_text(folder, "c.d.txt", "not this one");
    put_text(folder, "captions.jsonl", "{\"file\": \"Z.webp\", \"text\": \"caf\\u00e9\"}\n\n"
                                       "{\"text\": \" rocket\\n\", \"file\": \"c.d.jpeg\", \"more\": 3}");
    snprintf(inner, sizeof inner, "%s/inner", folder);
    mkdir(inner, 0777);
    DD_NEED_OK(t, dd_picture_folder_read(&f, &dd_allocator_libc, folder, &t->err));
    static const char *const names[] = {"Z.webp", "a.JPG", "b.png", "c.d.jpeg"};
    static const char *const captions[] = {"caf\xc3\xa9", "grinning face", "red apple on a  table", "rocket"};
    static const int sizes[] = {0, 2, 1, 3};
    DD_NEED(t, f.count == 4);
    for (int i = 0; i < 4; i++) {
        char begin[64];
        snprintf(begin, sizeof begin, "%s %d ", names[i], sizes[i]);
        DD_CHECK(t, strcmp(f.entries[i].path + strlen(folder) + 1, names[i]) == 0);
        DD_CHECK(t, strcmp(f.entries[i].caption, captions[i]) == 0);
        DD_CHECK(t, strncmp(f.entries[i].stamp, begin, strlen(begin)) == 0);
    }
    dd_picture_folder_deinit(&f);
    for (size_t fail_at = 1; fail_at < 200; fail_at++) {
        dd_test_allocator a;
        dd_test_allocator_init(&a);
        a.fail_at = fail_at;
        ddit_status status = dd_picture_folder_read(&f, &a.allocator, folder, &t->err);
        bool reached = a.total >= fail_at;
        DD_CHECK(t, status == (reached ? DDIT_ERR_NO_MEMORY : DDIT_OK));
        dd_picture_folder_deinit(&f);
        DD_CHECK(t, a.live == 0);
        if (!reached) break;
    }
    empty_folder(folder);
    rmdir(inner);
    rmdir(folder);
}

#define REFUSED(code, part) DD_FAILS(t, dd_picture_folder_read(&f, &dd_allocator_libc, folder, &t->err), code, part)

static void says_what_is_wrong(dd_test *t) {
    char folder[] = "/tmp/ddit-folder-XXXXXX", *large = malloc(40001);
    dd_picture_folder f;
    DD_NEED(t, mkdtemp(folder));
    DD_FAILS(t, dd_picture_folder_read(&f, &dd_allocator_libc, "/tmp/ddit-no-such-folder", &t->err), DDIT_ERR_NOT_FOUND,
             "/tmp/ddit-no-such-folder: there is no such folder");
    DD_FAILS(t, dd_picture_folder_read(&f, &dd_allocator_libc, "README.md", &t->err), DDIT_ERR_READ, "README.md");
    REFUSED(DDIT_ERR_NOT_FOUND, "there are no pictures in this folder");
    put_text(folder, "a.png", "x");
    REFUSED(DDIT_ERR_NOT_FOUND, "a.png: has no caption, expected a file a.txt");
    put_text(folder, "a.txt", " \n");
    REFUSED(DDIT_ERR_FORMAT, "a.txt: the caption is empty");
    put(folder, "a.txt", "red\0apple", 9);
    REFUSED(DDIT_ERR_FORMAT, "a.txt: the caption contains a NUL");
    memset(large, 'x', 40000);
    large[40000] = 0;
    put_text(folder, "a.txt", large);
    REFUSED(DDIT_ERR_FORMAT, "40000 bytes, expected at most 32000");
    put_text(folder, "a.txt", "red apple");
    put_text(folder, "captions.jsonl", "\n{\"file\": \"a.png\"\n");
    REFUSED(DDIT_ERR_FORMAT, "captions.jsonl:2: is no JSON object");
    put_text(folder, "captions.jsonl", "{\"file\": \"a.png\", \"text\": 3}");
    REFUSED(DDIT_ERR_FORMAT, "captions.jsonl:1: expected an object");
    put_text(folder, "captions.jsonl", "[1]\n");
    REFUSED(DDIT_ERR_FORMAT, "captions.jsonl:1: expected an object");
    put_text(folder, "captions.jsonl", "{\"file\": \"b.png\", \"text\": \"x\"}");
    REFUSED(DDIT_ERR_NOT_FOUND, "captions.jsonl:1: names the picture b.png, which is not in the folder");
    put_text(folder, "captions.jsonl", "{\"file\": \"a.png\\u0000.png\", \"text\": \"red apple\"}\n");
    REFUSED(DDIT_ERR_NOT_FOUND, "captions.jsonl:1: names the picture a.png, which is not in the folder");
    put_text(folder, "captions.jsonl", "{\"file\": \"a.png\", \"text\": \"x\"}\n{\"file\": \"a.png\", \"text\": \"y\"}");
    REFUSED(DDIT_ERR_FORMAT, "captions.jsonl:2: gives a.png a second caption");
    put_text(folder, "captions.jsonl", "{\"file\": \"a.png\", \"text\": \"x\\u0000y\"}\n");
    REFUSED(DDIT_ERR_FORMAT, "captions.jsonl:1: the caption contains a NUL");
    put_text(folder, "captions.jsonl", "{\"file\": \"a.png\", \"text\": \"\"}\n");
    REFUSED(DDIT_ERR_FORMAT, "captions.jsonl:1: the caption is empty");
    DD_CHECK(t, f.entries == NULL && f.count == 0);
    empty_folder(folder);
    rmdir(folder);
    free(large);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"reads captions", reads_captions},
        {"says what is wrong", says_what_is_wrong},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
