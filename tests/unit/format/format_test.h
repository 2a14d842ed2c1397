/* What the tests of this room share: safetensors files made in memory, and a temporary folder. */
#ifndef DD_FORMAT_TEST_H
#define DD_FORMAT_TEST_H

#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

/* A file of 8 bytes of length, the JSON and data_size zero bytes, in memory of exactly that size; the caller frees it. */
static inline uint8_t *make_file(const char *json, size_t data_size, size_t *size) {
    size_t length = strlen(json);
    *size = 8 + length + data_size;
    uint8_t *file = calloc(1, *size);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)length >> (8 * i));
    memcpy(file + 8, json, length);
    return file;
}

static inline void make_folder(char folder[64]) {
    strcpy(folder, "/tmp/ddit-format-XXXXXX");
    if (!mkdtemp(folder)) abort();
}

static inline char *in_folder(char path[256], const char *folder, const char *name) {
    snprintf(path, 256, "%s/%s", folder, name);
    return path;
}

static inline void write_bytes(const char *folder, const char *name, const void *data, size_t size) {
    char path[256];
    FILE *file = fopen(in_folder(path, folder, name), "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
}

static inline void write_text(const char *folder, const char *name, const char *text) {
    write_bytes(folder, name, text, strlen(text));
}

static inline void make_subfolder(const char *folder, const char *name) {
    char path[256];
    if (mkdir(in_folder(path, folder, name), 0777) != 0) abort();
}

static inline void remove_folder(const char *folder) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) abort();
}

#endif
