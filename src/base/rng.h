/* Normal random numbers equal to torch's CPU generator, so that a diffusers seed gives the same picture here. */
#ifndef DD_BASE_RNG_H
#define DD_BASE_RNG_H

#include "base/alloc.h"

/* Fills out[count] with the values of torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed)), float32.
 * count >= 16 (torch draws shorter tensors another way). Deviation from torch: at most 1e-6, from its vectorised log and cos.
 * Source: MT19937 and the 16-wide Box-Muller of ATen's CPU normal fill. Error: DDIT_ERR_ARGUMENT for count < 16. */
ddit_status dd_randn_torch(uint64_t seed, size_t count, float *out, ddit_err *err);

#endif
