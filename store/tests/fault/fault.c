/*
 * Makes a call fail that changes a file below one folder: the Nth of its kind from the moment on at which that is asked for.
 * Preloaded into the process whose work is disturbed.
 *
 *   VELLUM_FAULT_ROOT  the folder, absolute, without a slash at its end
 *
 * Opening FAULT_PREFIX "KIND/NTH/COUNT/ERRNO" opens nothing: from then on, of the calls of that kind (w writes, s syncs, c
 * creations, r renames, a any of them) the NTH and as many after it as COUNT says fail with ERRNO. COUNT 0 ends it. The answer's
 * errno is ENOENT if the fault that was asked for before was met, EEXIST if not.
 *
 * A write that fails for lack of space, or with a limit on lengths, writes the first half of its bytes. A sync that fails takes
 * back what was not synced, as a kernel does that drops the pages it could not write: what was added to the file since its last
 * sync reads as zeros.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FAULT_PREFIX "/vellum-fault/"
#define FDS 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static size_t root_len;
static char is_ours[FDS];
static off_t synced_len[FDS];
static char kind;
static long nth, count, error;
static int met;

__attribute__((constructor)) static void start(void)
{
    root = getenv("VELLUM_FAULT_ROOT");
    root_len = root ? strlen(root) : 0;
}

static int below(const char *path)
{
    return root && path && strncmp(path, root, root_len) == 0 && path[root_len] == '/';
}

static int ours(int fd)
{
    return fd >= 0 && fd < FDS && is_ours[fd];
}

/* Whether this call fails. */
static int fails(char which)
{
    int does = 0;
    pthread_mutex_lock(&lock);
    if (count > 0 && (kind == which || kind == 'a')) {
        if (nth > 1) {
            nth--;
        } else {
            count--;
            met = does = 1;
        }
    }
    pthread_mutex_unlock(&lock);
    if (does)
        errno = (int)error;
    return does;
}

static int ask(const char *text)
{
    char which;
    long first, times, number;
    if (sscanf(text, "%c/%ld/%ld/%ld", &which, &first, &times, &number) != 4)
        abort();
    pthread_mutex_lock(&lock);
    int answer = met ? ENOENT : EEXIST;
    kind = which, nth = first, count = times, error = number, met = 0;
    pthread_mutex_unlock(&lock);
    errno = answer;
    return -1;
}

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    if (strncmp(path, FAULT_PREFIX, sizeof FAULT_PREFIX - 1) == 0)
        return ask(path + sizeof FAULT_PREFIX - 1);
    int inside = below(path);
    if (inside && (flags & O_CREAT) && fails('c'))
        return -1;
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0 && fd < FDS) {
        struct stat now;
        is_ours[fd] = (char)(inside && fstat(fd, &now) == 0 && S_ISREG(now.st_mode) && (flags & O_ACCMODE) != O_RDONLY);
        synced_len[fd] = is_ours[fd] ? now.st_size : 0;
    }
    return fd;
}

#define MODE_OF(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE_OF(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE_OF(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE_OF(flags) return open_at(dir, path, flags | O_LARGEFILE, mode); }

int close(int fd)
{
    if (fd >= 0 && fd < FDS)
        is_ours[fd] = 0;
    return (int)syscall(SYS_close, fd);
}

/* How much of a write that fails is done all the same. */
static size_t part(size_t len)
{
    return error == ENOSPC || error == EFBIG ? len / 2 : 0;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    if (ours(fd) && fails('w')) {
        int before = errno;
        if (part(len) > 0)
            syscall(SYS_write, fd, bytes, part(len));
        errno = before;
        return -1;
    }
    return syscall(SYS_write, fd, bytes, len);
}

static ssize_t write_at(int fd, const void *bytes, size_t len, off_t offset)
{
    if (ours(fd) && fails('w')) {
        int before = errno;
        if (part(len) > 0)
            syscall(SYS_pwrite64, fd, bytes, part(len), offset);
        errno = before;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, bytes, len, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) { return write_at(fd, bytes, len, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) { return write_at(fd, bytes, len, offset); }

ssize_t writev(int fd, const struct iovec *parts, int parts_len)
{
    if (ours(fd) && fails('w'))
        return -1;
    return syscall(SYS_writev, fd, parts, parts_len);
}

static int sync_with(int fd, long number)
{
    if (!ours(fd))
        return (int)syscall(number, fd);
    struct stat now;
    if (fstat(fd, &now) != 0)
        abort();
    if (fails('s')) {
        int before = errno;
        static const char zeros[4096];
        for (off_t at = synced_len[fd]; at < now.st_size; at += sizeof zeros) {
            off_t left = now.st_size - at;
            syscall(SYS_pwrite64, fd, zeros, left < (off_t)sizeof zeros ? (size_t)left : sizeof zeros, at);
        }
        errno = before;
        return -1;
    }
    synced_len[fd] = now.st_size;
    return (int)syscall(number, fd);
}

int fsync(int fd) { return sync_with(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_with(fd, SYS_fdatasync); }

int rename(const char *from, const char *to)
{
    if (below(to) && fails('r'))
        return -1;
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
