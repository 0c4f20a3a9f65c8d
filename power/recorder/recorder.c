/*
 * Writes down, in one global order, every call that changes a file below one folder. Preloaded into the process whose work is
 * recorded. It decides nothing: what survives a loss of power is for the reader of the log.
 *
 *   VELLUM_RECORD_ROOT  the folder, absolute, without a slash at its end
 *   VELLUM_RECORD_LOG   the log, outside of it
 *
 * One lock is held around each call and its entry, so the log is the order in which the kernel saw the calls. A call that fails
 * leaves no entry. A call that changes files in a way that no entry can tell leaves an ESCAPE: such a log must not be believed.
 * Opening MARK_PREFIX "text" opens nothing and leaves a MARK: how the recorded process says what it begins and has done.
 *
 * An entry, all numbers in the machine's order: kind u32, fd i32, number u64, length of a u32, length of b u32, then a, then b.
 * Paths are relative to the root. Calls that a library makes by itself, past the C library's names, are not seen: the test
 * compares what the log says with the folder that the process left.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    OPEN = 1,      /* fd; number: 1 created, 2 truncated; a: path */
    CLOSE = 2,     /* fd */
    DUPLICATE = 3, /* fd; number: the new one */
    WRITE = 4,     /* fd; number: offset; a: bytes */
    SET_LEN = 5,   /* fd; number: length */
    GROW = 6,      /* fd; number: the least length from now on */
    RENAME = 7,    /* a: from; b: to */
    LINK = 8,      /* a: from; b: to */
    UNLINK = 9,    /* a: path */
    MKDIR = 10,    /* a: path */
    RMDIR = 11,    /* a: path */
    SYNC = 12,     /* fd; number: 1 for fdatasync */
    SYNC_ALL = 13,
    MARK = 14,     /* a: text */
    ESCAPE = 15,   /* a: what */
};

#define MARK_PREFIX "/vellum-power-mark/"
#define FDS 65536

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char is_ours[FDS];
static const char *root;
static size_t root_len;
static int log_fd = -1;

__attribute__((constructor)) static void start(void)
{
    const char *log = getenv("VELLUM_RECORD_LOG");
    root = getenv("VELLUM_RECORD_ROOT");
    if (!log || !root)
        return;
    root_len = strlen(root);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        abort();
}

static void put(enum kind kind, int fd, uint64_t number, const void *a, size_t a_len, const void *b, size_t b_len)
{
    struct { uint32_t kind; int32_t fd; uint64_t number; uint32_t a_len, b_len; } head = {kind, fd, number, a_len, b_len};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)a, a_len}, {(void *)b, b_len}};
    int before = errno;
    /* A log with a hole would lie: rather no log. */
    if (syscall(SYS_writev, log_fd, parts, 3) != (long)(sizeof head + a_len + b_len))
        abort();
    errno = before;
}

/* The part of `path` below the root, or NULL. */
static const char *below(const char *path)
{
    if (log_fd < 0 || !path || strncmp(path, root, root_len) != 0)
        return NULL;
    if (path[root_len] == 0)
        return path + root_len;
    return path[root_len] == '/' ? path + root_len + 1 : NULL;
}

static int ours(int fd)
{
    return fd >= 0 && fd < FDS && is_ours[fd];
}

static void enter(void)
{
    pthread_mutex_lock(&lock);
}

static long leave(long result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

static void put_path(enum kind kind, const char *path)
{
    put(kind, -1, 0, path, strlen(path), "", 0);
}

static void escape(const char *what)
{
    put_path(ESCAPE, what);
}

/* ---- descriptors ---- */

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    if (log_fd >= 0 && strncmp(path, MARK_PREFIX, sizeof MARK_PREFIX - 1) == 0) {
        enter();
        put_path(MARK, path + sizeof MARK_PREFIX - 1);
        leave(0);
        errno = ENOENT;
        return -1;
    }
    enter();
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    if (fd < 0)
        return (int)leave(fd);
    const char *inside = below(path);
    if (fd < FDS)
        is_ours[fd] = inside != NULL;
    else if (inside)
        escape("too many descriptors");
    if (inside)
        put(OPEN, fd, (flags & O_CREAT ? 1 : 0) | (flags & O_TRUNC ? 2 : 0), inside, strlen(inside), "", 0);
    if ((inside && (flags & O_TMPFILE) == O_TMPFILE) || (dir != AT_FDCWD && path[0] != '/' && ours(dir) && (flags & (O_CREAT | O_TRUNC))))
        escape("a file without a path");
    return (int)leave(fd);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* Entered. */
static void forget(int fd)
{
    if (ours(fd)) {
        put(CLOSE, fd, 0, "", 0, "", 0);
        is_ours[fd] = 0;
    }
}

int close(int fd)
{
    enter();
    forget(fd);
    return (int)leave(syscall(SYS_close, fd));
}

/* Streams are only expected to be read: what they would write is written by the C library itself, and not seen. */
int fclose(FILE *stream)
{
    int (*next)(FILE *) = (int (*)(FILE *))dlsym(RTLD_NEXT, "fclose");
    enter();
    forget(fileno(stream));
    leave(0);
    return next(stream);
}

static FILE *open_stream(const char *name, const char *path, const char *mode)
{
    FILE *(*next)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, name);
    if (below(path) && strpbrk(mode, "wa+")) {
        enter();
        escape("a stream that is written");
        leave(0);
    }
    return next(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return open_stream("fopen", path, mode); }
FILE *fopen64(const char *path, const char *mode) { return open_stream("fopen64", path, mode); }

static int duplicated(int fd, int copy)
{
    if (copy >= 0 && copy < FDS && copy != fd) {
        is_ours[copy] = (char)ours(fd);
        if (ours(fd))
            put(DUPLICATE, fd, (uint64_t)copy, "", 0, "", 0);
    }
    return (int)leave(copy);
}

int dup(int fd) { enter(); return duplicated(fd, (int)syscall(SYS_dup, fd)); }
int dup2(int fd, int copy) { enter(); return duplicated(fd, fd == copy ? (int)syscall(SYS_fcntl, fd, F_GETFD) < 0 ? -1 : fd : (int)syscall(SYS_dup3, fd, copy, 0)); }
int dup3(int fd, int copy, int flags) { enter(); return duplicated(fd, (int)syscall(SYS_dup3, fd, copy, flags)); }

static int control(int fd, int command, void *argument)
{
    enter();
    int result = (int)syscall(SYS_fcntl, fd, command, argument);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        return duplicated(fd, result);
    return (int)leave(result);
}

int fcntl(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control(fd, command, argument);
}

int fcntl64(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control(fd, command, argument);
}

/* ---- content ---- */

static void put_write(int fd, uint64_t offset, const struct iovec *parts, int count, size_t len)
{
    for (int nth = 0; nth < count && len > 0; nth++) {
        size_t part = parts[nth].iov_len < len ? parts[nth].iov_len : len;
        put(WRITE, fd, offset, parts[nth].iov_base, part, "", 0);
        offset += part;
        len -= part;
    }
}

static ssize_t write_here(int fd, const struct iovec *parts, int count)
{
    if (!ours(fd))
        return syscall(SYS_writev, fd, parts, count);
    enter();
    ssize_t done = syscall(SYS_writev, fd, parts, count);
    if (done > 0)
        put_write(fd, (uint64_t)(syscall(SYS_lseek, fd, 0, SEEK_CUR) - done), parts, count, (size_t)done);
    return leave(done);
}

static ssize_t write_there(int fd, const struct iovec *parts, int count, off_t offset)
{
    if (!ours(fd))
        return syscall(SYS_pwritev, fd, parts, count, offset, 0);
    enter();
    ssize_t done = syscall(SYS_pwritev, fd, parts, count, offset, 0);
    if (done > 0)
        put_write(fd, (uint64_t)offset, parts, count, (size_t)done);
    return leave(done);
}

/* Not one writev for all: a pipe takes a write of up to its buffer as one, and some files are no seekable ones. */
ssize_t write(int fd, const void *bytes, size_t len)
{
    struct iovec part = {(void *)bytes, len};
    return ours(fd) ? write_here(fd, &part, 1) : syscall(SYS_write, fd, bytes, len);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
    struct iovec part = {(void *)bytes, len};
    return ours(fd) ? write_there(fd, &part, 1, offset) : syscall(SYS_pwrite64, fd, bytes, len, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) { return pwrite(fd, bytes, len, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return write_here(fd, parts, count); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return write_there(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return write_there(fd, parts, count, offset); }

static int counted(int fd, enum kind kind, uint64_t number, int result)
{
    if (result == 0 && ours(fd))
        put(kind, fd, number, "", 0, "", 0);
    return (int)leave(result);
}

int ftruncate(int fd, off_t len) { enter(); return counted(fd, SET_LEN, (uint64_t)len, (int)syscall(SYS_ftruncate, fd, len)); }
int ftruncate64(int fd, off64_t len) { return ftruncate(fd, len); }

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    enter();
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, len);
    if (result == 0 && ours(fd) && (mode & ~FALLOC_FL_KEEP_SIZE))
        escape("fallocate that changes content");
    if (mode & FALLOC_FL_KEEP_SIZE)
        return (int)leave(result);
    return counted(fd, GROW, (uint64_t)(offset + len), result);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t len) { return fallocate(fd, mode, offset, len); }
int posix_fallocate(int fd, off_t offset, off_t len) { return fallocate(fd, 0, offset, len) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t offset, off64_t len) { return posix_fallocate(fd, offset, len); }

int fsync(int fd) { enter(); return counted(fd, SYNC, 0, (int)syscall(SYS_fsync, fd)); }
int fdatasync(int fd) { enter(); return counted(fd, SYNC, 1, (int)syscall(SYS_fdatasync, fd)); }

static void sync_all(void)
{
    if (log_fd >= 0)
        put(SYNC_ALL, -1, 0, "", 0, "", 0);
}

void sync(void) { enter(); syscall(SYS_sync); sync_all(); leave(0); }

int syncfs(int fd)
{
    enter();
    int result = (int)syscall(SYS_syncfs, fd);
    if (result == 0 && ours(fd))
        sync_all();
    return (int)leave(result);
}

/* Starts writing, promises nothing: no entry. */
int sync_file_range(int fd, off64_t offset, off64_t len, unsigned flags) { return (int)syscall(SYS_sync_file_range, fd, offset, len, flags); }

void *mmap(void *address, size_t len, int protection, int flags, int fd, off_t offset)
{
    if (ours(fd) && (protection & PROT_WRITE) && (flags & MAP_SHARED)) {
        enter();
        escape("a mapping that can be written");
        leave(0);
    }
    return (void *)syscall(SYS_mmap, address, len, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t len, int protection, int flags, int fd, off64_t offset)
{
    return mmap(address, len, protection, flags, fd, offset);
}

/* Copies inside the kernel: their callers all know how to go on without. */
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t len, unsigned flags)
{
    if (!ours(to))
        return syscall(SYS_copy_file_range, from, a, to, b, len, flags);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile(int to, int from, off_t *offset, size_t len)
{
    if (!ours(to))
        return syscall(SYS_sendfile, to, from, offset, len);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t len) { return sendfile(to, from, offset, len); }

/* ---- names ---- */

static int named(enum kind kind, const char *path, int result)
{
    const char *inside = below(path);
    if (result == 0 && inside)
        put_path(kind, inside);
    return (int)leave(result);
}

static int moved(enum kind kind, const char *from, const char *to, int result)
{
    const char *a = below(from), *b = below(to);
    if (result == 0 && a && b)
        put(kind, -1, 0, a, strlen(a), b, strlen(b));
    else if (result == 0 && (a || b))
        escape("a name that crosses the root");
    return (int)leave(result);
}

int rename(const char *from, const char *to) { enter(); return moved(RENAME, from, to, (int)syscall(SYS_rename, from, to)); }
int link(const char *from, const char *to) { enter(); return moved(LINK, from, to, (int)syscall(SYS_link, from, to)); }
int unlink(const char *path) { enter(); return named(UNLINK, path, (int)syscall(SYS_unlink, path)); }
int mkdir(const char *path, mode_t mode) { enter(); return named(MKDIR, path, (int)syscall(SYS_mkdir, path, mode)); }
int rmdir(const char *path) { enter(); return named(RMDIR, path, (int)syscall(SYS_rmdir, path)); }

/* Not used by what is recorded; if that changes, the log says so instead of lying. */
static int by_folder(const char *path, const char *what, int result)
{
    if (result == 0 && log_fd >= 0 && (below(path) || path[0] != '/'))
        escape(what);
    return (int)leave(result);
}

int truncate(const char *path, off_t len) { enter(); return by_folder(path, "truncate", (int)syscall(SYS_truncate, path, len)); }
int truncate64(const char *path, off64_t len) { return truncate(path, len); }
int unlinkat(int dir, const char *path, int flags) { enter(); return by_folder(path, "unlinkat", (int)syscall(SYS_unlinkat, dir, path, flags)); }
int remove(const char *path)
{
    int result = unlink(path);
    return result != 0 && errno == EISDIR ? rmdir(path) : result;
}
int symlink(const char *to, const char *path) { enter(); return by_folder(path, "symlink", (int)syscall(SYS_symlink, to, path)); }

int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    enter();
    return by_folder(below(from) ? from : to, "renameat", (int)syscall(SYS_renameat2, a, from, b, to, flags));
}

int renameat(int a, const char *from, int b, const char *to) { return renameat2(a, from, b, to, 0); }

int linkat(int a, const char *from, int b, const char *to, int flags)
{
    enter();
    return by_folder(below(from) ? from : to, "linkat", (int)syscall(SYS_linkat, a, from, b, to, flags));
}
