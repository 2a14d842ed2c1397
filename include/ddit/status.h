/* Status codes and the error record of libddit.
 *
 * Every function that can fail returns a ddit_status: DDIT_OK or a negative code. The sentence that explains it goes into a
 * ddit_err that the caller owns and may leave out (NULL). Nothing is global, so two threads never share an error text.
 */
#ifndef DDIT_STATUS_H
#define DDIT_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, VALUE, SENTENCE): the one list from which codes, names and texts are made. */
#define DDIT_STATUS_MAP(X)                                              \
    X(OK, 0, "done")                                                    \
    X(ERR_INTERNAL, -1, "internal error")                               \
    X(ERR_BACKEND, -2, "the compute backend failed")                    \
    X(ERR_ARGUMENT, -3, "an argument is wrong")                         \
    X(ERR_NOT_FOUND, -4, "an input file or folder was not found")       \
    X(ERR_READ, -5, "an input file could not be read")                  \
    X(ERR_FORMAT, -6, "an input file is malformed")                     \
    X(ERR_MISMATCH, -7, "input files do not fit together")              \
    X(ERR_UNSUPPORTED, -8, "this is not supported")                     \
    X(ERR_NO_MEMORY, -9, "out of memory")                               \
    X(ERR_WRITE, -10, "an output file could not be written")            \
    X(ERR_OUTPUT_PATH, -11, "the output folder does not exist")         \
    X(ERR_CANCELLED, -12, "cancelled")                                  \
    X(ERR_DIVERGED, -13, "the training diverged")

typedef enum ddit_status {
#define DDIT_STATUS_ENUM(name, value, text) DDIT_##name = value,
    DDIT_STATUS_MAP(DDIT_STATUS_ENUM)
#undef DDIT_STATUS_ENUM
} ddit_status;

#define DDIT_ERR_TEXT_SIZE 512

/* What went wrong. `code` repeats the returned status; `text` is one sentence (what was found, what was expected, the likely
 * cure), NUL-terminated, cut if it does not fit. Untouched on success. */
typedef struct ddit_err {
    ddit_status code;
    char text[DDIT_ERR_TEXT_SIZE];
} ddit_err;

#ifdef __cplusplus
}
#endif
#endif
