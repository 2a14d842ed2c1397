#include "tokenizer/utf8.h"

#include "harness.h"

static size_t bad_offset(const char *text, size_t length) {
    size_t at = 9999;
    return dd_utf8_check(text, length, &at) ? length : at;
}

static void accepts_valid(dd_test *t) {
    static const char text[] = "a\0\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80"
                               "\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF";
    DD_CHECK(t, dd_utf8_check(text, sizeof text - 1, NULL));
    DD_CHECK(t, dd_utf8_check("", 0, NULL));
    DD_CHECK(t, dd_utf8_check(NULL, 0, NULL));
}

static void refuses_ill_formed(dd_test *t) {
    static const char *const bad[] = {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2" "a", "\xE0\x9F\xBF", "\xE0\xA0",
                                      "\xED\xA0\x80", "\xEF\xBF",
                                      "\xE1\x80" "a", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                          "\xF0\x90\x80", "\xF1\x80\x80" "a", "\xFE", "\xFF"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[16];
        int length = snprintf(text, sizeof text, "ab%s", bad[i]);
        DD_CHECK(t, bad_offset(text, (size_t)length) == 2);
        DD_FAILS(t, dd_prompt_check(text, (size_t)length, &t->err), DDIT_ERR_ARGUMENT, "at byte 2");
    }
}

static void round_trips(dd_test *t) {
    for (uint32_t code = 0; code < 0x110000; code++) {
        char text[4];
        size_t used = 0, length = dd_utf8_encode(code, text);
        bool surrogate = code >= 0xD800 && code < 0xE000;
        if (dd_utf8_check(text, length, NULL) == surrogate || (!surrogate && dd_utf8_decode(text, &used) != code) ||
            (!surrogate && used != length)) {
            dd_test_fail(t, __FILE__, __LINE__, "U+%04X does not survive", (unsigned)code);
            return;
        }
    }
}

static void limits_the_prompt(dd_test *t) {
    static char text[DD_PROMPT_MAX_BYTES + 1];
    memset(text, 'a', sizeof text);
    DD_OK(t, dd_prompt_check(text, DD_PROMPT_MAX_BYTES, &t->err));
    DD_FAILS(t, dd_prompt_check(text, DD_PROMPT_MAX_BYTES + 1, &t->err), DDIT_ERR_ARGUMENT, "32001 bytes");
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"accepts_valid", accepts_valid}, {"refuses_ill_formed", refuses_ill_formed}, {"round_trips", round_trips},
            {"limits_the_prompt", limits_the_prompt}};
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
