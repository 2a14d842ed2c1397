/* Errors, memory and scanning of short texts. */
#include "base/scan.h"
#include "harness.h"

static ddit_status fails_inside(ddit_err *err) {
    DD_TRY(dd_fail(err, DDIT_ERR_FORMAT, "%d of %s", 3, "five"));
    return DDIT_OK;
}

static void errors(dd_test *t) {
    ddit_err err = {0};
    DD_CHECK(t, fails_inside(&err) == DDIT_ERR_FORMAT && err.code == DDIT_ERR_FORMAT);
    DD_CHECK(t, strcmp(err.text, "3 of five") == 0);
    DD_CHECK(t, dd_fail_prefix(&err, err.code, "a.json") == DDIT_ERR_FORMAT && strcmp(err.text, "a.json: 3 of five") == 0);
    DD_CHECK(t, fails_inside(NULL) == DDIT_ERR_FORMAT && dd_fail_prefix(NULL, DDIT_ERR_READ, "x") == DDIT_ERR_READ);
    char text[2 * DDIT_ERR_TEXT_SIZE];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    dd_fail(&err, DDIT_ERR_READ, "%s", text); /* cut, still ended */
    DD_CHECK(t, strlen(err.text) == DDIT_ERR_TEXT_SIZE - 1);
    dd_fail_prefix(&err, err.code, text);
    DD_CHECK(t, strlen(err.text) == DDIT_ERR_TEXT_SIZE - 1);
}

static void memory(dd_test *t) {
    unsigned char *p;
    DD_NEED_OK(t, dd_alloc(&dd_allocator_libc, &p, 1000, 3, "test", &t->err));
    DD_CHECK(t, (uintptr_t)p % 64 == 0);
    for (int i = 0; i < 3000; i++) DD_CHECK(t, p[i] == 0);
    dd_free(&dd_allocator_libc, p);
    DD_NEED_OK(t, dd_alloc(&dd_allocator_libc, &p, 0, 8, "test", &t->err));
    DD_CHECK(t, p != NULL);
    dd_free(&dd_allocator_libc, p);
    dd_free(&dd_allocator_libc, NULL);
    DD_FAILS(t, dd_alloc(&dd_allocator_libc, &p, SIZE_MAX / 2, 3, "the noise", &t->err), DDIT_ERR_NO_MEMORY, "the noise");
    DD_CHECK(t, p == NULL);
    DD_FAILS(t, dd_alloc_raw(&dd_allocator_libc, &p, SIZE_MAX - 8, 1, "the noise", &t->err), DDIT_ERR_NO_MEMORY, "the noise");
    char *copy;
    DD_NEED_OK(t, dd_strndup(&dd_allocator_libc, &copy, "abcdef", 3, &t->err));
    DD_CHECK(t, strcmp(copy, "abc") == 0);
    dd_free(&dd_allocator_libc, copy);
    DD_NEED_OK(t, dd_strdup(&dd_allocator_libc, &copy, "", &t->err));
    DD_CHECK(t, strcmp(copy, "") == 0);
    dd_free(&dd_allocator_libc, copy);
    uint64_t x;
    DD_CHECK(t, dd_mul_u64(1u << 31, 1u << 31, &x) && x == (uint64_t)1 << 62);
    DD_CHECK(t, !dd_mul_u64(UINT64_MAX, 2, &x) && !dd_add_u64(UINT64_MAX, 1, &x));
    DD_CHECK(t, dd_add_u64(UINT64_MAX - 1, 1, &x) && x == UINT64_MAX);
}

static void found(dd_test *t) {
    char buffer[DD_FOUND_SIZE];
    DD_CHECK(t, strcmp(dd_found(buffer, "x1"), "'x'") == 0);
    DD_CHECK(t, strcmp(dd_found(buffer, ""), "the end") == 0);
    DD_CHECK(t, strcmp(dd_found(buffer, "\x1f"), "byte 0x1F") == 0);
    DD_CHECK(t, strcmp(dd_found(buffer, "\x7f"), "byte 0x7F") == 0);
    DD_CHECK(t, strcmp(dd_found(buffer, "\xff"), "byte 0xFF") == 0);
    DD_CHECK(t, *dd_skip_blanks(" \t \nx") == '\n');
}

static void counts(dd_test *t) {
    static const struct {
        const char *text;
        int limit, value, length;
    } cases[] = {
        {"0", 1000, 0, 1},     {"1000x", 1000, 1000, 4},          {"1001", 1000, 1001, 4},           {"0005,", 1000, 5, 4},
        {"9", 8, 9, 1},        {"19", 8, 9, 2},                   {"99999999999999999999", 7, 8, 20}, {"10", 9, 10, 2},
        {"2147483646", INT32_MAX - 1, INT32_MAX - 1, 10},         {"2147483647", INT32_MAX - 1, INT32_MAX, 10},
        {"2147483648", INT32_MAX - 1, INT32_MAX, 10},             {"12345", 3, 4, 5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *at = cases[i].text;
        int value = -1;
        DD_CHECK(t, dd_scan_count(&at, cases[i].limit, &value));
        DD_CHECK(t, value == cases[i].value && at - cases[i].text == cases[i].length);
    }
    const char *text = "-1", *at = text;
    int value;
    DD_CHECK(t, !dd_scan_count(&at, 10, &value) && at == text);
}

static void decimals(dd_test *t) {
    static const struct {
        const char *text;
        double value;
        int length;
    } cases[] = {
        {"0.3", 0.3, 3}, {"0.9,", 0.9, 3}, {".5", 0.5, 2}, {"1.", 1, 2}, {"123", 123, 3}, {"0.1.2", 0.1, 3},
        {"0.123456789012345", 0, -1},
        {"0.12345678901234", 0.12345678901234, 16}, {"3.14159265358979", 3.14159265358979, 16}, {"0.0001", 0.0001, 6},
        {".", 0, -1}, {"", 0, -1}, {"-1", 0, -1}, {"nan", 0, -1}, {"1234567890123456", 0, -1}, {"1e5", 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *at = cases[i].text;
        double value = 0;
        bool read = dd_scan_decimal(&at, &value);
        DD_CHECK(t, read == (cases[i].length >= 0));
        DD_CHECK(t, at - cases[i].text == (read ? cases[i].length : 0) && value == cases[i].value);
    }
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"errors", errors}, {"memory", memory}, {"found", found}, {"counts", counts}, {"decimals", decimals},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
