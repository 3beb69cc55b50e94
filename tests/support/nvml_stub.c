/* A stand-in for NVIDIA's library, as far as the hive calls it. What it tells, and how it misbehaves, stands
 * in the file beside it that has its name and `.conf`, which is read again at every look; a line each:
 *
 *   init CODE                         what nvmlInit answers
 *   log PATH                          a line with the process's id is added at each look
 *   hang | crash                      what the look does
 *   gpu BUS UUID TOTAL FREE NAME      a card; sizes in MiB
 *   gone | lost | shared | mig        the card before: has no handle; has no memory figures; has no memory of
 *                                     its own; is in MIG mode
 *   instance ID UUID TOTAL FREE       a part of it
 *   process PID MIB                   uses the card or instance before; -1: it is not told how much
 *
 * Types and codes are those of nvml.h. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, LOST = 15, USERS = 8, PARTS = 8, CARDS = 16 };

struct user { unsigned pid; long long mib; };
struct device {
    char bus[32], uuid[80], name[64];
    unsigned long long total, free;
    int gone, lost, shared, mig, id;
    unsigned users, parts;
    struct user user[USERS];
    struct device *part[PARTS];
};
static struct device cards[CARDS];
static unsigned count;
static int init_code, hang, crash;
static char log_path[512];

static void read_conf(void) {
    Dl_info self;
    char path[4096], line[4096];
    dladdr((void *)read_conf, &self);
    snprintf(path, sizeof path, "%s.conf", self.dli_fname);
    memset(cards, 0, sizeof cards);
    count = 0;
    init_code = hang = crash = 0;
    log_path[0] = 0;
    FILE *conf = fopen(path, "r");
    if (!conf) return;
    struct device *last = NULL, *card = NULL;
    while (fgets(line, sizeof line, conf)) {
        struct device d = {0};
        struct user u;
        line[strcspn(line, "\n")] = 0;
        sscanf(line, "init %d", &init_code);
        sscanf(line, "log %511s", log_path);
        hang |= !strcmp(line, "hang");
        crash |= !strcmp(line, "crash");
        if (sscanf(line, "gpu %31s %79s %llu %llu %63[^\n]", d.bus, d.uuid, &d.total, &d.free, d.name) == 5) {
            last = card = &cards[count++];
            *card = d;
        }
        if (!card) continue;
        card->gone |= !strcmp(line, "gone");
        card->lost |= !strcmp(line, "lost");
        card->shared |= !strcmp(line, "shared");
        card->mig |= !strcmp(line, "mig");
        if (sscanf(line, "instance %d %79s %llu %llu", &d.id, d.uuid, &d.total, &d.free) == 4) {
            snprintf(d.name, sizeof d.name, "%.40s MIG", card->name);
            last = card->part[card->parts++] = malloc(sizeof d);
            *last = d;
        }
        if (sscanf(line, "process %u %lld", &u.pid, &u.mib) == 2) last->user[last->users++] = u;
    }
    fclose(conf);
}

int nvmlInit_v2(void) { read_conf(); return init_code; }
int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "570.86.15"); return OK; }

int nvmlDeviceGetCount_v2(unsigned *n) {
    read_conf();
    if (log_path[0]) {
        FILE *log = fopen(log_path, "a");
        fprintf(log, "%d\n", getpid());
        fclose(log);
    }
    if (crash) *(volatile int *)0 = 1;
    while (hang) pause();
    *n = count;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, struct device **d) {
    if (i >= count) return INVALID;
    *d = &cards[i];
    return cards[i].gone ? LOST : OK;
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(struct device *d, struct pci *pci) {
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id, d->bus);
    return OK;
}

int nvmlDeviceGetUUID(struct device *d, char *text, unsigned size) { snprintf(text, size, "%s", d->uuid); return OK; }
int nvmlDeviceGetName(struct device *d, char *text, unsigned size) { snprintf(text, size, "%s", d->name); return OK; }

struct memory { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory *m) {
    if (d->lost) return LOST;
    if (d->shared) return UNSUPPORTED;
    m->total = d->total << 20;
    m->free = d->free << 20;
    m->reserved = 0;
    m->used = m->total - m->free;
    return OK;
}

int nvmlDeviceGetTemperature(struct device *d, int sensor, unsigned *t) {
    (void)sensor;
    *t = 41;
    return d->lost ? LOST : OK;
}

struct rates { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(struct device *d, struct rates *r) {
    r->gpu = 3;
    r->memory = 1;
    return d->mig ? UNSUPPORTED : d->lost ? LOST : OK;
}

struct process { unsigned pid; unsigned long long used; unsigned instance, compute_instance; };
int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *n, struct process *p) {
    if (d->lost) return LOST;
    unsigned room = *n;
    *n = d->users;
    if (room < d->users || (d->users && !p)) return SMALL;
    for (unsigned i = 0; i < d->users; i++) {
        struct user u = d->user[i];
        p[i] = (struct process){u.pid, u.mib < 0 ? ~0ull : (unsigned long long)u.mib << 20, ~0u, ~0u};
    }
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *d, unsigned *n, struct process *p) {
    (void)p;
    *n = 0;
    return d->lost ? LOST : OK;
}

int nvmlDeviceGetMigMode(struct device *d, unsigned *now, unsigned *pending) {
    *now = *pending = d->mig;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *n) { *n = d->mig ? 7 : 0; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned i, struct device **part) {
    if (i >= d->parts) return NOT_FOUND;
    *part = d->part[i];
    return OK;
}
int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *id) { *id = d->id; return OK; }
