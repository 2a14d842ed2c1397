#include "commands.h"
#include "say.h"
int cmd_inspect(int argc, char **argv) { (void)argc; return say("%s later", argv[0]); }
