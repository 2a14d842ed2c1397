/* Reading JSON objects with checked types and ranges. Private to the room. */
#ifndef DD_FORMAT_JSON_READ_H
#define DD_FORMAT_JSON_READ_H

#include <jansson.h>

#include "base/alloc.h"

/* Parses a text whose root is an object; duplicate keys are refused. flags: further ones of jansson's decoder, or 0. The caller
 * calls json_decref. Errors: DDIT_ERR_FORMAT with label, line and column; DDIT_ERR_NO_MEMORY. *out is NULL on failure. */
ddit_status dd_json_load(json_t **out, size_t flags, const char *text, size_t size, const char *label, ddit_err *err);

/* A reader over one object. The first failure stays in `status`; later calls then return defaults, so that a struct is filled
 * without a check per line. A key that is absent or null gives the default. */
typedef struct dd_json_reader {
    const json_t *object;
    const char *label; /* the file, in errors */
    ddit_err *err;
    ddit_status status;
} dd_json_reader;

/* Parses text and lets fill read the root object into *out, which is zeroed first and on failure. */
ddit_status dd_json_parse_struct(void *out, size_t out_size, void (*fill)(void *out, dd_json_reader *r), size_t flags,
                                 const char *text, size_t size, const char *label, ddit_err *err);

/* An integer in [min, max]. The default may lie outside. */
int64_t dd_json_int(dd_json_reader *r, const char *key, int64_t fallback, int64_t min, int64_t max);

/* A number in [min, max]. The default may lie outside, or be NaN. */
double dd_json_number(dd_json_reader *r, const char *key, double fallback, double min, double max);

bool dd_json_bool(dd_json_reader *r, const char *key, bool fallback);

/* Borrowed from the JSON, or the default (which may be NULL). */
const char *dd_json_string(dd_json_reader *r, const char *key, const char *fallback);

/* Copies a string into text[size]; refuses a longer one. */
void dd_json_copy_string(dd_json_reader *r, const char *key, char *text, size_t size);

/* An array of integers in [min, max] with at least 1 and at most `room` members into out; returns how many (0: absent). */
int dd_json_int_array(dd_json_reader *r, const char *key, int *out, int room, int64_t min, int64_t max);

/* Fails (DDIT_ERR_UNSUPPORTED) if the flag is set; `what` says what it would have meant. */
void dd_json_refuse_true(dd_json_reader *r, const char *key, const char *what);

/* Fails (DDIT_ERR_UNSUPPORTED) unless the key is absent or null. */
void dd_json_refuse_present(dd_json_reader *r, const char *key, const char *what);

/* Fails (DDIT_ERR_UNSUPPORTED) unless the key is absent or this string. */
void dd_json_expect_string(dd_json_reader *r, const char *key, const char *expected);

/* Records a failure unless there was one before. */
__attribute__((format(printf, 3, 4))) void dd_json_fail(dd_json_reader *r, ddit_status code, const char *format, ...);

/* Foreign text fit for a sentence: at most 80 bytes, control characters replaced. Returns out. */
enum { DD_SHOW_SIZE = 84 };
const char *dd_show(char out[DD_SHOW_SIZE], const char *text);

#endif
