/* Any bytes as an adapter, checked against a small model; and as a list of smallest sigmas. */
#include <stdlib.h>
#include <string.h>

#include "base/factor_list.h"
#include "format/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds) {
    if (!holds) abort();
}

static void check_list(const uint8_t *data, size_t size) {
    double sigma_min[DD_ADAPTER_FACTORS];
    char text[256];
    size_t length = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, length);
    text[length] = '\0';
    (void)dd_sigma_min_parse(sigma_min, text, NULL);
    for (int i = 0; i < DD_ADAPTER_FACTORS; i++) check(sigma_min[i] >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const dd_flux_config model = {.in_channels = 4,
                                         .out_channels = 4,
                                         .num_layers = 1,
                                         .num_single_layers = 1,
                                         .hidden = 2,
                                         .mlp_hidden = 8,
                                         .patch = 2,
                                         .latent_channels = 1};
    dd_adapter adapter;
    ddit_err err = {0};
    if (size > 0) check_list(data, size);
    ddit_status status = dd_adapter_open_memory(&adapter, &dd_allocator_libc, data, size, "fuzz", &err);
    check(status == DDIT_OK || (err.text[0] != '\0' && err.code == status && !adapter.file));
    if (status != DDIT_OK) return 0;
    check(adapter.hidden > 0 && adapter.patch > 0 && adapter.channels_in > 0 && adapter.order >= 1 && adapter.order <= 3);
    for (int i = 0; i < DD_ADAPTER_FACTORS; i++) {
        const dd_adapter_factor *f = &adapter.factor[i];
        check(!f->present || (f->embed_weight && f->embed_bias && f->deembed_weight && f->deembed_bias));
        check(!f->has_lora || adapter.rank > 0);
    }
    status = dd_adapter_check(&adapter, &model, &err);
    check(status == DDIT_OK || err.code == status);
    dd_adapter_close(&adapter);
    return 0;
}
