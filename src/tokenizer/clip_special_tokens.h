/* Reads tokenizer_config.json and special_tokens_map.json into a vocabulary: which ids start, end and pad a text, and which
 * tokens are found whole in it. Part of clip_vocab; split off only for size. */
#ifndef DD_TOKENIZER_CLIP_SPECIAL_TOKENS_H
#define DD_TOKENIZER_CLIP_SPECIAL_TOKENS_H

#include <jansson.h>

#include "tokenizer/clip_vocab.h"

/* Parses one of the JSON files, an object; duplicate keys are refused. The caller calls json_decref. */
ddit_status dd_clip_parse_json(json_t **out, const dd_clip_file *file, ddit_err *err);

/* tokens: the parsed vocab.json, ids 0 .. count-1. Sets start_id … size, max_length and added of *vocab. */
ddit_status dd_clip_read_special_tokens(dd_clip_vocab *vocab, const dd_clip_files *files, const json_t *tokens, ddit_err *err);

#endif
