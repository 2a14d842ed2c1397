#include "media/png_libpng.h"

#include <stdio.h>
#include <string.h>

static void on_error(png_structp png, png_const_charp message) {
    dd_png_state *s = png_get_error_ptr(png);
    snprintf(s->message, sizeof s->message, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static png_voidp on_malloc(png_structp png, png_alloc_size_t size) {
    dd_png_state *s = png_get_mem_ptr(png);
    void *memory = NULL;
    if (dd_alloc_raw(s->allocator, &memory, size, 1, "a picture file", NULL) != DDIT_OK) s->no_memory = true;
    return memory;
}

static void on_free(png_structp png, png_voidp memory) {
    dd_png_state *s = png_get_mem_ptr(png);
    dd_free(s->allocator, memory);
}

static void on_read(png_structp png, png_bytep out, size_t size) {
    dd_png_state *s = png_get_io_ptr(png);
    if (size > s->size - s->at) png_error(png, "the file ends too early");
    memcpy(out, s->data + s->at, size);
    s->at += size;
}

bool dd_png_begin_reading(dd_png_state *s) {
    s->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, s, on_error, on_warning, s, on_malloc, on_free);
    s->info = s->png ? png_create_info_struct(s->png) : NULL;
    if (!s->info) return false;
    png_set_read_fn(s->png, s, on_read);
    png_set_chunk_malloc_max(s->png, DD_PNG_MAX_CHUNK_BYTES);
    return true;
}

bool dd_png_begin_writing(dd_png_state *s) {
    s->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, s, on_error, on_warning, s, on_malloc, on_free);
    s->info = s->png ? png_create_info_struct(s->png) : NULL;
    return s->info != NULL;
}

ddit_status dd_png_damaged(const dd_png_state *s, const char *path, ddit_err *err) {
    if (s->no_memory || !s->message[0]) return dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: out of memory while reading", path);
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: damaged PNG, found before byte %zu of %zu: %s", path, s->at, s->size, s->message);
}
