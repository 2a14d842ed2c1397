/* One table of options per subcommand; parsing, checks, aliases and --help all come from it.
 *
 * Long names take `-` and `_` alike. An option of a later version is in the table with kind OPTION_LATER: absent from --help,
 * refused with "not available in this version".
 */
#ifndef DDIT_PROGRAM_OPTIONS_H
#define DDIT_PROGRAM_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

typedef enum option_kind {
    OPTION_FLAG,      /* int: becomes 1 */
    OPTION_TEXT,      /* const char *: anything, borrowed from argv */
    OPTION_CHOICE,    /* const char *: one of `choices`; those of `later` are refused as not available */
    OPTION_COUNT,     /* int: min..max, a multiple of `multiple` if that is not 0 */
    OPTION_NUMBER,    /* double: min..max, finite */
    OPTION_SEED,      /* int64_t: 0..2^63-1, or -1 */
    OPTION_SIZE,      /* int[2] = width, height: WxH or W*H, each min..max and a multiple of `multiple` */
    OPTION_LATER,     /* refused */
    OPTION_AMBIGUOUS, /* refused with the sentence in `choices` */
    OPTION_HELP,      /* prints --help; see OPTIONS_HELP_ROW */
} option_kind;

typedef struct option_row {
    int letter;           /* 0: none */
    const char *name;     /* with `-` */
    const char *aliases;  /* more long names, separated by blanks, or NULL */
    const char *argument; /* placeholder in --help; NULL for flags */
    option_kind kind;
    size_t offset;        /* of the value in the caller's struct */
    double min, max;
    int multiple;
    const char *choices;  /* "a|b" */
    const char *later;    /* "c|d" */
    const char *help;     /* lines separated by \n; NULL: not shown */
} option_row;

/* A row without a name begins a group of --help: its help is the heading. */
#define OPTIONS_HEADING(text) {.help = text}
#define OPTIONS_LATER_ROW(name_, aliases_, argument_) {.name = name_, .aliases = aliases_, .argument = argument_, \
                                                       .kind = OPTION_LATER}
#define OPTIONS_HELP_ROW {'h', "help", NULL, NULL, OPTION_HELP, 0, .help = "this text"}

typedef struct option_table {
    const char *command;    /* "generate" */
    const char *usage;      /* lines after "usage: " */
    const char *operand;    /* what a plain argument is, e.g. "a file or folder"; NULL: none is taken */
    size_t operand_offset;  /* const char * */
    const char *operand_hint; /* for the sentence when none is taken, e.g. "the prompt is given by -p" */
    const option_row *rows;
    size_t count;
} option_table;

typedef enum options_result { OPTIONS_RUN, OPTIONS_SHOWN, OPTIONS_WRONG } options_result;

/* Reads argv[1..] into `values`. RUN: go on. SHOWN: --help was printed to standard output. WRONG: a sentence was printed to
 * standard error (exit status 2). argv's strings are borrowed, and `_` in long names becomes `-` in place. */
options_result options_parse(const option_table *table, int argc, char **argv, void *values);

void options_help(const option_table *table);

/* The candidate that `word` is closest to if it is a likely slip of the finger, else NULL. */
const char *options_nearest(const char *word, const char *const *candidates, size_t count);

#endif
