/* Starts an arm64 program: its native build where the tools tree holds one for exactly that file, else qemu-user.
 *
 * The kernel calls it as binfmt_misc interpreter with flags POCF: argv is {launcher, path as executed, argv[0], arguments…}
 * and AT_EXECFD is the opened program (linux: Documentation/admin-guide/binfmt-misc.rst). TOOLS/native/<real path> exists
 * for each program that may run natively; the build puts it there after comparing package versions.
 *
 * Python runs natively only to compile byte code, which does not depend on the architecture; any other script may load
 * compiled modules of the target. With TOOLS/log present (--debug-emulation), each start is appended to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

#define TOOLS "/run/pibuild"

extern char **environ;

static int is_python_compiler(char **argument)
{
    for (; *argument; argument++) {
        if (!strcmp(*argument, "-m"))
            return argument[1] && (!strcmp(argument[1], "py_compile") || !strcmp(argument[1], "compileall"));
        if (!strcmp(*argument, "-c"))
            return 0;
        if ((*argument)[0] == '-')
            continue;
        return !strcmp(*argument, "/usr/bin/py3compile") || !strcmp(*argument, "/usr/bin/py3clean");
    }
    return 0;
}

static void log_start(const char *how, const char *program, char **argument)
{
    int log = open(TOOLS "/log", O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log < 0)
        return;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char line[512];
    int length = snprintf(line, sizeof line, "%ld.%03ld %d %s %s", (long)now.tv_sec, now.tv_nsec / 1000000, getpid(), how, program);
    for (int i = 0; argument[i] && i < 3 && length < (int)sizeof line - 1; i++)
        length += snprintf(line + length, sizeof line - length, " %.80s", argument[i]);
    if (length > (int)sizeof line - 1)
        length = sizeof line - 1;
    for (int i = 0; i < length; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[length++] = '\n';
    if (write(log, line, length) < 0)
        return;
}

int main(int argc, char **argv)
{
    char link[64], program[4096], native[4200];
    if (argc < 3)
        return 127;
    unsigned long descriptor = getauxval(AT_EXECFD);
    snprintf(link, sizeof link, "/proc/self/fd/%lu", descriptor);
    ssize_t length = readlink(link, program, sizeof program - 1);
    if (length <= 0 || program[0] != '/')
        snprintf(program, sizeof program, "%s", argv[1]);
    else
        program[length] = 0;

    char **arguments = argv + 3;
    snprintf(native, sizeof native, TOOLS "/native%s", program);
    int python = !strncmp(program, "/usr/bin/python3", 16);
    if (!access(native, X_OK) && (!python || is_python_compiler(arguments))) {
        log_start("native", program, arguments);
        execve(native, argv + 2, environ);
    }
    log_start("qemu", program, arguments);
    char **emulated = malloc((argc + 3) * sizeof *emulated);
    if (!emulated)
        return 127;
    emulated[0] = argv[2];
    emulated[1] = "-0";
    emulated[2] = argv[2];
    emulated[3] = argv[1];
    memcpy(emulated + 4, arguments, (argc - 2) * sizeof *emulated);
    execve(TOOLS "/qemu", emulated, environ);
    fprintf(stderr, "pibuild: %s cannot be emulated: %s\n", program, strerror(errno));
    return 127;
}
