/* Files: output whole or not at all, mapped and whole reading. Everything happens in a fresh folder that is emptied again. */
#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include "base/lock_file.h"
#include "base/mapped_file.h"
#include "base/out_file.h"
#include "harness.h"

typedef struct folder {
    char path[64], file[96];
} folder;

static bool folder_make(folder *f) {
    snprintf(f->path, sizeof f->path, "/tmp/ddit-test-XXXXXX");
    if (!mkdtemp(f->path)) return false;
    snprintf(f->file, sizeof f->file, "%s/out.png", f->path);
    return true;
}

/* Number of entries in the folder. */
static int folder_count(const folder *f) {
    DIR *d = opendir(f->path);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d) closedir(d);
    return n;
}

static void folder_drop(folder *f) {
    unlink(f->file);
    rmdir(f->path);
}

static bool has_text(const char *path, const char *text) {
    char *data;
    size_t size;
    if (dd_read_file(&dd_allocator_libc, path, 1000, &data, &size, NULL) != DDIT_OK) return false;
    bool same = size == strlen(text) && memcmp(data, text, size + 1) == 0;
    dd_free(&dd_allocator_libc, data);
    return same;
}

static void commit_replaces(dd_test *t) {
    folder f;
    DD_NEED(t, folder_make(&f));
    dd_test_allocator counter;
    dd_test_allocator_init(&counter);
    for (int round = 0; round < 2; round++) {
        dd_out_file out;
        DD_NEED_OK(t, dd_out_file_open(&out, &counter.allocator, f.file, &t->err));
        fprintf(out.stream, "round %d", round);
        fflush(out.stream);
        if (round == 0) DD_CHECK(t, access(f.file, F_OK) != 0); /* nothing under the final name yet */
        else DD_CHECK(t, has_text(f.file, "round 0"));          /* the old file stays until the end */
        DD_CHECK(t, strstr(out.temp_path, "/.out.png.") && folder_count(&f) == 1 + round);
        DD_OK(t, dd_out_file_commit(&out, &t->err));
        DD_CHECK(t, !out.stream && !out.path && counter.live == 0);
        DD_CHECK(t, has_text(f.file, round ? "round 1" : "round 0") && folder_count(&f) == 1);
    }
    struct stat info;
    mode_t mask = umask(0);
    umask(mask);
    DD_CHECK(t, stat(f.file, &info) == 0 && (info.st_mode & 0777) == (0666 & ~mask));
    folder_drop(&f);
}

static void discard_leaves_nothing(dd_test *t) {
    folder f;
    DD_NEED(t, folder_make(&f));
    dd_out_file out;
    DD_NEED_OK(t, dd_out_file_open(&out, &dd_allocator_libc, f.file, &t->err));
    fputs("half", out.stream);
    dd_out_file_discard(&out);
    DD_CHECK(t, !out.stream && folder_count(&f) == 0);
    dd_out_file_discard(&out); /* a zeroed file is accepted */
    folder_drop(&f);
}

static void open_refusals(dd_test *t) {
    folder f;
    DD_NEED(t, folder_make(&f));
    dd_out_file out;
    char path[160];
    snprintf(path, sizeof path, "%s/missing/out.png", f.path);
    DD_FAILS(t, dd_out_file_open(&out, &dd_allocator_libc, path, &t->err), DDIT_ERR_OUTPUT_PATH, "missing/\" does not exist");
    DD_CHECK(t, !out.stream && !out.path && !out.temp_path);
    DD_FAILS(t, dd_out_file_open(&out, &dd_allocator_libc, f.path, &t->err), DDIT_ERR_OUTPUT_PATH, "is a folder");
    DD_FAILS(t, dd_out_file_open(&out, &dd_allocator_libc, "/dev/null/out.png", &t->err), DDIT_ERR_OUTPUT_PATH, "/dev/null/");
    char long_name[400];
    snprintf(long_name, sizeof long_name, "%s/%0300d", f.path, 1);
    DD_FAILS(t, dd_out_file_open(&out, &dd_allocator_libc, long_name, &t->err), DDIT_ERR_WRITE, "cannot be written");
    for (size_t n = 1; n <= 2; n++) {
        dd_test_allocator counter;
        dd_test_allocator_init(&counter);
        counter.fail_at = n;
        DD_FAILS(t, dd_out_file_open(&out, &counter.allocator, f.file, &t->err), DDIT_ERR_NO_MEMORY, NULL);
        DD_CHECK(t, counter.live == 0);
    }
    DD_CHECK(t, folder_count(&f) == 0);
    folder_drop(&f);
}

/* A limit on file size stands in for a full disk: the write fails, the old file stays, the temporary one goes. */
static void full_disk(dd_test *t) {
    folder f;
    DD_NEED(t, folder_make(&f));
    dd_out_file out;
    DD_NEED_OK(t, dd_out_file_open(&out, &dd_allocator_libc, f.file, &t->err));
    fputs("old", out.stream);
    DD_NEED_OK(t, dd_out_file_commit(&out, &t->err));
    struct rlimit before, small;
    DD_NEED(t, getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = before;
    small.rlim_cur = 4096;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    DD_NEED(t, setrlimit(RLIMIT_FSIZE, &small) == 0);
    ddit_status status = dd_out_file_open(&out, &dd_allocator_libc, f.file, &t->err);
    if (status == DDIT_OK) {
        for (int i = 0; i < 20000; i++) fputc('x', out.stream);
        status = dd_out_file_commit(&out, &t->err);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    DD_CHECK(t, status == DDIT_ERR_WRITE && strstr(t->err.text, f.file));
    DD_CHECK(t, has_text(f.file, "old") && folder_count(&f) == 1);
    folder_drop(&f);
}

static void maps(dd_test *t) {
    folder f;
    DD_NEED(t, folder_make(&f));
    enum { SIZE = 3 * 65536 + 17 };
    FILE *stream = fopen(f.file, "wb");
    DD_NEED(t, stream);
    for (int i = 0; i < SIZE; i++) fputc(i * 7 % 251, stream);
    fclose(stream);
    dd_mapped_file map;
    DD_NEED_OK(t, dd_mapped_file_open(&map, f.file, &t->err));
    DD_CHECK(t, map.size == SIZE);
    for (int round = 0; round < 2; round++) { /* contents stay after a release */
        bool same = true;
        for (int i = 0; i < SIZE; i++) same = same && map.data[i] == i * 7 % 251;
        DD_CHECK(t, same);
        dd_mapped_file_release(&map, 5, SIZE - 5);
        dd_mapped_file_release(&map, 10, 100);
    }
    dd_mapped_file_close(&map);
    DD_CHECK(t, !map.data && map.size == 0);
    dd_mapped_file_close(&map);
    folder_drop(&f);
}

static void map_edges(dd_test *t) {
    folder f;
    DD_NEED(t, folder_make(&f));
    dd_mapped_file map;
    DD_FAILS(t, dd_mapped_file_open(&map, f.file, &t->err), DDIT_ERR_NOT_FOUND, "out.png: there is no such file");
    DD_CHECK(t, !map.data && map.size == 0);
    DD_FAILS(t, dd_mapped_file_open(&map, f.path, &t->err), DDIT_ERR_READ, "folder");
    DD_FAILS(t, dd_mapped_file_open(&map, "/dev/null", &t->err), DDIT_ERR_READ, "device");
    fclose(fopen(f.file, "wb"));
    DD_OK(t, dd_mapped_file_open(&map, f.file, &t->err));
    DD_CHECK(t, !map.data && map.size == 0);
    dd_mapped_file_close(&map);
    folder_drop(&f);
}

static void reads_whole(dd_test *t) {
    folder f;
    DD_NEED(t, folder_make(&f));
    char *data;
    size_t size;
    FILE *stream = fopen(f.file, "wb");
    DD_NEED(t, stream);
    fwrite("a\0b", 1, 3, stream);
    fclose(stream);
    DD_OK(t, dd_read_file(&dd_allocator_libc, f.file, 3, &data, &size, &t->err));
    DD_CHECK(t, size == 3 && memcmp(data, "a\0b", 4) == 0);
    dd_free(&dd_allocator_libc, data);
    DD_FAILS(t, dd_read_file(&dd_allocator_libc, f.file, 2, &data, &size, &t->err), DDIT_ERR_FORMAT, "3 bytes, at most 2");
    DD_CHECK(t, !data);
    dd_test_allocator counter;
    dd_test_allocator_init(&counter);
    counter.fail_at = 1;
    DD_FAILS(t, dd_read_file(&counter.allocator, f.file, 10, &data, &size, &t->err), DDIT_ERR_NO_MEMORY, NULL);
    DD_FAILS(t, dd_read_file(&dd_allocator_libc, f.path, 10, &data, &size, &t->err), DDIT_ERR_READ, "folder");
    unlink(f.file);
    DD_FAILS(t, dd_read_file(&dd_allocator_libc, f.file, 10, &data, &size, &t->err), DDIT_ERR_NOT_FOUND, NULL);
    folder_drop(&f);
}

static void locks(dd_test *t) {
    folder f;
    dd_lock_file one, two;
    bool taken = true;
    DD_NEED(t, folder_make(&f));
    DD_OK(t, dd_lock_file_take(&one, f.file, &taken, &t->err));
    DD_CHECK(t, !taken && one.held);
    DD_OK(t, dd_lock_file_take(&two, f.file, &taken, &t->err));
    DD_CHECK(t, taken && !two.held);
    dd_lock_file_drop(&two);
    dd_lock_file_drop(&one);
    DD_CHECK(t, !one.held);
    DD_OK(t, dd_lock_file_take(&two, f.file, &taken, &t->err));
    DD_CHECK(t, !taken && two.held);
    dd_lock_file_drop(&two);
    DD_FAILS(t, dd_lock_file_take(&one, f.path, &taken, &t->err), DDIT_ERR_WRITE, f.path); /* a folder */
    DD_CHECK(t, !one.held && !taken);
    folder_drop(&f);
}

/* A process that is killed lets go. */
static void killed_lets_go(dd_test *t) {
    folder f;
    dd_lock_file lock;
    bool taken = false;
    int told[2];
    char byte;
    DD_NEED(t, folder_make(&f) && pipe(told) == 0);
    pid_t child = fork();
    if (child == 0) {
        if (dd_lock_file_take(&lock, f.file, &taken, NULL) == DDIT_OK && !taken && write(told[1], "x", 1) == 1)
            for (;;) pause();
        _exit(1);
    }
    close(told[1]);
    DD_NEED(t, child > 0 && read(told[0], &byte, 1) == 1);
    DD_OK(t, dd_lock_file_take(&lock, f.file, &taken, &t->err));
    DD_CHECK(t, taken);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    DD_OK(t, dd_lock_file_take(&lock, f.file, &taken, &t->err));
    DD_CHECK(t, !taken && lock.held);
    dd_lock_file_drop(&lock);
    close(told[0]);
    folder_drop(&f);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"commit_replaces", commit_replaces},
        {"discard_leaves_nothing", discard_leaves_nothing},
        {"open_refusals", open_refusals},
        {"full_disk", full_disk},
        {"maps", maps},
        {"map_edges", map_edges},
        {"reads_whole", reads_whole},
        {"locks", locks},
        {"killed_lets_go", killed_lets_go},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
