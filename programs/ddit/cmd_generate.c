/* ddit generate: from a prompt to PNG files. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "clock.h"
#include "commands.h"
#include "generate_options.h"
#include "interrupt.h"
#include "model_path.h"
#include "out_path.h"
#include "progress_line.h"
#include "run_report.h"
#include "say.h"

/* Everything the command holds, freed in one place. */
typedef struct generate_run {
    const generate_options *options;
    ddit_context *context;
    ddit_model *model;
    ddit_session *session;
    progress_line line;
    run_report report;
    uint64_t seed;      /* of picture 0 */
    bool values_shown;
    size_t notes_shown; /* characters of ddit_session_notes that were printed */
} generate_run;

/* 32 bits: enough to be unlikely twice, and short enough to type and for every JSON reader. */
static int draw_seed(uint64_t *seed) {
    uint32_t bits;
    if (getrandom(&bits, sizeof bits, 0) != (ssize_t)sizeof bits) {
        say("the system gave no random seed; name one with -s");
        return EXIT_INTERNAL;
    }
    *seed = bits;
    return EXIT_DONE;
}

static int choose_seed(generate_run *run) {
    const generate_options *o = run->options;
    if (o->seed != -1) {
        run->seed = o->seed < 0 ? 0 : (uint64_t)o->seed;
        return EXIT_DONE;
    }
    int status = draw_seed(&run->seed);
    if (status == EXIT_DONE && o->quiet && !o->json) fprintf(stderr, "seed %" PRIu64 "\n", run->seed);
    return status;
}

/* ---------------------------------------------------------------------------------------------- opening */

static int open_context(generate_run *run) {
    ddit_err err;
    ddit_context_params params = ddit_context_params_init();
    params.backend = run->options->backend;
    params.precision = run->options->precision;
    params.threads = run->options->threads;
    ddit_status status = ddit_context_create(&run->context, &params, &err);
    if (status == DDIT_OK) return EXIT_DONE;
    int exit_status = say_failure(status, &err);
    return status == DDIT_ERR_UNSUPPORTED ? EXIT_COMMAND : exit_status; /* no file is at fault yet */
}

static int open_session(generate_run *run) {
    ddit_err err;
    ddit_params params = generate_options_params(run->options, run->seed);
    params.progress = progress_line_update;
    params.user = &run->line;
    progress_line_phase(&run->line, "opening the model");
    double begin = seconds_now();
    ddit_status status = ddit_model_open(&run->model, run->context, run->report.model, run->options->adapter, &err);
    run->report.open_seconds = seconds_now() - begin;
    if (status == DDIT_OK) status = ddit_session_create(&run->session, run->model, &params, &err);
    progress_line_clear(&run->line);
    return status == DDIT_OK ? EXIT_DONE : say_failure(status, &err);
}

/* ---------------------------------------------------------------------------------------------- one picture */

/* Notes only grow; what is new is printed. */
static void show_notes(generate_run *run) {
    if (run->options->quiet) return;
    const char *notes = ddit_session_notes(run->session);
    size_t length = strlen(notes);
    if (length < run->notes_shown) run->notes_shown = 0;
    for (const char *at = notes + run->notes_shown; *at;) {
        size_t part = strcspn(at, "\n");
        if (part > 0) fprintf(stderr, "note      %.*s\n", (int)part, at);
        at += part + (at[part] == '\n');
    }
    run->notes_shown = length;
}

static void show_values(generate_run *run, const char *trace) {
    if (run->options->quiet || run->values_shown) return;
    run_report_values(&run->report, trace);
    run->values_shown = true;
}

/* The session's trace before a run tells the effective values. */
static void show_values_before(generate_run *run) {
    const char *trace;
    if (ddit_session_trace(run->session, &trace, NULL) == DDIT_OK) show_values(run, trace);
}

/* Decodes and writes all files of the picture that was run. */
static ddit_status save_picture(generate_run *run, const run_files *files, ddit_err *err) {
    ddit_image *image;
    ddit_status status = ddit_session_decode(run->session, &image, err);
    progress_line_clear(&run->line);
    if (status != DDIT_OK) return status;
    if (run->options->no_metadata) ddit_image_strip(image);
    status = ddit_image_save_png(image, files->picture, err);
    ddit_image_free(image);
    if (status == DDIT_OK && files->latent) status = ddit_session_save_latent(run->session, files->latent, err);
    return status;
}

static int report_picture(generate_run *run, const run_files *files) {
    const char *trace;
    ddit_err err;
    ddit_status status = ddit_session_trace(run->session, &trace, &err);
    if (status != DDIT_OK) return say_failure(status, &err);
    int exit_status = files->trace ? out_path_write_text(files->trace, trace) : EXIT_DONE;
    if (exit_status != EXIT_DONE) return exit_status;
    show_values(run, trace);
    show_notes(run);
    if (!run->options->quiet) run_report_picture(&run->report, trace, files);
    run_report_add(&run->report, trace, files);
    return EXIT_DONE;
}

static int make_picture(generate_run *run, int index, const run_files *files) {
    ddit_err err;
    ddit_status status = DDIT_OK;
    run->line.picture = index;
    if (index > 0) status = ddit_session_reseed(run->session, run->seed + (uint64_t)index, &err);
    if (status == DDIT_OK) status = ddit_session_run(run->session, &err);
    if (status == DDIT_OK) status = save_picture(run, files, &err);
    progress_line_clear(&run->line);
    return status == DDIT_OK ? report_picture(run, files) : say_failure(status, &err);
}

static int make_numbered_picture(generate_run *run, int index) {
    const generate_options *o = run->options;
    char *picture = out_path_number(o->output, index, o->count);
    char *trace = o->trace ? out_path_number(o->trace, index, o->count) : NULL;
    char *latent = o->save_latent ? out_path_number(o->save_latent, index, o->count) : NULL;
    int status = EXIT_RESOURCE;
    if (!picture || (o->trace && !trace) || (o->save_latent && !latent)) say("out of memory");
    else status = make_picture(run, index, &(run_files){picture, trace, latent});
    free(picture);
    free(trace);
    free(latent);
    return status;
}

/* ---------------------------------------------------------------------------------------------- the command */

static void say_remarks(const generate_options *o) {
    if (o->quiet) return;
    if (o->negative && *o->negative && !(o->cfg_scale > 1))
        fprintf(stderr, "note      --negative-prompt has no effect without a --cfg-scale above 1\n");
    if (o->count > 1 && !out_path_numbered(o->output)) {
        char *first = out_path_number(o->output, 0, o->count);
        if (first) fprintf(stderr, "note      %s has no %%d: the first of %d pictures is %s\n", o->output, o->count, first);
        free(first);
    }
}

static int generate(generate_run *run) {
    int status;
    if ((status = choose_seed(run))) return status;
    run->report.model = model_path_find(run->options->model);
    if (!run->report.model) return EXIT_INPUT;
    if ((status = open_context(run))) return status;
    say_remarks(run->options);
    if ((status = open_session(run))) return status;
    show_values_before(run);
    show_notes(run);
    for (int i = 0; i < run->options->count; i++)
        if ((status = make_numbered_picture(run, i))) return status;
    return run->options->json ? run_report_json(&run->report) : EXIT_DONE;
}

int cmd_generate(int argc, char **argv) {
    generate_options options = generate_options_init();
    options_result result = options_parse(&generate_table, argc, argv, &options);
    if (result != OPTIONS_RUN) return result == OPTIONS_SHOWN ? finish_output(EXIT_DONE) : EXIT_COMMAND;
    int status = generate_options_check(&options);
    if (status != EXIT_DONE) return status;
    generate_run run = {.options = &options};
    run_report_init(&run.report, seconds_now());
    progress_line_init(&run.line, options.quiet, options.verbose, options.count);
    interrupt_install();
    status = generate(&run);
    ddit_session_free(run.session);
    ddit_model_close(run.model);
    ddit_context_free(run.context);
    run_report_deinit(&run.report);
    return status;
}
