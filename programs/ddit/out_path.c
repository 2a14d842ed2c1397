#include "out_path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "say.h"

/* The folder part of path, malloc'ed: "." if there is none. */
static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

int out_path_check(const char *option, const char *path) {
    struct stat info;
    if (!*path) return say("%s: the name is empty", option);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return say("%s: %s is a folder; name a file in it", option, path);
    char *folder = folder_of(path);
    int status = EXIT_DONE;
    if (!folder) {
        say("out of memory");
        return EXIT_RESOURCE;
    }
    if (stat(folder, &info) != 0 || !S_ISDIR(info.st_mode))
        status = say("%s: the folder \"%s\" of %s does not exist; make it first", option, folder, path);
    else if (access(folder, W_OK | X_OK) != 0) {
        say("%s: the folder \"%s\" of %s cannot be written: %s", option, folder, path, strerror(errno));
        status = EXIT_RESOURCE;
    }
    free(folder);
    return status;
}

/* Length of a place for the number (%d, %3d, %03d) at `at`, else 0. */
static size_t place_length(const char *at) {
    if (*at != '%') return 0;
    size_t digits = strspn(at + 1, "0123456789");
    return digits <= 2 && at[1 + digits] == 'd' ? digits + 2 : 0;
}

static const char *find_place(const char *path) {
    for (const char *c = path; *c; c++) {
        if (place_length(c)) return c;
        if (c[0] == '%' && c[1] == '%') c++;
    }
    return NULL;
}

bool out_path_numbered(const char *path) { return find_place(path) != NULL; }

bool out_path_valid(const char *path) {
    int places = 0;
    for (const char *c = path; *c; c++) {
        if (*c != '%') continue;
        size_t length = place_length(c);
        if (length) places++;
        else if (c[1] == '%') length = 2;
        else return false;
        c += length - 1;
    }
    return places <= 1;
}

/* Copies text[0..length), %% as %. Returns the end. */
static char *copy_plain(char *to, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        *to++ = text[i];
        if (text[i] == '%' && i + 1 < length && text[i + 1] == '%') i++;
    }
    return to;
}

char *out_path_number(const char *path, int index, int count) {
    size_t size = strlen(path) + 128;
    char *name = malloc(size);
    if (!name) return NULL;
    const char *place = find_place(path), *rest;
    char *to;
    if (place) {
        int digits = atoi(place + 1);
        to = copy_plain(name, path, (size_t)(place - path));
        to += snprintf(to, 112, place[1] == '0' ? "%0*d" : "%*d", digits, index);
        rest = place + place_length(place);
    } else {
        const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
        bool extension = count > 1 && dot && dot > (slash ? slash + 1 : path);
        size_t stem = extension ? (size_t)(dot - path) : strlen(path);
        to = copy_plain(name, path, stem);
        if (count > 1) to += snprintf(to, 16, "-%d", index);
        rest = path + stem;
    }
    to = copy_plain(to, rest, strlen(rest));
    *to = '\0';
    return name;
}

/* The hidden name beside `path` that is written to first. */
static char *temporary_name(const char *path) {
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    size_t size = strlen(path) + 32;
    char *name = malloc(size);
    if (name) snprintf(name, size, "%.*s.%s.%ld", folder, path, path + folder, (long)getpid());
    return name;
}

static bool write_whole(int fd, const char *text) {
    FILE *stream = fdopen(fd, "w");
    if (!stream) {
        close(fd);
        return false;
    }
    bool good = fputs(text, stream) >= 0 && fputc('\n', stream) != EOF;
    good = fflush(stream) == 0 && good;
    good = good && fsync(fd) == 0;
    int reason = errno;
    good = fclose(stream) == 0 && good;
    if (!good && reason) errno = reason;
    return good;
}

int out_path_write_text(const char *path, const char *text) {
    char *temporary = temporary_name(path);
    errno = 0;
    int fd = temporary ? open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    bool good = fd >= 0 && write_whole(fd, text) && rename(temporary, path) == 0;
    if (!good) {
        say("%s: cannot be written: %s", path, strerror(errno ? errno : EIO));
        if (fd >= 0) unlink(temporary);
    }
    free(temporary);
    return good ? EXIT_DONE : EXIT_RESOURCE;
}
