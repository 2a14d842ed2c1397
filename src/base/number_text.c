#include "base/number_text.h"

#include <stdio.h>
#include <string.h>

int dd_number_text(char text[DD_NUMBER_SIZE], double x) {
    char found[DD_NUMBER_SIZE], *end = text;
    snprintf(found, sizeof found, "%.9g", x);
    for (const char *c = found; *c; c++) { /* the decimal point of some locales is a comma, or several bytes */
        if (strchr("0123456789+-einfa", *c)) *end++ = *c;
        else if (end == text || end[-1] != '.') *end++ = '.';
    }
    *end = '\0';
    return (int)(end - text);
}
