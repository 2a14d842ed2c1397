/* ddit: pictures with diffusion transformers, with dynamic patch scheduling. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "options.h"
#include "say.h"

typedef struct command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
} command;

static const command commands[] = {
    {"generate", "draw a picture from a prompt", cmd_generate},
    {"inspect", "what a file, folder or picture holds, and the memory a run needs", cmd_inspect},
    {"train", "train an adapter for larger patches, or the model itself", cmd_train},
    {"bench", "measure the seconds per step on this machine", cmd_bench},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static const char *const later[] = {"eval", "serve"};

static const command *find_command(const char *name) {
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *names[COMMAND_COUNT];
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (strcmp(name, later[i]) == 0) return say("`ddit %s` is not available in this version", name);
    if (name[0] == '-') return say("expected a command before %s; for a picture: ddit generate %s ...", name, name);
    for (int i = 0; i < COMMAND_COUNT; i++) names[i] = commands[i].name;
    const char *near = options_nearest(name, names, COMMAND_COUNT);
    if (near) return say("unknown command \"%s\"; did you mean `ddit %s`?", name, near);
    return say("unknown command \"%s\"; `ddit --help` lists the commands", name);
}

static void print_help(FILE *stream) {
    fputs("usage: ddit COMMAND [options]\n\n", stream);
    for (int i = 0; i < COMMAND_COUNT; i++) fprintf(stream, "  %-10s%s\n", commands[i].name, commands[i].help);
    fputs("\nddit COMMAND --help lists a command's options; ddit --version prints the version.\n", stream);
    fputs("Example: ddit generate -p \"red apple\" -o apple.png\n", stream);
}

static int help(int argc, char **argv) {
    const command *found = argc > 2 ? find_command(argv[2]) : NULL;
    if (argc > 2 && !found) return unknown_command(argv[2]);
    char flag[] = "--help", *arguments[] = {argc > 2 ? argv[2] : argv[0], flag, NULL};
    if (found) return found->run(2, arguments);
    print_help(stdout);
    return finish_output(EXIT_DONE);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return EXIT_COMMAND;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0 || strcmp(name, "version") == 0) {
        printf("ddit %s\n", ddit_version());
        return finish_output(EXIT_DONE);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) return help(argc, argv);
    const command *found = find_command(name);
    return found ? found->run(argc - 1, argv + 1) : unknown_command(name);
}
