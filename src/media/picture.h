/* Pictures read from files and brought to a size, for training. */
#ifndef DD_MEDIA_PICTURE_H
#define DD_MEDIA_PICTURE_H

#include "base/alloc.h"

enum { DD_PICTURE_MAX_SIDE = 16384 };

typedef struct dd_picture {
    int width, height;
    uint8_t *rgb; /* owned [height, width, 3] */
    const dd_allocator *allocator;
} dd_picture;

/* Reads a PNG (any bit depth and colour type), a JPEG (also grey and CMYK; turned upright as its EXIF orientation says) or a
 * WebP without animation; which one it is says the content, not the name. Alpha lies on white, mixed as 8-bit values; colour
 * profiles are ignored. JPEG and WebP are read only by builds that found their libraries.
 * Errors, each naming the file: DDIT_ERR_NOT_FOUND, DDIT_ERR_READ, DDIT_ERR_FORMAT (none of the formats, damaged, cut short,
 * a side above DD_PICTURE_MAX_SIDE), DDIT_ERR_UNSUPPORTED (a format this build lacks, animation), DDIT_ERR_NO_MEMORY.
 * *out is zeroed on failure. Decoders of JPEG and WebP take memory of their own. */
ddit_status dd_picture_read(dd_picture *out, const dd_allocator *a, const char *path, ddit_err *err);

/* Exactly width x height: scaled until it covers them, the rest cut off equally on both sides. Bicubic (a = -1/2), widened by
 * the factor when the picture shrinks, as Pillow's resize of float channels. in and out are different pictures.
 * Errors: DDIT_ERR_NO_MEMORY; *out is then zeroed. */
ddit_status dd_picture_resize(dd_picture *out, const dd_allocator *a, const dd_picture *in, int width, int height,
                              ddit_err *err);

/* Zeroes *p; a zeroed one is accepted. */
void dd_picture_deinit(dd_picture *p);

/* What this build reads, e.g. "PNG, JPEG and WebP"; whether a name ends like a picture's (.png .jpg .jpeg .webp, any case). */
const char *dd_picture_formats(void);
bool dd_picture_name(const char *name);

#endif
