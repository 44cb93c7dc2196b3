/* Lets the n-th file operation of a process fail, or kills the process at it; loaded with LD_PRELOAD.
 *
 * Only operations on paths below one directory count. faults_arm() says which directory, which operation, a pattern of
 * the paths, which of the calls that match, and what happens then; before it is called, everything passes through.
 *
 * A kill may also lose what was not synced, as a loss of power does: each file that was written since its last fsync is
 * cut to the length it had then (to nothing, if it was new or truncated). Creating, renaming and deleting are taken to
 * be durable in their order, as on a file system that journals its metadata; bytes overwritten in place stay.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum operation { CREATE, OPEN, READ, WRITE, FSYNC, RENAME, MKDIR, UNLINK, OPERATIONS };
static const char *const NAMES[] = {"create", "open", "read", "write", "fsync", "rename", "mkdir", "unlink"};
enum { FAIL, KILL, HALF, POWER, COUNT }; /* What happens; COUNT only writes down what would count. */

static char root[PATH_MAX], pattern[PATH_MAX];
static size_t root_length;
static int armed, target, what, error_number, lasting, fired, log_fd = -1;
static long nth, matched, counts[OPERATIONS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Files with bytes that were not synced, and the length up to which they were. */
static struct unsynced { char path[PATH_MAX]; off_t length; } *journal;
static int journal_size;

/* The function of the C library that ours of the same name stands before. */
static void *next(void **slot, const char *name) { return *slot ? *slot : (*slot = dlsym(RTLD_NEXT, name)); }
#define REAL(name) ((__typeof__(&name))next((void **)&real_##name, #name))
#define DECLARE(name) static __typeof__(&name) real_##name
DECLARE(openat); DECLARE(opendir); DECLARE(read); DECLARE(pread); DECLARE(readv); DECLARE(write);
DECLARE(pwrite); DECLARE(writev); DECLARE(ftruncate); DECLARE(fsync); DECLARE(fdatasync); DECLARE(rename);
DECLARE(renameat); DECLARE(link); DECLARE(mkdir); DECLARE(mkdirat); DECLARE(unlink); DECLARE(unlinkat); DECLARE(rmdir);
DECLARE(sendfile); DECLARE(copy_file_range);

/* Called by the process itself. `name` is an operation of NAMES, `paths` a pattern for the path below the directory
 * ("/" is the directory itself), see matches(); `log` a file to append to. Returns 0 if it is armed. */
int faults_arm(const char *directory, const char *name, const char *paths, long n, long happens, long error, long for_good,
               const char *log) {
  for (target = 0; target < OPERATIONS && strcmp(NAMES[target], name); target++) {}
  root_length = strlen(directory);
  if (root_length >= sizeof root || strlen(paths) >= sizeof pattern) return -1;
  strcpy(root, directory);
  strcpy(pattern, paths);
  nth = n, what = happens, error_number = error, lasting = for_good;
  journal = calloc(1024, sizeof *journal);
  log_fd = REAL(openat)(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  armed = journal && log_fd >= 0;
  return !armed;
}

static int below(const char *path) {
  return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The absolute path of `path`, or of the descriptor itself; "" if there is none. */
static const char *absolute(int directory, const char *path, char *buffer) {
  char link[64];
  if (path && path[0] == '/') return path;
  if (directory == AT_FDCWD) {
    if (!getcwd(buffer, PATH_MAX)) return "";
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    buffer[length < 0 ? 0 : length] = 0;
  }
  if (path) {
    size_t length = strlen(buffer);
    snprintf(buffer + length, PATH_MAX - length, "/%s", path);
  }
  return buffer;
}

static struct unsynced *find(const char *path) {
  for (int i = 0; i < journal_size; i++)
    if (!strcmp(journal[i].path, path)) return &journal[i];
  return NULL;
}

static void remember(const char *path, off_t length) {
  struct unsynced *known = find(path);
  if (known && length < known->length) known->length = length;
  if (known || journal_size == 1024) return;
  snprintf(journal[journal_size].path, PATH_MAX, "%s", path);
  journal[journal_size++].length = length;
}

static void forget(const char *path) {
  struct unsynced *known = find(path);
  if (known) *known = journal[--journal_size];
}

static void moved(const char *from, const char *to) {
  size_t length = strlen(from);
  forget(to);
  for (int i = 0; i < journal_size; i++) {
    char rest[PATH_MAX];
    if (strncmp(journal[i].path, from, length) || !strchr("/", journal[i].path[length])) continue;
    strcpy(rest, journal[i].path + length);
    snprintf(journal[i].path, PATH_MAX, "%s%s", to, rest);
  }
}

static void die(void) { /* With the lock, so that no other thread writes any more. */
  for (int i = 0; what == POWER && i < journal_size; i++)
    if (truncate(journal[i].path, journal[i].length)) {}
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

static const char *inside(const char *path) { return path[root_length] ? path + root_length : "/"; }

/* In a pattern, '#' stands for a hexadecimal number, and '*' for all the rest of the path. */
static int matches(const char *expected, const char *path) {
  for (; *expected && *expected != '*'; expected++) {
    size_t digits = *expected == '#' ? strspn(path, "0123456789abcdef") : *expected == *path;
    if (!digits) return 0;
    path += digits;
  }
  return *expected || !*path;
}

static void say(const char *name, long count, const char *path) {
  char line[PATH_MAX + 64];
  int length = snprintf(line, sizeof line, "%s %ld %s\n", name, count, inside(path));
  if (REAL(write)(log_fd, line, length) < 0) {}
}

/* Counts a call, with the lock held; returns the error with which it fails, 0 if it goes on, -1 if half of it does. */
static int meet(int operation, const char *path, int takes_room) {
  long count = ++counts[operation];
  if (what == COUNT) {
    say(NAMES[operation], count, path);
    return 0;
  }
  if (fired) return lasting && (operation == target || (error_number == ENOSPC && takes_room)) ? error_number : 0;
  if (operation != target || !matches(pattern, inside(path)) || ++matched < nth) return 0;
  fired = 1;
  say(NAMES[operation], count, path);
  if (what == FAIL) return error_number;
  if (what == HALF && operation == WRITE) return -1;
  die();
  return 0;
}

/* In a wrapper: passes a call through that is none of ours; `path` must be a variable, and stays that of the call. */
#define OURS(path, call) do { if (!armed || !below(path)) return (call); pthread_mutex_lock(&lock); } while (0)
#define REFUSE(value, error) do { pthread_mutex_unlock(&lock); errno = (error); return (value); } while (0)
/* Ends a wrapper whose call gave `done`. */
#define LEAVE(done) do { int kept_ = errno; pthread_mutex_unlock(&lock); errno = kept_; return (done); } while (0)
#define PATH(at, given) char buffer[PATH_MAX]; const char *path = armed ? absolute(at, given, buffer) : ""

static int opening(int at, const char *given, int flags, mode_t mode) {
  PATH(at, given);
  OURS(path, REAL(openat)(at, given, flags, mode));
  struct stat status;
  int makes = (flags & O_CREAT) && stat(path, &status), refused = meet(makes ? CREATE : OPEN, path, makes);
  if (refused) REFUSE(-1, refused);
  int opened = REAL(openat)(at, given, flags, mode);
  if (opened >= 0 && (makes || (flags & O_TRUNC))) remember(path, 0);
  LEAVE(opened);
}

#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *path, int flags, ...) { MODE(flags) return opening(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opening(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opening(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opening(at, path, flags, mode); }
DIR *opendir(const char *given) {
  PATH(AT_FDCWD, given);
  OURS(path, REAL(opendir)(given));
  int refused = meet(OPEN, path, 0);
  if (refused) REFUSE(NULL, refused);
  DIR *opened = REAL(opendir)(given);
  LEAVE(opened);
}

#define READING(call) PATH(fd, NULL); OURS(path, call); int refused = meet(READ, path, 0); \
  if (refused) REFUSE(-1, refused); ssize_t done = (call); LEAVE(done)
ssize_t read(int fd, void *to, size_t size) { READING(REAL(read)(fd, to, size)); }
ssize_t pread(int fd, void *to, size_t size, off_t at) { READING(REAL(pread)(fd, to, size, at)); }
ssize_t pread64(int fd, void *to, size_t size, off_t at) { READING(REAL(pread)(fd, to, size, at)); }
ssize_t readv(int fd, const struct iovec *to, int count) { READING(REAL(readv)(fd, to, count)); }

/* `half` writes half of the bytes. */
#define WRITING(call, half) PATH(fd, NULL); OURS(path, call); int refused = meet(WRITE, path, 1); struct stat status; \
  if (refused > 0) REFUSE(-1, refused); if (!fstat(fd, &status)) remember(path, status.st_size); \
  if (refused < 0) { if ((half) < 0) {} die(); } ssize_t done = (call); LEAVE(done)
ssize_t write(int fd, const void *from, size_t size) {
  WRITING(REAL(write)(fd, from, size), REAL(write)(fd, from, size / 2));
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
  WRITING(REAL(pwrite)(fd, from, size, at), REAL(pwrite)(fd, from, size / 2, at));
}
ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) {
  WRITING(REAL(pwrite)(fd, from, size, at), REAL(pwrite)(fd, from, size / 2, at));
}
ssize_t writev(int fd, const struct iovec *from, int count) {
  WRITING(REAL(writev)(fd, from, count), REAL(write)(fd, from[0].iov_base, from[0].iov_len / (count > 1 ? 1 : 2)));
}
int ftruncate(int fd, off_t size) { WRITING(REAL(ftruncate)(fd, size), 0); }
int ftruncate64(int fd, off_t size) { WRITING(REAL(ftruncate)(fd, size), 0); }
ssize_t sendfile(int fd, int from, off_t *at, size_t size) { WRITING(REAL(sendfile)(fd, from, at, size), 0); }
ssize_t sendfile64(int fd, int from, off_t *at, size_t size) { WRITING(REAL(sendfile)(fd, from, at, size), 0); }
ssize_t copy_file_range(int from, off_t *at, int fd, off_t *to, size_t size, unsigned flags) {
  WRITING(REAL(copy_file_range)(from, at, fd, to, size, flags), 0);
}

#define SYNCING(call) PATH(fd, NULL); OURS(path, call); int refused = meet(FSYNC, path, 1); \
  if (refused) REFUSE(-1, refused); int done = (call); if (!done) forget(path); LEAVE(done)
int fsync(int fd) { SYNCING(REAL(fsync)(fd)); }
int fdatasync(int fd) { SYNCING(REAL(fdatasync)(fd)); }

/* `then` keeps the journal right when the call succeeds. */
#define CHANGING(operation, room, call, then) OURS(path, call); int refused = meet(operation, path, room); \
  if (refused) REFUSE(-1, refused); int done = (call); if (!done) { then; } LEAVE(done)
#define BOTH(at, given, to, new) char place[PATH_MAX]; PATH(at, given); const char *fresh = armed ? absolute(to, new, place) : ""
int rename(const char *a, const char *b) {
  BOTH(AT_FDCWD, a, AT_FDCWD, b);
  CHANGING(RENAME, 0, REAL(rename)(a, b), moved(path, fresh));
}
int renameat(int i, const char *a, int j, const char *b) {
  BOTH(i, a, j, b);
  CHANGING(RENAME, 0, REAL(renameat)(i, a, j, b), moved(path, fresh));
}
int link(const char *a, const char *b) {
  BOTH(AT_FDCWD, a, AT_FDCWD, b);
  CHANGING(RENAME, 1, REAL(link)(a, b), if (find(path)) remember(fresh, find(path)->length));
}
int mkdir(const char *given, mode_t mode) { PATH(AT_FDCWD, given); CHANGING(MKDIR, 1, REAL(mkdir)(given, mode), ); }
int mkdirat(int at, const char *given, mode_t mode) { PATH(at, given); CHANGING(MKDIR, 1, REAL(mkdirat)(at, given, mode), ); }
int unlink(const char *given) { PATH(AT_FDCWD, given); CHANGING(UNLINK, 0, REAL(unlink)(given), forget(path)); }
int unlinkat(int at, const char *given, int flags) { PATH(at, given); CHANGING(UNLINK, 0, REAL(unlinkat)(at, given, flags), forget(path)); }
int rmdir(const char *given) { PATH(AT_FDCWD, given); CHANGING(UNLINK, 0, REAL(rmdir)(given), ); }
