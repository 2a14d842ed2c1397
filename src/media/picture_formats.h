/* The decoders behind dd_picture_read. Private to the room. */
#ifndef DD_MEDIA_PICTURE_FORMATS_H
#define DD_MEDIA_PICTURE_FORMATS_H

#include "media/picture.h"

/* A file in memory. */
typedef struct dd_picture_file {
    const char *path; /* for error sentences */
    const uint8_t *data;
    size_t size;
} dd_picture_file;

/* Each checks the header's size, allocates the picture and fills it. On failure *out may hold memory; the caller frees it. */
ddit_status dd_picture_read_png(dd_picture *out, const dd_picture_file *file, ddit_err *err);
ddit_status dd_picture_read_jpeg(dd_picture *out, const dd_picture_file *file, ddit_err *err);
ddit_status dd_picture_read_webp(dd_picture *out, const dd_picture_file *file, ddit_err *err);

/* Refuses sides of 0 or above the limit, and allocates values [height, width, channels] for the rest. out->allocator is set. */
ddit_status dd_picture_alloc(dd_picture *out, const dd_picture_file *file, uint32_t width, uint32_t height, uint8_t **values,
                             int channels, ddit_err *err);

/* The pixels with alpha [width * height, 4] over white; out may be rgba. */
void dd_picture_over_white(uint8_t *out, const uint8_t *rgba, size_t pixels);

#endif
