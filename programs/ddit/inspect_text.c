#include "inspect_text.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "status_line.h"

enum { LABEL = 22, SHOWN_TENSORS = 20, NAME_WIDTH = 44 };

/* ---------------------------------------------------------------------------------------------- small things */

static const char *count_text(json_int_t count, char *out, size_t size) {
    if (count >= 1000000000) snprintf(out, size, "%.2f billion", (double)count / 1e9);
    else if (count >= 1000000) snprintf(out, size, "%.1f million", (double)count / 1e6);
    else snprintf(out, size, "%lld", (long long)count);
    return out;
}

static json_int_t integer(const json_t *object, const char *key) { return json_integer_value(json_object_get(object, key)); }

static const char *string(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void print_value(const json_t *value);

static void print_array(const json_t *array) {
    size_t i;
    json_t *value;
    json_array_foreach(array, i, value) {
        if (i > 0) fputs(", ", stdout);
        print_value(value);
    }
}

static void print_object(const json_t *object) {
    const char *key, *between = "";
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        printf("%s%s ", between, key);
        print_value(value);
        between = ", ";
    }
}

static void print_value(const json_t *value) {
    if (json_is_string(value)) fputs(json_string_value(value), stdout);
    else if (json_is_integer(value)) printf("%lld", (long long)json_integer_value(value));
    else if (json_is_real(value)) printf("%.6g", json_real_value(value));
    else if (json_is_boolean(value)) fputs(json_is_true(value) ? "yes" : "no", stdout);
    else if (json_is_array(value)) print_array(value);
    else if (json_is_object(value)) print_object(value);
    else fputs("-", stdout);
}

/* "  label               value": nothing for absent and empty values. */
static void print_row(const char *label, const json_t *value) {
    if (!value || json_is_null(value) || (json_is_string(value) && !*json_string_value(value))) return;
    if ((json_is_array(value) || json_is_object(value)) && json_array_size(value) + json_object_size(value) == 0) return;
    printf("  %-*s", LABEL, label);
    print_value(value);
    putchar('\n');
}

/* Keys of an object, one row each, `_` shown as a blank. */
static void print_rows(const json_t *object) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        char label[LABEL + 24];
        snprintf(label, sizeof label, "%s", key);
        for (char *c = label; *c; c++)
            if (*c == '_') *c = ' ';
        print_row(label, value);
    }
}

static void print_counts(const json_t *object) {
    char parameters[32], bytes[32];
    printf("  %-*s%s in %lld tensors, %s (", LABEL, "parameters",
           count_text(integer(object, "parameters"), parameters, sizeof parameters), (long long)integer(object, "tensors"),
           bytes_text((uint64_t)integer(object, "bytes"), bytes, sizeof bytes));
    print_object(json_object_get(object, "dtypes"));
    puts(")");
}

/* ---------------------------------------------------------------------------------------------- the kinds */

static void print_memory(const json_t *memory) {
    static const char *const phases[] = {"encode", "denoise", "decode"};
    char bytes[32];
    size_t i, k;
    json_t *item, *phase;
    printf("\nmemory of a run of %lld x %lld pixels, %lld steps, %lld text tokens\n", (long long)integer(memory, "width"),
           (long long)integer(memory, "height"), (long long)integer(memory, "steps"),
           (long long)integer(memory, "text_tokens"));
    printf("  %-*s%12s%12s%12s\n", NAME_WIDTH, "", phases[0], phases[1], phases[2]);
    json_array_foreach(json_object_get(memory, "items"), i, item) {
        printf("  %-*s", NAME_WIDTH, string(item, "name"));
        for (int p = 0; p < 3; p++) {
            bool there = false;
            json_array_foreach(json_object_get(item, "phases"), k, phase)
                if (strcmp(json_string_value(phase), phases[p]) == 0) there = true;
            printf("%12s", there ? bytes_text((uint64_t)integer(item, "bytes"), bytes, sizeof bytes) : "");
        }
        putchar('\n');
    }
    printf("  %-*s", NAME_WIDTH, "together");
    const json_t *sums = json_object_get(memory, "phases");
    for (int p = 0; p < 3; p++) printf("%12s", bytes_text((uint64_t)integer(sums, phases[p]), bytes, sizeof bytes));
    printf("\n  total %s, needed by the phase %s\n", bytes_text((uint64_t)integer(memory, "total"), bytes, sizeof bytes),
           string(memory, "peak_phase"));
}

static void print_model(const json_t *root) {
    size_t i;
    json_t *part;
    const char *license = string(root, "license");
    printf("%s: %s model %s%s%s\n", string(root, "path"), string(root, "architecture"), string(root, "name"),
           *license ? ", license " : "", license);
    json_array_foreach(json_object_get(root, "parts"), i, part) {
        printf("\n%s (%s)\n", string(part, "name"), string(part, "class"));
        print_counts(part);
        print_rows(json_object_get(part, "dimensions"));
    }
    const json_t *adapter = json_object_get(root, "adapter");
    puts(json_is_null(adapter) ? "\nno DDiT adapter" : "\nDDiT adapter");
    print_rows(adapter);
    const json_t *defaults = json_object_get(root, "defaults");
    puts(defaults ? "\ndefaults" : "\nsettings");
    print_rows(defaults ? defaults : json_object_get(root, "settings"));
    print_memory(json_object_get(root, "memory"));
}

static void print_tensors(const json_t *list, bool all) {
    size_t i;
    json_t *tensor;
    puts("\ntensors");
    json_array_foreach(list, i, tensor) {
        if (!all && i == SHOWN_TENSORS) {
            printf("  ... and %zu more (-v lists them)\n", json_array_size(list) - i);
            break;
        }
        printf("  %-*s %-6s [", NAME_WIDTH, string(tensor, "name"), string(tensor, "dtype"));
        print_array(json_object_get(tensor, "shape"));
        puts("]");
    }
}

static void print_file(const json_t *root, bool all) {
    printf("%s: %s\n", string(root, "path"), json_object_get(root, "adapter") ? "DDiT adapter" : "safetensors weights");
    print_counts(root);
    const json_t *adapter = json_object_get(root, "adapter"), *metadata = json_object_get(root, "metadata");
    if (adapter) print_rows(adapter);
    else if (json_object_size(metadata) > 0) {
        puts("\nmetadata");
        print_rows(metadata);
    }
    print_tensors(json_object_get(root, "list"), all);
}

/* Our own text: how to make the picture again. The steps are told by the schedule. */
static void print_ours(const json_t *ours) {
    const char *key;
    json_t *value;
    puts("\nddit");
    json_object_foreach((json_t *)ours, key, value)
        if (strcmp(key, "steps") == 0) printf("  %-*s%zu\n", LABEL, key, json_array_size(value));
        else if (strcmp(key, "format") != 0 && strcmp(key, "version") != 0) print_row(key, value);
}

static void print_picture(const json_t *root) {
    const char *key;
    json_t *value;
    printf("%s: PNG, %lld x %lld pixels\n", string(root, "path"), (long long)integer(root, "width"),
           (long long)integer(root, "height"));
    if (json_object_size(json_object_get(root, "texts")) == 0) puts("no texts inside");
    json_object_foreach(json_object_get(root, "texts"), key, value)
        if (json_is_object(value)) print_ours(value);
        else printf("\n%s\n%s\n", key, json_string_value(value));
}

void inspect_print(const json_t *root, int all_tensors) {
    const char *kind = string(root, "kind");
    if (strcmp(kind, "model") == 0) print_model(root);
    else if (strcmp(kind, "picture") == 0) print_picture(root);
    else print_file(root, all_tensors != 0);
}
