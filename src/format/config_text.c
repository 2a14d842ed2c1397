/* The text encoders and their tokenizers. */
#include <math.h>
#include <string.h>

#include "format/config.h"
#include "format/json_read.h"

enum { MAX_WIDTH = 65536, MAX_LAYERS = 1024, MAX_VOCABULARY = 1 << 24 };

static void fill_clip(void *out, dd_json_reader *r) {
    dd_clip_config *c = out;
    dd_json_expect_string(r, "model_type", "clip_text_model");
    c->vocab_size = (int)dd_json_int(r, "vocab_size", 49408, 1, MAX_VOCABULARY);
    c->hidden_size = (int)dd_json_int(r, "hidden_size", 512, 1, MAX_WIDTH);
    c->intermediate_size = (int)dd_json_int(r, "intermediate_size", 2048, 1, MAX_WIDTH);
    c->num_hidden_layers = (int)dd_json_int(r, "num_hidden_layers", 12, 1, MAX_LAYERS);
    c->num_attention_heads = (int)dd_json_int(r, "num_attention_heads", 8, 1, 1024);
    c->max_position_embeddings = (int)dd_json_int(r, "max_position_embeddings", 77, 2, 4096);
    c->layer_norm_eps = (float)dd_json_number(r, "layer_norm_eps", 1e-5, 1e-12, 0.1);
    c->bos_token_id = (int)dd_json_int(r, "bos_token_id", 49406, 0, MAX_VOCABULARY);
    c->eos_token_id = (int)dd_json_int(r, "eos_token_id", 49407, 0, MAX_VOCABULARY);
    c->head_dim = c->hidden_size / c->num_attention_heads;
    if (c->hidden_size % c->num_attention_heads)
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"hidden_size\": found %d, expected a multiple of %d, the num_attention_heads",
                     c->hidden_size, c->num_attention_heads);
    const char *act = dd_json_string(r, "hidden_act", "quick_gelu");
    char shown[DD_SHOW_SIZE];
    if (strcmp(act, "quick_gelu") == 0)
        c->hidden_act = DD_ACT_QUICK_GELU;
    else if (strcmp(act, "gelu") == 0)
        c->hidden_act = DD_ACT_GELU_ERF;
    else
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED, "\"hidden_act\": found \"%s\", expected \"quick_gelu\" or \"gelu\"",
                     dd_show(shown, act));
}

static void fill_t5(void *out, dd_json_reader *r) {
    dd_t5_config *c = out;
    dd_json_expect_string(r, "model_type", "t5");
    c->vocab_size = (int)dd_json_int(r, "vocab_size", 32128, 1, MAX_VOCABULARY);
    c->d_model = (int)dd_json_int(r, "d_model", 512, 1, MAX_WIDTH);
    c->d_kv = (int)dd_json_int(r, "d_kv", 64, 1, 1024);
    c->d_ff = (int)dd_json_int(r, "d_ff", 2048, 1, MAX_WIDTH);
    c->num_layers = (int)dd_json_int(r, "num_layers", 6, 1, MAX_LAYERS);
    c->num_heads = (int)dd_json_int(r, "num_heads", 8, 1, 1024);
    c->relative_attention_num_buckets = (int)dd_json_int(r, "relative_attention_num_buckets", 32, 4, 4096);
    c->relative_attention_max_distance = (int)dd_json_int(r, "relative_attention_max_distance", 128, 2, 1 << 20);
    c->layer_norm_epsilon = (float)dd_json_number(r, "layer_norm_epsilon", 1e-6, 1e-12, 0.1);
    c->pad_token_id = (int)dd_json_int(r, "pad_token_id", 0, 0, MAX_VOCABULARY);
    c->eos_token_id = (int)dd_json_int(r, "eos_token_id", 1, 0, MAX_VOCABULARY);
    if (c->relative_attention_num_buckets % 4)
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"relative_attention_num_buckets\": found %d, expected a multiple of 4",
                     c->relative_attention_num_buckets);
    if (c->relative_attention_max_distance <= c->relative_attention_num_buckets / 4)
        dd_json_fail(r, DDIT_ERR_FORMAT,
                     "\"relative_attention_max_distance\": found %d, expected more than %d, a quarter of the buckets",
                     c->relative_attention_max_distance, c->relative_attention_num_buckets / 4);
    /* "gated-gelu" means the tanh form whatever dense_act_fn says: transformers sets it so for old files. */
    const char *feed_forward = dd_json_string(r, "feed_forward_proj", "relu");
    char shown[DD_SHOW_SIZE];
    if (strcmp(feed_forward, "gated-gelu") != 0)
        dd_json_fail(r, DDIT_ERR_UNSUPPORTED, "\"feed_forward_proj\": found \"%s\", expected \"gated-gelu\" as in T5 v1.1",
                     dd_show(shown, feed_forward));
}

static void fill_tokenizer(void *out, dd_json_reader *r) {
    dd_tokenizer_config *c = out;
    /* transformers writes 1000000000000000019884624838656 for "no limit": integers are read as doubles here. */
    double length = dd_json_number(r, "model_max_length", 0, 0, 1e300);
    if (length != floor(length))
        dd_json_fail(r, DDIT_ERR_FORMAT, "\"model_max_length\": found %g, expected an integer", length);
    c->model_max_length = length > 1e6 ? 0 : (int)length;
    double extra = dd_json_number(r, "extra_ids", -1, 0, 1e6);
    if (extra != floor(extra)) dd_json_fail(r, DDIT_ERR_FORMAT, "\"extra_ids\": found %g, expected an integer", extra);
    c->extra_ids = (int)extra;
}

ddit_status dd_clip_config_parse(dd_clip_config *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_json_parse_struct(out, sizeof *out, fill_clip, 0, text, size, label, err);
}

ddit_status dd_t5_config_parse(dd_t5_config *out, const char *text, size_t size, const char *label, ddit_err *err) {
    return dd_json_parse_struct(out, sizeof *out, fill_t5, 0, text, size, label, err);
}

ddit_status dd_tokenizer_config_parse(dd_tokenizer_config *out, const char *text, size_t size, const char *label,
                                      ddit_err *err) {
    return dd_json_parse_struct(out, sizeof *out, fill_tokenizer, JSON_DECODE_INT_AS_REAL, text, size, label, err);
}
