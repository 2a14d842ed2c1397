#include "train/adapter_write.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/number_text.h"

enum { MOST_PAIRS = 32, TEXT_SIZE = DD_NUMBER_SIZE, MOST_TEXTS = 8 };

/* The metadata as it grows; texts made here live in `text`. */
typedef struct pairs {
    dd_safetensors_pair items[MOST_PAIRS];
    size_t count;
    char text[MOST_TEXTS][TEXT_SIZE];
    int texts;
} pairs;

static void add(pairs *p, const char *key, const char *value) { p->items[p->count++] = (dd_safetensors_pair){key, value}; }

static void add_number(pairs *p, const char *key, int64_t value) {
    char *text = p->text[p->texts++];
    snprintf(text, TEXT_SIZE, "%" PRId64, value);
    add(p, key, text);
}

static void add_real(pairs *p, const char *key, float value) {
    char *text = p->text[p->texts++];
    dd_number_text(text, (double)value);
    add(p, key, text);
}

static const char *residual_name(const dd_train_options *o) {
    if (o->residual_linear) return o->residual_hf ? "linear+hf" : "linear";
    return o->residual_hf ? "hf" : "none";
}

static void add_policy(pairs *p, const dd_safetensors *file) {
    static const char *const keys[] = {"sched_order", "tau", "tau_steps", "tau_region", "rho", "sigma_min", "anchor"};
    for (size_t i = 0; file && i < sizeof keys / sizeof *keys; i++) {
        const char *value = dd_safetensors_metadata(file, keys[i]);
        if (value) add(p, keys[i], value);
    }
}

ddit_status dd_adapter_write(const char *path, const dd_param_list *list, const float *values, const dd_adapter_about *about,
                             ddit_err *err) {
    const dd_train_options *o = about->options;
    pairs p = {.count = 0};
    add(&p, "format", "ddit-adapter");
    add(&p, "version", "1");
    add(&p, "arch", "flux");
    add(&p, "base", about->base);
    add_number(&p, "patch", about->config->patch);
    add(&p, "factors", o->factor[1] && o->factor[2] ? "2,4" : o->factor[1] ? "2" : "4");
    add_number(&p, "channels_in", about->config->latent_channels);
    add_number(&p, "channels_out", about->config->latent_channels);
    add_number(&p, "hidden", about->config->hidden);
    if (o->rank > 0 && o->lora_targets) {
        add_number(&p, "rank", o->rank);
        add_real(&p, "alpha", o->alpha);
    }
    add(&p, "position", "center");
    add(&p, "id_scope", "image");
    add(&p, "std", "joint");
    add(&p, "residual", residual_name(o));
    add_policy(&p, about->policy);
    add(&p, "init", about->init);
    add_number(&p, "steps_trained", about->steps_trained);
    add(&p, "guidance", about->guidance);
    return dd_param_list_write(list, path, DD_DTYPE_BF16, values, p.items, p.count, err);
}
