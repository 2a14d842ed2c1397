#include "media/png.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "base/mapped_file.h"
#include "base/out_file.h"
#include "media/png_libpng.h"

enum { SIGNATURE_SIZE = 8, MAX_SIDE = 1 << 16, MAX_TEXT_CHUNKS = 256 };

/* ---------------------------------------------------------------------------------------------- text */

/* Bytes of the valid UTF-8 character at s (0 if it is none), its value in *code. */
static int utf8_character(const uint8_t *s, size_t left, uint32_t *code) {
    int length = s[0] < 0x80 ? 1
                 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
                 : (s[0] & 0xF0) == 0xE0 ? 3
                 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                               : 0;
    static const uint8_t first_bits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (length == 0 || (size_t)length > left) return 0;
    *code = s[0] & first_bits[length];
    for (int i = 1; i < length; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        *code = *code << 6 | (s[i] & 0x3F);
    }
    bool surrogate = *code >= 0xD800 && *code < 0xE000;
    return *code < smallest[length] || *code > 0x10FFFF || surrogate ? 0 : length;
}

/* Latin-1 as tEXt means it: printable characters and line feeds. *length: characters = bytes of the Latin-1 form. */
static bool is_latin1(const char *text, size_t *length) {
    size_t size = strlen(text);
    *length = 0;
    for (size_t at = 0; at < size; (*length)++) {
        uint32_t code;
        int bytes = utf8_character((const uint8_t *)text + at, size - at, &code);
        if (bytes == 0 || !(code == '\n' || (code >= 32 && code < 127) || (code >= 160 && code < 256))) return false;
        at += (size_t)bytes;
    }
    return true;
}

static void to_latin1(const char *text, char *out) {
    size_t size = strlen(text);
    for (size_t at = 0; at < size;) {
        uint32_t code = 0;
        at += (size_t)utf8_character((const uint8_t *)text + at, size - at, &code);
        *out++ = (char)(unsigned char)code;
    }
    *out = 0;
}

static ddit_status from_latin1(const dd_allocator *a, char **out, const char *text, size_t size, ddit_err *err) {
    DD_TRY(dd_alloc_raw(a, out, 2 * size + 1, 1, "a text of the picture", err));
    uint8_t *to = (uint8_t *)*out;
    for (size_t i = 0; i < size; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c >= 0x80) *to++ = (uint8_t)(0xC0 | c >> 6);
        *to++ = c >= 0x80 ? (uint8_t)(0x80 | (c & 0x3F)) : c;
    }
    *to = 0;
    return DDIT_OK;
}

static bool is_utf8(const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        uint32_t code;
        int bytes = utf8_character((const uint8_t *)text + at, size - at, &code);
        if (bytes == 0) return false;
        at += (size_t)bytes;
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------- writing */

/* The texts as libpng wants them. Latin-1 forms are owned: converted[i], NULL where the text goes out as it is. */
typedef struct text_set {
    png_text *items;
    char **converted;
    int count;
} text_set;

static void text_set_deinit(text_set *set, const dd_allocator *a) {
    for (int i = 0; set->converted && i < set->count; i++) dd_free(a, set->converted[i]);
    dd_free(a, set->converted);
    dd_free(a, set->items);
    *set = (text_set){0};
}

static ddit_status text_set_init(text_set *set, const dd_allocator *a, const dd_png_text *texts, int count, ddit_err *err) {
    *set = (text_set){.count = count};
    if (count == 0) return DDIT_OK;
    ddit_status status;
    DD_GO(dd_alloc(a, &set->items, (size_t)count, sizeof *set->items, "the texts of the picture", err));
    DD_GO(dd_alloc(a, &set->converted, (size_t)count, sizeof *set->converted, "the texts of the picture", err));
    for (int i = 0; i < count; i++) {
        png_text *item = &set->items[i];
        size_t length;
        item->key = texts[i].key;
        item->text = texts[i].text;
        item->compression = PNG_ITXT_COMPRESSION_NONE;
        if (!is_latin1(texts[i].text, &length)) continue;
        DD_GO(dd_alloc_raw(a, &set->converted[i], length + 1, 1, "the texts of the picture", err));
        to_latin1(texts[i].text, set->converted[i]);
        item->text = set->converted[i];
        item->compression = PNG_TEXT_COMPRESSION_NONE;
    }
done:
    if (status != DDIT_OK) text_set_deinit(set, a);
    return status;
}

/* The part that libpng may leave by longjmp. False: see state->message. Nothing here is owned by this frame. */
static bool write_picture(dd_png_state *state, FILE *stream, int width, int height, const uint8_t *rgb, const text_set *texts) {
    if (setjmp(png_jmpbuf(state->png))) return false;
    png_init_io(state->png, stream);
    png_set_IHDR(state->png, state->info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (texts->count > 0) png_set_text(state->png, state->info, texts->items, texts->count);
    png_write_info(state->png, state->info);
    for (int y = 0; y < height; y++) png_write_row(state->png, rgb + (size_t)y * (size_t)width * 3);
    png_write_end(state->png, NULL);
    return true;
}

static ddit_status write_to(dd_png_state *state, const char *path, FILE *stream, int width, int height, const uint8_t *rgb,
                            const text_set *texts, ddit_err *err) {
    bool good = dd_png_begin_writing(state);
    errno = 0;
    good = good && write_picture(state, stream, width, height, rgb, texts);
    int reason = errno;
    png_destroy_write_struct(&state->png, &state->info);
    if (good) return DDIT_OK;
    if (ferror(stream)) return dd_fail(err, DDIT_ERR_WRITE, "%s: cannot be written: %s", path, strerror(reason ? reason : EIO));
    if (state->no_memory || !state->message[0])
        return dd_fail(err, DDIT_ERR_NO_MEMORY, "%s: out of memory while writing", path);
    return dd_fail(err, DDIT_ERR_INTERNAL, "%s: libpng refused to write it: %s", path, state->message);
}

ddit_status dd_png_write(const dd_allocator *a, const char *path, int width, int height, const uint8_t *rgb,
                         const dd_png_text *texts, int count, ddit_err *err) {
    dd_png_state state = {.allocator = a};
    text_set set;
    dd_out_file file;
    DD_TRY(text_set_init(&set, a, texts, count, err));
    ddit_status status = dd_out_file_open(&file, a, path, err);
    if (status == DDIT_OK) {
        status = write_to(&state, path, file.stream, width, height, rgb, &set, err);
        if (status == DDIT_OK) status = dd_out_file_commit(&file, err);
        else dd_out_file_discard(&file);
    }
    text_set_deinit(&set, a);
    return status;
}

/* ---------------------------------------------------------------------------------------------- reading */

/* Reads every chunk, so that damage in the pixels and texts behind them are seen too; the pixels are dropped row by row. */
static bool read_chunks(dd_png_state *state) {
    if (setjmp(png_jmpbuf(state->png))) return false;
    png_set_crc_action(state->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_user_limits(state->png, MAX_SIDE, MAX_SIDE);
    png_set_chunk_cache_max(state->png, MAX_TEXT_CHUNKS);
    png_read_info(state->png, state->info);
    int passes = png_set_interlace_handling(state->png);
    png_read_update_info(state->png, state->info);
    png_uint_32 height = png_get_image_height(state->png, state->info);
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < height; y++) png_read_row(state->png, NULL, NULL);
    png_read_end(state->png, state->info);
    return true;
}

static ddit_status copy_text(dd_png_info *info, const png_text *item, const char *path, ddit_err *err) {
    const dd_allocator *a = info->allocator;
    dd_png_text *text = &info->texts[info->count];
    bool international = item->compression == PNG_ITXT_COMPRESSION_NONE || item->compression == PNG_ITXT_COMPRESSION_zTXt;
    size_t size = international ? item->itxt_length : item->text_length;
    if (international && !is_utf8(item->text, size))
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: its text \"%s\" is no UTF-8; it was not written by a correct program", path,
                       item->key);
    info->count++; /* from here on deinit frees what there is */
    DD_TRY(from_latin1(a, &text->key, item->key, strlen(item->key), err));
    if (international) return dd_strndup(a, &text->text, item->text, size, err);
    return from_latin1(a, &text->text, item->text, size, err);
}

static ddit_status copy_info(dd_png_info *info, dd_png_state *state, const char *path, ddit_err *err) {
    png_textp items = NULL;
    int count = 0;
    png_get_text(state->png, state->info, &items, &count);
    info->width = (int)png_get_image_width(state->png, state->info);
    info->height = (int)png_get_image_height(state->png, state->info);
    DD_TRY(dd_alloc(info->allocator, &info->texts, (size_t)count, sizeof *info->texts, "the texts of the picture", err));
    for (int i = 0; i < count; i++) DD_TRY(copy_text(info, &items[i], path, err));
    return DDIT_OK;
}

static ddit_status read_info(dd_png_info *info, dd_png_state *state, const char *path, ddit_err *err) {
    if (state->size < SIGNATURE_SIZE || png_sig_cmp(state->data, 0, SIGNATURE_SIZE) != 0)
        return dd_fail(err, DDIT_ERR_FORMAT, "%s: is no PNG (%zu bytes that do not begin with the PNG signature)", path,
                       state->size);
    bool good = dd_png_begin_reading(state) && read_chunks(state);
    ddit_status status = good ? copy_info(info, state, path, err) : dd_png_damaged(state, path, err);
    png_destroy_read_struct(&state->png, &state->info, NULL);
    return status;
}

ddit_status dd_png_read_info(dd_png_info *info, const dd_allocator *a, const char *path, ddit_err *err) {
    dd_mapped_file file;
    *info = (dd_png_info){.allocator = a};
    ddit_status status = dd_mapped_file_open(&file, path, err);
    if (status == DDIT_OK) {
        dd_png_state state = {.allocator = a, .data = file.data, .size = file.size};
        status = read_info(info, &state, path, err);
        dd_mapped_file_close(&file);
    }
    if (status != DDIT_OK) dd_png_info_deinit(info);
    return status;
}

void dd_png_info_deinit(dd_png_info *info) {
    for (int i = 0; info->texts && i < info->count; i++) {
        dd_free(info->allocator, info->texts[i].key);
        dd_free(info->allocator, info->texts[i].text);
    }
    if (info->allocator) dd_free(info->allocator, info->texts);
    *info = (dd_png_info){0};
}

const char *dd_png_info_find(const dd_png_info *info, const char *key) {
    for (int i = 0; i < info->count; i++)
        if (strcmp(info->texts[i].key, key) == 0) return info->texts[i].text;
    return NULL;
}

bool dd_png_probe(const char *path) {
    uint8_t begin[SIGNATURE_SIZE];
    FILE *stream = fopen(path, "rb");
    if (!stream) return false;
    bool good = fread(begin, 1, sizeof begin, stream) == sizeof begin && png_sig_cmp(begin, 0, sizeof begin) == 0;
    fclose(stream);
    return good;
}
