/* 16 vectors of 16 x 32 bit: x[i][j] becomes x[j][i]. For files compiled with AVX-512 F. */
#ifndef DD_BACKEND_CPU_KERNELS_TRANSPOSE_H
#define DD_BACKEND_CPU_KERNELS_TRANSPOSE_H

#include <immintrin.h>

static inline __attribute__((always_inline)) void transpose_16x16(__m512i x[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* x[4g + r]: lane l holds column 4l + r of rows 4g … 4g + 3 */
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        __m512i a = _mm512_shuffle_i32x4(x[r], x[4 + r], 0x44), b = _mm512_shuffle_i32x4(x[r], x[4 + r], 0xee);
        __m512i c = _mm512_shuffle_i32x4(x[8 + r], x[12 + r], 0x44), d = _mm512_shuffle_i32x4(x[8 + r], x[12 + r], 0xee);
        t[r] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[4 + r] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[8 + r] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[12 + r] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) x[i] = t[i];
}

#endif
