/* The subcommands. argv[0] is the subcommand's name; the result is the exit status. */
#ifndef DDIT_PROGRAM_COMMANDS_H
#define DDIT_PROGRAM_COMMANDS_H

int cmd_generate(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_bench(int argc, char **argv);

#endif
