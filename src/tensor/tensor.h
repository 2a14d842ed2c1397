/* Number formats and the view of numbers that ops work on. No arithmetic here. */
#ifndef DD_TENSOR_TENSOR_H
#define DD_TENSOR_TENSOR_H

#include "base/alloc.h"

typedef enum dd_dtype {
    DD_DTYPE_F32,
    DD_DTYPE_BF16,
    DD_DTYPE_F16,
    DD_DTYPE_F64,
    DD_DTYPE_I8,
    DD_DTYPE_U8,
    DD_DTYPE_I16,
    DD_DTYPE_U16,
    DD_DTYPE_I32,
    DD_DTYPE_U32,
    DD_DTYPE_I64,
    DD_DTYPE_U64,
    DD_DTYPE_BOOL,
    DD_DTYPE_F8_E4M3,
    DD_DTYPE_F8_E5M2,
    DD_DTYPE_Q8_0, /* GGUF: blocks of 32 along a row: f16 scale, 32 int8 (34 bytes) */
    DD_DTYPE_COUNT
} dd_dtype;

enum { DD_MAX_RANK = 6, DD_Q8_0_BLOCK = 32, DD_Q8_0_BYTES = 34 };

/* "F32", "BF16" …: the spelling of safetensors. */
const char *dd_dtype_name(dd_dtype dtype);

/* Bytes of count values in a row of this dtype; false if count is no multiple of the block or the product overflows. */
bool dd_dtype_bytes(dd_dtype dtype, uint64_t count, uint64_t *bytes);

/* A borrowed view of dense or row-strided numbers. Rows (the last axis) are contiguous; consecutive rows are `ld` values
 * apart, ld >= shape[rank-1]. The memory belongs to a backend and is read and written only by its ops. */
typedef struct dd_tensor {
    void *data;
    dd_dtype dtype;
    int rank;
    int64_t shape[DD_MAX_RANK]; /* slowest axis first */
    int64_t ld;                 /* values between consecutive rows */
} dd_tensor;

/* Dense views of memory. */
dd_tensor dd_tensor_1d(void *data, dd_dtype dtype, int64_t n);
dd_tensor dd_tensor_2d(void *data, dd_dtype dtype, int64_t rows, int64_t cols);
dd_tensor dd_tensor_3d(void *data, dd_dtype dtype, int64_t a, int64_t b, int64_t c);

/* Rows [begin, begin+count) of a rank-2 view; columns likewise (ld is kept). F32 and BF16/F16 only. */
dd_tensor dd_tensor_rows(dd_tensor t, int64_t begin, int64_t count);
dd_tensor dd_tensor_cols(dd_tensor t, int64_t begin, int64_t count);

/* All axes but the last multiplied, and the last. */
int64_t dd_tensor_row_count(const dd_tensor *t);
int64_t dd_tensor_row_size(const dd_tensor *t);

/* float32 <-> 16 bit, round to nearest even, NaN kept. */
uint16_t dd_bf16_from_f32(float x);
float dd_f32_from_bf16(uint16_t x);
uint16_t dd_f16_from_f32(float x);
float dd_f32_from_f16(uint16_t x);

/* Converts `count` consecutive values in host memory to float32. src needs no alignment. F32, BF16, F16, F64, F8_E4M3,
 * F8_E5M2 and Q8_0 (count a multiple of 32). Error: DDIT_ERR_UNSUPPORTED for integer types. */
ddit_status dd_to_f32(float *out, const void *src, dd_dtype dtype, size_t count, ddit_err *err);

/* The same to bfloat16. */
ddit_status dd_to_bf16(uint16_t *out, const void *src, dd_dtype dtype, size_t count, ddit_err *err);

#endif
