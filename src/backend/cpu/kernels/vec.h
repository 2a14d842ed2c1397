/* Vectors of float32 as wide as the instruction set this file is compiled for, and what the kernels do with them. Values in
 * memory are float32 or bfloat16 and need no alignment. The functions are inlined with constant `bf16`, so that the choice
 * costs nothing in loops. */
#ifndef DD_BACKEND_CPU_KERNELS_VEC_H
#define DD_BACKEND_CPU_KERNELS_VEC_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "tensor/tensor.h"

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf splat(float x) { return x - (vf){0}; }

/* x cut to [low, high]; NaN stays NaN, because these instructions return the second operand then. */
INLINE vf clamp(vf x, float low, float high) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)splat(low), _mm512_min_ps((__m512)splat(high), (__m512)x));
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)splat(low), _mm256_min_ps((__m256)splat(high), (__m256)x));
#else
    return (vf)_mm_max_ps((__m128)splat(low), _mm_min_ps((__m128)splat(high), (__m128)x));
#endif
}

/* gcc 12 widens a whole vector in three steps where the instruction set has one. */
INLINE vf vf_from_bf16(vh h) {
#if defined(__AVX512F__)
    return (vf)((vu)_mm512_cvtepu16_epi32((__m256i)h) << 16);
#elif defined(__AVX2__)
    return (vf)((vu)_mm256_cvtepu16_epi32((__m128i)h) << 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/* To nearest even. A NaN keeps its upper bits and becomes quiet, since rounding could carry it into infinity. */
INLINE vh bf16_from_vf(vf x) {
    vu u = (vu)x;
    vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
#if defined(__AVX512F__)
    __mmask16 is_nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    __m512i kept = _mm512_mask_or_epi32((__m512i)rounded, is_nan, (__m512i)(u >> 16), _mm512_set1_epi32(0x40));
    return (vh)_mm512_cvtepi32_epi16(kept);
#else
    vu quiet = (u >> 16) | 0x40;
    vu nan = (vu)(x != x);
    return __builtin_convertvector((rounded & ~nan) | (quiet & nan), vh);
#endif
}

/* Values i … i + LANES - 1 of x. */
INLINE vf load(const void *x, bool bf16, int64_t i) {
    if (bf16) {
        vh h;
        memcpy(&h, (const uint16_t *)x + i, sizeof h);
        return vf_from_bf16(h);
    }
    vf v;
    memcpy(&v, (const float *)x + i, sizeof v);
    return v;
}

INLINE void store(void *y, bool bf16, int64_t i, vf v) {
    if (bf16) {
        vh h = bf16_from_vf(v);
        memcpy((uint16_t *)y + i, &h, sizeof h);
    } else {
        memcpy((float *)y + i, &v, sizeof v);
    }
}

/* The first n < LANES values, zeros after them. */
INLINE vf load_part(const void *x, bool bf16, int64_t i, int64_t n) {
    if (bf16) {
        vh h = {0};
        memcpy(&h, (const uint16_t *)x + i, (size_t)n * sizeof(uint16_t));
        return vf_from_bf16(h);
    }
    vf v = {0};
    memcpy(&v, (const float *)x + i, (size_t)n * sizeof(float));
    return v;
}

INLINE void store_part(void *y, bool bf16, int64_t i, vf v, int64_t n) {
    if (bf16) {
        vh h = bf16_from_vf(v);
        memcpy((uint16_t *)y + i, &h, (size_t)n * sizeof(uint16_t));
    } else {
        memcpy((float *)y + i, &v, (size_t)n * sizeof(float));
    }
}

/* v with the lanes from n on set to zero. */
INLINE vf keep_part(vf v, int64_t n) {
    vf out = {0};
    memcpy(&out, &v, (size_t)n * sizeof(float));
    return out;
}

/* Sum of the lanes, as a tree. */
INLINE float lane_sum(vf v) {
#if defined(__AVX512F__)
    v += __builtin_shuffle(v, (vi){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    v += __builtin_shuffle(v, (vi){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    v += __builtin_shuffle(v, (vi){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    v += __builtin_shuffle(v, (vi){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
#elif defined(__AVX2__)
    v += __builtin_shuffle(v, (vi){4, 5, 6, 7, 0, 1, 2, 3});
    v += __builtin_shuffle(v, (vi){2, 3, 0, 1, 6, 7, 4, 5});
    v += __builtin_shuffle(v, (vi){1, 0, 3, 2, 5, 4, 7, 6});
#else
    v += __builtin_shuffle(v, (vi){2, 3, 0, 1});
    v += __builtin_shuffle(v, (vi){1, 0, 3, 2});
#endif
    return v[0];
}

/* Of lanes (2j, 2j+1): exchanged; the even one twice; the odd one twice with its sign turned in the even lane. */
INLINE vf swap_pairs(vf v) {
#if defined(__AVX512F__)
    return __builtin_shuffle(v, (vi){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
#elif defined(__AVX2__)
    return __builtin_shuffle(v, (vi){1, 0, 3, 2, 5, 4, 7, 6});
#else
    return __builtin_shuffle(v, (vi){1, 0, 3, 2});
#endif
}

INLINE vf even_twice(vf v) {
#if defined(__AVX512F__)
    return __builtin_shuffle(v, (vi){0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14});
#elif defined(__AVX2__)
    return __builtin_shuffle(v, (vi){0, 0, 2, 2, 4, 4, 6, 6});
#else
    return __builtin_shuffle(v, (vi){0, 0, 2, 2});
#endif
}

INLINE vf even_lanes_one(void) {
#if defined(__AVX512F__)
    return (vf){1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0};
#elif defined(__AVX2__)
    return (vf){1, 0, 1, 0, 1, 0, 1, 0};
#else
    return (vf){1, 0, 1, 0};
#endif
}

INLINE vf odd_twice_signed(vf v) {
    const uint32_t minus = 0x80000000u;
#if defined(__AVX512F__)
    vf odd = __builtin_shuffle(v, (vi){1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15});
    return (vf)((vu)odd ^ (vu){minus, 0, minus, 0, minus, 0, minus, 0, minus, 0, minus, 0, minus, 0, minus, 0});
#elif defined(__AVX2__)
    vf odd = __builtin_shuffle(v, (vi){1, 1, 3, 3, 5, 5, 7, 7});
    return (vf)((vu)odd ^ (vu){minus, 0, minus, 0, minus, 0, minus, 0});
#else
    vf odd = __builtin_shuffle(v, (vi){1, 1, 3, 3});
    return (vf)((vu)odd ^ (vu){minus, 0, minus, 0});
#endif
}

/* e^x within 2 ulp for -87 <= x <= 88, clamped outside; NaN stays NaN. x = k ln 2 + r, |r| <= ln 2 / 2, then a polynomial in r
 * (coefficients: Moshier, Cephes expf). */
INLINE vf vf_exp(vf x) {
    x = clamp(x, -87.0f, 88.0f);
    const float round_magic = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    vf t = x * 1.44269504088896341f + round_magic;
    vf k = t - round_magic;
    vf r = x - k * 0.693359375f;
    r = r - k * -2.12194440e-4f;
    vf p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi exponent = ((vi)t - (vi)splat(round_magic) + 127) << 23;
    return p * (vf)exponent;
}

INLINE vf vf_silu(vf x) { return x / (1.0f + vf_exp(-x)); }

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (…)) */
INLINE vf vf_gelu_tanh(vf x) {
    vf u = x + 0.044715f * x * x * x;
    return x / (1.0f + vf_exp(-1.5957691216057308f * u));
}

INLINE vf vf_quick_gelu(vf x) { return x / (1.0f + vf_exp(-1.702f * x)); }

INLINE vf vf_gelu_erf(vf x) {
    for (int i = 0; i < LANES; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
    return x;
}

INLINE vf vf_max(vf x, vf y) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)x, (__m512)y);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)x, (__m256)y);
#else
    vi more = x > y;
    return (vf)((more & (vi)x) | (~more & (vi)y));
#endif
}

INLINE vf vf_min(vf x, vf y) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)x, (__m512)y);
#else
    return -vf_max(-x, -y);
#endif
}

/* 2^t for t <= 100, 2^-126 for anything smaller. t = k + f, |f| <= 1/2, a polynomial in f, then k is added to the
 * exponent. precise: Cephes exp2f, 2e-7; else degree 4, 3e-6, far below the rounding of bf16 that follows. */
INLINE vf vf_exp2(vf t, const bool precise) {
    t = vf_max(t, splat(-126.0f));
    vf z = t + 12582912.0f; /* 1.5 * 2^23 leaves the nearest integer in the low bits */
    vf f = t - (z - 12582912.0f);
    vf p;
    if (precise) {
        p = 1.535336188319500e-4f * f + 1.339887440266574e-3f;
        p = p * f + 9.618437357674640e-3f;
        p = p * f + 5.550332471162809e-2f;
        p = p * f + 2.402264791363012e-1f;
        p = p * f + 6.931472028550421e-1f;
    } else {
        p = 9.58285e-3f * f + 5.590644e-2f;
        p = p * f + 2.4024099e-1f;
        p = p * f + 6.9312419e-1f;
    }
    p = p * f + 1.0f;
    return (vf)((vi)p + ((vi)z << 23));
}

/* 1 / x: exact, or to 6e-5 where a bf16 result (4e-3) follows. */
INLINE vf inverse(vf x, const bool precise) {
#if defined(__AVX512F__)
    if (!precise) return (vf)_mm512_rcp14_ps((__m512)x);
#endif
    (void)precise;
    return 1.0f / x;
}

#endif
