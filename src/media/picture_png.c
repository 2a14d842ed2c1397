/* Pixels of PNG files, by libpng: every kind of pixel as 8-bit RGB. */
#include <setjmp.h>

#include "media/picture_formats.h"
#include "media/png_libpng.h"

/* The part before the pixels' memory exists. False: see s->message; libpng leaves here by longjmp. */
static bool read_header(dd_png_state *s) {
    if (setjmp(png_jmpbuf(s->png))) return false;
    png_set_crc_action(s->png, PNG_CRC_ERROR_QUIT, PNG_CRC_WARN_DISCARD);
    png_set_user_limits(s->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* dd_picture_alloc has the limits, and a sentence */
    png_read_info(s->png, s->info);
    png_set_expand(s->png); /* palettes, few bits, transparent colours */
    png_set_scale_16(s->png);
    png_set_gray_to_rgb(s->png);
    png_set_interlace_handling(s->png);
    png_read_update_info(s->png, s->info);
    return true;
}

static bool read_rows(dd_png_state *s, uint8_t *values, int height, size_t row_bytes) {
    if (setjmp(png_jmpbuf(s->png))) return false;
    int passes = png_get_interlace_type(s->png, s->info) == PNG_INTERLACE_ADAM7 ? PNG_INTERLACE_ADAM7_PASSES : 1;
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < height; y++) png_read_row(s->png, values + (size_t)y * row_bytes, NULL);
    png_read_end(s->png, NULL);
    return true;
}

static ddit_status read_pixels(dd_picture *out, dd_png_state *s, const dd_picture_file *file, ddit_err *err) {
    if (!read_header(s)) return dd_png_damaged(s, file->path, err);
    int channels = png_get_channels(s->png, s->info);
    uint32_t width = png_get_image_width(s->png, s->info), height = png_get_image_height(s->png, s->info);
    if ((channels != 3 && channels != 4) || png_get_bit_depth(s->png, s->info) != 8)
        return dd_fail(err, DDIT_ERR_INTERNAL, "%s: libpng gives %d channels of %d bits", file->path, channels,
                       png_get_bit_depth(s->png, s->info));
    uint8_t *values;
    DD_TRY(dd_picture_alloc(out, file, width, height, &values, channels, err));
    out->rgb = values;
    if (!read_rows(s, values, out->height, (size_t)width * (size_t)channels)) return dd_png_damaged(s, file->path, err);
    if (channels == 4) dd_picture_over_white(values, values, (size_t)width * height);
    return DDIT_OK;
}

ddit_status dd_picture_read_png(dd_picture *out, const dd_picture_file *file, ddit_err *err) {
    dd_png_state s = {.allocator = out->allocator, .data = file->data, .size = file->size};
    ddit_status status = dd_png_begin_reading(&s) ? read_pixels(out, &s, file, err) : dd_png_damaged(&s, file->path, err);
    png_destroy_read_struct(&s.png, &s.info, NULL);
    return status;
}
