/* Pixels of PNG files, by libpng: every kind of pixel as 8-bit RGB. */
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "media/picture_formats.h"

enum { MESSAGE_SIZE = 128, MAX_CHUNK_BYTES = 32 << 20 };

/* What the callbacks of libpng share with us. Lives in the caller's frame, so nothing is lost by longjmp. */
typedef struct png_state {
    const dd_allocator *allocator;
    const dd_picture_file *file;
    size_t at;
    char message[MESSAGE_SIZE]; /* what libpng found wrong */
    bool no_memory;
    png_structp png;
    png_infop info;
} png_state;

static void on_error(png_structp png, png_const_charp message) {
    png_state *s = png_get_error_ptr(png);
    snprintf(s->message, sizeof s->message, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static png_voidp on_malloc(png_structp png, png_alloc_size_t size) {
    png_state *s = png_get_mem_ptr(png);
    void *memory = NULL;
    if (dd_alloc_raw(s->allocator, &memory, size, 1, "a picture file", NULL) != DDIT_OK) s->no_memory = true;
    return memory;
}

static void on_free(png_structp png, png_voidp memory) {
    png_state *s = png_get_mem_ptr(png);
    dd_free(s->allocator, memory);
}

static void on_read(png_structp png, png_bytep out, size_t size) {
    png_state *s = png_get_io_ptr(png);
    if (size > s->file->size - s->at) png_error(png, "the file ends too early");
    memcpy(out, s->file->data + s->at, size);
    s->at += size;
}

/* The part before the pixels' memory exists. False: see s->message; libpng leaves here by longjmp. */
static bool read_header(png_state *s) {
    if (setjmp(png_jmpbuf(s->png))) return false;
    png_set_read_fn(s->png, s, on_read);
    png_set_crc_action(s->png, PNG_CRC_ERROR_QUIT, PNG_CRC_WARN_DISCARD);
    png_set_user_limits(s->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* dd_picture_alloc has the limits, and a sentence */
    png_set_chunk_malloc_max(s->png, MAX_CHUNK_BYTES);
    png_read_info(s->png, s->info);
    png_set_expand(s->png); /* palettes, few bits, transparent colours */
    png_set_scale_16(s->png);
    png_set_gray_to_rgb(s->png);
    png_set_interlace_handling(s->png);
    png_read_update_info(s->png, s->info);
    return true;
}

static bool read_rows(png_state *s, uint8_t *values, int height, size_t row_bytes) {
    if (setjmp(png_jmpbuf(s->png))) return false;
    int passes = png_get_interlace_type(s->png, s->info) == PNG_INTERLACE_ADAM7 ? PNG_INTERLACE_ADAM7_PASSES : 1;
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < height; y++) png_read_row(s->png, values + (size_t)y * row_bytes, NULL);
    png_read_end(s->png, NULL);
    return true;
}

static ddit_status failure(const png_state *s, ddit_err *err) {
    if (s->no_memory || !s->message[0])
        return dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: out of memory while reading", s->file->path);
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: damaged PNG, found before byte %zu of %zu: %s", s->file->path, s->at,
                   s->file->size, s->message);
}

static ddit_status read_pixels(dd_picture *out, png_state *s, ddit_err *err) {
    if (!read_header(s)) return failure(s, err);
    int channels = png_get_channels(s->png, s->info);
    uint32_t width = png_get_image_width(s->png, s->info), height = png_get_image_height(s->png, s->info);
    if ((channels != 3 && channels != 4) || png_get_bit_depth(s->png, s->info) != 8)
        return dd_fail(err, DDIT_ERR_INTERNAL, "%s: libpng gives %d channels of %d bits", s->file->path, channels,
                       png_get_bit_depth(s->png, s->info));
    uint8_t *values;
    DD_TRY(dd_picture_alloc(out, s->file, width, height, &values, channels, err));
    out->rgb = values;
    if (!read_rows(s, values, out->height, (size_t)width * (size_t)channels)) return failure(s, err);
    if (channels == 4) dd_picture_over_white(values, values, (size_t)width * height);
    return DDIT_OK;
}

ddit_status dd_picture_read_png(dd_picture *out, const dd_picture_file *file, ddit_err *err) {
    png_state s = {.allocator = out->allocator, .file = file};
    s.png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning, &s, on_malloc, on_free);
    s.info = s.png ? png_create_info_struct(s.png) : NULL;
    ddit_status status = s.info ? read_pixels(out, &s, err) : failure(&s, err);
    png_destroy_read_struct(&s.png, &s.info, NULL);
    return status;
}
