/* The tile kernels once more, with the instructions that round to bf16. */
#define DD_ISA avx512bf16
#include "backend/cpu/kernels/tile.c"
