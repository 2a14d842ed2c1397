/* JPEG files, by libjpeg (-turbo), which reports errors by a callback that must not return: it leaves by longjmp. */
#include "media/picture_formats.h"

#ifdef DDIT_JPEG

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h>

enum {
    MAX_SCANS = 500, /* a small file may ask for passes without end */
    EXIF_MARKER = JPEG_APP0 + 1,
    EXIF_BYTES = 65533,
    ORIENTATION_TAG = 0x112,
};

typedef struct jpeg_state {
    struct jpeg_error_mgr errors; /* first: libjpeg hands out a pointer to it */
    struct jpeg_progress_mgr progress;
    jmp_buf leave;
    char message[JMSG_LENGTH_MAX];
    bool no_memory;
    struct jpeg_decompress_struct jpeg;
} jpeg_state;

static void on_error(j_common_ptr info) {
    jpeg_state *s = (jpeg_state *)info->err;
    s->no_memory = info->err->msg_code == JERR_OUT_OF_MEMORY;
    info->err->format_message(info, s->message);
    longjmp(s->leave, 1);
}

/* level -1: libjpeg goes on with what it guesses. Guessed pixels are damage, unknown bytes between markers are not. */
static void on_message(j_common_ptr info, int level) {
    int code = info->err->msg_code;
    if (level < 0 && (code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE || code == JWRN_JPEG_EOF ||
                      code == JWRN_MUST_RESYNC || code == JWRN_ARITH_BAD_CODE))
        on_error(info);
}

static void on_output(j_common_ptr info) { (void)info; }

static void on_progress(j_common_ptr info) {
    if (((j_decompress_ptr)info)->input_scan_number <= MAX_SCANS) return;
    jpeg_state *s = (jpeg_state *)info->err;
    snprintf(s->message, sizeof s->message, "more than %d scans", MAX_SCANS);
    longjmp(s->leave, 1);
}

/* ------------------------------------------------------------------------------------------------ decoding */

static bool read_header(jpeg_state *s, const dd_picture_file *file) {
    if (setjmp(s->leave)) return false;
    jpeg_create_decompress(&s->jpeg);
    s->jpeg.progress = &s->progress;
    jpeg_mem_src(&s->jpeg, file->data, (unsigned long)file->size);
    jpeg_save_markers(&s->jpeg, EXIF_MARKER, EXIF_BYTES);
    jpeg_read_header(&s->jpeg, TRUE);
    bool inks = s->jpeg.jpeg_color_space == JCS_CMYK || s->jpeg.jpeg_color_space == JCS_YCCK;
    s->jpeg.out_color_space = inks ? JCS_CMYK : JCS_RGB;
    return true;
}

static bool read_rows(jpeg_state *s, uint8_t *values, size_t row_bytes) {
    if (setjmp(s->leave)) return false;
    jpeg_start_decompress(&s->jpeg);
    while (s->jpeg.output_scanline < s->jpeg.output_height) {
        JSAMPROW row = values + s->jpeg.output_scanline * row_bytes;
        jpeg_read_scanlines(&s->jpeg, &row, 1);
    }
    jpeg_finish_decompress(&s->jpeg);
    return true;
}

/* Inks to light: the product of what cyan, magenta, yellow and what black let through. Adobe stores that, others the inks. */
static void inks_to_rgb(uint8_t *out, const uint8_t *cmyk, size_t pixels, bool inverted) {
    for (size_t i = 0; i < pixels; i++, cmyk += 4, out += 3) {
        int black = inverted ? cmyk[3] : 255 - cmyk[3];
        for (int k = 0; k < 3; k++) out[k] = (uint8_t)(((inverted ? cmyk[k] : 255 - cmyk[k]) * black + 127) / 255);
    }
}

/* ------------------------------------------------------------------------------------------------ orientation */

static uint32_t number(const uint8_t *at, int bytes, bool little) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | at[little ? bytes - 1 - i : i];
    return value;
}

/* EXIF's orientation 1..8 from the marker "Exif\0\0" + TIFF header + first directory; 1 if there is none or it is broken. */
static int orientation(const jpeg_state *s) {
    for (jpeg_saved_marker_ptr m = s->jpeg.marker_list; m; m = m->next) {
        if (m->marker != EXIF_MARKER || m->data_length < 14 || memcmp(m->data, "Exif\0", 6) != 0) continue;
        const uint8_t *tiff = m->data + 6;
        size_t size = m->data_length - 6;
        bool little = tiff[0] == 'I';
        size_t directory = number(tiff + 4, 4, little);
        if (directory > size - 2) return 1;
        size_t count = number(tiff + directory, 2, little);
        for (size_t i = 0; i < count; i++) {
            size_t entry = directory + 2 + 12 * i;
            if (entry + 12 > size) return 1;
            if (number(tiff + entry, 2, little) != ORIENTATION_TAG) continue;
            uint32_t value = number(tiff + entry + 8, 2, little);
            return value >= 1 && value <= 8 ? (int)value : 1;
        }
    }
    return 1;
}

/* Turns and mirrors the picture as the orientation asks. */
static ddit_status make_upright(dd_picture *p, int orientation, ddit_err *err) {
    if (orientation == 1) return DDIT_OK;
    bool swap = orientation >= 5; /* of the axes; mirroring is along those of the stored picture */
    bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    int width = swap ? p->height : p->width, height = swap ? p->width : p->height;
    uint8_t *turned;
    DD_TRY(dd_alloc_raw(p->allocator, &turned, (size_t)width * (size_t)height, 3, "a picture", err));
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int from_x = swap ? y : x, from_y = swap ? x : y;
            if (mirror_x) from_x = p->width - 1 - from_x;
            if (mirror_y) from_y = p->height - 1 - from_y;
            memcpy(turned + ((size_t)y * (size_t)width + (size_t)x) * 3,
                   p->rgb + ((size_t)from_y * (size_t)p->width + (size_t)from_x) * 3, 3);
        }
    dd_free(p->allocator, p->rgb);
    p->rgb = turned;
    p->width = width;
    p->height = height;
    return DDIT_OK;
}

/* ------------------------------------------------------------------------------------------------ the file */

static ddit_status failure(const jpeg_state *s, const dd_picture_file *file, ddit_err *err) {
    if (s->no_memory) return dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: out of memory while reading", file->path);
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: damaged JPEG: %s", file->path, s->message);
}

static ddit_status read_pixels(dd_picture *out, jpeg_state *s, const dd_picture_file *file, ddit_err *err) {
    if (!read_header(s, file)) return failure(s, file, err);
    int channels = s->jpeg.out_color_space == JCS_CMYK ? 4 : 3;
    uint8_t *values;
    int turn = orientation(s); /* its marker is freed at the end of decoding */
    DD_TRY(dd_picture_alloc(out, file, s->jpeg.image_width, s->jpeg.image_height, &values, channels, err));
    out->rgb = values;
    if (!read_rows(s, values, (size_t)out->width * (size_t)channels)) return failure(s, file, err);
    if (channels == 4) inks_to_rgb(values, values, (size_t)out->width * (size_t)out->height, s->jpeg.saw_Adobe_marker);
    return make_upright(out, turn, err);
}

ddit_status dd_picture_read_jpeg(dd_picture *out, const dd_picture_file *file, ddit_err *err) {
    jpeg_state *s; /* not in this frame: longjmp leaves its values as they are */
    DD_TRY(dd_alloc(out->allocator, &s, 1, sizeof *s, "a JPEG decoder", err));
    s->jpeg.err = jpeg_std_error(&s->errors);
    s->errors.error_exit = on_error;
    s->errors.emit_message = on_message;
    s->errors.output_message = on_output;
    s->progress.progress_monitor = on_progress;
    ddit_status status = read_pixels(out, s, file, err);
    jpeg_destroy_decompress(&s->jpeg);
    dd_free(out->allocator, s);
    return status;
}

#else

ddit_status dd_picture_read_jpeg(dd_picture *out, const dd_picture_file *file, ddit_err *err) {
    (void)out;
    return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                   "%s: is a JPEG, which this build of ddit does not read (libjpeg was not there when "
                   "it was built); PNG is always read", file->path);
}

#endif
