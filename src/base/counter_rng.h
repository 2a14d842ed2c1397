/* Random numbers without a state: a number is a function of (seed, stream, index). A run that stopped goes on with the same
 * numbers knowing only where it was, and so do several machines that share the samples of a step.
 */
#ifndef DD_BASE_COUNTER_RNG_H
#define DD_BASE_COUNTER_RNG_H

#include <stdint.h>

/* 64 well-mixed bits. stream tells uses apart, index counts within a use. Source: Philox4x32-10 (Salmon et al. 2011) with the
 * seed as key and (index, stream) as counter; its first two words. */
uint64_t dd_counter_bits(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform in [0, 1), 53 bits. */
double dd_counter_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* Uniform in 0..count-1; count >= 1. */
uint64_t dd_counter_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t count);

/* Standard normal (Box-Muller on two uniforms of this index). */
double dd_counter_normal(uint64_t seed, uint64_t stream, uint64_t index);

#endif
