/* What callbacks of libpng share with the files that read and write PNG. Private to the room. */
#ifndef DD_MEDIA_PNG_LIBPNG_H
#define DD_MEDIA_PNG_LIBPNG_H

#include <png.h>

#include "base/alloc.h"

enum { DD_PNG_MESSAGE_SIZE = 128, DD_PNG_MAX_CHUNK_BYTES = 32 << 20 };

/* Lives in the caller's frame, so nothing is lost by longjmp. */
typedef struct dd_png_state {
    const dd_allocator *allocator;
    const uint8_t *data; /* reading: the file in memory */
    size_t size, at;
    char message[DD_PNG_MESSAGE_SIZE]; /* what libpng found wrong */
    bool no_memory;
    png_structp png;
    png_infop info;
} dd_png_state;

/* Fills png and info, whose memory is the allocator's and whose errors leave by longjmp with s->message filled. False: out of
 * memory; the caller calls png_destroy_read_struct or png_destroy_write_struct either way. */
bool dd_png_begin_reading(dd_png_state *s); /* of s->data; sets the largest chunk too */
bool dd_png_begin_writing(dd_png_state *s);

/* What went wrong while reading, as DDIT_ERR_NO_MEMORY or DDIT_ERR_FORMAT. */
ddit_status dd_png_damaged(const dd_png_state *s, const char *path, ddit_err *err);

#endif
