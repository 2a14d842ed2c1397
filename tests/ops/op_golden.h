/* Reads the files of tests/golden/ops: small inputs of every op and what torch says in float64 (tools/make_op_goldens.py). */
#ifndef DD_TEST_OP_GOLDEN_H
#define DD_TEST_OP_GOLDEN_H

#include "format/safetensors.h"
#include "ops/op_suite.h"

enum { GOLDEN_MAX = 40 };

typedef struct golden {
    dd_test *t;
    dd_backend *b; /* ref */
    dd_safetensors *file;
    const char *family;
    float *copies[GOLDEN_MAX]; /* aligned copies of the file's tensors, which ops may read and write */
    dd_tensor views[GOLDEN_MAX];
    int count;
} golden;

/* Opens `file` of tests/golden/ops; get and same see the tensors called FAMILY.name. False after a failure. */
bool golden_begin(golden *g, dd_test *t, const char *file, const char *family);
void golden_end(golden *g);

/* A copy of FAMILY.name with its own shape; a conv weight [o, i, h, w] keeps rank 4. A missing tensor ends the program. */
dd_tensor *golden_get(golden *g, const char *name);

/* An output of the shape of `like`, filled with NaN, or with zeros. */
dd_tensor *golden_blank(golden *g, const dd_tensor *like);
dd_tensor *golden_zeros(golden *g, const dd_tensor *like);

/* The relative distance of y from FAMILY.name must not be above the bound. */
void golden_same(golden *g, const dd_tensor *y, const char *name, double bound);

/* FAMILY.name prepared for all uses. Freed by dd_op_weight_free before golden_end. */
dd_weight *golden_weight(golden *g, const char *name, const dd_tensor *bias);

#endif
