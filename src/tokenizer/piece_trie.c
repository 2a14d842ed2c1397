#include "tokenizer/piece_trie.h"

#include <stdlib.h>
#include <string.h>

static int compare_entries(const void *x, const void *y) {
    const dd_trie_entry *a = x, *b = y;
    size_t common = a->text.size < b->text.size ? a->text.size : b->text.size;
    int order = memcmp(a->text.data, b->text.data, common);
    if (order != 0) return order;
    if (a->text.size != b->text.size) return a->text.size < b->text.size ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static size_t common_prefix(dd_bytes a, dd_bytes b) {
    size_t limit = a.size < b.size ? a.size : b.size, n = 0;
    while (n < limit && a.data[n] == b.data[n]) n++;
    return n;
}

/* In sorted order each text adds one node for every byte after what it shares with the text before it. */
static uint64_t count_nodes(const dd_trie_entry *entries, size_t count, int32_t *duplicate) {
    uint64_t nodes = 1;
    for (size_t i = 0; i < count; i++) {
        size_t shared = i == 0 ? 0 : common_prefix(entries[i - 1].text, entries[i].text);
        if (shared == entries[i].text.size) {
            *duplicate = entries[i].id;
            return 0;
        }
        nodes += entries[i].text.size - shared;
    }
    return nodes;
}

/* The entries below a node while the trie grows: [begin, end) share `depth` bytes. */
typedef struct span {
    uint32_t begin, end, depth;
} span;

/* Level by level, so that the children of a node become neighbours; no recursion. */
static void fill(dd_piece_trie *trie, span *spans, const dd_trie_entry *entries, uint32_t count) {
    uint32_t used = 1;
    trie->nodes[0] = (dd_trie_node){.id = -1};
    spans[0] = (span){0, count, 0};
    for (uint32_t n = 0; n < used; n++) {
        span s = spans[n];
        if (s.begin < s.end && entries[s.begin].text.size == s.depth) trie->nodes[n].id = entries[s.begin++].id;
        trie->nodes[n].first_child = used;
        while (s.begin < s.end) {
            uint8_t label = entries[s.begin].text.data[s.depth];
            uint32_t end = s.begin + 1;
            while (end < s.end && entries[end].text.data[s.depth] == label) end++;
            trie->nodes[used] = (dd_trie_node){.id = -1, .label = label};
            spans[used++] = (span){s.begin, end, s.depth + 1};
            trie->nodes[n].child_count++;
            s.begin = end;
        }
    }
}

ddit_status dd_piece_trie_init(dd_piece_trie *trie, const dd_allocator *a, dd_trie_entry *entries, size_t count,
                               int32_t *duplicate, ddit_err *err) {
    *trie = (dd_piece_trie){.allocator = a};
    *duplicate = -1;
    if (count == 0) return DDIT_OK;
    qsort(entries, count, sizeof *entries, compare_entries);
    uint64_t nodes = count_nodes(entries, count, duplicate);
    if (*duplicate >= 0) return DDIT_OK;
    if (nodes > INT32_MAX || count > INT32_MAX)
        return dd_fail(err, DDIT_ERR_FORMAT, "the pieces of the text model need %llu trie nodes, more than 2^31",
                       (unsigned long long)nodes);
    span *spans = NULL;
    ddit_status status = DDIT_OK;
    DD_GO(dd_alloc_raw(a, &trie->nodes, (size_t)nodes, sizeof *trie->nodes, "the trie of pieces", err));
    DD_GO(dd_alloc_raw(a, &spans, (size_t)nodes, sizeof *spans, "building the trie of pieces", err));
    trie->node_count = (uint32_t)nodes;
    fill(trie, spans, entries, (uint32_t)count);
done:
    dd_free(a, spans);
    if (status != DDIT_OK) dd_piece_trie_deinit(trie);
    return status;
}

void dd_piece_trie_deinit(dd_piece_trie *trie) {
    if (trie->allocator) dd_free(trie->allocator, trie->nodes);
    *trie = (dd_piece_trie){0};
}

uint32_t dd_piece_trie_step(const dd_piece_trie *trie, uint32_t node, uint8_t byte) {
    uint32_t low = trie->nodes[node].first_child, high = low + trie->nodes[node].child_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint8_t label = trie->nodes[middle].label;
        if (label == byte) return middle;
        if (label < byte) low = middle + 1;
        else high = middle;
    }
    return 0;
}
