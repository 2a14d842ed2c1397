/* Dividing rows among threads. Private to the room. */
#ifndef DD_BACKEND_CPU_ROWS_H
#define DD_BACKEND_CPU_ROWS_H

#include <stddef.h>
#include <stdint.h>

typedef void (*dd_cpu_rows_fn)(const void *job, int64_t begin, int64_t end);

/* Calls fn for ranges that cover rows [0, rows) once, on up to `threads` threads. `work` is about the number of values the
 * whole job touches: small jobs stay on the calling thread, because waking the others costs more. fn must give each row the
 * same bytes whatever range it is called for. */
void dd_cpu_for_rows(int threads, int64_t rows, int64_t work, dd_cpu_rows_fn fn, const void *job);

#endif
