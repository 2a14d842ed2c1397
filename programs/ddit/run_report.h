/* What is said about a run: effective values, schedule and seconds for people, one JSON object for programs. All of it is taken
 * from the library's trace. */
#ifndef DDIT_PROGRAM_RUN_REPORT_H
#define DDIT_PROGRAM_RUN_REPORT_H

#include <jansson.h>
#include <stdint.h>

typedef struct run_report {
    json_t *pictures; /* owned: one object per picture */
    const char *model; /* the folder that was opened */
    double open_seconds;
    double begin; /* clock at the program's start */
} run_report;

/* Files of one picture; trace and latent may be NULL. */
typedef struct run_files {
    const char *picture, *trace, *latent;
} run_files;

void run_report_init(run_report *report, double begin);
void run_report_deinit(run_report *report);

/* Prints size, steps, guidance, patch rule, adapter and device as the trace tells them, to standard error. */
void run_report_values(const run_report *report, const char *trace);

/* Prints schedule and seconds of a picture, to standard error. */
void run_report_picture(const run_report *report, const char *trace, const run_files *files);

/* Remembers a picture for run_report_json. */
void run_report_add(run_report *report, const char *trace, const run_files *files);

/* One JSON object on standard output; returns the exit status. */
int run_report_json(const run_report *report);

#endif
