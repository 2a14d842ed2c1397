#include "model_path.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "say.h"

static int is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

const char *model_path_find(const char *asked) {
    static const char *const places[] = {DDIT_MODEL_FOLDER, "models/emoji"};
    const char *variable = getenv("DDIT_MODEL");
    if (asked) return asked;
    if (variable && *variable) return variable;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (is_folder(places[i])) return places[i];
    say("no model: found neither -m, $DDIT_MODEL, the installed %s nor ./models/emoji; name a diffusers folder with -m",
        places[0]);
    return NULL;
}
