#include "tensor/tensor.h"

#include <string.h>

typedef struct dtype_info {
    const char *name;
    int bytes; /* of one value; 0 for block formats */
} dtype_info;

static const dtype_info dtype_infos[DD_DTYPE_COUNT] = {
    [DD_DTYPE_F32] = {"F32", 4},   [DD_DTYPE_BF16] = {"BF16", 2},       [DD_DTYPE_F16] = {"F16", 2},
    [DD_DTYPE_F64] = {"F64", 8},   [DD_DTYPE_I8] = {"I8", 1},           [DD_DTYPE_U8] = {"U8", 1},
    [DD_DTYPE_I16] = {"I16", 2},   [DD_DTYPE_U16] = {"U16", 2},         [DD_DTYPE_I32] = {"I32", 4},
    [DD_DTYPE_U32] = {"U32", 4},   [DD_DTYPE_I64] = {"I64", 8},         [DD_DTYPE_U64] = {"U64", 8},
    [DD_DTYPE_BOOL] = {"BOOL", 1}, [DD_DTYPE_F8_E4M3] = {"F8_E4M3", 1}, [DD_DTYPE_F8_E5M2] = {"F8_E5M2", 1},
    [DD_DTYPE_Q8_0] = {"Q8_0", 0},
};

const char *dd_dtype_name(dd_dtype dtype) { return (unsigned)dtype < DD_DTYPE_COUNT ? dtype_infos[dtype].name : "other"; }

bool dd_dtype_bytes(dd_dtype dtype, uint64_t count, uint64_t *bytes) {
    if ((unsigned)dtype >= DD_DTYPE_COUNT) return false;
    if (dtype == DD_DTYPE_Q8_0) return count % DD_Q8_0_BLOCK == 0 && dd_mul_u64(count / DD_Q8_0_BLOCK, DD_Q8_0_BYTES, bytes);
    return dd_mul_u64(count, (uint64_t)dtype_infos[dtype].bytes, bytes);
}

dd_tensor dd_tensor_1d(void *data, dd_dtype dtype, int64_t n) {
    return (dd_tensor){.data = data, .dtype = dtype, .rank = 1, .shape = {n}, .ld = n};
}

dd_tensor dd_tensor_2d(void *data, dd_dtype dtype, int64_t rows, int64_t cols) {
    return (dd_tensor){.data = data, .dtype = dtype, .rank = 2, .shape = {rows, cols}, .ld = cols};
}

dd_tensor dd_tensor_3d(void *data, dd_dtype dtype, int64_t a, int64_t b, int64_t c) {
    return (dd_tensor){.data = data, .dtype = dtype, .rank = 3, .shape = {a, b, c}, .ld = c};
}

dd_tensor dd_tensor_rows(dd_tensor t, int64_t begin, int64_t count) {
    t.data = (char *)t.data + begin * t.ld * dtype_infos[t.dtype].bytes;
    t.shape[0] = count;
    return t;
}

dd_tensor dd_tensor_cols(dd_tensor t, int64_t begin, int64_t count) {
    t.data = (char *)t.data + begin * dtype_infos[t.dtype].bytes;
    t.shape[1] = count;
    return t;
}

int64_t dd_tensor_row_count(const dd_tensor *t) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->rank; i++) rows *= t->shape[i];
    return rows;
}

int64_t dd_tensor_row_size(const dd_tensor *t) { return t->rank > 0 ? t->shape[t->rank - 1] : 1; }

/* The bodies below have no branches, only masks, so that the loops over them vectorise. */

/* yes where the condition is 1, no where it is 0. A ?: would tempt the compiler into a branch around the float arithmetic. */
static inline uint32_t pick(bool condition, uint32_t yes, uint32_t no) {
    uint32_t mask = 0u - (uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint16_t bf16_from_f32(float x) {
    uint32_t bits = bits_of(x);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

static inline float f32_from_bf16(uint16_t x) { return float_of((uint32_t)x << 16); }

static inline float f32_from_f16(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = (x >> 10) & 31u, mantissa = x & 1023u;
    uint32_t normal = ((exponent + 112u) << 23) | (mantissa << 13);
    uint32_t special = 0x7f800000u | (mantissa << 13);
    uint32_t subnormal = bits_of((float)(int32_t)mantissa * 0x1p-24f); /* exact, and no subnormal float32 is touched */
    uint32_t bits = pick(exponent == 31u, special, pick(exponent != 0, normal, subnormal));
    return float_of(sign | bits);
}

static inline float f32_from_f8_e4m3(uint8_t x) {
    uint32_t sign = (uint32_t)(x & 0x80u) << 24, exponent = (x >> 3) & 15u, mantissa = x & 7u;
    uint32_t normal = ((exponent + 120u) << 23) | (mantissa << 20);
    uint32_t subnormal = bits_of((float)(int32_t)mantissa * 0x1p-9f);
    uint32_t bits = pick((x & 0x7fu) == 0x7fu, 0x7fc00000u, pick(exponent != 0, normal, subnormal));
    return float_of(sign | bits);
}

uint16_t dd_bf16_from_f32(float x) { return bf16_from_f32(x); }
float dd_f32_from_bf16(uint16_t x) { return f32_from_bf16(x); }
float dd_f32_from_f16(uint16_t x) { return f32_from_f16(x); }

uint16_t dd_f16_from_f32(float x) {
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more round to infinity */
    uint32_t shift = 13, value = magnitude - (112u << 23);
    if (magnitude < 0x38800000u) { /* below 2^-14: a subnormal half, in steps of 2^-24 */
        uint32_t exponent = magnitude >> 23;
        if (exponent < 102) return sign; /* below 2^-25, and 2^-25 itself goes the way below */
        shift = 126 - exponent;
        value = (magnitude & 0x7fffffu) | 0x800000u;
    }
    uint32_t half = 1u << (shift - 1), rest = value & ((1u << shift) - 1), result = value >> shift;
    if (rest > half || (rest == half && (result & 1u))) result++;
    return (uint16_t)(sign | result);
}

static void f32_from_bf16_row(float *restrict out, const uint8_t *restrict src, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t x;
        memcpy(&x, src + 2 * i, sizeof x);
        out[i] = f32_from_bf16(x);
    }
}

static void f32_from_f16_row(float *restrict out, const uint8_t *restrict src, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t x;
        memcpy(&x, src + 2 * i, sizeof x);
        out[i] = f32_from_f16(x);
    }
}

static void f32_from_f64_row(float *restrict out, const uint8_t *restrict src, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double x;
        memcpy(&x, src + 8 * i, sizeof x);
        out[i] = (float)x;
    }
}

static void f32_from_q8_0_row(float *restrict out, const uint8_t *restrict src, size_t count) {
    for (size_t block = 0; block < count / DD_Q8_0_BLOCK; block++, src += DD_Q8_0_BYTES, out += DD_Q8_0_BLOCK) {
        uint16_t half;
        memcpy(&half, src, sizeof half);
        float scale = f32_from_f16(half);
        for (int i = 0; i < DD_Q8_0_BLOCK; i++) out[i] = scale * (float)(int8_t)src[2 + i];
    }
}

ddit_status dd_to_f32(float *out, const void *src, dd_dtype dtype, size_t count, ddit_err *err) {
    const uint8_t *bytes = src;
    switch ((int)dtype) {
    case DD_DTYPE_F32:
        if (count) memcpy(out, src, count * sizeof *out);
        return DDIT_OK;
    case DD_DTYPE_BF16: f32_from_bf16_row(out, bytes, count); return DDIT_OK;
    case DD_DTYPE_F16: f32_from_f16_row(out, bytes, count); return DDIT_OK;
    case DD_DTYPE_F64: f32_from_f64_row(out, bytes, count); return DDIT_OK;
    case DD_DTYPE_F8_E4M3:
        for (size_t i = 0; i < count; i++) out[i] = f32_from_f8_e4m3(bytes[i]);
        return DDIT_OK;
    case DD_DTYPE_F8_E5M2: /* the upper byte of an F16 */
        for (size_t i = 0; i < count; i++) out[i] = f32_from_f16((uint16_t)(bytes[i] << 8));
        return DDIT_OK;
    case DD_DTYPE_Q8_0:
        if (count % DD_Q8_0_BLOCK)
            return dd_fail(err, DDIT_ERR_ARGUMENT, "%zu values are no whole blocks of Q8_0 (a multiple of 32 was expected)",
                           count);
        f32_from_q8_0_row(out, bytes, count);
        return DDIT_OK;
    default: break;
    }
    return dd_fail(err, DDIT_ERR_UNSUPPORTED,
                   "numbers of type %s cannot be used as weights (expected F32, BF16, F16, F64, "
                   "F8_E4M3, F8_E5M2 or Q8_0)",
                   dd_dtype_name(dtype));
}

ddit_status dd_to_bf16(uint16_t *out, const void *src, dd_dtype dtype, size_t count, ddit_err *err) {
    if (dtype == DD_DTYPE_BF16) {
        if (count) memcpy(out, src, count * sizeof *out);
        return DDIT_OK;
    }
    enum { CHUNK = 512 }; /* whole Q8_0 blocks */
    float chunk[CHUNK];
    const uint8_t *bytes = src;
    size_t begin = 0;
    do {
        size_t n = count - begin < CHUNK ? count - begin : CHUNK;
        uint64_t used = 0;
        DD_TRY(dd_to_f32(chunk, bytes, dtype, n, err));
        for (size_t i = 0; i < n; i++) out[begin + i] = bf16_from_f32(chunk[i]);
        dd_dtype_bytes(dtype, n, &used);
        bytes += used;
        begin += n;
    } while (begin < count);
    return DDIT_OK;
}
