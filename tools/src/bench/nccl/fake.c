// A stand-in for libnccl.so.2, which does nothing but note what it is asked, and is strict about groups, configs and
// communicators that do not block. VERSION, INIT_FAILS, NEVER_READY and WITHOUT_ABORT make it another library.
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef VERSION
#define VERSION 23007
#endif

enum { kOk = 0, kInternal = 3, kInvalidArgument = 4, kInvalidUsage = 5, kInProgress = 7 };
typedef struct Comm { int rank, polls; } Comm;
typedef struct Id { char bytes[128]; } Id;
typedef struct Config { size_t size; unsigned magic, version; int blocking, cga, least, most; const char* net; } Config;

static char text[8192];
static int depth;
static const char* last = "";

static void note(const char* format, ...) {
  va_list list;
  va_start(list, format);
  size_t used = strlen(text);
  vsnprintf(text + used, sizeof text - used, format, list);
  va_end(list);
}
static int fail(int status, const char* why) { last = why; return status; }

const char* fake_log(void) { return text; }

int ncclGetVersion(int* version) { *version = VERSION; return kOk; }
const char* ncclGetErrorString(int status) { return status == kInvalidUsage ? "invalid usage" : "another error"; }
const char* ncclGetLastError(Comm* comm) { (void)comm; return last; }
int ncclGetUniqueId(Id* id) { memset(id, 0x5a, sizeof *id); return kOk; }
int ncclGroupStart(void) { depth++; note("start;"); return kOk; }
int ncclGroupEnd(void) {
  if (depth-- != 1) return fail(kInvalidUsage, "a group that was not begun");
  note("end;");
  return kInProgress;
}

int ncclCommInitRankConfig(Comm** comm, int ranks, Id id, int rank, Config* c) {
  for (size_t i = 0; i < sizeof id; i++) if (id.bytes[i] != 0x5a) return fail(kInvalidArgument, "another id");
  if (depth != 1) return fail(kInvalidUsage, "not in a group");
  if (c->size != sizeof *c || c->magic != 0xcafebeef || c->version != 21700 || c->blocking != 0)
    return fail(kInvalidArgument, "no config");
#ifdef INIT_FAILS
  if (rank == 1) return fail(kInvalidUsage, "Multiple Ranks are using the same GPU\n");
#endif
  *comm = calloc(1, sizeof **comm);
  (*comm)->rank = rank;
  (*comm)->polls = 3;
  note("init %d/%d ctas %d;", rank, ranks, c->most);
  return kInProgress;
}
int ncclCommGetAsyncError(Comm* comm, int* state) {
#ifndef NEVER_READY
  if (comm->polls) comm->polls--;
#endif
  *state = comm->polls ? kInProgress : kOk;
  return kOk;
}
static int take(const char* what, const void* from, void* to, size_t count, int type, int op, Comm* comm, void* stream) {
  if (depth != 1) return fail(kInvalidUsage, "not in a group");
  if (comm->polls) return fail(kInternal, "still under way");
  comm->polls = 2;
  note("%s rank %d %zx>%zx count %zu type %d op %d stream %zx;", what, comm->rank, (size_t)from, (size_t)to, count, type, op,
       (size_t)stream);
  return kInProgress;
}
int ncclAllReduce(const void* from, void* to, size_t count, int type, int op, Comm* comm, void* stream) {
  return take("all_reduce", from, to, count, type, op, comm, stream);
}
int ncclReduceScatter(const void* from, void* to, size_t count, int type, int op, Comm* comm, void* stream) {
  return take("reduce_scatter", from, to, count, type, op, comm, stream);
}
int ncclAllGather(const void* from, void* to, size_t count, int type, Comm* comm, void* stream) {
  return take("all_gather", from, to, count, type, -1, comm, stream);
}
int ncclCommFinalize(Comm* comm) { comm->polls = 2; note("finalize %d;", comm->rank); return kInProgress; }
int ncclCommDestroy(Comm* comm) {
  if (comm->polls) return fail(kInternal, "still under way");
  note("destroy %d;", comm->rank);
  free(comm);
  return kOk;
}
#ifndef WITHOUT_ABORT
int ncclCommAbort(Comm* comm) { note("abort %d;", comm->rank); free(comm); return kOk; }
#endif
