/* Number formats: against values worked out by hand, exhaustively where there are only 65,536 of them. */
#include "tensor/tensor.h"

#include "harness.h"

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void sizes_of_dtypes(dd_test *t) {
    uint64_t bytes = 0;
    for (int d = 0; d < DD_DTYPE_COUNT; d++) DD_CHECK(t, strlen(dd_dtype_name((dd_dtype)d)) >= 2);
    DD_CHECK(t, strcmp(dd_dtype_name(DD_DTYPE_BF16), "BF16") == 0 && strcmp(dd_dtype_name(DD_DTYPE_COUNT), "other") == 0);
    DD_CHECK(t, dd_dtype_bytes(DD_DTYPE_F32, 5, &bytes) && bytes == 20);
    DD_CHECK(t, dd_dtype_bytes(DD_DTYPE_F64, 5, &bytes) && bytes == 40);
    DD_CHECK(t, dd_dtype_bytes(DD_DTYPE_F8_E4M3, 5, &bytes) && bytes == 5);
    DD_CHECK(t, dd_dtype_bytes(DD_DTYPE_Q8_0, 64, &bytes) && bytes == 68);
    DD_CHECK(t, !dd_dtype_bytes(DD_DTYPE_Q8_0, 33, &bytes));
    DD_CHECK(t, !dd_dtype_bytes(DD_DTYPE_F32, UINT64_MAX / 2, &bytes));
    DD_CHECK(t, !dd_dtype_bytes(DD_DTYPE_COUNT, 1, &bytes));
}

static void views(dd_test *t) {
    float data[24];
    dd_tensor one = dd_tensor_1d(data, DD_DTYPE_F32, 24), two = dd_tensor_2d(data, DD_DTYPE_F32, 4, 6);
    dd_tensor three = dd_tensor_3d(data, DD_DTYPE_F32, 2, 3, 4);
    DD_CHECK(t, dd_tensor_row_count(&one) == 1 && dd_tensor_row_size(&one) == 24 && one.ld == 24);
    DD_CHECK(t, dd_tensor_row_count(&two) == 4 && dd_tensor_row_size(&two) == 6);
    DD_CHECK(t, dd_tensor_row_count(&three) == 6 && dd_tensor_row_size(&three) == 4);
    dd_tensor part = dd_tensor_cols(dd_tensor_rows(two, 1, 2), 2, 3);
    DD_CHECK(t, part.data == data + 8 && part.shape[0] == 2 && part.shape[1] == 3 && part.ld == 6);
    dd_tensor scalar = {.data = data, .rank = 0};
    DD_CHECK(t, dd_tensor_row_count(&scalar) == 1 && dd_tensor_row_size(&scalar) == 1);
}

static void bf16_rounds_to_even(dd_test *t) {
    DD_CHECK(t, dd_bf16_from_f32(1.0f) == 0x3f80);
    DD_CHECK(t, dd_bf16_from_f32(float_of(0x3f808000)) == 0x3f80); /* half way: to even */
    DD_CHECK(t, dd_bf16_from_f32(float_of(0x3f818000)) == 0x3f82);
    DD_CHECK(t, dd_bf16_from_f32(float_of(0x3f808001)) == 0x3f81);
    DD_CHECK(t, dd_bf16_from_f32(float_of(0x7f7fffff)) == 0x7f80); /* the largest float rounds to infinity */
    DD_CHECK(t, dd_bf16_from_f32(INFINITY) == 0x7f80 && dd_bf16_from_f32(-INFINITY) == 0xff80);
    DD_CHECK(t, isnan(dd_f32_from_bf16(dd_bf16_from_f32(float_of(0x7f800001)))));
    DD_CHECK(t, isnan(dd_f32_from_bf16(dd_bf16_from_f32(float_of(0xffffffff)))));
    DD_CHECK(t, dd_bf16_from_f32(-0.0f) == 0x8000);
    for (uint32_t x = 0; x < 65536; x++) {
        float value = dd_f32_from_bf16((uint16_t)x);
        if (!isnan(value) && dd_bf16_from_f32(value) != x) dd_test_fail(t, __FILE__, __LINE__, "bf16 %04x changes", x);
    }
}

/* IEEE half by its definition, in double. */
static double half_value(uint32_t x) {
    int exponent = (int)(x >> 10 & 31), mantissa = (int)(x & 1023);
    double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    if (exponent == 31) value = mantissa ? NAN : INFINITY;
    return x & 0x8000 ? -value : value;
}

static void f16_every_value(dd_test *t) {
    for (uint32_t x = 0; x < 65536; x++) {
        float value = dd_f32_from_f16((uint16_t)x);
        double expected = half_value(x);
        bool equal = isnan(expected) ? isnan(value) : bits_of(value) == bits_of((float)expected);
        bool back = isnan(expected) ? isnan(dd_f32_from_f16(dd_f16_from_f32(value))) : dd_f16_from_f32(value) == x;
        if (!equal || !back)
            dd_test_fail(t, __FILE__, __LINE__, "f16 %04x gives %g, back %04x", x, value, dd_f16_from_f32(value));
    }
}

/* Half way between neighbours goes to the even one, a little beside it to the nearer one. */
static void f16_rounds_to_even(dd_test *t) {
    for (uint32_t x = 0; x < 0x7c00; x++) {
        double low = half_value(x), high = x == 0x7bff ? 65536 : half_value(x + 1);
        float middle = (float)((low + high) / 2); /* exact */
        uint32_t even = x & 1 ? x + 1 : x;
        if (dd_f16_from_f32(middle) != even || dd_f16_from_f32(-middle) != (even | 0x8000))
            dd_test_fail(t, __FILE__, __LINE__, "%a gives %04x, expected %04x", middle, dd_f16_from_f32(middle), even);
        if (dd_f16_from_f32(nextafterf(middle, 0)) != x || dd_f16_from_f32(nextafterf(middle, INFINITY)) != x + 1)
            dd_test_fail(t, __FILE__, __LINE__, "beside %a", middle);
    }
    DD_CHECK(t, dd_f16_from_f32(1e30f) == 0x7c00 && dd_f16_from_f32(INFINITY) == 0x7c00);
    DD_CHECK(t, dd_f16_from_f32(1e-30f) == 0 && dd_f16_from_f32(-1e-30f) == 0x8000 && dd_f16_from_f32(0x1p-140f) == 0);
}

static void f8_every_value(dd_test *t) {
    uint8_t codes[256];
    float e4m3[256], e5m2[256];
    for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    DD_NEED_OK(t, dd_to_f32(e4m3, codes, DD_DTYPE_F8_E4M3, 256, &t->err));
    DD_NEED_OK(t, dd_to_f32(e5m2, codes, DD_DTYPE_F8_E5M2, 256, &t->err));
    for (int i = 0; i < 256; i++) {
        int exponent = i >> 3 & 15, mantissa = i & 7;
        double expected = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
        if ((i & 127) == 127)
            DD_CHECK(t, isnan(e4m3[i]));
        else
            DD_CHECK(t, bits_of(e4m3[i]) == bits_of((float)(i & 128 ? -expected : expected)));
        double half = half_value((uint32_t)i << 8);
        DD_CHECK(t, isnan(half) ? isnan(e5m2[i]) : (double)e5m2[i] == half);
    }
    DD_CHECK(t, e4m3[0x7e] == 448.0f);
}

/* Every conversion from an odd address, in lengths around the chunks. */
static void conversions_of_rows(dd_test *t) {
    enum { N = 1100 };
    static const size_t lengths[] = {0, 1, 31, 511, 512, 513, N};
    uint8_t *source = malloc(8 * N + 1);
    float *out = malloc(N * sizeof *out), *values = malloc(N * sizeof *values);
    uint16_t *bf16 = malloc(N * sizeof *bf16);
    uint64_t state = 5;
    for (int i = 0; i < N; i++) values[i] = dd_f32_from_bf16(dd_bf16_from_f32(dd_test_random(&state)));
    for (int i = 0; i < N; i++) memcpy(source + 1 + 8 * i, &(double){values[i]}, 8);
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        size_t n = lengths[k];
        DD_OK(t, dd_to_f32(out, source + 1, DD_DTYPE_F64, n, &t->err));
        DD_CHECK(t, n == 0 || memcmp(out, values, n * sizeof *out) == 0);
        DD_OK(t, dd_to_bf16(bf16, source + 1, DD_DTYPE_F64, n, &t->err));
        DD_OK(t, dd_to_f32(out, bf16, DD_DTYPE_BF16, n, &t->err));
        DD_CHECK(t, n == 0 || memcmp(out, values, n * sizeof *out) == 0);
    }
    for (int i = 0; i < N; i++) memcpy(source + 1 + 2 * i, &(uint16_t){dd_f16_from_f32(values[i])}, 2);
    DD_OK(t, dd_to_f32(out, source + 1, DD_DTYPE_F16, N, &t->err));
    for (int i = 0; i < N; i++) DD_CHECK(t, out[i] == dd_f32_from_f16(dd_f16_from_f32(values[i])));
    memcpy(source + 1, values, N * sizeof *values);
    DD_OK(t, dd_to_f32(out, source + 1, DD_DTYPE_F32, N, &t->err));
    DD_CHECK(t, memcmp(out, values, N * sizeof *out) == 0);
    DD_OK(t, dd_to_bf16(bf16, bf16, DD_DTYPE_BF16, 0, &t->err));
    free(source), free(out), free(values), free(bf16);
}

static void q8_0_blocks(dd_test *t) {
    uint8_t blocks[2 * DD_Q8_0_BYTES];
    float out[64];
    uint16_t bf16[64];
    for (int b = 0; b < 2; b++) {
        memcpy(blocks + b * DD_Q8_0_BYTES, &(uint16_t){dd_f16_from_f32(b ? 0.5f : 2.0f)}, 2);
        for (int i = 0; i < 32; i++) blocks[b * DD_Q8_0_BYTES + 2 + i] = (uint8_t)(i * 8 - 128);
    }
    DD_NEED_OK(t, dd_to_f32(out, blocks, DD_DTYPE_Q8_0, 64, &t->err));
    DD_NEED_OK(t, dd_to_bf16(bf16, blocks, DD_DTYPE_Q8_0, 64, &t->err));
    for (int i = 0; i < 64; i++) {
        DD_CHECK(t, out[i] == (i < 32 ? 2.0f : 0.5f) * (float)(i % 32 * 8 - 128));
        DD_CHECK(t, dd_f32_from_bf16(bf16[i]) == out[i]);
    }
    DD_FAILS(t, dd_to_f32(out, blocks, DD_DTYPE_Q8_0, 33, &t->err), DDIT_ERR_ARGUMENT, "multiple of 32");
}

static void integers_are_refused(dd_test *t) {
    float out[1];
    uint16_t bf16[1];
    static const dd_dtype integers[] = {DD_DTYPE_I8,  DD_DTYPE_U8,  DD_DTYPE_I16, DD_DTYPE_U16, DD_DTYPE_I32,
                                        DD_DTYPE_U32, DD_DTYPE_I64, DD_DTYPE_U64, DD_DTYPE_BOOL};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        DD_FAILS(t, dd_to_f32(out, "12345678", integers[i], 1, &t->err), DDIT_ERR_UNSUPPORTED, dd_dtype_name(integers[i]));
        DD_FAILS(t, dd_to_bf16(bf16, "12345678", integers[i], 1, &t->err), DDIT_ERR_UNSUPPORTED, "expected");
    }
    DD_FAILS(t, dd_to_f32(out, "12345678", DD_DTYPE_COUNT, 1, &t->err), DDIT_ERR_UNSUPPORTED, "other");
    DD_FAILS(t, dd_to_bf16(bf16, NULL, DD_DTYPE_I32, 0, &t->err), DDIT_ERR_UNSUPPORTED, "I32");
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"sizes_of_dtypes", sizes_of_dtypes},           {"views", views},
        {"bf16_rounds_to_even", bf16_rounds_to_even},   {"f16_every_value", f16_every_value},
        {"f16_rounds_to_even", f16_rounds_to_even},     {"f8_every_value", f8_every_value},
        {"conversions_of_rows", conversions_of_rows},   {"q8_0_blocks", q8_0_blocks},
        {"integers_are_refused", integers_are_refused},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
