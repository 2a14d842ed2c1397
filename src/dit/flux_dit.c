#include "dit/flux_dit.h"

#include "dit/flux_weights.h"

static ddit_status open_dit(dd_flux_dit **out, dd_backend *b, const dd_flux_config *config, const dd_weight_files *files,
                            bool trainable, bool all, ddit_err *err) {
    const dd_allocator *a = b->allocator;
    dd_flux_dit *dit;
    *out = NULL;
    DD_TRY(dd_alloc(a, &dit, 1, sizeof *dit, "the transformer", err));
    dit->backend = b;
    dit->files = files;
    dit->config = *config;
    dit->trainable = trainable;
    dit->all = all;
    ddit_status status;
    DD_GO(dd_alloc(a, &dit->doubles, (size_t)config->num_layers, sizeof *dit->doubles, "the double blocks", err));
    DD_GO(dd_alloc(a, &dit->singles, (size_t)config->num_single_layers, sizeof *dit->singles, "the single blocks", err));
    DD_GO(dd_flux_weights_load(dit, err));
    *out = dit;
    return DDIT_OK;
done:
    dd_flux_dit_close(dit);
    return status;
}

ddit_status dd_flux_dit_open(dd_flux_dit **out, dd_backend *b, const dd_flux_config *config, const dd_weight_files *files,
                             ddit_err *err) {
    return open_dit(out, b, config, files, false, false, err);
}

ddit_status dd_flux_dit_open_trainable(dd_flux_dit **out, dd_backend *b, const dd_flux_config *config,
                                       const dd_weight_files *files, bool all, ddit_err *err) {
    return open_dit(out, b, config, files, true, all, err);
}

void dd_flux_dit_close(dd_flux_dit *dit) {
    if (!dit) return;
    const dd_allocator *a = dit->backend->allocator;
    dd_flux_adapter_free(dit);
    dd_flux_weights_free(dit);
    dd_free(a, dit->doubles);
    dd_free(a, dit->singles);
    dd_free(a, dit);
}

const dd_flux_config *dd_flux_dit_config(const dd_flux_dit *dit) { return &dit->config; }

dd_backend *dd_flux_dit_backend(const dd_flux_dit *dit) { return dit->backend; }

bool dd_flux_dit_has_factor(const dd_flux_dit *dit, int factor) {
    int index = dd_factor_index(factor);
    return index >= 0 && dit->patch[index].present;
}

uint64_t dd_flux_dit_weight_bytes(const dd_flux_dit *dit) { return dit->weight_bytes; }
