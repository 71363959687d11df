/* Starts an arm64 program: its native build where the tools tree holds one for exactly that file, else qemu-user.
 *
 * The kernel calls it as binfmt_misc interpreter with flags POCF: argv is {launcher, path as executed, argv[0], arguments…}
 * and AT_EXECFD is the opened program (linux: Documentation/admin-guide/binfmt-misc.rst). TOOLS/native/<real path> is a link
 * for each program that may run natively; the build puts it there after comparing package versions and contents. Its
 * modification time is that of the file it stands in for, so that a file replaced since is not taken for it; 0 is
 * a file that was not there yet.
 *
 * Python runs natively only to compile byte code, which does not depend on the architecture; any other script may load
 * compiled modules of the target.
 *
 * With TOOLS/log present (--debug-emulation), each start and end is appended to it (builder/emulation/log.py). The end is seen by a
 * process that init adopts: the program gets neither a child nor a descriptor that it would not have otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TOOLS "/run/pibuild"

extern char **environ;

/* What py3compile asks each version of Python: answers that are of the version, not of the architecture. */
static const char *const asked[] = {
    "import importlib.util; print(importlib.util.MAGIC_NUMBER)",
    "import sys; print(sys.implementation.cache_tag)",
    NULL,
};

static int is_one_of(const char *word, const char *const *words)
{
    while (*words)
        if (!strcmp(word, *words++))
            return 1;
    return 0;
}

/* Tell whether Python is to run a script that compiles: as packages' scripts do, by its path in the standard library too. */
static int is_python_compiler(char **argument)
{
    static const char *const modules[] = {"py_compile", "compileall", NULL};
    static const char *const scripts[] = {"/usr/bin/py3compile", "/usr/bin/py3clean", NULL};
    static const char *const library[] = {"/py_compile.py", "/compileall.py", NULL};
    for (; *argument; argument++) {
        if (!strcmp(*argument, "-m"))
            return argument[1] && is_one_of(argument[1], modules);
        if (!strcmp(*argument, "-c"))
            return argument[1] && is_one_of(argument[1], asked);
        if ((*argument)[0] == '-')
            continue;
        const char *name = strncmp(*argument, "/usr/lib/python3.", 17) ? NULL : strchr(*argument + 17, '/');
        return is_one_of(*argument, scripts) || (name && is_one_of(name, library));
    }
    return 0;
}

/* Tell whether a program is the very file that the link at `native` stands for. */
static int is_unchanged(int descriptor, const char *native)
{
    struct stat file, link;
    if (lstat(native, &link) < 0 || fstat(descriptor, &file) < 0)
        return 0;
    return link.st_mtim.tv_sec == 0
        || (link.st_mtim.tv_sec == file.st_mtim.tv_sec && link.st_mtim.tv_nsec == file.st_mtim.tv_nsec);
}

static void write_line(int log, const char *what, pid_t process, const char *rest)
{
    struct timespec now;
    char line[600];
    clock_gettime(CLOCK_REALTIME, &now);
    int length = snprintf(line, sizeof line, "%ld.%03ld %d %s%s\n", (long)now.tv_sec, now.tv_nsec / 1000000, process, what, rest);
    if (write(log, line, length) < 0)
        return;
}

static void log_end(int log, pid_t process)
{
    int handle = syscall(SYS_pidfd_open, process, 0); /* now: a short program ends before its watcher runs */
    pid_t between = fork();
    if (between == 0) {
        if (fork() != 0)
            _exit(0);
        if (dup2(log, 0) < 0 || handle < 0 || dup2(handle, 1) < 0)
            _exit(0);
        syscall(SYS_close_range, 2, ~0U, 0);
        struct pollfd ended = {.fd = 1, .events = POLLIN};
        while (poll(&ended, 1, -1) < 0 && errno == EINTR)
            ;
        write_line(0, "end", process, "");
        _exit(0);
    }
    if (between > 0)
        waitpid(between, NULL, 0);
    close(handle);
}

static void log_start(const char *how, const char *program, char **argument)
{
    int log = open(TOOLS "/log", O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log < 0)
        return;
    char rest[512];
    int length = snprintf(rest, sizeof rest, " %d %.200s", getppid(), program);
    for (int i = 0; argument[i] && i < 3 && length < (int)sizeof rest - 1; i++)
        length += snprintf(rest + length, sizeof rest - length, " %.80s", argument[i]);
    for (char *c = rest; *c; c++)
        if (*c == '\n')
            *c = ' ';
    log_end(log, getpid());
    write_line(log, how, getpid(), rest);
    close(log);
}

/* Keep the name of an emulated program, in case it crashes (builder/emulation/chroot_init.py). */
static void note_emulated(const char *program)
{
    char line[4200];
    int length = snprintf(line, sizeof line, "%d %s\n", getpid(), program);
    int list = open(TOOLS "/emulated", O_WRONLY | O_APPEND | O_CLOEXEC);
    if (list >= 0 && write(list, line, length) >= 0)
        close(list);
}

int main(int argc, char **argv)
{
    char link[64], program[4096], native[4200];
    if (argc < 3)
        return 127;
    int descriptor = getauxval(AT_EXECFD);
    fcntl(descriptor, F_SETFD, FD_CLOEXEC); /* the program would not have it if the kernel had started it itself */
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, program, sizeof program - 1);
    if (length <= 0 || program[0] != '/')
        snprintf(program, sizeof program, "%s", argv[1]);
    else
        program[length] = 0;

    char **arguments = argv + 3;
    snprintf(native, sizeof native, TOOLS "/native%s", program);
    int python = !strncmp(program, "/usr/bin/python3", 16);
    if (!access(native, X_OK) && is_unchanged(descriptor, native) && (!python || is_python_compiler(arguments))) {
        log_start("native", program, arguments);
        execve(native, argv + 2, environ);
    }
    log_start("qemu", program, arguments);
    note_emulated(program);
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
