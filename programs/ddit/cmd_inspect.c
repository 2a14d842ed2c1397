/* ddit inspect: what a file, folder or picture holds. */
#include <stdio.h>

#include "commands.h"
#include "inspect_text.h"
#include "interrupt.h"
#include "options.h"
#include "say.h"

typedef struct inspect_options {
    const char *path, *precision, *patch;
    int size[2], steps, max_sequence_length, threads;
    double cfg_scale;
    int json, verbose;
} inspect_options;

#define AT(field) offsetof(inspect_options, field)
#define SIDE 64, 4096, 16

static const option_row rows[] = {
    OPTIONS_HEADING("How it is shown"),
    {0, "json", NULL, NULL, OPTION_FLAG, AT(json), .help = "one JSON object on standard output"},
    {'v', "verbose", NULL, NULL, OPTION_FLAG, AT(verbose), .help = "every tensor of a weight file"},
    OPTIONS_HELP_ROW,

    OPTIONS_HEADING("The run whose memory is counted (a model folder)"),
    {'W', "width", NULL, "N", OPTION_COUNT, AT(size[0]), SIDE, .help = "pixels, a multiple of 16 (the model's default)"},
    {'H', "height", NULL, "N", OPTION_COUNT, AT(size[1]), SIDE, .help = "pixels, a multiple of 16 (the model's default)"},
    {0, "size", NULL, "WxH", OPTION_SIZE, AT(size), SIDE, .help = "both at once"},
    {0, "steps", "sample-steps num-inference-steps num-steps", "N", OPTION_COUNT, AT(steps), 1, 1000,
     .help = "denoising steps"},
    {0, "max-sequence-length", NULL, "N", OPTION_COUNT, AT(max_sequence_length), 1, 4096, .help = "T5 tokens"},
    {0, "cfg-scale", "sample-guide-scale", "S", OPTION_NUMBER, AT(cfg_scale), 0, 100, .help = "above 1: two passes per step"},
    {0, "patch", NULL, "POLICY", OPTION_TEXT, AT(patch), .help = "as for ddit generate"},
    {'t', "threads", NULL, "N", OPTION_COUNT, AT(threads), 1, 1024, .help = "processor threads (all)"},
    {0, "precision", NULL, "KIND", OPTION_CHOICE, AT(precision), .choices = "auto|f32|bf16", .help = "auto, f32 or bf16"},
};

static const option_table table = {
    .command = "inspect",
    .usage = "ddit inspect FILE|FOLDER [options]\n\n"
             "Shows what a model folder, safetensors file, DDiT adapter or picture made by ddit holds.",
    .operand = "a file or folder",
    .operand_offset = AT(path),
    .rows = rows,
    .count = sizeof rows / sizeof *rows,
};

static ddit_params params_of(const inspect_options *o) {
    ddit_params p = ddit_params_init();
    p.width = o->size[0];
    p.height = o->size[1];
    p.steps = o->steps;
    p.max_sequence_length = o->max_sequence_length;
    p.patch = o->patch;
    p.cfg_scale = (float)o->cfg_scale;
    return p;
}

static int show(const inspect_options *o, const char *text) {
    if (o->json) puts(text);
    else {
        json_t *root = json_loads(text, 0, NULL);
        if (root) inspect_print(root, o->verbose);
        json_decref(root);
    }
    return finish_output(EXIT_DONE);
}

static int inspect(const inspect_options *o) {
    ddit_err err;
    ddit_context *context;
    ddit_context_params context_params = ddit_context_params_init();
    ddit_params params = params_of(o);
    char *text;
    context_params.threads = o->threads;
    context_params.precision = o->precision;
    ddit_status status = ddit_context_create(&context, &context_params, &err);
    if (status != DDIT_OK) return say_failure(status, &err);
    status = ddit_inspect(&text, context, o->path, &params, &err);
    int exit_status = status == DDIT_OK ? show(o, text) : say_failure(status, &err);
    ddit_text_free(context, text);
    ddit_context_free(context);
    return exit_status;
}

int cmd_inspect(int argc, char **argv) {
    inspect_options options = {.cfg_scale = 1};
    options_result result = options_parse(&table, argc, argv, &options);
    if (result != OPTIONS_RUN) return result == OPTIONS_SHOWN ? finish_output(EXIT_DONE) : EXIT_COMMAND;
    if (!options.path) return say("nothing to look at: name a model folder, a safetensors file or a picture");
    interrupt_install();
    return inspect(&options);
}
