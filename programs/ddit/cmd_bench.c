/* ddit bench: seconds per step on this machine. */
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "commands.h"
#include "interrupt.h"
#include "model_path.h"
#include "options.h"
#include "say.h"

typedef struct bench_options {
    const char *model, *shape, *precision, *backend;
    int size[2], repeats, threads, json, quiet;
} bench_options;

#define AT(field) offsetof(bench_options, field)
#define SIDE 64, 4096, 16

static const option_row rows[] = {
    OPTIONS_HEADING("What is measured"),
    {'m', "model", "ckpt-dir model-path", "FOLDER", OPTION_TEXT, AT(model),
     .help = "a diffusers folder ($DDIT_MODEL, else the embedded model)"},
    {0, "shape", NULL, "NAME", OPTION_CHOICE, AT(shape), .choices = "flux-dev|emoji",
     .help = "instead of a model: one double and one single block of this\nwidth with random weights (flux-dev or emoji)"},
    {'W', "width", NULL, "N", OPTION_COUNT, AT(size[0]), SIDE,
     .help = "pixels, a multiple of 16 (1024, or the model's default)"},
    {'H', "height", NULL, "N", OPTION_COUNT, AT(size[1]), SIDE,
     .help = "pixels, a multiple of 16 (1024, or the model's default)"},
    {0, "size", NULL, "WxH", OPTION_SIZE, AT(size), SIDE, .help = "both at once"},

    OPTIONS_HEADING("How"),
    {0, "repeats", NULL, "N", OPTION_COUNT, AT(repeats), 1, 1000, .help = "rounds after the warm-up; medians are shown (7)"},
    {'t', "threads", NULL, "N", OPTION_COUNT, AT(threads), 1, 1024, .help = "processor threads (all)"},
    {0, "precision", NULL, "KIND", OPTION_CHOICE, AT(precision), .choices = "auto|f32|bf16",
     .help = "auto, f32 or bf16 (auto)"},
    {0, "backend", NULL, "NAME", OPTION_CHOICE, AT(backend), .choices = "cpu|ref", .later = "cuda", .help = "cpu or ref (cpu)"},
    {0, "json", NULL, NULL, OPTION_FLAG, AT(json), .help = "one JSON object on standard output"},
    {'q', "quiet", NULL, NULL, OPTION_FLAG, AT(quiet), .help = "no progress"},
    OPTIONS_HELP_ROW,
};

static const option_table table = {
    .command = "bench",
    .usage = "ddit bench [options]\n\n"
             "Seconds per denoising step with patches of 1, 2 and 4 times the base size, where they go, and how the rate\n"
             "compares with the best 4096 x 4096 x 4096 matrix product of the same run.",
    .operand_hint = "a model is given by -m, random blocks by --shape",
    .rows = rows,
    .count = sizeof rows / sizeof *rows,
};

static int on_progress(void *user, const char *what) {
    const bench_options *o = user;
    if (!o->quiet && isatty(STDERR_FILENO)) fprintf(stderr, "\r%s ...\033[K", what);
    return interrupt_asked();
}

static double number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

static int integer(const json_t *object, const char *key) { return (int)json_integer_value(json_object_get(object, key)); }

static void print_factor(const json_t *f) {
    const json_t *tokens = json_object_get(f, "tokens");
    printf("%6d  %5d+%-5d %10.4f %10.4f %10.4f %10.4f %10.1f %8.0f %% %8.3f %8.3f %8.3f\n", integer(f, "factor"),
           integer(tokens, "text"), integer(tokens, "image"), number(f, "seconds"),
           number(f, "linear"), number(f, "attention"), number(f, "rest"),
           number(f, "gflop_per_second"), 100 * number(f, "share_of_gemm"), number(f, "token_share"), number(f, "cost_share"),
           number(f, "cost_share") / number(f, "token_share"));
}

static void print_result(const json_t *root) {
    const json_t *blocks = json_object_get(root, "blocks"), *gemm = json_object_get(root, "gemm");
    size_t i;
    json_t *factor;
    printf("%s: %d double and %d single blocks of width %d, %d x %d pixels\n", json_string_value(json_object_get(root, "what")),
           integer(blocks, "double"), integer(blocks, "single"), integer(blocks, "hidden"),
           integer(root, "width"), integer(root, "height"));
    printf("%s; medians of %d rounds, seconds per step\n\n", json_string_value(json_object_get(root, "device")),
           integer(root, "repeats"));
    printf("factor text+image       step     linear  attention       rest   GFLOP/s    of GEMM   tokens     cost    ratio\n");
    json_array_foreach(json_object_get(root, "factors"), i, factor) print_factor(factor);
    printf("\nbest 4096^3 product: %.1f GFLOP/s; tokens and cost: share of a step at factor 1; ratio: cost / tokens\n",
           number(gemm, "gflop_per_second"));
}

static int show(const bench_options *o, const char *text) {
    if (o->json) puts(text);
    else {
        json_t *root = json_loads(text, 0, NULL);
        if (root) print_result(root);
        json_decref(root);
    }
    return finish_output(EXIT_DONE);
}

static int bench(bench_options *o, const char *model) {
    ddit_err err;
    ddit_context *context;
    ddit_context_params context_params = ddit_context_params_init();
    ddit_bench_params params = ddit_bench_params_init();
    char *text;
    context_params.threads = o->threads;
    context_params.precision = o->precision;
    context_params.backend = o->backend;
    params.model = model;
    params.shape = o->shape;
    params.width = o->size[0];
    params.height = o->size[1];
    params.repeats = o->repeats;
    params.progress = on_progress;
    params.user = o;
    ddit_status status = ddit_context_create(&context, &context_params, &err);
    if (status != DDIT_OK) return status == DDIT_ERR_UNSUPPORTED ? say("%s", err.text) : say_failure(status, &err);
    status = ddit_bench(&text, context, &params, &err);
    if (!o->quiet && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    int exit_status = status == DDIT_OK ? show(o, text) : say_failure(status, &err);
    ddit_text_free(context, text);
    ddit_context_free(context);
    return exit_status;
}

int cmd_bench(int argc, char **argv) {
    bench_options options = {0};
    options_result result = options_parse(&table, argc, argv, &options);
    if (result != OPTIONS_RUN) return result == OPTIONS_SHOWN ? finish_output(EXIT_DONE) : EXIT_COMMAND;
    if (options.model && options.shape) return say("--model and --shape exclude each other: a model has a shape of its own");
    const char *model = options.shape ? NULL : model_path_find(options.model);
    if (!options.shape && !model) return EXIT_INPUT;
    interrupt_install();
    return bench(&options, model);
}
