/* Pictures as PNG files, with texts inside, by libpng. */
#ifndef DD_MEDIA_PNG_H
#define DD_MEDIA_PNG_H

#include "base/alloc.h"

/* A keyword (1-79 Latin-1 characters) and its text (UTF-8). Written as tEXt when the text is Latin-1, else as iTXt. */
typedef struct dd_png_text {
    char *key;
    char *text;
} dd_png_text;

typedef struct dd_png_info {
    int width, height;
    dd_png_text *texts; /* owned [count]; text is UTF-8 */
    int count;
    const dd_allocator *allocator;
} dd_png_info;

/* rgb [height, width, 3]. The file appears whole or not at all. Errors: DDIT_ERR_OUTPUT_PATH, DDIT_ERR_WRITE,
 * DDIT_ERR_NO_MEMORY. */
ddit_status dd_png_write(const dd_allocator *a, const char *path, int width, int height, const uint8_t *rgb,
                         const dd_png_text *texts, int count, ddit_err *err);

/* Size and texts of a PNG, without its pixels. Errors: DDIT_ERR_NOT_FOUND, DDIT_ERR_READ, DDIT_ERR_FORMAT (no PNG, damaged);
 * *info is zeroed on failure. Freed by dd_png_info_deinit, which accepts a zeroed one. */
ddit_status dd_png_read_info(dd_png_info *info, const dd_allocator *a, const char *path, ddit_err *err);
void dd_png_info_deinit(dd_png_info *info);

/* The text of a keyword, or NULL. */
const char *dd_png_info_find(const dd_png_info *info, const char *key);

/* True if the file begins with the PNG signature. */
bool dd_png_probe(const char *path);

#endif
