#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/safetensors.h"
#include "format/safetensors_write.h"

enum { NUMBER_SIZE = 48, SCALARS = 4 };

static const char format_name[] = "ddit checkpoint 1";

/* ---------------------------------------------------------------------------------------------- what a checkpoint holds */

/* A 64-bit checksum of bytes, continued from h; the format itself would not notice a changed value. */
static uint64_t checksum(uint64_t h, const void *data, uint64_t bytes) {
    const uint8_t *at = data;
    while (bytes > 0) {
        uint64_t word = 0, part = bytes < sizeof word ? bytes : sizeof word;
        memcpy(&word, at, part);
        h = (h ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 32;
        at += part;
        bytes -= part;
    }
    return h;
}

/* Over the texts of the metadata but the checksum's own, to which those of the vectors are added. */
static uint64_t checksum_texts(const char *const *texts, size_t count) {
    uint64_t h = 0;
    for (size_t i = 0; i < count; i++) h = checksum(h, texts[i], strlen(texts[i]) + 1);
    return h;
}

/* A finite number exactly and without a decimal point, which depends on the locale: 0x19999999999999p-56. */
static void print_exactly(char text[NUMBER_SIZE], double x) {
    int exponent;
    double mantissa = frexp(fabs(x), &exponent); /* 0 or 0.5 to 1 */
    snprintf(text, NUMBER_SIZE, "%s0x%llxp%d", signbit(x) ? "-" : "", (unsigned long long)ldexp(mantissa, 53), exponent - 53);
}

/* ---------------------------------------------------------------------------------------------- the folder */

/* The step of a checkpoint's file name, or -1. */
static int64_t step_of(const char *name) {
    static const char prefix[] = "checkpoint-", suffix[] = ".safetensors";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return -1;
    const char *digits = name + sizeof prefix - 1;
    size_t length = strspn(digits, "0123456789");
    if (length < 8 || length > 18 || strcmp(digits + length, suffix) != 0) return -1;
    return strtoll(digits, NULL, 10);
}

static bool is_unfinished(const char *name) { return strncmp(name, ".checkpoint-", 12) == 0 && strstr(name, ".safetensors."); }

static ddit_status path_of(const dd_allocator *a, char **path, const char *folder, const char *name, ddit_err *err) {
    size_t size = strlen(folder) + strlen(name) + 2;
    DD_TRY(dd_alloc_raw(a, path, size, 1, "a file name", err));
    snprintf(*path, size, "%s/%s", folder, name);
    return DDIT_OK;
}

static ddit_status checkpoint_path(const dd_allocator *a, char **path, const char *folder, int64_t step, ddit_err *err) {
    char name[NUMBER_SIZE];
    snprintf(name, sizeof name, "checkpoint-%08lld.safetensors", (long long)step);
    return path_of(a, path, folder, name, err);
}

typedef struct step_list {
    int64_t *steps; /* owned, ascending */
    size_t count, room;
} step_list;

static int compare_steps(const void *x, const void *y) {
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
    return (a > b) - (a < b);
}

static ddit_status append(step_list *list, const dd_allocator *a, int64_t step, ddit_err *err) {
    if (list->count == list->room) {
        int64_t *more;
        size_t room = list->room ? 2 * list->room : 16;
        DD_TRY(dd_alloc_raw(a, &more, room, sizeof *more, "the list of checkpoints", err));
        if (list->count) memcpy(more, list->steps, list->count * sizeof *more);
        dd_free(a, list->steps);
        *list = (step_list){more, list->count, room};
    }
    list->steps[list->count++] = step;
    return DDIT_OK;
}

/* The steps of all checkpoints of the folder; none if there is no folder. The caller frees list->steps, also on failure. */
static ddit_status list_checkpoints(step_list *list, const dd_allocator *a, const char *folder, ddit_err *err) {
    ddit_status status = DDIT_OK;
    *list = (step_list){0};
    DIR *dir = opendir(folder);
    if (!dir && errno == ENOENT) return DDIT_OK;
    if (!dir) return dd_fail(err, DDIT_ERR_READ, "%s: cannot be listed: %s", folder, strerror(errno));
    for (struct dirent *entry; status == DDIT_OK && (entry = readdir(dir));) {
        int64_t step = step_of(entry->d_name);
        if (step >= 0) status = append(list, a, step, err);
    }
    closedir(dir);
    if (list->count) qsort(list->steps, list->count, sizeof *list->steps, compare_steps);
    return status;
}

/* What cannot be removed stays: a full folder is no reason to stop a run. */
static void remove_checkpoint(const dd_allocator *a, const char *folder, int64_t step) {
    char *path;
    if (checkpoint_path(a, &path, folder, step, NULL) != DDIT_OK) return;
    unlink(path);
    dd_free(a, path);
}

static void remove_unfinished(const dd_allocator *a, const char *folder) {
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char *path;
        if (!is_unfinished(entry->d_name) || path_of(a, &path, folder, entry->d_name, NULL) != DDIT_OK) continue;
        unlink(path);
        dd_free(a, path);
    }
    closedir(dir);
}

static void prune(const dd_allocator *a, const char *folder, int64_t newest, int keep) {
    step_list list;
    remove_unfinished(a, folder);
    if (list_checkpoints(&list, a, folder, NULL) == DDIT_OK) {
        size_t older = 0; /* than the one just written */
        while (older < list.count && list.steps[older] < newest) older++;
        for (size_t i = 0; i < list.count; i++) {
            bool stays = list.steps[i] == newest || (i < older && older - i < (size_t)(keep < 1 ? 1 : keep));
            if (!stays) remove_checkpoint(a, folder, list.steps[i]);
        }
    }
    dd_free(a, list.steps);
}

/* ---------------------------------------------------------------------------------------------- writing */

ddit_status dd_checkpoint_save(const dd_allocator *a, const char *folder, const dd_optimizer *o, double seconds,
                               const char *settings, int keep, ddit_err *err) {
    dd_optimizer_vector vectors[DD_OPTIMIZER_VECTORS];
    dd_safetensors_item items[DD_OPTIMIZER_VECTORS];
    char numbers[SCALARS][NUMBER_SIZE], step[NUMBER_SIZE], sum[NUMBER_SIZE], *path;
    const double scalars[SCALARS] = {seconds, o->d, o->d_max, o->d_numerator};
    int count = dd_optimizer_vectors(o, vectors);
    for (int i = 0; i < SCALARS; i++) print_exactly(numbers[i], scalars[i]);
    snprintf(step, sizeof step, "%lld", (long long)o->step);
    const char *const texts[] = {step, numbers[0], numbers[1], numbers[2], numbers[3], settings};
    uint64_t h = checksum_texts(texts, sizeof texts / sizeof *texts);
    for (int i = 0; i < count; i++) {
        items[i] = (dd_safetensors_item){vectors[i].name, DD_DTYPE_F32, 1, {o->count}, vectors[i].values};
        h = checksum(h, vectors[i].values, (uint64_t)o->count * sizeof(float));
    }
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)h);
    const dd_safetensors_pair pairs[] = {{"format", format_name}, {"step", step},        {"seconds", numbers[0]},
                                         {"d", numbers[1]},       {"d_max", numbers[2]}, {"d_numerator", numbers[3]},
                                         {"checksum", sum},       {"settings", settings}};
    DD_TRY(checkpoint_path(a, &path, folder, o->step, err));
    ddit_status status = dd_safetensors_write(a, path, items, (size_t)count, pairs, sizeof pairs / sizeof *pairs, err);
    dd_free(a, path);
    if (status == DDIT_OK) prune(a, folder, o->step, keep);
    return status;
}

/* ---------------------------------------------------------------------------------------------- reading */

/* A checkpoint file that was read and checked. */
typedef struct checkpoint {
    dd_safetensors *file; /* owned */
    int64_t step, count;
    double scalars[SCALARS]; /* seconds, d, d_max, d_numerator */
    const char *settings;
} checkpoint;

static ddit_status damaged(ddit_err *err, const char *path, const char *what) {
    return dd_fail(err, DDIT_ERR_FORMAT,
                   "%s: found %s, expected a checkpoint as ddit train writes it: it is damaged or another file", path, what);
}

static bool read_number(const dd_safetensors *file, const char *key, double *value) {
    const char *text = dd_safetensors_metadata(file, key);
    char *end;
    if (!text || !*text) return false;
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value);
}

/* Vectors of one size, and the checksum: over the texts, then over the vectors in the order of dd_optimizer_vectors. */
static ddit_status check_vectors(checkpoint *c, uint64_t h, const char *path, ddit_err *err) {
    static const char *const names[DD_OPTIMIZER_VECTORS] = {"values", "m", "v", "ema", "s", "start"};
    const char *text = dd_safetensors_metadata(c->file, "checksum");
    char sum[NUMBER_SIZE];
    c->count = -1;
    for (int i = 0; i < DD_OPTIMIZER_VECTORS; i++) {
        const dd_tensor_entry *entry = dd_safetensors_find(c->file, names[i]);
        if (!entry && i < 3) return damaged(err, path, "a vector missing");
        if (!entry) continue;
        if (entry->dtype != DD_DTYPE_F32 || entry->rank != 1 || (c->count >= 0 && entry->shape[0] != c->count))
            return damaged(err, path, "vectors of different sizes");
        c->count = entry->shape[0];
        h = checksum(h, entry->data, entry->bytes);
    }
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)h);
    return text && strcmp(sum, text) == 0 ? DDIT_OK : damaged(err, path, "a wrong checksum");
}

static ddit_status checkpoint_open(checkpoint *c, const dd_allocator *a, const char *path, ddit_err *err) {
    static const char *const keys[] = {"step", "seconds", "d", "d_max", "d_numerator", "settings"};
    const char *texts[sizeof keys / sizeof *keys];
    ddit_status status;
    double step = -1;
    *c = (checkpoint){0};
    DD_TRY(dd_safetensors_open(&c->file, a, path, err));
    const char *format = dd_safetensors_metadata(c->file, "format");
    c->settings = dd_safetensors_metadata(c->file, "settings");
    bool good = format && strcmp(format, format_name) == 0 && c->settings && read_number(c->file, "step", &step);
    for (int i = 0; i < SCALARS; i++) good = good && read_number(c->file, keys[i + 1], &c->scalars[i]);
    if (!good || step < 0 || step > 0x1p53) DD_GO(damaged(err, path, "values missing"));
    c->step = (int64_t)step;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) texts[i] = dd_safetensors_metadata(c->file, keys[i]);
    DD_GO(check_vectors(c, checksum_texts(texts, sizeof keys / sizeof *keys), path, err));
    return DDIT_OK;
done:
    dd_safetensors_close(c->file);
    *c = (checkpoint){0};
    return status;
}

ddit_status dd_checkpoint_newest(const dd_allocator *a, const char *folder, char **path, ddit_err *err) {
    step_list list;
    *path = NULL;
    ddit_status status = list_checkpoints(&list, a, folder, err);
    for (size_t i = list.count; status == DDIT_OK && i-- > 0;) {
        checkpoint c;
        ddit_err reason = {0};
        char *candidate;
        DD_GO(checkpoint_path(a, &candidate, folder, list.steps[i], err));
        ddit_status found = checkpoint_open(&c, a, candidate, &reason);
        dd_safetensors_close(c.file);
        if (found == DDIT_OK) {
            *path = candidate;
            break;
        }
        dd_free(a, candidate);
        if (found == DDIT_ERR_NO_MEMORY) status = dd_fail(err, found, "%s", reason.text);
    }
done:
    dd_free(a, list.steps);
    return status;
}

static size_t line_length(const char *text) { return strcspn(text, "\n"); }

/* Compares lines "key=value"; the sentence names the first that differs. */
static ddit_status compare_settings(const char *path, const char *theirs, const char *ours, ddit_err *err) {
    while (*theirs || *ours) {
        size_t n = line_length(theirs), m = line_length(ours);
        if (n != m || memcmp(theirs, ours, n) != 0) {
            const char *a = n ? theirs : "(nothing)", *b = m ? ours : "(nothing)";
            return dd_fail(err, DDIT_ERR_MISMATCH,
                           "%s: found the setting %.*s, expected %.*s as in this run: resume with the settings it began with, "
                           "or start anew",
                           path, n ? (int)(n < 120 ? n : 120) : 9, a, m ? (int)(m < 120 ? m : 120) : 9, b);
        }
        theirs += n + (theirs[n] == '\n');
        ours += m + (ours[m] == '\n');
    }
    return DDIT_OK;
}

/* The file must have the vectors of this optimizer and no others. */
static ddit_status compare_vectors(const checkpoint *c, const char *path, const dd_optimizer *o, ddit_err *err) {
    dd_optimizer_vector vectors[DD_OPTIMIZER_VECTORS];
    int count = dd_optimizer_vectors(o, vectors);
    if (c->count != o->count)
        return dd_fail(err, DDIT_ERR_MISMATCH, "%s: found %lld trained values, expected the %lld of this run", path,
                       (long long)c->count, (long long)o->count);
    bool same = dd_safetensors_count(c->file) == (size_t)count;
    for (int i = 0; i < count; i++) same = same && dd_safetensors_find(c->file, vectors[i].name);
    if (same) return DDIT_OK;
    return dd_fail(err, DDIT_ERR_MISMATCH, "%s: found the state of another optimizer or average than this run's", path);
}

ddit_status dd_checkpoint_load(const dd_allocator *a, const char *path, dd_optimizer *o, double *seconds, const char *settings,
                               ddit_err *err) {
    checkpoint c;
    dd_optimizer_vector vectors[DD_OPTIMIZER_VECTORS];
    ddit_status status;
    DD_TRY(checkpoint_open(&c, a, path, err));
    DD_GO(compare_settings(path, c.settings, settings, err));
    DD_GO(compare_vectors(&c, path, o, err));
    int count = dd_optimizer_vectors(o, vectors);
    for (int i = 0; i < count; i++)
        memcpy(vectors[i].values, dd_safetensors_find(c.file, vectors[i].name)->data, (size_t)o->count * sizeof(float));
    o->step = c.step;
    *seconds = c.scalars[0];
    o->d = c.scalars[1];
    o->d_max = c.scalars[2];
    o->d_numerator = c.scalars[3];
done:
    dd_safetensors_close(c.file);
    return status;
}
