#include "op/op_check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum { TEXT_SIZE = 160 };

dd_op_check dd_op_check_begin(const dd_backend *b, const char *op, ddit_err *err) {
    unsigned act = 1u << b->activation;
    return (dd_op_check){.op = op, .act = act, .either = act | DD_SET_F32, .err = err};
}

static void append(char *text, size_t *used, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void append(char *text, size_t *used, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int written = vsnprintf(text + *used, TEXT_SIZE - *used, format, args);
    va_end(args);
    if (written > 0) *used += (size_t)written;
    if (*used >= TEXT_SIZE) *used = TEXT_SIZE - 1;
}

/* "[3, 4]"; an extent of -1 is "any". */
static void append_shape(char *text, size_t *used, int rank, const int64_t *shape) {
    append(text, used, "[");
    for (int i = 0; i < rank && i < DD_MAX_RANK; i++) {
        if (i) append(text, used, ", ");
        if (shape[i] == -1) append(text, used, "any");
        else append(text, used, "%" PRId64, shape[i]);
    }
    append(text, used, "]");
}

static ddit_status mismatch(const dd_op_check *c, const char *name, const dd_tensor *t, unsigned dtypes, int rank,
                            const int64_t *shape) {
    char found[TEXT_SIZE], expected[TEXT_SIZE];
    size_t used = 0;
    append_shape(found, &used, t->rank, t->shape);
    append(found, &used, " %s", t->dtype < DD_DTYPE_COUNT ? dd_dtype_name(t->dtype) : "of an unknown dtype");
    used = 0;
    append_shape(expected, &used, rank, shape);
    const char *between = " ";
    for (int d = 0; d < DD_DTYPE_COUNT; d++) {
        if (!(dtypes >> d & 1)) continue;
        append(expected, &used, "%s%s", between, dd_dtype_name((dd_dtype)d));
        between = " or ";
    }
    return dd_fail(c->err, DDIT_ERR_INTERNAL, "%s: %s is %s, expected %s", c->op, name, found, expected);
}

ddit_status dd_op_want(const dd_op_check *c, const char *name, const dd_tensor *t, unsigned dtypes, int rank, int64_t d0,
                       int64_t d1, int64_t d2) {
    int64_t shape[3] = {d0, d1, d2};
    if (!t) return dd_fail(c->err, DDIT_ERR_INTERNAL, "%s: %s is missing", c->op, name);
    bool fits = t->rank == rank && t->dtype < DD_DTYPE_COUNT && (dtypes >> t->dtype & 1);
    bool empty = false;
    for (int i = 0; fits && i < rank; i++) {
        fits = t->shape[i] >= 0 && (shape[i] == -1 || shape[i] == t->shape[i]);
        empty = empty || t->shape[i] == 0;
    }
    if (!fits) return mismatch(c, name, t, dtypes, rank, shape);
    if (rank > 1 && t->ld < t->shape[rank - 1])
        return dd_fail(c->err, DDIT_ERR_INTERNAL, "%s: %s has rows of %" PRId64 " values that are %" PRId64 " apart", c->op,
                       name, t->shape[rank - 1], t->ld);
    if (!t->data && !empty) return dd_fail(c->err, DDIT_ERR_INTERNAL, "%s: %s has no memory", c->op, name);
    return DDIT_OK;
}

ddit_status dd_op_want_optional_vector(const dd_op_check *c, const char *name, const dd_tensor *t, int64_t n) {
    return t ? dd_op_want_1d(c, name, t, DD_SET_F32, n) : DDIT_OK;
}

ddit_status dd_op_require(const dd_op_check *c, bool holds, const char *format, ...) {
    if (holds) return DDIT_OK;
    char text[TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return dd_fail(c->err, DDIT_ERR_INTERNAL, "%s: %s", c->op, text);
}

ddit_status dd_op_want_heads(const dd_op_check *c, int64_t width, int heads) {
    return dd_op_require(c, heads > 0 && width > 0 && width % heads == 0, "%" PRId64 " columns do not divide into %d heads",
                         width, heads);
}

/* A tensor as bytes: `rows` ranges of `width` bytes, `pitch` apart. */
typedef struct extent {
    uintptr_t begin;
    uint64_t rows, width, pitch;
} extent;

static extent extent_of(const dd_tensor *t) {
    extent e = {.begin = (uintptr_t)t->data, .rows = (uint64_t)dd_tensor_row_count(t)};
    dd_dtype_bytes(t->dtype, (uint64_t)dd_tensor_row_size(t), &e.width);
    dd_dtype_bytes(t->dtype, (uint64_t)t->ld, &e.pitch);
    if (t->rank == 1 || e.rows == 1) e.pitch = e.width;
    return e;
}

static uintptr_t extent_end(const extent *e) { return e->begin + (e->rows - 1) * e->pitch + e->width; }

static bool overlap(const dd_tensor *x, const dd_tensor *y) {
    extent a = extent_of(x), b = extent_of(y);
    if (!a.rows || !b.rows || !a.width || !b.width) return false;
    if (extent_end(&a) <= b.begin || extent_end(&b) <= a.begin) return false;
    /* A single row has no pitch of its own: it takes the other's. */
    uint64_t pitch = a.rows > 1 ? a.pitch : b.pitch;
    if ((a.rows > 1 && a.pitch != pitch) || (b.rows > 1 && b.pitch != pitch) || !pitch) return true;
    uint64_t offset = b.begin >= a.begin ? (b.begin - a.begin) % pitch : (pitch - (a.begin - b.begin) % pitch) % pitch;
    return offset < a.width || offset + b.width > pitch;
}

static bool same(const dd_tensor *x, const dd_tensor *y) {
    return x->data == y->data && x->dtype == y->dtype && (x->ld == y->ld || dd_tensor_row_count(x) <= 1);
}

ddit_status dd_op_apart(const dd_op_check *c, const char *y_name, const dd_tensor *y, const char *x_name, const dd_tensor *x) {
    if (!x || !overlap(x, y)) return DDIT_OK;
    return dd_fail(c->err, DDIT_ERR_INTERNAL, "%s: %s shares memory with %s", c->op, y_name, x_name);
}

ddit_status dd_op_apart_or_same(const dd_op_check *c, const char *y_name, const dd_tensor *y, const char *x_name,
                                const dd_tensor *x) {
    if (!x || same(x, y) || !overlap(x, y)) return DDIT_OK;
    return dd_fail(c->err, DDIT_ERR_INTERNAL, "%s: %s shares memory with %s without being the same view", c->op, y_name,
                   x_name);
}

ddit_status dd_op_slot(const dd_backend *b, bool filled, const char *op, ddit_err *err) {
    if (filled) return DDIT_OK;
    return dd_fail(err, DDIT_ERR_UNSUPPORTED, "backend %s does not have the operation %s", b->ops->name, op);
}
