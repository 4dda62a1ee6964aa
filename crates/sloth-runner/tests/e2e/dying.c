// Loaded into a process before the C library: the process dies at the n-th change that it makes below a folder.
//
// DYING_IN    the folder
// DYING_AT    the number of the change, from 0, counted from the first one after DYING_ARMED is there
// DYING_ARMED a file; the pids in it are killed along with the process
// DYING_TOLD  where the change is told that it died at
// DYING_KEEP  a folder of its own: set, everything that was not synced is lost with the process, as when a machine
//             loses its power; it holds what was
//
// A write is done by half before, a sync is not done. What is only there while the process runs is no change: locks, pid
// files, and SQLite's index of its journal, which it makes anew.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
static const char *in, *armed, *told, *keep;
static long at = -1, seen;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int ends(const char *path, const char *end) {
    size_t length = strlen(path), wanted = strlen(end);
    return length >= wanted && !strcmp(path + length - wanted, end);
}

static int counts(const char *path) {
    size_t length = strlen(in);
    return !strncmp(path, in, length) && (path[length] == '/' || !path[length]) && !ends(path, "-shm")
        && !strstr(path, ".lock") && !strstr(path, ".pid") && !strstr(path, "status.json");
}

static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return counts(path);
}

// Where a file's content is kept as it is on the disk for certain.
static void kept(const char *path, const char *what, char *to) {
    int length = snprintf(to, PATH_MAX, "%s/", keep);
    snprintf(to + length, PATH_MAX - length, "%s%s", path + strlen(in) + 1, what);
    for (char *c = to + length; *c; c++)
        if (*c == '/') *c = '%';
}

static int copy(const char *from, const char *to) {
    char buffer[65536];
    int source = open(from, O_RDONLY | O_CLOEXEC);
    if (source < 0) return 0;
    int target = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (ssize_t count; (count = read(source, buffer, sizeof buffer)) > 0;)
        if (syscall(SYS_write, target, buffer, count) != count) abort();
    close(target);
    close(source);
    return 1;
}

// Calls it for every file below a folder.
static void each(const char *folder, void (*call)(const char *)) {
    DIR *entries = opendir(folder);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (entry->d_name[0] == '.') continue;
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_type == DT_DIR) each(path, call);
        else if (counts(path)) call(path);
    }
    closedir(entries);
}

static void touch(const char *path) { close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)); }

static void name_is_kept(const char *path) {
    char mark[PATH_MAX];
    kept(path, ".name", mark);
    touch(mark);
}

static void all_is_kept(const char *path) {
    char content[PATH_MAX];
    kept(path, ".content", content);
    copy(path, content);
    name_is_kept(path);
}

static void is_synced(const char *path) {
    struct stat what;
    if (!keep || stat(path, &what)) return;
    char content[PATH_MAX];
    kept(path, ".content", content);
    if (!S_ISDIR(what.st_mode)) copy(path, content);
    else each(path, name_is_kept);
}

static void is_lost(const char *path) {
    char content[PATH_MAX], name[PATH_MAX];
    kept(path, ".content", content);
    kept(path, ".name", name);
    if (access(name, F_OK)) unlinkat(AT_FDCWD, path, 0);
    else if (!copy(content, path) && truncate(path, 0)) abort();
}

static void dies(const char *what, const char *path, long bytes) {
    char line[PATH_MAX + 64], pids[256] = "";
    int length = snprintf(line, sizeof line, "%s %s", what, path + strlen(in) + (path[strlen(in)] == '/'));
    if (bytes >= 0) length += snprintf(line + length, sizeof line - length, " %ld", bytes);
    int file = open(armed, O_RDONLY | O_CLOEXEC);
    if (read(file, pids, sizeof pids - 1) < 0) abort();
    for (char *next = pids; *next;) {
        long pid = strtol(next, &next, 10);
        if (pid > 1) kill(pid, SIGKILL);
        while (*next == ' ' || *next == '\n') next++;
    }
    if (keep) each(in, is_lost);
    file = open(told, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (syscall(SYS_write, file, line, length) != length) abort();
    kill(getpid(), SIGKILL);
    pause();
}

// Whether this change is the last one.
static int now(void) { return at >= 0 && (seen || !access(armed, F_OK)) && seen++ == at; }

__attribute__((constructor)) static void begin(void) {
    in = getenv("DYING_IN");
    armed = getenv("DYING_ARMED");
    told = getenv("DYING_TOLD");
    keep = getenv("DYING_KEEP");
    at = atol(getenv("DYING_AT"));
    if (keep) each(in, all_is_kept);
    // Its children are none of this.
    unsetenv("LD_PRELOAD");
}

ssize_t write(int file, const void *bytes, size_t count) {
    char path[PATH_MAX];
    if (!path_of(file, path)) return REAL(write)(file, bytes, count);
    pthread_mutex_lock(&one);
    if (now()) {
        REAL(write)(file, bytes, count / 2);
        dies("write", path, count);
    }
    ssize_t done = REAL(write)(file, bytes, count);
    pthread_mutex_unlock(&one);
    return done;
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
    char path[PATH_MAX];
    if (!path_of(file, path)) return REAL(pwrite64)(file, bytes, count, offset);
    pthread_mutex_lock(&one);
    if (now()) {
        REAL(pwrite64)(file, bytes, count / 2, offset);
        dies("write", path, count);
    }
    ssize_t done = REAL(pwrite64)(file, bytes, count, offset);
    pthread_mutex_unlock(&one);
    return done;
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) { return pwrite64(file, bytes, count, offset); }

static int sync_with(int (*real)(int), const char *what, int file) {
    char path[PATH_MAX];
    if (!path_of(file, path)) return real(file);
    pthread_mutex_lock(&one);
    if (now()) dies(what, path, -1);
    int done = real(file);
    if (!done) is_synced(path);
    pthread_mutex_unlock(&one);
    return done;
}

int fsync(int file) { return sync_with(REAL(fsync), "sync", file); }
int fdatasync(int file) { return sync_with(REAL(fdatasync), "sync", file); }

int ftruncate64(int file, off64_t length) {
    char path[PATH_MAX];
    if (!path_of(file, path)) return REAL(ftruncate64)(file, length);
    pthread_mutex_lock(&one);
    if (now()) dies("truncate", path, length);
    int done = REAL(ftruncate64)(file, length);
    pthread_mutex_unlock(&one);
    return done;
}

int ftruncate(int file, off_t length) { return ftruncate64(file, length); }

int rename(const char *from, const char *to) {
    if (!counts(from)) return REAL(rename)(from, to);
    pthread_mutex_lock(&one);
    if (now()) dies("rename", from, -1);
    int done = REAL(rename)(from, to);
    pthread_mutex_unlock(&one);
    return done;
}

int unlink(const char *path) {
    if (!counts(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&one);
    if (now()) dies("remove", path, -1);
    int done = REAL(unlink)(path);
    pthread_mutex_unlock(&one);
    return done;
}
