#include "options.h"

#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"
#include "say.h"

enum { MAX_ROWS = 64, MAX_NAMES = 192, MAX_ALIAS = 48, LONG_BASE = 1000, HELP_COLUMN = 30 };

/* What getopt_long reads. Long option v stands for row v - LONG_BASE; aliases are copied out of the rows' lists. */
typedef struct parser {
    struct option names[MAX_NAMES];
    char aliases[MAX_NAMES][MAX_ALIAS];
    int count;
    char letters[2 * MAX_ROWS + 4];
} parser;

/* ---------------------------------------------------------------------------------------------- what is parsed */

static bool takes_argument(const option_row *row) { return row->argument != NULL; }

static void add_name(parser *p, const char *name, const option_row *row, int index) {
    if (p->count >= MAX_NAMES - 2) return;
    p->names[p->count++] = (struct option){name, takes_argument(row) ? required_argument : no_argument, NULL,
                                           LONG_BASE + index};
}

static void add_row(parser *p, const option_row *row, int index) {
    if (!row->name) return;
    add_name(p, row->name, row, index);
    for (const char *at = row->aliases; at && *at;) {
        size_t length = strcspn(at, " ");
        if (length > 1 && length < MAX_ALIAS && p->count < MAX_NAMES - 2) {
            memcpy(p->aliases[p->count], at, length);
            p->aliases[p->count][length] = '\0';
            add_name(p, p->aliases[p->count], row, index);
        }
        at += length + (at[length] == ' ');
    }
}

static void add_letter(parser *p, int letter, const option_row *row) {
    size_t used = strlen(p->letters);
    p->letters[used++] = (char)letter;
    if (takes_argument(row)) p->letters[used++] = ':';
    p->letters[used] = '\0';
}

static void build(parser *p, const option_table *table) {
    memset(p, 0, sizeof *p);
    strcpy(p->letters, "-:"); /* plain arguments in their place; a missing value is told from an unknown option */
    for (size_t i = 0; i < table->count && i < MAX_ROWS; i++) {
        add_row(p, &table->rows[i], (int)i);
        if (table->rows[i].letter) add_letter(p, table->rows[i].letter, &table->rows[i]);
    }
}

/* The row that a code of getopt_long stands for, NULL for a plain argument or an error. */
static const option_row *row_of(const option_table *table, int code) {
    if (code >= LONG_BASE) return &table->rows[code - LONG_BASE];
    for (size_t i = 0; code != 1 && i < table->count; i++)
        if (table->rows[i].letter == code) return &table->rows[i];
    return NULL;
}

/* `--max_sequence_length=9` becomes `--max-sequence-length=9`. */
static void normalise(char *word) {
    if (strncmp(word, "--", 2) != 0) return;
    for (char *c = word + 2; *c && *c != '='; c++)
        if (*c == '_') *c = '-';
}

/* ---------------------------------------------------------------------------------------------- checks */

/* Is word one of the alternatives in "a|b|c"? */
static bool listed(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; at && *at;) {
        size_t part = strcspn(at, "|");
        if (part == length && strncmp(at, word, length) == 0) return true;
        at += part + (at[part] == '|');
    }
    return false;
}

/* "a, b or c" from "a|b|c". */
static const char *spelled(const char *list, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (const char *at = list; *at;) {
        size_t part = strcspn(at, "|");
        const char *next = at + part + (at[part] == '|');
        const char *before = at == list ? "" : *next ? ", " : " or ";
        int wrote = snprintf(out + used, size - used, "%s%.*s", before, (int)part, at);
        if (wrote < 0 || (size_t)wrote >= size - used) break;
        used += (size_t)wrote;
        at = next;
    }
    return out;
}

static bool wrong_value(const option_row *row, const char *value, const char *expected) {
    say("--%s: found \"%s\", expected %s", row->name, value, expected);
    return false;
}

static bool set_count(const option_row *row, const char *value, int *out) {
    int64_t found;
    char expected[96];
    if (number_integer(value, &found) && found >= (int64_t)row->min && found <= (int64_t)row->max &&
        (!row->multiple || found % row->multiple == 0)) {
        *out = (int)found;
        return true;
    }
    if (row->multiple)
        snprintf(expected, sizeof expected, "a multiple of %d from %.0f to %.0f", row->multiple, row->min, row->max);
    else snprintf(expected, sizeof expected, "a whole number from %.0f to %.0f", row->min, row->max);
    return wrong_value(row, value, expected);
}

static bool set_number(const option_row *row, const char *value, double *out) {
    char expected[96];
    if (number_real(value, out) && *out >= row->min && *out <= row->max) return true;
    snprintf(expected, sizeof expected, "a number from %g to %g", row->min, row->max);
    return wrong_value(row, value, expected);
}

static bool set_seed(const option_row *row, const char *value, int64_t *out) {
    if (number_integer(value, out) && *out >= -1) return true;
    return wrong_value(row, value, "a whole number from 0 to 9223372036854775807, or -1 to draw one");
}

static bool set_size(const option_row *row, const char *value, int *out) {
    char expected[96];
    int size[2];
    bool good = number_size(value, &size[0], &size[1]);
    for (int i = 0; good && i < 2; i++) good = size[i] >= row->min && size[i] <= row->max && size[i] % row->multiple == 0;
    if (good) {
        memcpy(out, size, sizeof size);
        return true;
    }
    snprintf(expected, sizeof expected, "WIDTHxHEIGHT, multiples of %d from %.0f to %.0f", row->multiple, row->min, row->max);
    return wrong_value(row, value, expected);
}

static bool set_choice(const option_row *row, const char *value, const char **out) {
    char expected[96];
    size_t stem = strcspn(value, ":"); /* `teacache:0.4` is the value teacache */
    char word[32];
    snprintf(word, sizeof word, "%.*s", (int)(stem < sizeof word ? stem : sizeof word - 1), value);
    *out = value;
    if (listed(row->choices, value)) return true;
    if (row->later && listed(row->later, word)) {
        say("--%s %s is not available in this version", row->name, value);
        return false;
    }
    return wrong_value(row, value, spelled(row->choices, expected, sizeof expected));
}

static bool set_value(const option_row *row, const char *value, void *values) {
    void *field = (char *)values + row->offset;
    switch (row->kind) {
        case OPTION_FLAG: *(int *)field = 1; return true;
        case OPTION_TEXT: *(const char **)field = value; return true;
        case OPTION_CHOICE: return set_choice(row, value, field);
        case OPTION_COUNT: return set_count(row, value, field);
        case OPTION_NUMBER: return set_number(row, value, field);
        case OPTION_SEED: return set_seed(row, value, field);
        case OPTION_SIZE: return set_size(row, value, field);
        case OPTION_LATER: say("--%s is not available in this version", row->name); return false;
        case OPTION_HELP: return true;
        case OPTION_AMBIGUOUS: say("--%s: %s", row->name, row->choices); return false;
    }
    return false;
}

/* ---------------------------------------------------------------------------------------------- slips */

static int smallest(int a, int b, int c) { return a < b ? (a < c ? a : c) : b < c ? b : c; }

/* Levenshtein's distance of two short words. */
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 40 };
    size_t m = strlen(a), n = strlen(b);
    if (m > LONGEST || n > LONGEST) return INT_MAX;
    int row[LONGEST + 1];
    for (size_t j = 0; j <= n; j++) row[j] = (int)j;
    for (size_t i = 1; i <= m; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= n; j++) {
            int above = row[j];
            row[j] = smallest(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[n];
}

const char *options_nearest(const char *word, const char *const *candidates, size_t count) {
    const char *best = NULL;
    int best_distance = INT_MAX;
    for (size_t i = 0; i < count; i++) {
        int distance = edit_distance(word, candidates[i]);
        if (distance < best_distance) {
            best_distance = distance;
            best = candidates[i];
        }
    }
    return best && best_distance <= (int)(strlen(word) + 2) / 3 ? best : NULL;
}

static void unknown_option(const option_table *table, const char *word) {
    const char *names[MAX_ROWS];
    size_t count = 0;
    char plain[64];
    snprintf(plain, sizeof plain, "%.*s", (int)strcspn(word, "="), word);
    for (size_t i = 0; i < table->count && count < MAX_ROWS; i++)
        if (table->rows[i].name && table->rows[i].help) names[count++] = table->rows[i].name;
    const char *near = strncmp(plain, "--", 2) == 0 ? options_nearest(plain + 2, names, count) : NULL;
    if (near) say("unknown option %s; did you mean --%s?", plain, near);
    else say("unknown option %s; `ddit %s --help` lists them", plain, table->command);
}

/* ---------------------------------------------------------------------------------------------- parsing */

static bool take_operand(const option_table *table, const char *word, void *values) {
    if (!table->operand) {
        say("unexpected argument \"%s\"; %s", word, table->operand_hint);
        return false;
    }
    const char **field = (const char **)((char *)values + table->operand_offset);
    if (*field) {
        say("unexpected argument \"%s\" after \"%s\": one is enough", word, *field);
        return false;
    }
    *field = word;
    return true;
}

/* The option as the user spelled it, for sentences: the word getopt looked at last. */
static const char *last_word(int argc, char **argv, int before) {
    int at = before < argc ? before : argc - 1;
    return argv[at];
}

static bool take(const option_table *table, int code, const option_row *row, const char *word, void *values) {
    if (code == 1) return take_operand(table, optarg, values);
    if (row) return set_value(row, optarg, values);
    if (code == ':') say("%s needs a value; see `ddit %s --help`", word, table->command);
    else if (optopt >= LONG_BASE) say("--%s takes no value", table->rows[optopt - LONG_BASE].name);
    else if (strncmp(word, "--", 2) != 0) {
        char letter[3] = {'-', (char)optopt, '\0'};
        unknown_option(table, letter);
    } else unknown_option(table, word);
    return false;
}

options_result options_parse(const option_table *table, int argc, char **argv, void *values) {
    parser p;
    build(&p, table);
    opterr = 0;
    optind = 0;
    for (int at = 1;; at = optind) {
        if (at < argc) normalise(argv[at]);
        int code = getopt_long(argc, argv, p.letters, p.names, NULL);
        if (code == -1) break;
        const option_row *row = row_of(table, code);
        if (row && row->kind == OPTION_HELP) {
            options_help(table);
            return OPTIONS_SHOWN;
        }
        if (!take(table, code, row, last_word(argc, argv, at), values)) return OPTIONS_WRONG;
    }
    for (int i = optind; i < argc; i++) /* after "--" */
        if (!take_operand(table, argv[i], values)) return OPTIONS_WRONG;
    return OPTIONS_RUN;
}

/* ---------------------------------------------------------------------------------------------- help */

static void help_row(const option_row *row) {
    char left[64], letter[8] = "    ";
    if (row->letter) snprintf(letter, sizeof letter, "-%c, ", row->letter);
    snprintf(left, sizeof left, "  %s--%s%s%s", letter, row->name, row->argument ? " " : "",
             row->argument ? row->argument : "");
    printf("%-*s", HELP_COLUMN, left);
    if (strlen(left) >= HELP_COLUMN) printf("\n%*s", HELP_COLUMN, "");
    for (const char *c = row->help; *c; c++) {
        putchar(*c);
        if (*c == '\n') printf("%*s", HELP_COLUMN, "");
    }
    putchar('\n');
}

void options_help(const option_table *table) {
    printf("usage: %s\n", table->usage);
    for (size_t i = 0; i < table->count; i++) {
        const option_row *row = &table->rows[i];
        if (!row->help) continue;
        if (row->name) help_row(row);
        else printf("\n%s\n", row->help);
    }
}
