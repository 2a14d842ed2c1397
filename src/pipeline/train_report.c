/* What a training came to, as JSON. */
#include <math.h>
#include <string.h>

#include "pipeline/train.h"

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *losses(const double loss[DD_LAYOUT_KINDS]) {
    static const char *const names[DD_LAYOUT_KINDS] = {"x1", "x2", "x4", "mixed"};
    json_t *object = json_object();
    for (int k = 0; k < DD_LAYOUT_KINDS; k++)
        if (!isnan(loss[k])) json_object_set_new(object, names[k], number(loss[k]));
    return object;
}

/* The settings' lines "key=value" as an object of texts. */
static json_t *settings(const dd_train_run *run) {
    json_t *object = json_object();
    for (const char *line = run->settings; *line;) {
        size_t length = strcspn(line, "\n"), key = strcspn(line, "=");
        char name[64];
        if (key < length && key < sizeof name) {
            memcpy(name, line, key);
            name[key] = '\0';
            json_object_set_new(object, name, json_stringn(line + key + 1, length - key - 1));
        }
        line += length + (line[length] == '\n');
    }
    return object;
}

ddit_status dd_train_report(dd_train_run *run, char **json, ddit_err *err) {
    double samples = (double)run->optimizer.step * run->s.batch * run->s.accumulate;
    json_t *root = run->rank > 0 ? NULL :
        json_pack("{s:s,s:O,s:I,s:f,s:f,s:o,s:o,s:o,s:I,s:I,s:i,s:i,s:o}", "format", "ddit-train", "files", run->files, "steps",
                  (json_int_t)run->optimizer.step, "samples", samples, "train_seconds", run->seconds, "samples_per_second",
                  number(run->seconds > 0 ? samples / run->seconds : NAN), "heldout_first", losses(run->eval_first),
                  "heldout_last", losses(run->eval_last), "memory_bytes", (json_int_t)run->bytes, "parameters",
                  (json_int_t)dd_flux_trainee_params(run->student.trainee)->total, "lanes", run->lane_count, "ranks",
                  run->ranks, "settings", settings(run));
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    ddit_status status = dd_strdup(run->a, json, text ? text : "", err);
    if (run->rank == 0 && !text) status = dd_fail(err, DDIT_ERR_NO_MEMORY, "out of memory for the report");
    if (text) {
        void (*release)(void *);
        json_get_alloc_funcs(NULL, &release);
        release(text);
    }
    json_decref(root);
    return status;
}
