/* Configurations: defaults, the embedded model's, and values that must be refused. */
#include "format/config.h"

#include "format_test.h"

/* A parser as one function of text, whatever struct it fills. */
static ddit_status parse(char kind, const char *text, ddit_err *err) {
    size_t n = strlen(text);
    union {
        dd_flux_config flux;
        dd_vae_config vae;
        dd_clip_config clip;
        dd_t5_config t5;
        dd_scheduler_config scheduler;
        dd_tokenizer_config tokenizer;
        dd_ddit_config ddit;
    } c;
    switch (kind) {
    case 'f': return dd_flux_config_parse(&c.flux, text, n, "test.json", err);
    case 'v': return dd_vae_config_parse(&c.vae, text, n, "test.json", err);
    case 'c': return dd_clip_config_parse(&c.clip, text, n, "test.json", err);
    case 't': return dd_t5_config_parse(&c.t5, text, n, "test.json", err);
    case 's': return dd_scheduler_config_parse(&c.scheduler, text, n, "test.json", err);
    case 'k': return dd_tokenizer_config_parse(&c.tokenizer, text, n, "test.json", err);
    case 'd': return dd_ddit_config_parse(&c.ddit, text, n, "test.json", err);
    default: return dd_model_index_parse(text, n, "test.json", err);
    }
}

#define V "\"use_post_quant_conv\":false,"
#define G "\"feed_forward_proj\":\"gated-gelu\","

static const struct {
    char kind;
    ddit_status code;
    const char *text, *part;
} bad[] = {
    {'f', DDIT_ERR_FORMAT, "", "JSON"},
    {'f', DDIT_ERR_FORMAT, "[]", "an object"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":64,\"in_channels\":64}", "duplicate"},
    {'f', DDIT_ERR_UNSUPPORTED, "{\"_class_name\":\"WanTransformer3DModel\"}", "WanTransformer3DModel"},
    {'f', DDIT_ERR_FORMAT, "{\"_class_name\":7}", "a string"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":0}", "found 0"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":-64}", "found -64"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":1000000}", "found 1000000"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":64.0}", "a fraction"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":\"64\"}", "a string"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":[64]}", "an array"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":{}}", "an object, expected an integer"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":true}", "true"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":false}", "false"},
    {'f', DDIT_ERR_FORMAT, "{\"in_channels\":66}", "multiple of 4"},
    {'f', DDIT_ERR_UNSUPPORTED, "{\"in_channels\":384,\"out_channels\":64}", "384 and 64"},
    {'f', DDIT_ERR_FORMAT, "{\"num_layers\":-1}", "num_layers"},
    {'f', DDIT_ERR_FORMAT, "{\"num_layers\":0,\"num_single_layers\":0}", "at least one"},
    {'f', DDIT_ERR_FORMAT, "{\"num_single_layers\":2000}", "num_single_layers"},
    {'f', DDIT_ERR_FORMAT, "{\"attention_head_dim\":64}", "sum of 64"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":[16,56,57]}", "sum of 128"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":[16,55,57]}", "even"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":[64,64]}", "2 axes"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":[]}", "0 members"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":[2,2,2,2]}", "4 members"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":[16,\"56\",56]}", "a string"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":[16,0,56]}", "at index 1"},
    {'f', DDIT_ERR_FORMAT, "{\"axes_dims_rope\":128}", "an array of integers"},
    {'f', DDIT_ERR_FORMAT, "{\"num_attention_heads\":1024}", "131072"},
    {'f', DDIT_ERR_FORMAT, "{\"guidance_embeds\":1}", "true or false"},
    {'f', DDIT_ERR_UNSUPPORTED, "{\"patch_size\":2}", "patch_size"},
    {'v', DDIT_ERR_UNSUPPORTED, "{}", "use_post_quant_conv"},
    {'v', DDIT_ERR_UNSUPPORTED, "{\"use_post_quant_conv\":true}", "use_post_quant_conv"},
    {'v', DDIT_ERR_UNSUPPORTED, "{" V "\"_class_name\":\"AutoencoderKLWan\"}", "AutoencoderKLWan"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"out_channels\":4}", "out_channels"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"in_channels\":1}", "in_channels"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"block_out_channels\":[32,48]}", "multiple of 32"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"block_out_channels\":[32,32,32,32,32,32,32,32,32]}", "9 members"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"norm_num_groups\":0}", "norm_num_groups"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"scaling_factor\":0}", "scaling_factor"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"scaling_factor\":\"0.36\"}", "a number"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"shift_factor\":1e30}", "shift_factor"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"layers_per_block\":[1,2]}", "layers_per_block"},
    {'v', DDIT_ERR_UNSUPPORTED, "{" V "\"act_fn\":\"relu\"}", "relu"},
    {'v', DDIT_ERR_UNSUPPORTED, "{" V "\"latents_mean\":[0.1]}", "latents_mean"},
    {'v', DDIT_ERR_UNSUPPORTED, "{" V "\"latents_std\":[0.1]}", "latents_std"},
    {'v', DDIT_ERR_UNSUPPORTED, "{" V "\"up_block_types\":[\"AttnUpDecoderBlock2D\"]}", "AttnUpDecoderBlock2D"},
    {'v', DDIT_ERR_UNSUPPORTED, "{" V "\"up_block_types\":[7]}", "no string"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"down_block_types\":[]}", "array of 1"},
    {'v', DDIT_ERR_FORMAT, "{" V "\"down_block_types\":\"DownEncoderBlock2D\"}", "array of 1"},
    {'c', DDIT_ERR_UNSUPPORTED, "{\"model_type\":\"t5\"}", "\"t5\""},
    {'c', DDIT_ERR_UNSUPPORTED, "{\"hidden_act\":\"swish\"}", "swish"},
    {'c', DDIT_ERR_FORMAT, "{\"hidden_size\":768,\"num_attention_heads\":7}", "multiple of 7"},
    {'c', DDIT_ERR_FORMAT, "{\"vocab_size\":-5}", "vocab_size"},
    {'c', DDIT_ERR_FORMAT, "{\"layer_norm_eps\":0}", "layer_norm_eps"},
    {'c', DDIT_ERR_FORMAT, "{\"num_hidden_layers\":0}", "num_hidden_layers"},
    {'c', DDIT_ERR_FORMAT, "{\"eos_token_id\":[2,3]}", "eos_token_id"},
    {'c', DDIT_ERR_FORMAT, "{\"max_position_embeddings\":1}", "max_position_embeddings"},
    {'t', DDIT_ERR_UNSUPPORTED, "{\"model_type\":\"umt5\"}", "umt5"},
    {'t', DDIT_ERR_UNSUPPORTED, "{}", "relu"},
    {'t', DDIT_ERR_UNSUPPORTED, "{\"feed_forward_proj\":\"gated-silu\"}", "gated-silu"},
    {'t', DDIT_ERR_FORMAT, "{" G "\"d_model\":0}", "d_model"},
    {'t', DDIT_ERR_FORMAT, "{" G "\"d_kv\":5000}", "d_kv"},
    {'t', DDIT_ERR_FORMAT, "{" G "\"num_heads\":\"8\"}", "num_heads"},
    {'t', DDIT_ERR_FORMAT, "{" G "\"relative_attention_num_buckets\":30}", "multiple of 4"},
    {'t', DDIT_ERR_FORMAT, "{" G "\"relative_attention_max_distance\":8}", "more than 8"},
    {'t', DDIT_ERR_FORMAT, "{" G "\"layer_norm_epsilon\":-1}", "layer_norm_epsilon"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"_class_name\":\"UniPCMultistepScheduler\"}", "UniPCMultistepScheduler"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"use_karras_sigmas\":true}", "Karras"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"use_beta_sigmas\":true}", "beta"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"use_exponential_sigmas\":true}", "exponential"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"stochastic_sampling\":true}", "stochastic"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"invert_sigmas\":true}", "inverted"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"shift_terminal\":0.1}", "shift_terminal"},
    {'s', DDIT_ERR_UNSUPPORTED, "{\"time_shift_type\":\"cubic\"}", "cubic"},
    {'s', DDIT_ERR_FORMAT, "{\"shift\":0}", "shift"},
    {'s', DDIT_ERR_FORMAT, "{\"shift\":-3.0}", "-3"},
    {'s', DDIT_ERR_FORMAT, "{\"base_image_seq_len\":4096}", "less than"},
    {'s', DDIT_ERR_FORMAT, "{\"use_dynamic_shifting\":\"yes\"}", "true or false"},
    {'s', DDIT_ERR_FORMAT, "{\"num_train_timesteps\":0}", "num_train_timesteps"},
    {'k', DDIT_ERR_FORMAT, "{\"model_max_length\":\"77\"}", "model_max_length"},
    {'k', DDIT_ERR_FORMAT, "{\"model_max_length\":-1}", "model_max_length"},
    {'k', DDIT_ERR_FORMAT, "{\"model_max_length\":7.5}", "an integer"},
    {'k', DDIT_ERR_FORMAT, "{\"extra_ids\":0.5}", "an integer"},
    {'d', DDIT_ERR_FORMAT, "{\"name\":7}", "name"},
    {'d', DDIT_ERR_FORMAT, "{\"defaults\":7}", "defaults"},
    {'d', DDIT_ERR_FORMAT, "{\"defaults\":{\"width\":-16}}", "width"},
    {'d', DDIT_ERR_FORMAT, "{\"defaults\":{\"width\":100}}", "multiples of 16"},
    {'d', DDIT_ERR_FORMAT, "{\"defaults\":{\"steps\":1e3}}", "steps"},
    {'d', DDIT_ERR_FORMAT, "{\"defaults\":{\"guidance\":\"1\"}}", "guidance"},
    {'d', DDIT_ERR_FORMAT, "{\"defaults\":{\"seed\":-2}}", "seed"},
    {'d', DDIT_ERR_FORMAT, "{\"defaults\":{\"patch\":4}}", "patch"},
    {'d', DDIT_ERR_FORMAT, "{\"free_detail\":[0.3]}", "free_detail"},
    {'d', DDIT_ERR_FORMAT, "{\"free_detail\":{\"3\":0.3}}", "\"3\""},
    {'d', DDIT_ERR_FORMAT, "{\"free_detail\":{\"2\":-0.3}}", "-0.3"},
    {'i', DDIT_ERR_FORMAT, "{}", "_class_name"},
    {'i', DDIT_ERR_UNSUPPORTED, "{\"_class_name\":\"WanPipeline\"}", "WanPipeline"},
    {'i', DDIT_ERR_FORMAT, "{\"_class_name\":\"FluxPipeline\"}", "transformer"},
    {'i', DDIT_ERR_FORMAT, "{\"_class_name\":\"FluxPipeline\",\"transformer\":[null,null]}", "transformer"},
    {'i', DDIT_ERR_UNSUPPORTED, "{\"_class_name\":\"FluxPipeline\",\"transformer\":[\"diffusers\",\"Other\"]}", "Other"},
};

static void bad_values_are_refused(dd_test *t) {
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int before = t->failures;
        DD_FAILS(t, parse(bad[i].kind, bad[i].text, &t->err), bad[i].code, bad[i].part);
        DD_CHECK(t, strstr(t->err.text, "test.json") && strstr(t->err.text, "expected"));
        if (t->failures > before) printf("  %s\n  %s\n", bad[i].text, t->err.text);
    }
    char text[2000] = "{\"defaults\":{\"patch\":\"";
    memset(text + strlen(text), '1', 1500);
    strcat(text, "\"}}");
    DD_FAILS(t, parse('d', text, &t->err), DDIT_ERR_FORMAT, "1500 bytes");
}

static void failure_leaves_zeros(dd_test *t) {
    dd_flux_config c;
    memset(&c, 7, sizeof c);
    DD_FAILS(t, dd_flux_config_parse(&c, "{\"patch_size\":2}", 16, "x", NULL), DDIT_ERR_UNSUPPORTED, NULL);
    DD_CHECK(t, c.in_channels == 0 && c.hidden == 0);
}

static void defaults(dd_test *t) {
    dd_flux_config f;
    DD_NEED_OK(t, dd_flux_config_parse(&f, "{}", 2, "x", &t->err));
    DD_CHECK(t, f.in_channels == 64 && f.out_channels == 64 && f.num_layers == 19 && f.num_single_layers == 38);
    DD_CHECK(t, f.hidden == 3072 && f.mlp_hidden == 12288 && f.patch == 2 && f.latent_channels == 16 && !f.guidance_embeds);
    DD_CHECK(t, f.axes_dims_rope[0] == 16 && f.axes_dims_rope[2] == 56 && f.joint_attention_dim == 4096);
    const char *null_out = "{\"out_channels\":null,\"in_channels\":16,\"_class_name\":null}";
    DD_NEED_OK(t, dd_flux_config_parse(&f, null_out, strlen(null_out), "x", &t->err));
    DD_CHECK(t, f.out_channels == 16 && f.latent_channels == 4);
    dd_vae_config v;
    const char *vae = "{" V "\"latent_channels\":16}";
    DD_NEED_OK(t, dd_vae_config_parse(&v, vae, strlen(vae), "x", &t->err));
    DD_CHECK(t, v.level_count == 1 && v.block_out_channels[0] == 64 && v.scale == 1 && v.scaling_factor == 0.18215f);
    DD_CHECK(t, v.mid_block_add_attention && v.use_quant_conv && v.shift_factor == 0 && v.layers_per_block == 1);
    dd_clip_config c;
    DD_NEED_OK(t, dd_clip_config_parse(&c, "{\"hidden_act\":\"gelu\"}", 21, "x", &t->err));
    DD_CHECK(t, c.hidden_size == 512 && c.head_dim == 64 && c.hidden_act == DD_ACT_GELU_ERF && c.eos_token_id == 49407);
    dd_scheduler_config s;
    const char *linear = "{\"time_shift_type\":\"linear\"}";
    DD_NEED_OK(t, dd_scheduler_config_parse(&s, linear, strlen(linear), "x", &t->err));
    DD_CHECK(t,
             s.time_shift == DD_SCHEDULER_SHIFT_LINEAR && s.shift == 1 && s.max_shift == 1.15 && s.max_image_seq_len == 4096);
    dd_tokenizer_config k;
    const char *endless = "{\"model_max_length\":1000000000000000019884624838656,\"extra_ids\":100}";
    DD_NEED_OK(t, dd_tokenizer_config_parse(&k, endless, strlen(endless), "x", &t->err));
    DD_CHECK(t, k.model_max_length == 0 && k.extra_ids == 100);
    dd_ddit_config d;
    DD_NEED_OK(t, dd_ddit_config_parse(&d, "{\"defaults\":null}", 17, "x", &t->err));
    DD_CHECK(t, d.found && d.width == 0 && isnan(d.guidance) && d.seed == -1 && d.patch[0] == '\0' && d.free_detail[1] == 0);
}

static void embedded_model(dd_test *t) {
    dd_model_folder m;
    if (access("models/emoji/model_index.json", F_OK) != 0) {
        dd_test_skip(t, "models/emoji is not here");
        return;
    }
    DD_NEED_OK(t, dd_model_folder_read(&m, &dd_allocator_libc, "models/emoji/", &t->err));
    DD_CHECK(t, m.transformer.hidden == 256 && m.transformer.num_single_layers == 6 && m.transformer.guidance_embeds);
    DD_CHECK(t, m.vae.level_count == 4 && m.vae.scale == 8 && m.vae.norm_num_groups == 8 && m.vae.shift_factor == 0.0962f);
    DD_CHECK(t, m.clip.head_dim == 64 && m.clip.eos_token_id == 8191 && m.t5.d_ff == 512 && m.t5.vocab_size == 8192);
    DD_CHECK(t, m.scheduler.use_dynamic_shifting && m.scheduler.shift == 3.0);
    DD_CHECK(t, m.tokenizer.model_max_length == 77 && m.tokenizer_2.model_max_length == 24 && m.tokenizer_2.extra_ids == 0);
    DD_CHECK(t, strcmp(m.ddit.name, "emoji") == 0 && m.ddit.width == 256 && m.ddit.steps == 28 && m.ddit.guidance == 1.0f);
    DD_CHECK(t, strcmp(m.ddit.patch, "auto") == 0 && m.ddit.free_detail[1] == 0.36f && m.ddit.free_detail[2] == 0.51f);
}

static const char index_text[] =
    "{\"_class_name\":\"FluxPipeline\",\"transformer\":[\"diffusers\",\"FluxTransformer2DModel\"],"
    "\"vae\":[\"diffusers\",\"AutoencoderKL\"],\"text_encoder\":[\"transformers\",\"CLIPTextModel\"],"
    "\"text_encoder_2\":[\"transformers\",\"T5EncoderModel\"],\"tokenizer\":[\"transformers\",\"CLIPTokenizerFast\"],"
    "\"tokenizer_2\":[\"transformers\",\"T5TokenizerFast\"],\"scheduler\":[\"diffusers\",\"FlowMatchEulerDiscreteScheduler\"]}";

static void make_model(const char *folder) {
    static const char *const parts[] = {"transformer", "vae", "text_encoder", "text_encoder_2", "scheduler"};
    for (size_t i = 0; i < 5; i++) make_subfolder(folder, parts[i]);
    write_text(folder, "model_index.json", index_text);
    write_text(folder, "transformer/config.json", "{\"pooled_projection_dim\":512,\"joint_attention_dim\":512}");
    write_text(folder, "vae/config.json", "{" V "\"latent_channels\":16}");
    write_text(folder, "text_encoder/config.json", "{}");
    write_text(folder, "text_encoder_2/config.json", "{\"feed_forward_proj\":\"gated-gelu\"}");
    write_text(folder, "scheduler/scheduler_config.json", "{}");
}

static void folders(dd_test *t) {
    const dd_allocator *a = &dd_allocator_libc;
    char folder[64], path[256];
    dd_model_folder m;
    make_folder(folder);
    DD_FAILS(t, dd_model_folder_read(&m, a, "/nonexistent/model", &t->err), DDIT_ERR_NOT_FOUND, "/nonexistent/model");
    DD_FAILS(t, dd_model_folder_read(&m, a, folder, &t->err), DDIT_ERR_NOT_FOUND, "without model_index.json");
    make_model(folder);
    DD_OK(t, dd_model_folder_read(&m, a, folder, &t->err));
    DD_CHECK(t, !m.ddit.found && m.ddit.seed == -1 && isnan(m.ddit.guidance) && m.tokenizer_2.extra_ids == -1);
    DD_FAILS(t, dd_model_folder_read(&m, a, in_folder(path, folder, "model_index.json"), &t->err), DDIT_ERR_FORMAT,
             "found a file");
    DD_FAILS(t, dd_model_folder_read(&m, a, in_folder(path, folder, "vae"), &t->err), DDIT_ERR_FORMAT, "the folder above it");
    for (size_t n = 1;; n++) {
        dd_test_allocator counting;
        dd_test_allocator_init(&counting);
        counting.fail_at = n;
        ddit_status status = dd_model_folder_read(&m, &counting.allocator, folder, NULL);
        DD_CHECK(t, counting.live == 0);
        if (status == DDIT_OK) break;
        if (n > 4) DD_CHECK(t, status == DDIT_ERR_NO_MEMORY); /* the first ones only look what is there */
    }
    static const struct {
        const char *name, *text, *part;
    } changes[] = {
        {"vae/config.json", "{" V "\"latent_channels\":4}", "latent_channels"},
        {"text_encoder/config.json", "{\"hidden_size\":768}", "pooled_projection_dim"},
        {"text_encoder_2/config.json", "{" G "\"d_model\":4096}", "joint_attention_dim"},
    };
    for (size_t i = 0; i < 3; i++) {
        write_text(folder, changes[i].name, changes[i].text);
        DD_FAILS(t, dd_model_folder_read(&m, a, folder, &t->err), DDIT_ERR_MISMATCH, changes[i].part);
        DD_CHECK(t, strstr(t->err.text, folder) && strstr(t->err.text, "expected"));
        if (i == 0) write_text(folder, "vae/config.json", "{" V "\"latent_channels\":16}");
        if (i == 1) write_text(folder, "text_encoder/config.json", "{}");
    }
    write_text(folder, "ddit.json", "{");
    write_text(folder, "text_encoder_2/config.json", "{\"feed_forward_proj\":\"gated-gelu\"}");
    DD_FAILS(t, dd_model_folder_read(&m, a, folder, &t->err), DDIT_ERR_FORMAT, "ddit.json");
    if (unlink(in_folder(path, folder, "scheduler/scheduler_config.json")) != 0) abort();
    DD_FAILS(t, dd_model_folder_read(&m, a, folder, &t->err), DDIT_ERR_NOT_FOUND, "scheduler_config.json");
    remove_folder(folder);
}

static void single_files(dd_test *t) {
    const dd_allocator *a = &dd_allocator_libc;
    char folder[64], path[256];
    make_folder(folder);
    make_model(folder);
    dd_flux_config f;
    dd_vae_config v;
    dd_clip_config c;
    dd_t5_config x;
    dd_scheduler_config s;
    DD_OK(t, dd_flux_config_read(&f, a, in_folder(path, folder, "transformer/config.json"), &t->err));
    DD_OK(t, dd_vae_config_read(&v, a, in_folder(path, folder, "vae/config.json"), &t->err));
    DD_OK(t, dd_clip_config_read(&c, a, in_folder(path, folder, "text_encoder/config.json"), &t->err));
    DD_OK(t, dd_t5_config_read(&x, a, in_folder(path, folder, "text_encoder_2/config.json"), &t->err));
    DD_OK(t, dd_scheduler_config_read(&s, a, in_folder(path, folder, "scheduler/scheduler_config.json"), &t->err));
    char *big = calloc(1, DD_CONFIG_MAX_BYTES + 1);
    write_bytes(folder, "vae/config.json", big, DD_CONFIG_MAX_BYTES + 1);
    DD_FAILS(t, dd_vae_config_read(&v, a, in_folder(path, folder, "vae/config.json"), &t->err), DDIT_ERR_FORMAT, "at most");
    free(big);
    remove_folder(folder);
}

int main(int argc, char **argv) {
    static const dd_test_case cases[] = {
        {"bad_values_are_refused", bad_values_are_refused},
        {"failure_leaves_zeros", failure_leaves_zeros},
        {"defaults", defaults},
        {"embedded_model", embedded_model},
        {"folders", folders},
        {"single_files", single_files},
    };
    return dd_test_main(argc, argv, cases, sizeof cases / sizeof *cases);
}
