#include "media/picture.h"

#include <string.h>
#include <strings.h>

#include "base/mapped_file.h"
#include "media/picture_formats.h"

void dd_picture_deinit(dd_picture *p) {
    if (p->allocator) dd_free(p->allocator, p->rgb);
    *p = (dd_picture){0};
}

const char *dd_picture_formats(void) {
#if defined(DDIT_JPEG) && defined(DDIT_WEBP)
    return "PNG, JPEG and WebP";
#elif defined(DDIT_JPEG)
    return "PNG and JPEG";
#elif defined(DDIT_WEBP)
    return "PNG and WebP";
#else
    return "PNG";
#endif
}

bool dd_picture_name(const char *name) {
    static const char *const ends[] = {".png", ".jpg", ".jpeg", ".webp"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t end = strlen(ends[i]);
        if (length > end && strcasecmp(name + length - end, ends[i]) == 0) return true;
    }
    return false;
}

ddit_status dd_picture_alloc(dd_picture *out, const dd_picture_file *file, uint32_t width, uint32_t height, uint8_t **values,
                             int channels, ddit_err *err) {
    *values = NULL;
    if (width == 0 || height == 0 || width > DD_PICTURE_MAX_SIDE || height > DD_PICTURE_MAX_SIDE)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: its header says %u x %u pixels, expected 1 to %d on a side", file->path,
                       width, height, DD_PICTURE_MAX_SIDE);
    out->width = (int)width;
    out->height = (int)height;
    return dd_alloc_raw(out->allocator, values, (size_t)width * height, (size_t)channels, "a picture", err);
}

void dd_picture_over_white(uint8_t *out, const uint8_t *rgba, size_t pixels) {
    for (size_t i = 0; i < pixels; i++, rgba += 4, out += 3) {
        int alpha = rgba[3], white = 255 * (255 - alpha) + 127;
        for (int k = 0; k < 3; k++) out[k] = (uint8_t)((rgba[k] * alpha + white) / 255);
    }
}

static ddit_status read_file(dd_picture *out, const dd_picture_file *file, ddit_err *err) {
    const uint8_t *d = file->data;
    if (file->size >= 8 && memcmp(d, "\x89PNG\r\n\x1a\n", 8) == 0) return dd_picture_read_png(out, file, err);
    if (file->size >= 3 && memcmp(d, "\xff\xd8\xff", 3) == 0) return dd_picture_read_jpeg(out, file, err);
    if (file->size >= 12 && memcmp(d, "RIFF", 4) == 0 && memcmp(d + 8, "WEBP", 4) == 0)
        return dd_picture_read_webp(out, file, err);
    return dd_fail(err, DDIT_ERR_FORMAT,
                   "%s: is no picture that is known here (%zu bytes that begin like neither PNG, JPEG nor "
                   "WebP)", file->path, file->size);
}

ddit_status dd_picture_read(dd_picture *out, const dd_allocator *a, const char *path, ddit_err *err) {
    dd_mapped_file mapped;
    *out = (dd_picture){.allocator = a};
    ddit_status status = dd_mapped_file_open(&mapped, path, err);
    if (status == DDIT_OK) {
        status = read_file(out, &(dd_picture_file){path, mapped.data, mapped.size}, err);
        dd_mapped_file_close(&mapped);
    }
    if (status != DDIT_OK) dd_picture_deinit(out);
    return status;
}
