#include "run_report.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "say.h"

void run_report_init(run_report *report, double begin) { *report = (run_report){.pictures = json_array(), .begin = begin}; }

void run_report_deinit(run_report *report) {
    json_decref(report->pictures);
    *report = (run_report){0};
}

/* ---------------------------------------------------------------------------------------------- for people */

static double number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

static long long integer(const json_t *object, const char *key) {
    return (long long)json_integer_value(json_object_get(object, key));
}

static const char *string(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "?";
}

static void print_rule(const json_t *root) {
    const json_t *policy = json_object_get(root, "policy"), *floors = json_object_get(policy, "sigma_min");
    const char *name = string(policy, "name");
    fprintf(stderr, "patch     %s", name);
    if (json_is_number(json_object_get(policy, "tau_effective"))) {
        fprintf(stderr, ", tau %.4g", number(policy, "tau_effective"));
        if (strcmp(name, "auto") == 0) fprintf(stderr, ", rho %g", number(policy, "rho"));
        fprintf(stderr, ", order %lld", integer(policy, "order"));
        double floor_2 = number(floors, "2"), floor_4 = number(floors, "4");
        if (floor_2 > 0 || floor_4 > 0) fprintf(stderr, ", sigma-min 2:%g,4:%g", floor_2, floor_4);
    }
    if (strcmp(name, "off") != 0) {
        const char *adapter = json_string_value(json_object_get(root, "adapter"));
        bool by_adapter = strcmp(string(root, "coarse"), "adapter") == 0;
        fprintf(stderr, "; coarse steps: %s", by_adapter && adapter ? adapter : "free");
        if (integer(root, "anchor") > 0) fprintf(stderr, ", anchored for %lld steps", integer(root, "anchor"));
    }
    fputc('\n', stderr);
}

void run_report_values(const run_report *report, const char *trace) {
    json_t *root = json_loads(trace, 0, NULL);
    if (!root) return;
    fprintf(stderr, "model     %s (%s)\n", string(root, "model"), report->model);
    fprintf(stderr, "picture   %lld x %lld, guidance %g", integer(root, "width"), integer(root, "height"),
            number(root, "guidance"));
    if (number(root, "cfg_scale") > 1) fprintf(stderr, ", cfg scale %g", number(root, "cfg_scale"));
    const char *noise = json_string_value(json_object_get(root, "noise_file"));
    if (noise) fprintf(stderr, ", noise %s\n", noise);
    else fprintf(stderr, ", seed %lld\n", integer(root, "seed"));
    print_rule(root);
    fprintf(stderr, "device    %s\n", string(root, "device"));
    json_decref(root);
}

/* All phases that the trace has, in its order. */
static void print_phases(const run_report *report, const json_t *root) {
    const char *name;
    json_t *seconds;
    fprintf(stderr, "seconds   open %.2f", report->open_seconds);
    json_object_foreach(json_object_get(root, "phases"), name, seconds)
        fprintf(stderr, ", %s %.2f", name, json_number_value(seconds));
    fprintf(stderr, ", total %.2f\n", seconds_now() - report->begin);
}

void run_report_picture(const run_report *report, const char *trace, const run_files *files) {
    json_t *root = json_loads(trace, 0, NULL);
    if (!root) return;
    fprintf(stderr, "schedule  %s (%zu steps)\n", string(root, "schedule"), json_array_size(json_object_get(root, "steps")));
    print_phases(report, root);
    fprintf(stderr, "wrote     %s", files->picture);
    if (files->trace) fprintf(stderr, ", %s", files->trace);
    if (files->latent) fprintf(stderr, ", %s", files->latent);
    fprintf(stderr, " (seed %lld)\n", integer(root, "seed"));
    json_decref(root);
}

/* ---------------------------------------------------------------------------------------------- for programs */

/* Sums over the steps: {"text": n, "image": n, "total": n}. */
static json_t *token_sums(const json_t *steps) {
    json_int_t text = 0, image = 0;
    size_t index;
    json_t *step;
    json_array_foreach(steps, index, step) {
        const json_t *tokens = json_object_get(step, "tokens");
        text += json_integer_value(json_object_get(tokens, "text"));
        image += json_integer_value(json_object_get(tokens, "image"));
    }
    return json_pack("{s:I,s:I,s:I}", "text", text, "image", image, "total", text + image);
}

static json_t *file_list(const run_files *files) {
    json_t *list = json_array();
    json_array_append_new(list, json_string(files->picture));
    if (files->trace) json_array_append_new(list, json_string(files->trace));
    if (files->latent) json_array_append_new(list, json_string(files->latent));
    return list;
}

void run_report_add(run_report *report, const char *trace, const run_files *files) {
    static const char *const copied[] = {"seed", "width", "height", "guidance", "cfg_scale", "policy", "coarse", "schedule",
                                         "phases"};
    json_t *root = json_loads(trace, 0, NULL), *picture = json_object();
    json_object_set_new(picture, "files", file_list(files));
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        json_object_set(picture, copied[i], json_object_get(root, copied[i]));
    const json_t *steps = json_object_get(root, "steps");
    json_object_set_new(picture, "steps", json_integer((json_int_t)json_array_size(steps)));
    json_object_set_new(picture, "tokens", token_sums(steps));
    json_object_set(picture, "adapter", json_object_get(root, "adapter"));
    json_object_set(picture, "device", json_object_get(root, "device"));
    json_array_append_new(report->pictures, picture);
    json_decref(root);
}

/* Every phase summed over the pictures; encode and prepare happen once. */
static json_t *phase_sums(const run_report *report, double total) {
    json_t *sums = json_pack("{s:f}", "open", report->open_seconds);
    size_t index;
    json_t *picture, *seconds;
    json_array_foreach(report->pictures, index, picture) {
        const char *name;
        json_object_foreach(json_object_get(picture, "phases"), name, seconds) {
            bool once = strcmp(name, "encode") == 0 || strcmp(name, "prepare") == 0;
            double before = once ? 0 : number(sums, name);
            json_object_set_new(sums, name, json_real(before + json_number_value(seconds)));
        }
    }
    json_object_set_new(sums, "total", json_real(total));
    return sums;
}

static json_t *report_object(const run_report *report) {
    const json_t *first = json_array_get(report->pictures, 0);
    json_t *root = json_pack("{s:s,s:i,s:s}", "format", "ddit-result", "version", 1, "model", report->model);
    json_t *files = json_array(), *seeds = json_array(), *picture;
    size_t index;
    json_array_foreach(report->pictures, index, picture) {
        json_array_extend(files, json_object_get(picture, "files"));
        json_array_append(seeds, json_object_get(picture, "seed"));
    }
    json_object_set_new(root, "files", files);
    static const char *const copied[] = {"seed", "adapter", "device", "width", "height", "guidance", "cfg_scale", "policy",
                                         "coarse", "steps", "tokens", "schedule"};
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        json_object_set(root, copied[i], json_object_get(first, copied[i]));
    json_object_set_new(root, "seeds", seeds);
    json_object_set_new(root, "phases", phase_sums(report, seconds_now() - report->begin));
    if (json_array_size(report->pictures) > 1) json_object_set(root, "pictures", report->pictures);
    return root;
}

int run_report_json(const run_report *report) {
    json_t *root = report_object(report);
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!text) {
        say("out of memory");
        return EXIT_RESOURCE;
    }
    puts(text);
    free(text);
    return finish_output(EXIT_DONE);
}
