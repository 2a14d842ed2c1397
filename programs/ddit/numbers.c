#include "numbers.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool number_integer(const char *text, int64_t *value) {
    const char *digits = text + (*text == '-' || *text == '+');
    if (!*digits || strspn(digits, "0123456789") != strlen(digits)) return false;
    errno = 0;
    long long found = strtoll(text, NULL, 10);
    if (errno) return false;
    *value = found;
    return true;
}

bool number_real(const char *text, double *value) {
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text)) return false;
    char *end;
    double found = strtod(text, &end);
    if (*end || end == text || !isfinite(found)) return false;
    *value = found;
    return true;
}

bool number_size(const char *text, int *width, int *height) {
    enum { PART = 8 };
    char first[PART], second[PART];
    size_t length = strspn(text, "0123456789");
    char between = text[length];
    if (length == 0 || length >= PART || (between != 'x' && between != 'X' && between != '*')) return false;
    if (strlen(text + length + 1) >= PART) return false;
    memcpy(first, text, length);
    first[length] = '\0';
    strcpy(second, text + length + 1);
    int64_t w, h;
    if (second[0] == '-' || second[0] == '+' || !number_integer(first, &w) || !number_integer(second, &h)) return false;
    *width = (int)w;
    *height = (int)h;
    return true;
}
