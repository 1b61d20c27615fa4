/*
 * The only program of a Linux guest: its init. It loads the modules of the initramfs, unless the
 * kernel's command line says "late=1", then executes commands, one per line of the second serial
 * port, and answers each with "ok" or "error" and a reason. While it works it reports "at K N": K
 * steps of N are done.
 *
 * Static, so that the initramfs needs nothing else. All random draws come from the seed of the
 * last command `seed`: the same commands do the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define PAGE 4096L
#define DISK "/dev/vda"      /* of QEMU; */
#define UML_DISK "/dev/ubda" /* of User-Mode Linux */
#define FILES "/files"         /* a tmpfs: files in memory */
#define GROWING 8        /* files that grow at the same time, so that their pages interleave */
#define CHUNK (64 << 10) /* bytes by which one grows in its turn */
#define MAX_READ 32      /* pages that one read takes at most */

static int wire;
static uint64_t state;

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t next(void)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint64_t below(uint64_t n)
{
    return next() % n;
}

static void at(long done, long total)
{
    static long reported;

    if (done == 0)
        reported = 0;
    if (done * 50 / total > reported) {
        reported = done * 50 / total;
        dprintf(wire, "at %ld %ld\n", done, total);
    }
}

/* Memory of the program's own tables: freed whole, and never part of what is aged. */
static void *book(size_t bytes)
{
    void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return room == MAP_FAILED ? NULL : room;
}

static uint32_t *shuffled(long n)
{
    uint32_t *order = book(n * sizeof *order);

    for (long i = 0; order && i < n; i++) {
        long j = below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

/* cat PATH: the length in bytes, a line end, the bytes. */
static const char *cat(const char *path)
{
    static char text[1 << 18];
    size_t n = 0;
    ssize_t got;
    int fd = open(path, O_RDONLY);

    if (fd < 0)
        return strerror(errno);
    while (n < sizeof text && (got = read(fd, text + n, sizeof text - n)) > 0)
        n += got;
    close(fd);
    dprintf(wire, "ok %zu\n", n);
    for (size_t sent = 0; sent < n; sent += got)
        if ((got = write(wire, text + sent, n - sent)) < 0)
            return strerror(errno);
    return "";
}

/* write PATH TEXT: as `echo TEXT > PATH`. */
static const char *put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    ssize_t done;

    if (fd < 0)
        return strerror(errno);
    done = write(fd, text, strlen(text));
    close(fd);
    return done < 0 ? strerror(errno) : NULL;
}

static char *anonymous; /* the memory that `anon` took last */
static long n_anonymous;

/* anon BYTES: take anonymous memory and touch every page of it, in random order. */
static const char *anon(uint64_t bytes)
{
    uint32_t *order = shuffled(n_anonymous = bytes / PAGE);

    anonymous = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!order || anonymous == MAP_FAILED)
        return strerror(errno);
    for (long i = 0; i < n_anonymous; i++) {
        at(i, n_anonymous);
        anonymous[order[i] * PAGE] = 1;
    }
    munmap(order, n_anonymous * sizeof *order);
    return NULL;
}

/* free PERCENT PAGES: free that share of it, in random pieces of 1 to PAGES pages. */
static const char *free_pieces(long percent, long pages)
{
    long left = n_anonymous * percent / 100, goal = left;
    char *gone = book(n_anonymous);

    if (!gone)
        return strerror(errno);
    while (left > 0) {
        long first = below(n_anonymous), n = 1 + below(pages);

        at(goal - left, goal);
        if (n > n_anonymous - first)
            n = n_anonymous - first;
        if (madvise(anonymous + first * PAGE, n * PAGE, MADV_DONTNEED))
            return strerror(errno);
        for (long i = first; i < first + n; i++) {
            left -= !gone[i];
            gone[i] = 1;
        }
    }
    munmap(gone, n_anonymous);
    return NULL;
}

/*
 * read BYTES: read pieces of 1 to MAX_READ pages of a file at random, through the page cache. The
 * file is four times as large as memory and all hole, which costs no disk, and pages like any.
 */
static const char *read_file(uint64_t bytes)
{
    static char buffer[MAX_READ * PAGE];
    static int fd = -1;
    long goal = bytes / PAGE, n, size = 4 * sysconf(_SC_PHYS_PAGES);

    if (fd < 0) {
        mkdir("/disk", 0755);
        if (mount(access(DISK, F_OK) ? UML_DISK : DISK, "/disk", "ext4", MS_NOATIME, NULL))
            return strerror(errno);
        fd = open("/disk/file", O_CREAT | O_RDWR, 0600);
        if (fd < 0 || ftruncate(fd, size * PAGE))
            return strerror(errno);
        posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* no page that was not asked for */
    }
    for (long done = 0; done < goal; done += n) {
        n = 1 + below(MAX_READ);
        at(done, goal);
        if (pread(fd, buffer, n * PAGE, below(size - n) * PAGE) != n * PAGE)
            return strerror(errno);
    }
    return NULL;
}

static long n_files;

static const char *path_of(long file)
{
    static char path[32];

    snprintf(path, sizeof path, FILES "/%ld", file);
    return path;
}

static int create(void)
{
    return open(path_of(n_files++), O_CREAT | O_WRONLY, 0600);
}

/* A power of two between the two sizes, each as likely, and something up to the next. */
static long draw_size(long least, long most)
{
    int n_powers = 1;

    while (least << n_powers < most)
        n_powers++;
    least <<= below(n_powers);
    return least + below(least);
}

/* files BYTES LEAST MOST: fill tmpfs with files of mixed sizes, eight growing at a time. */
static const char *fill(uint64_t bytes, long least, long most)
{
    struct { int fd; long at, left; } growing[GROWING] = {{0}};
    uint64_t done = 0;

    for (long turn = 0; done < bytes; turn++) {
        typeof(growing[0]) *one = &growing[turn % GROWING];
        long step;

        at(done / PAGE, bytes / PAGE);
        if (one->left == 0) {
            if (one->at)
                close(one->fd);
            one->fd = create();
            one->at = 0;
            one->left = draw_size(least, most);
        }
        step = one->left < CHUNK ? one->left : CHUNK;
        if (one->fd < 0 || fallocate(one->fd, 0, one->at, step))
            return strerror(errno);
        one->at += step;
        one->left -= step;
        done += (step + PAGE - 1) / PAGE * PAGE;
    }
    for (int i = 0; i < GROWING; i++)
        if (growing[i].at)
            close(growing[i].fd);
    return NULL;
}

/* Of a file of pages that are known: the first and the last word of page I. */
#define KEPT(i) (0x6b65707400000000 + (i))
#define BLOCK_PAGES 256L
#define MOST_CHECKED (1L << 15)

static uint64_t block[BLOCK_PAGES * PAGE / 8];
static long n_kept;

/* Fill a new file on tmpfs with so many pages, each beginning and ending with its mark. */
static const char *write_pages(const char *path, long pages, uint64_t mark)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);

    for (long done = 0, n; done < pages; done += n) {
        at(done, pages);
        n = pages - done < BLOCK_PAGES ? pages - done : BLOCK_PAGES;
        for (long i = 0; i < n; i++)
            block[i * (PAGE / 8)] = block[(i + 1) * (PAGE / 8) - 1] = mark + done + i;
        if (fd < 0 || write(fd, block, n * PAGE) != n * PAGE)
            return strerror(errno);
    }
    close(fd);
    memset(block, 0, sizeof block);
    return NULL;
}

/* touch BYTES: write into so much free memory, and free it again. */
static const char *touch(uint64_t bytes)
{
    const char *problem = write_pages(FILES "/touched", bytes / PAGE, 1);

    unlink(FILES "/touched");
    return problem;
}

/* keep BYTES: take so much memory for a file whose pages are known. */
static const char *keep(uint64_t bytes)
{
    return write_pages(FILES "/kept", n_kept = bytes / PAGE, KEPT(0));
}

/* kept: of MOST_CHECKED pages of that file or all, how many are not as they were written. */
static const char *check_kept(void)
{
    int fd = open(FILES "/kept", O_RDONLY);
    long wrong = 0;

    for (long i = 0; i < n_kept; i += 1 + n_kept / MOST_CHECKED)
        if (pread(fd, block, PAGE, i * PAGE) != PAGE || block[0] != KEPT(i) ||
            block[PAGE / 8 - 1] != KEPT(i))
            wrong++;
    close(fd);
    memset(block, 0, PAGE);
    dprintf(wire, "ok %ld\n", wrong);
    return "";
}

static int (*pipes)[2];
static long n_pipes;

/* objects N: a pipe with a byte in it and an empty file, N times. */
static const char *make_objects(long n)
{
    pipes = book(n * sizeof *pipes);
    for (n_pipes = 0; n_pipes < n; n_pipes++) {
        int fd = create();

        at(n_pipes, n);
        if (!pipes || fd < 0 || close(fd) || pipe(pipes[n_pipes]))
            return strerror(errno);
        if (write(pipes[n_pipes][1], "", 1) != 1)
            return strerror(errno);
    }
    return NULL;
}

/* drop PERCENT: that share of all files and pipes goes, in random order. */
static const char *drop(long percent)
{
    long n = n_files + n_pipes, goal = n * percent / 100;
    uint32_t *order = shuffled(n);

    if (!order)
        return strerror(errno);
    for (long i = 0; i < goal; i++) {
        long pipe = (long)order[i] - n_files;

        at(i, goal);
        if (pipe < 0 ? unlink(path_of(order[i])) : close(pipes[pipe][0]) | close(pipes[pipe][1]))
            return strerror(errno);
    }
    munmap(order, n * sizeof *order);
    return NULL;
}

static void load_modules(void)
{
    for (int i = 0;; i++) {
        char path[32];
        int fd;

        snprintf(path, sizeof path, "/modules/%d.ko", i);
        if ((fd = open(path, O_RDONLY)) < 0)
            return;
        if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
            dprintf(wire, "error module %d: %s\n", i, strerror(errno));
        close(fd);
    }
}

static const char *run(char *line)
{
    char path[256], text[256];
    uint64_t bytes;
    long a, b;

    if (sscanf(line, "cat %255s", path) == 1)
        return cat(path);
    if (sscanf(line, "write %255s %255[^\n]", path, text) == 2)
        return put(path, text);
    if (sscanf(line, "seed %" SCNu64, &state) == 1)
        return NULL;
    if (sscanf(line, "anon %" SCNu64, &bytes) == 1)
        return anon(bytes);
    if (sscanf(line, "free %ld %ld", &a, &b) == 2)
        return free_pieces(a, b);
    if (sscanf(line, "read %" SCNu64, &bytes) == 1)
        return read_file(bytes);
    if (sscanf(line, "files %" SCNu64 " %ld %ld", &bytes, &a, &b) == 3)
        return fill(bytes, a, b);
    if (sscanf(line, "objects %ld", &a) == 1)
        return make_objects(a);
    if (sscanf(line, "drop %ld", &a) == 1)
        return drop(a);
    if (sscanf(line, "touch %" SCNu64, &bytes) == 1)
        return touch(bytes);
    if (sscanf(line, "keep %" SCNu64, &bytes) == 1)
        return keep(bytes);
    if (!strcmp(line, "kept"))
        return check_kept();
    if (!strcmp(line, "load"))
        return load_modules(), NULL;
    return "no such command";
}

int main(void)
{
    struct rlimit files = {1 << 20, 1 << 20}; /* the kernel's default fs.nr_open */
    struct termios raw;
    char line[512];

    mkdir("/proc", 0755), mount("proc", "/proc", "proc", 0, NULL);
    mkdir("/sys", 0755), mount("sys", "/sys", "sysfs", 0, NULL);
    mkdir("/dev", 0755), mount("dev", "/dev", "devtmpfs", 0, NULL);
    mkdir(FILES, 0755), mount("files", FILES, "tmpfs", 0, "size=100%,nr_inodes=0");
    setrlimit(RLIMIT_NOFILE, &files);
    if ((wire = open("/dev/ttyS1", O_RDWR | O_NOCTTY)) < 0 || tcgetattr(wire, &raw))
        return 1; /* the kernel panics, and QEMU ends */
    cfmakeraw(&raw);
    tcsetattr(wire, TCSANOW, &raw);
    if (!getenv("late"))
        load_modules();
    dprintf(wire, "ready\n");
    for (size_t n = 0; read(wire, line + n, 1) == 1;) {
        const char *problem;

        if (line[n] != '\n') {
            n += n < sizeof line - 1;
            continue;
        }
        line[n] = 0;
        n = 0;
        problem = run(line);
        if (!problem)
            dprintf(wire, "ok\n");
        else if (*problem)
            dprintf(wire, "error %s\n", problem);
    }
    return 1;
}
