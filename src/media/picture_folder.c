#include "media/picture_folder.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/folder.h"
#include "base/mapped_file.h"
#include "media/picture.h"

enum { MAX_CAPTION = 32000, MAX_LIST_BYTES = 1 << 30, STAMP_TAIL = 80 };

#define LIST_NAME "captions.jsonl"

/* Names of pictures, then their captions. */
typedef struct listing {
    const dd_allocator *a;
    const char *folder;
    char **names;    /* owned [count], each owned */
    char **captions; /* owned [count], each owned or NULL: not found yet */
    size_t count, room;
} listing;

/* ---------------------------------------------------------------------------------------------- names */

static void listing_deinit(listing *l) {
    for (size_t i = 0; l->names && i < l->count; i++) dd_free(l->a, l->names[i]);
    for (size_t i = 0; l->captions && i < l->count; i++) dd_free(l->a, l->captions[i]);
    dd_free(l->a, l->names);
    dd_free(l->a, l->captions);
}

static ddit_status add_name(listing *l, const char *name, ddit_err *err) {
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        char **larger;
        DD_TRY(dd_alloc(l->a, &larger, room, sizeof *larger, "the list of pictures", err));
        if (l->count) memcpy(larger, l->names, l->count * sizeof *larger);
        dd_free(l->a, l->names);
        l->names = larger;
        l->room = room;
    }
    DD_TRY(dd_strdup(l->a, &l->names[l->count], name, err));
    l->count++;
    return DDIT_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static ddit_status read_names(listing *l, ddit_err *err) {
    DIR *directory = opendir(l->folder);
    if (!directory)
        return dd_fail(err, errno == ENOENT ? DDIT_ERR_NOT_FOUND : DDIT_ERR_READ, "%s: %s", l->folder,
                       errno == ENOENT ? "there is no such folder of pictures" :
                       errno == ENOTDIR ? "is a file, expected a folder of pictures" : strerror(errno));
    ddit_status status = DDIT_OK;
    for (const struct dirent *e; status == DDIT_OK && (e = readdir(directory));)
        if (e->d_name[0] != '.' && dd_picture_name(e->d_name)) status = add_name(l, e->d_name, err);
    closedir(directory);
    if (status == DDIT_OK && l->count == 0)
        status = dd_fail(err, DDIT_ERR_NOT_FOUND,
                         "%s: there are no pictures in this folder, expected files NAME.png (.jpg, .jpeg, "
                         ".webp), each with its caption in NAME.txt or in %s", l->folder, LIST_NAME);
    if (status == DDIT_OK) qsort(l->names, l->count, sizeof *l->names, by_name);
    return status;
}

/* ---------------------------------------------------------------------------------------------- captions */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* A caption out of text, its lines joined by spaces; `where` says whose it is. */
static ddit_status take_caption(const listing *l, char **out, const char *text, size_t size, const char *where, ddit_err *err) {
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, size -= 3;
    while (size && is_space(text[size - 1])) size--;
    while (size && is_space(*text)) text++, size--;
    if (memchr(text, 0, size)) return dd_fail(err, DDIT_ERR_FORMAT, "%s: the caption contains a NUL byte", where);
    if (size == 0) return dd_fail(err, DDIT_ERR_FORMAT, "%s: the caption is empty", where);
    if (size > MAX_CAPTION)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: the caption has %zu bytes, expected at most %d", where, size, MAX_CAPTION);
    DD_TRY(dd_strndup(l->a, out, text, size, err));
    size_t length = 0;
    for (size_t i = 0, end; i < size; i = end) { /* a line feed with the white space around it becomes one space */
        bool line = false;
        for (end = i; end < size && is_space(text[end]); end++) line = line || text[end] == '\n' || text[end] == '\r';
        if (end == i) end++;
        if (line) (*out)[length++] = ' ';
        else for (size_t k = i; k < end; k++) (*out)[length++] = text[k];
    }
    (*out)[length] = 0;
    return DDIT_OK;
}

/* NAME.txt of NAME.png. */
static ddit_status read_beside(const listing *l, size_t i, ddit_err *err) {
    const char *name = l->names[i];
    size_t stem = (size_t)(strrchr(name, '.') - name), size;
    char *text_name, *path = NULL, *text = NULL;
    DD_TRY(dd_alloc(l->a, &text_name, stem + 5, 1, "a file name", err));
    memcpy(text_name, name, stem);
    memcpy(text_name + stem, ".txt", 5);
    ddit_status status;
    DD_GO(dd_path_join(l->a, &path, l->folder, text_name, err));
    status = dd_read_file(l->a, path, MAX_CAPTION * 2, &text, &size, err);
    if (status == DDIT_ERR_NOT_FOUND)
        status = dd_fail(err, DDIT_ERR_NOT_FOUND, "%s/%s: has no caption, expected a file %s beside it or a line of %s",
                         l->folder, name, text_name, LIST_NAME);
    DD_GO(status);
    DD_GO(take_caption(l, &l->captions[i], text, size, path, err));
done:
    dd_free(l->a, text);
    dd_free(l->a, path);
    dd_free(l->a, text_name);
    return status;
}

/* One line {"file": ..., "text": ...}; `where` is FILE:NUMBER. */
static ddit_status take_line(const listing *l, const char *line, size_t size, const char *where, ddit_err *err) {
    json_error_t wrong;
    json_t *json = json_loadb(line, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &wrong);
    const json_t *text = json_object_get(json, "text");
    const json_t *name = json_object_get(json, "file");
    const char *file = json_string_value(name);
    ddit_status status = DDIT_OK;
    if (!json) {
        status = dd_fail(err, DDIT_ERR_FORMAT, "%s: is no JSON object: %s", where, wrong.text);
    } else if (!file || !json_is_string(text)) {
        status = dd_fail(err, DDIT_ERR_FORMAT, "%s: expected an object {\"file\": NAME, \"text\": CAPTION} with two strings",
                         where);
    } else {
        bool whole = strlen(file) == json_string_length(name); /* no NUL in it */
        char *const *found = !whole ? NULL : bsearch(&file, l->names, l->count, sizeof *l->names, by_name);
        size_t i = found ? (size_t)(found - l->names) : 0;
        if (!found)
            status = dd_fail(err, DDIT_ERR_NOT_FOUND, "%s: names the picture %.200s, which is not in the folder", where, file);
        else if (l->captions[i])
            status = dd_fail(err, DDIT_ERR_FORMAT, "%s: gives %s a second caption", where, file);
        else
            status = take_caption(l, &l->captions[i], json_string_value(text), json_string_length(text), where, err);
    }
    json_decref(json);
    return status;
}

static ddit_status read_list(const listing *l, ddit_err *err) {
    char *path, *text = NULL, *where = NULL;
    size_t size = 0;
    DD_TRY(dd_path_join(l->a, &path, l->folder, LIST_NAME, err));
    ddit_status status = dd_read_file(l->a, path, MAX_LIST_BYTES, &text, &size, err);
    if (status == DDIT_ERR_NOT_FOUND) { /* then every picture has its text beside it */
        if (err) *err = (ddit_err){0};
        dd_free(l->a, path);
        return DDIT_OK;
    }
    size_t where_size = strlen(path) + 32;
    DD_GO(status);
    DD_GO(dd_alloc(l->a, &where, where_size, 1, "a file name", err));
    size_t number = 0;
    for (size_t at = 0; at < size;) {
        const char *line = text + at, *end = memchr(line, '\n', size - at);
        size_t length = end ? (size_t)(end - line) : size - at, blank = 0;
        at += length + 1;
        number++;
        while (blank < length && is_space(line[blank])) blank++;
        if (blank == length) continue;
        snprintf(where, where_size, "%s:%zu", path, number);
        DD_GO(take_line(l, line, length, where, err));
    }
done:
    dd_free(l->a, where);
    dd_free(l->a, text);
    dd_free(l->a, path);
    return status;
}

/* ---------------------------------------------------------------------------------------------- the folder */

static ddit_status make_entry(dd_picture_entry *e, listing *l, size_t i, ddit_err *err) {
    struct stat info;
    size_t size = strlen(l->names[i]) + STAMP_TAIL;
    DD_TRY(dd_path_join(l->a, &e->path, l->folder, l->names[i], err));
    if (stat(e->path, &info) != 0) return dd_fail(err, DDIT_ERR_READ, "%s: %s", e->path, strerror(errno));
    DD_TRY(dd_alloc(l->a, &e->stamp, size, 1, "the list of pictures", err));
    snprintf(e->stamp, size, "%s %" PRId64 " %" PRId64 ".%09ld", l->names[i], (int64_t)info.st_size,
             (int64_t)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    e->caption = l->captions[i];
    l->captions[i] = NULL;
    return DDIT_OK;
}

ddit_status dd_picture_folder_read(dd_picture_folder *f, const dd_allocator *a, const char *folder, ddit_err *err) {
    listing l = {.a = a, .folder = folder};
    ddit_status status;
    *f = (dd_picture_folder){.allocator = a};
    DD_GO(read_names(&l, err));
    DD_GO(dd_alloc(a, &l.captions, l.count, sizeof *l.captions, "the captions", err));
    DD_GO(read_list(&l, err));
    for (size_t i = 0; i < l.count; i++)
        if (!l.captions[i]) DD_GO(read_beside(&l, i, err));
    DD_GO(l.count <= INT32_MAX ? DDIT_OK : dd_fail(err, DDIT_ERR_FORMAT, "%s: holds %zu pictures", folder, l.count));
    DD_GO(dd_alloc(a, &f->entries, l.count, sizeof *f->entries, "the list of pictures", err));
    for (size_t i = 0; i < l.count; i++) {
        f->count++; /* from here on deinit frees what there is */
        DD_GO(make_entry(&f->entries[i], &l, i, err));
    }
done:
    listing_deinit(&l);
    if (status != DDIT_OK) dd_picture_folder_deinit(f);
    return status;
}

void dd_picture_folder_deinit(dd_picture_folder *f) {
    for (int i = 0; i < f->count; i++) {
        dd_free(f->allocator, f->entries[i].path);
        dd_free(f->allocator, f->entries[i].caption);
        dd_free(f->allocator, f->entries[i].stamp);
    }
    if (f->allocator) dd_free(f->allocator, f->entries);
    *f = (dd_picture_folder){0};
}
