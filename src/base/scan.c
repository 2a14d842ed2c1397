#include "base/scan.h"

#include <stdio.h>

const char *dd_found(char buffer[DD_FOUND_SIZE], const char *at) {
    unsigned char c = (unsigned char)*at;
    if (c == '\0') snprintf(buffer, DD_FOUND_SIZE, "the end");
    else if (c < 0x20 || c >= 0x7f) snprintf(buffer, DD_FOUND_SIZE, "byte 0x%02X", c);
    else snprintf(buffer, DD_FOUND_SIZE, "'%c'", c);
    return buffer;
}

const char *dd_skip_blanks(const char *at) {
    while (*at == ' ' || *at == '\t') at++;
    return at;
}

bool dd_scan_count(const char **at, int limit, int *value) {
    const char *p = *at;
    if (*p < '0' || *p > '9') return false;
    int n = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        int digit = *p - '0';
        n = n > limit || n > (limit - digit) / 10 ? limit + 1 : n * 10 + digit;
    }
    *at = p;
    *value = n;
    return true;
}

bool dd_scan_decimal(const char **at, double *value) {
    const char *p = *at;
    double digits = 0, scale = 1;
    int count = 0;
    bool fraction = false;
    for (;; p++) {
        if (*p == '.' && !fraction) {
            fraction = true;
        } else if (*p >= '0' && *p <= '9') {
            digits = digits * 10 + (*p - '0');
            if (fraction) scale *= 10;
            count++;
        } else {
            break;
        }
    }
    if (count == 0 || count > 15) return false; /* up to 15 digits both parts are exact, so that the quotient rounds once */
    *at = p;
    *value = digits / scale;
    return true;
}
