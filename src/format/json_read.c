#include "format/json_read.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ddit_status dd_json_load(json_t **out, size_t flags, const char *text, size_t size, const char *label, ddit_err *err) {
    json_error_t error = {0};
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES | flags, &error);
    if (!*out) {
        char shown[DD_SHOW_SIZE];
        if (json_error_code(&error) == json_error_out_of_memory)
            return dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: out of memory while reading JSON of %zu bytes", label, size);
        return dd_fail(err, DDIT_ERR_FORMAT,
                       "%s: found no valid JSON (line %d, column %d, byte %d: %s), expected one JSON object", label, error.line,
                       error.column, error.position, dd_show(shown, error.text));
    }
    if (json_is_object(*out)) return DDIT_OK;
    json_decref(*out);
    *out = NULL;
    return dd_fail(err, DDIT_ERR_FORMAT, "%s: found a JSON array, expected an object", label);
}

ddit_status dd_json_parse_struct(void *out, size_t out_size, void (*fill)(void *out, dd_json_reader *r), size_t flags,
                                 const char *text, size_t size, const char *label, ddit_err *err) {
    memset(out, 0, out_size);
    json_t *root;
    DD_TRY(dd_json_load(&root, flags, text, size, label, err));
    dd_json_reader reader = {root, label, err, DDIT_OK};
    fill(out, &reader);
    json_decref(root);
    if (reader.status != DDIT_OK) memset(out, 0, out_size);
    return reader.status;
}

const char *dd_show(char out[DD_SHOW_SIZE], const char *text) {
    size_t length = strnlen(text, 81), used = length > 80 ? 77 : length;
    for (size_t i = 0; i < used; i++) out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    if (length > 80) { /* drop the last character, which may be half */
        while (used > 0 && ((unsigned char)out[used - 1] & 0xc0) == 0x80) used--;
        if (used > 0) used--;
    }
    snprintf(out + used, DD_SHOW_SIZE - used, "%s", length > 80 ? "..." : "");
    return out;
}

void dd_json_fail(dd_json_reader *r, ddit_status code, const char *format, ...) {
    if (r->status != DDIT_OK) return;
    char text[DDIT_ERR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    r->status = dd_fail(r->err, code, "%s: %s", r->label, text);
}

/* The value, or NULL if the key is absent or null or a failure came before. */
static const json_t *value_of(const dd_json_reader *r, const char *key) {
    const json_t *value = r->status == DDIT_OK ? json_object_get(r->object, key) : NULL;
    return json_is_null(value) ? NULL : value;
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a fraction";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    default: return "null";
    }
}

static void fail_type(dd_json_reader *r, const char *key, const json_t *value, const char *expected) {
    dd_json_fail(r, DDIT_ERR_FORMAT, "\"%s\": found %s, expected %s", key, type_name(value), expected);
}

int64_t dd_json_int(dd_json_reader *r, const char *key, int64_t fallback, int64_t min, int64_t max) {
    const json_t *value = value_of(r, key);
    if (!value) return fallback;
    if (!json_is_integer(value)) {
        fail_type(r, key, value, "an integer");
        return fallback;
    }
    int64_t number = json_integer_value(value);
    if (number >= min && number <= max) return number;
    dd_json_fail(r, DDIT_ERR_FORMAT, "\"%s\": found %" PRId64 ", expected %" PRId64 " to %" PRId64, key, number, min, max);
    return fallback;
}

double dd_json_number(dd_json_reader *r, const char *key, double fallback, double min, double max) {
    const json_t *value = value_of(r, key);
    if (!value) return fallback;
    if (!json_is_number(value)) {
        fail_type(r, key, value, "a number");
        return fallback;
    }
    double number = json_number_value(value);
    if (number >= min && number <= max) return number;
    dd_json_fail(r, DDIT_ERR_FORMAT, "\"%s\": found %g, expected %g to %g", key, number, min, max);
    return fallback;
}

bool dd_json_bool(dd_json_reader *r, const char *key, bool fallback) {
    const json_t *value = value_of(r, key);
    if (!value) return fallback;
    if (!json_is_boolean(value)) fail_type(r, key, value, "true or false");
    return json_is_true(value);
}

const char *dd_json_string(dd_json_reader *r, const char *key, const char *fallback) {
    const json_t *value = value_of(r, key);
    if (!value) return fallback;
    if (json_is_string(value)) return json_string_value(value);
    fail_type(r, key, value, "a string");
    return fallback;
}

void dd_json_copy_string(dd_json_reader *r, const char *key, char *text, size_t size) {
    const char *value = dd_json_string(r, key, "");
    if (strlen(value) >= size)
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"%s\": found a string of %zu bytes, expected at most %zu", key, strlen(value),
                     size - 1);
    else
        snprintf(text, size, "%s", value);
}

int dd_json_int_array(dd_json_reader *r, const char *key, int *out, int room, int64_t min, int64_t max) {
    const json_t *value = value_of(r, key);
    if (!value) return 0;
    if (!json_is_array(value)) {
        fail_type(r, key, value, "an array of integers");
        return 0;
    }
    size_t count = json_array_size(value);
    if (count < 1 || count > (size_t)room) {
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"%s\": found %zu members, expected 1 to %d", key, count, room);
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *member = json_array_get(value, i);
        int64_t number = json_integer_value(member); /* 0 for other types */
        if (!json_is_integer(member)) {
            fail_type(r, key, member, "integers in the array");
            return 0;
        }
        if (number < min || number > max) {
            dd_json_fail(r, DDIT_ERR_FORMAT, "\"%s\": found %" PRId64 " at index %zu, expected %" PRId64 " to %" PRId64, key,
                         number, i, min, max);
            return 0;
        }
        out[i] = (int)number;
    }
    return (int)count;
}

void dd_json_refuse_true(dd_json_reader *r, const char *key, const char *what) {
    if (dd_json_bool(r, key, false))
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED, "\"%s\" is true, expected false: %s is not supported", key, what);
}

void dd_json_refuse_present(dd_json_reader *r, const char *key, const char *what) {
    const json_t *value = value_of(r, key);
    if (value)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED, "\"%s\": found %s, expected null: %s is not supported", key, type_name(value),
                     what);
}

void dd_json_expect_string(dd_json_reader *r, const char *key, const char *expected) {
    const char *value = dd_json_string(r, key, expected);
    char shown[DD_SHOW_SIZE];
    if (strcmp(value, expected) != 0)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED, "\"%s\": found \"%s\", expected \"%s\"; nothing else is supported", key,
                     dd_show(shown, value), expected);
}
