/* The DDiT adapter file: embeddings, de-embeddings, LoRA and residuals of the factors 2 and 4, and how to choose between them.
 *
 * One safetensors file (docs: adapter file). d = hidden, C = channels, n = patch * factor, r = rank:
 *   ddit.xF.embed.weight [d, C, n, n], embed.bias [d]; deembed.weight [C, n, n, d], deembed.bias [C, n, n]; id [d] (optional);
 *   res.weight [C, C], res.bias [C] (if the residual is linear); lora.MODULE.A [r, in], .B [out, r] (optional).
 */
#ifndef DD_FORMAT_ADAPTER_H
#define DD_FORMAT_ADAPTER_H

#include "format/config.h"
#include "format/safetensors.h"

/* Factors 1, 2, 4 have the indices 0, 1, 2, as in layout/layout.h. */
enum { DD_ADAPTER_FACTORS = 3 };

typedef struct dd_adapter_factor {
    bool present;
    bool has_lora;
    const dd_tensor_entry *embed_weight, *embed_bias;
    const dd_tensor_entry *deembed_weight, *deembed_bias;
    const dd_tensor_entry *id;                    /* NULL: no id vector (zero) */
    const dd_tensor_entry *res_weight, *res_bias; /* NULL: no linear residual */
} dd_adapter_factor;

/* Strings and entries are borrowed from `file`. */
typedef struct dd_adapter {
    dd_safetensors *file;                /* owned */
    const char *arch, *base, *base_hash; /* "" if absent */
    int patch, hidden, channels_in, channels_out;
    int rank;    /* 0: no LoRA */
    float alpha; /* LoRA scale is alpha / rank */
    bool residual_linear, residual_hf;
    int order;                                    /* of the difference the policy looks at: 1, 2, 3 */
    float tau, rho;                               /* NaN if the file does not say */
    int tau_steps;                                /* steps for which tau was found; 50 if absent */
    float tau_region;                             /* tau if absent */
    double sigma_min[DD_ADAPTER_FACTORS];         /* factor k is a candidate only while sigma >= this; 0: always */
    int anchor;                                   /* steps that one measured correction of a coarse step serves; 0: none */
    int text_tokens;                              /* text rows it was trained with; 0: all */
    dd_adapter_factor factor[DD_ADAPTER_FACTORS]; /* [0] is never present */
} dd_adapter;

/* Opens the file and checks what can be checked without a model: metadata, the tensors' names, their shapes against each other,
 * dtypes (BF16, F16 or F32). Errors: those of dd_safetensors_open, DDIT_ERR_FORMAT, DDIT_ERR_UNSUPPORTED (another version,
 * architecture); *adapter is zeroed on failure, otherwise the caller closes it. */
ddit_status dd_adapter_open(dd_adapter *adapter, const dd_allocator *a, const char *path, ddit_err *err);

/* The same over the caller's bytes, which must outlive it. */
ddit_status dd_adapter_open_memory(dd_adapter *adapter, const dd_allocator *a, const void *data, size_t size, const char *label,
                                   ddit_err *err);
void dd_adapter_close(dd_adapter *adapter);

/* Does it fit the model? Hidden size, channels, patch; every LoRA names a module the model has, with its shape; a factor with
 * LoRA has some in every block of the model, or else it was made for a model of another depth. A factor without any LoRA fits.
 * Error: DDIT_ERR_MISMATCH with found, expected and cure. */
ddit_status dd_adapter_check(const dd_adapter *adapter, const dd_flux_config *model, ddit_err *err);

/* The LoRA of a module (diffusers' name without prefix, e.g. "transformer_blocks.0.ff.net.2") at factor 2 or 4:
 * *down = A [r, in], *up = B [out, r]. False if there is none. */
bool dd_adapter_lora(const dd_adapter *adapter, int factor, const char *module, const dd_tensor_entry **down,
                     const dd_tensor_entry **up);

#endif
