/* A folder of pictures with captions.
 *
 * Every file of the folder that is named like a picture (media/picture.h; hidden ones and subfolders are passed over) needs a
 * caption: a line {"file": NAME, "text": CAPTION} of captions.jsonl in the folder, else NAME.txt beside it (its lines joined by
 * spaces).
 */
#ifndef DD_MEDIA_PICTURE_FOLDER_H
#define DD_MEDIA_PICTURE_FOLDER_H

#include "base/alloc.h"

typedef struct dd_picture_entry {
    char *path;    /* owned: FOLDER/NAME */
    char *caption; /* owned: UTF-8 as it is in the file, trimmed, at least one character */
    char *stamp;   /* owned: name, size in bytes and time of change of the file */
} dd_picture_entry;

typedef struct dd_picture_folder {
    dd_picture_entry *entries; /* owned [count], in the order of the names (strcmp) */
    int count;
    const dd_allocator *allocator;
} dd_picture_folder;

/* Lists the folder and reads the captions, not the pictures. Errors, each naming folder or file: DDIT_ERR_NOT_FOUND (no such
 * folder, no pictures in it, a picture without caption), DDIT_ERR_READ, DDIT_ERR_FORMAT (an empty caption, one with a NUL or of
 * more than 32,000 bytes; a line of captions.jsonl that is not as above, with its number, that names a file which is not there,
 * or one a second time), DDIT_ERR_NO_MEMORY. *f is zeroed on failure. */
ddit_status dd_picture_folder_read(dd_picture_folder *f, const dd_allocator *a, const char *folder, ddit_err *err);
void dd_picture_folder_deinit(dd_picture_folder *f); /* a zeroed one is accepted */

#endif
