#include "generate_options.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "out_path.h"
#include "say.h"

#define AT(field) offsetof(generate_options, field)
#define SIDE 64, 4096, 16

static const option_row rows[] = {
    OPTIONS_HEADING("What to draw"),
    {'p', "prompt", NULL, "TEXT", OPTION_TEXT, AT(prompt), .help = "what the picture shows, in any language (required)"},
    {'n', "negative-prompt", NULL, "TEXT", OPTION_TEXT, AT(negative),
     .help = "what it should not show; needs --cfg-scale above 1"},
    {'W', "width", NULL, "N", OPTION_COUNT, AT(size[0]), SIDE, .help = "pixels, a multiple of 16 (the model's default)"},
    {'H', "height", NULL, "N", OPTION_COUNT, AT(size[1]), SIDE, .help = "pixels, a multiple of 16 (the model's default)"},
    {0, "size", NULL, "WxH", OPTION_SIZE, AT(size), SIDE, .help = "both at once"},
    {'s', "seed", "base-seed", "N", OPTION_SEED, AT(seed),
     .help = "start of the noise, as torch's CPU generator (0); -1 draws one"},
    {'S', "seed", NULL, "N", OPTION_SEED, AT(seed), .help = NULL},
    {'b', "count", "batch-count", "N", OPTION_COUNT, AT(count), 1, 9999,
     .help = "pictures to make: picture i uses seed + i (1)"},
    {'o', "output", "save-file output-path", "FILE", OPTION_TEXT, AT(output),
     .help = "PNG file (out.png); %d is the picture's number, from 0"},

    OPTIONS_HEADING("The model"),
    {'m', "model", "ckpt-dir model-path", "FOLDER", OPTION_TEXT, AT(model),
     .help = "diffusers folder of a FLUX pipeline ($DDIT_MODEL, else the\nembedded emoji model)"},
    {0, "adapter", NULL, "FILE|none", OPTION_TEXT, AT(adapter),
     .help = "DDiT adapter (ddit-adapter.safetensors in the model's folder)"},
    {0, "steps", "sample-steps num-inference-steps num-steps", "N", OPTION_COUNT, AT(steps), 1, 1000,
     .help = "denoising steps (the model's default, or the schedule's sum)"},
    {0, "guidance", NULL, "G", OPTION_NUMBER, AT(guidance), 0, 1000,
     .help = "guidance input of the network (the model's default)"},
    {0, "cfg-scale", "sample-guide-scale", "S", OPTION_NUMBER, AT(cfg_scale), 0, 100,
     .help = "classifier-free guidance, two passes per step; 1 = off (1)"},
    {0, "guidance-scale", NULL, "G", OPTION_AMBIGUOUS,
     .choices = "means --guidance in FLUX pipelines and --cfg-scale elsewhere; name one of these two"},
    {0, "max-sequence-length", NULL, "N", OPTION_COUNT, AT(max_sequence_length), 1, 4096,
     .help = "T5 tokens of the prompt (the model's default)"},
    {0, "noise", NULL, "FILE", OPTION_TEXT, AT(noise),
     .help = "safetensors file with the noise to start from, instead of the seed"},

    OPTIONS_HEADING("Patch sizes (DDiT)"),
    {0, "patch", NULL, "POLICY", OPTION_TEXT, AT(patch),
     .help = "off: the base model; auto: chosen at every step from how fast\n"
             "the picture changes; region: the same cell by cell; "
             "1x3,2x20,4x7:\na schedule of factor x steps; @FILE: as in a trace or picture"},
    {0, "tau", NULL, "T", OPTION_NUMBER, AT(tau), 1e-12, 1e12,
     .help = "threshold of auto and region; larger = coarser, faster"},
    {0, "rho", NULL, "R", OPTION_NUMBER, AT(rho), 0, 1, .help = "quantile of the cells that auto looks at"},
    {0, "order", NULL, "1|2|3", OPTION_COUNT, AT(order), 1, 3, .help = "order of the difference that auto and region look at"},
    {0, "sigma-min", NULL, "2:S,4:S|none", OPTION_TEXT, AT(sigma_min),
     .help = "lowest noise level at which a factor may be chosen"},
    {0, "coarse", NULL, "HOW", OPTION_CHOICE, AT(coarse), .choices = "adapter|free",
     .help = "adapter: by its trained embeddings; free: the base model on the\npooled latent (adapter if there is one)"},
    {0, "anchor", NULL, "N", OPTION_COUNT, AT(anchor), 0, 1000,
     .help = "a coarse step runs at both sizes, and the next N add the difference\n(the adapter's; 0 = the plain coarse step)"},
    OPTIONS_LATER_ROW("speed", NULL, "X"),
    {0, "cache", NULL, "KIND", OPTION_CHOICE, AT(cache), .choices = "none", .later = "teacache|taylorseer|fbcache"},
    OPTIONS_LATER_ROW("flow-shift", "sample-shift", "X"),
    OPTIONS_LATER_ROW("frame-num", "video-frames num-frames", "N"),
    OPTIONS_LATER_ROW("init-img", "image image-path", "FILE"),

    OPTIONS_HEADING("What is left behind"),
    {0, "trace", NULL, "FILE", OPTION_TEXT, AT(trace), .help = "every step's layout, statistics and seconds, as JSON"},
    {0, "save-latent", NULL, "FILE", OPTION_TEXT, AT(save_latent), .help = "noise and final latent, as safetensors"},
    {0, "save-steps", NULL, NULL, OPTION_FLAG, AT(save_steps),
     .help = "latents and velocities of all steps, into the same file"},
    {0, "no-metadata", NULL, NULL, OPTION_FLAG, AT(no_metadata), .help = "a PNG without prompt and parameters"},
    {0, "json", NULL, NULL, OPTION_FLAG, AT(json), .help = "one JSON object about the run on standard output"},
    OPTIONS_LATER_ROW("plot", NULL, "FILE"),

    OPTIONS_HEADING("The machine"),
    {'t', "threads", NULL, "N", OPTION_COUNT, AT(threads), 1, 1024,
     .help = "processor threads (all); the result does not depend on it"},
    {0, "precision", NULL, "KIND", OPTION_CHOICE, AT(precision), .choices = "auto|f32|bf16",
     .help = "auto, f32 or bf16 (auto: bf16 where the processor computes it)"},
    {0, "backend", NULL, "NAME", OPTION_CHOICE, AT(backend), .choices = "cpu|ref", .later = "cuda",
     .help = "cpu, or ref: plain C, slow, for checking (cpu)"},
    {'q', "quiet", NULL, NULL, OPTION_FLAG, AT(quiet), .help = "only errors, and the seed if it was drawn"},
    {'v', "verbose", NULL, NULL, OPTION_FLAG, AT(verbose), .help = "a line per step"},
    OPTIONS_HELP_ROW,
};

const option_table generate_table = {
    .command = "generate",
    .usage = "ddit generate -p PROMPT [options]",
    .operand_hint = "the prompt is given by -p and in quotes",
    .rows = rows,
    .count = sizeof rows / sizeof *rows,
};

generate_options generate_options_init(void) {
    return (generate_options){.seed = -2, .guidance = NAN, .cfg_scale = NAN, .tau = NAN, .rho = NAN, .anchor = -1, .count = 1,
                              .output = "out.png"};
}

/* Only PNG is written; a name that promises something else would mislead other programs. */
static int check_extension(const char *path) {
    static const char *const others[] = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".mp4", ".ppm"};
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof others / sizeof *others; i++)
        if (strcasecmp(dot, others[i]) == 0)
            return say("-o %s: only PNG files are written in this version; name it .png", path);
    return EXIT_DONE;
}

static int check_file(const char *option, const char *path, int count) {
    if (!path) return EXIT_DONE;
    if (strcmp(path, "-") == 0) return say("%s -: pictures and traces go to files; standard output is for --json", option);
    if (!out_path_valid(path))
        return say("%s %s: a %% in the name must be %%d (the picture's number, once) or %%%%", option, path);
    char *first = out_path_number(path, 0, count);
    if (!first) {
        say("out of memory");
        return EXIT_RESOURCE;
    }
    int status = out_path_check(option, first);
    free(first);
    return status;
}

int generate_options_check(const generate_options *o) {
    int status;
    if (!o->prompt) return say("no prompt: say what to draw with -p \"...\"; `ddit generate --help` lists all options");
    if (o->save_steps && !o->save_latent) return say("--save-steps needs --save-latent FILE, which the steps are written into");
    if (o->noise && o->count > 1) return say("--noise gives one picture; leave out -b %d", o->count);
    if (o->seed > INT64_MAX - o->count) return say("--seed: seed + count is larger than 9223372036854775807");
    if ((status = check_extension(o->output))) return status;
    if ((status = check_file("-o", o->output, o->count))) return status;
    if ((status = check_file("--trace", o->trace, o->count))) return status;
    return check_file("--save-latent", o->save_latent, o->count);
}

ddit_params generate_options_params(const generate_options *o, uint64_t seed) {
    ddit_params p = ddit_params_init();
    p.prompt = o->prompt;
    p.negative_prompt = o->negative;
    p.width = o->size[0];
    p.height = o->size[1];
    p.steps = o->steps;
    p.seed = seed;
    p.guidance = (float)o->guidance;
    p.cfg_scale = (float)o->cfg_scale;
    p.max_sequence_length = o->max_sequence_length;
    p.patch = o->patch;
    p.tau = o->tau;
    p.rho = o->rho;
    p.order = o->order;
    p.sigma_min = o->sigma_min;
    p.coarse = o->coarse;
    p.anchor = o->anchor;
    p.noise_file = o->noise;
    p.keep_steps = o->save_steps;
    return p;
}
