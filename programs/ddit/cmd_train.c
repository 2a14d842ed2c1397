/* ddit train: an adapter from a base model, or the model itself. */
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "interrupt.h"
#include "model_path.h"
#include "say.h"
#include "status_line.h"
#include "train_line.h"
#include "train_options.h"

/* ---------------------------------------------------------------------------------------------- what came of it */

static double number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

static void print_files(const json_t *files) {
    size_t index;
    json_t *file;
    json_array_foreach(files, index, file)
        if (json_is_string(file)) fprintf(stderr, "%s%s", index ? ", " : "wrote     ", json_string_value(file));
    if (json_array_size(files) > 0) fputc('\n', stderr);
}

/* For people: speed and files. Losses on a held-out set were shown when they were measured. */
static void print_result(const char *text) {
    json_t *root = json_loads(text, 0, NULL);
    if (!root) return;
    char rate[32];
    if (number(root, "samples") > 0)
        fprintf(stderr, "trained   %.0f samples in %.1f s, %s samples/s\n", number(root, "samples"),
                number(root, "train_seconds"), rate_text(number(root, "samples_per_second"), rate, sizeof rate));
    print_files(json_object_get(root, "files"));
    json_decref(root);
}

static int show_result(const train_options *o, const char *text) {
    if (!text || !*text) return EXIT_DONE; /* another rank tells */
    if (!o->quiet) print_result(text);
    if (!o->json) return EXIT_DONE;
    puts(text);
    return finish_output(EXIT_DONE);
}

/* Is this rank 0, or no MPI at all? The launchers (Open MPI, PMIx, MPICH) say it in the environment. */
static bool is_first_rank(void) {
    static const char *const variables[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *rank = getenv(variables[i]);
        if (rank && *rank) return strcmp(rank, "0") == 0;
    }
    return true;
}

/* After Ctrl-C: where it stopped and how to go on. Before the first step the library's sentence says what is kept. */
static int show_cancelled(const train_line *line, const ddit_err *err) {
    if (!is_first_rank()) return EXIT_CANCELLED;
    if (!line->saved[0]) return say_failure(DDIT_ERR_CANCELLED, err);
    say("stopped after step %" PRId64 "; saved %s; go on with --resume", line->step, line->saved);
    return EXIT_CANCELLED;
}

/* ---------------------------------------------------------------------------------------------- the command */

static int open_context(const train_options *o, ddit_context **context) {
    ddit_err err;
    ddit_context_params params = ddit_context_params_init();
    params.backend = o->backend;
    params.precision = o->precision;
    params.threads = o->threads;
    ddit_status status = ddit_context_create(context, &params, &err);
    if (status == DDIT_OK) return EXIT_DONE;
    return status == DDIT_ERR_UNSUPPORTED ? say("%s", err.text) : say_failure(status, &err); /* no file is at fault yet */
}

static int train(const train_options *o, const char *model) {
    ddit_err err;
    ddit_context *context;
    ddit_train_params params = train_options_params(o);
    train_line line;
    char *text = NULL;
    int exit_status = open_context(o, &context);
    if (exit_status != EXIT_DONE) return exit_status;
    train_line_init(&line, ddit_context_device(context), o->quiet, o->verbose);
    params.progress = train_line_update;
    params.user = &line;
    ddit_status status = ddit_train(&text, context, model, &params, &err);
    train_line_clear(&line);
    if (status == DDIT_OK) exit_status = show_result(o, text);
    else exit_status = status == DDIT_ERR_CANCELLED ? show_cancelled(&line, &err) : say_failure(status, &err);
    ddit_text_free(context, text);
    ddit_context_free(context);
    return exit_status;
}

int cmd_train(int argc, char **argv) {
    train_options options = train_options_init();
    options_result result = options_parse(&train_table, argc, argv, &options);
    if (result != OPTIONS_RUN) return result == OPTIONS_SHOWN ? finish_output(EXIT_DONE) : EXIT_COMMAND;
    int status = train_options_check(&options);
    if (status != EXIT_DONE) return status;
    const char *model = model_path_find(options.model);
    if (!model) return EXIT_INPUT;
    interrupt_install();
    return train(&options, model);
}
