// A stand-in for libnccl.so.2. It notes what it is asked, is strict about groups, configurations and communicators that do not
// block, and knows no device: streams are names. Compiled as it is, addresses are names, too; with SUMS they are host memory,
// and a collective is carried out when its last rank has called.
//
//   VERSION=n          another version
//   WITHOUT_ABORT      a library that lacks ncclCommAbort
//   INIT_FAILS         rank 1 is refused
//   NEVER_READY        nothing is ever done
//   LAZY               the first collective of a kind and root is not done on any rank before it was called on all, as since NCCL 2.22
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef VERSION
#define VERSION 23007
#endif

enum { kOk = 0, kInternal = 3, kInvalidArgument = 4, kInvalidUsage = 5, kInProgress = 7 };
enum { kF16 = 6, kF32 = 7, kBf16 = 9 };
enum { kAllReduce, kReduceScatter, kAllGather, kReduce, kBroadcast, kKinds };
enum { kMostRanks = 16, kMostCliques = 256, kMostPending = 256 };

typedef struct Id { char bytes[128]; } Id;
typedef struct Config { size_t size; unsigned magic, version; int blocking, cga, least, most; const char* net; } Config;
typedef struct Op { int kind, type, op, root; const void* from; void* to; size_t count; } Op;
typedef struct Clique Clique;
typedef struct Comm {
  int rank, polls, error, group;
  Clique* clique;
  Op pending[kMostPending];  // called, and not carried out: others have not called
  int waiting;
} Comm;
struct Clique { Id id; int ranks, came, connected[kKinds][kMostRanks + 1]; Comm* comms[kMostRanks]; };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Clique cliques[kMostCliques];
static int clique_count, id_count, group_count;
static char text[1 << 18];
static __thread int depth, group;
static const char* last = "";

static void note(const char* format, ...) {
  va_list list;
  va_start(list, format);
  size_t used = strlen(text);
  vsnprintf(text + used, sizeof text - used, format, list);
  va_end(list);
}
static int fail(int status, const char* why) { last = why; return status; }
static int done(int status) { pthread_mutex_unlock(&mutex); return status; }

const char* fake_log(void) { return text; }
// As NCCL's watchers do when a peer is gone: from now on every communicator says so.
void fake_break(int status) {
  pthread_mutex_lock(&mutex);
  last = "a peer is gone";
  for (int i = 0; i < clique_count; i++)
    for (int r = 0; r < cliques[i].ranks; r++)
      if (cliques[i].comms[r]) cliques[i].comms[r]->error = status;
  done(0);
}

int ncclGetVersion(int* version) { *version = VERSION; return kOk; }
const char* ncclGetErrorString(int status) {
  return status == kInvalidUsage ? "invalid usage" : status == 6 ? "remote process exited" : "another error";
}
const char* ncclGetLastError(Comm* comm) { (void)comm; return last; }
int ncclGetUniqueId(Id* id) {
  pthread_mutex_lock(&mutex);
  memset(id, 0x5a, sizeof *id);
  memcpy(id->bytes, &id_count, sizeof id_count);
  id_count++;
  return done(kOk);
}
int ncclGroupStart(void) {
  pthread_mutex_lock(&mutex);
  depth++;
  group = ++group_count;
  note("start;");
  return done(kOk);
}
int ncclGroupEnd(void) {
  if (depth-- != 1) return fail(kInvalidUsage, "a group that was not begun");
  pthread_mutex_lock(&mutex);
  note("end;");
  return done(kInProgress);
}

int ncclCommInitRankConfig(Comm** comm, int ranks, Id id, int rank, Config* c) {
  if (id.bytes[sizeof id - 1] != 0x5a) return fail(kInvalidArgument, "no id");
  if (depth != 1) return fail(kInvalidUsage, "not in a group");
  if (c->size != sizeof *c || c->magic != 0xcafebeef || c->version != 21700 || c->blocking != 0)
    return fail(kInvalidArgument, "no config");
#ifdef INIT_FAILS
  if (rank == 1) return fail(kInvalidUsage, "Multiple Ranks are using the same GPU\n");
#endif
  pthread_mutex_lock(&mutex);
  Clique* clique = cliques;
  while (clique < cliques + clique_count && memcmp(&clique->id, &id, sizeof id)) clique++;
  if (clique == cliques + clique_count) {
    if (clique_count == kMostCliques) return done(fail(kInternal, "too many cliques"));
    clique_count++;
    clique->id = id;
    clique->ranks = ranks;
  }
  if (clique->ranks != ranks || clique->comms[rank]) return done(fail(kInvalidArgument, "another clique's id"));
  *comm = calloc(1, sizeof **comm);
  **comm = (Comm){.rank = rank, .polls = 3, .clique = clique};
  clique->comms[rank] = *comm;
  clique->came++;
  if (c->most == (int)0x80000000) note("init %d/%d;", rank, ranks);
  else note("init %d/%d ctas %d;", rank, ranks, c->most);
  return done(kInProgress);
}
static int under_way(const Comm* comm) {
#ifdef LAZY
  for (int i = 0; i < comm->waiting; i++)
    if (!comm->clique->connected[comm->pending[i].kind][comm->pending[i].root + 1]) return 1;
#endif
  return comm->polls || comm->clique->came < comm->clique->ranks;
}
int ncclCommGetAsyncError(Comm* comm, int* state) {
  if (!comm) return fail(kInvalidArgument, "no communicator");
  pthread_mutex_lock(&mutex);
#ifndef NEVER_READY
  if (comm->polls) comm->polls--;
#endif
  *state = comm->error ? comm->error : under_way(comm) ? kInProgress : kOk;
  return done(kOk);
}

#ifdef SUMS
// By bits: not every C compiler has a type for it. A subnormal is its integer times 2^-24.
static float from_f16(uint16_t half) {
  uint32_t exponent = half >> 10 & 31, mantissa = half & 0x3ff, bits;
  float value;
  if (exponent == 0) {
    value = (float)mantissa / 16777216.0f;
    return half & 0x8000 ? -value : value;
  }
  bits = (uint32_t)(half & 0x8000) << 16 | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
  memcpy(&value, &bits, sizeof value);
  return value;
}
// To the nearest, ties to even.
static uint16_t to_f16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and beyond round to infinity
  if (magnitude < 0x38800000) {                       // below 2^-14
    // Added to 0.5, whose last bit is 2^-24, it is rounded as it should be.
    float small;
    memcpy(&small, &magnitude, sizeof small);
    small += 0.5f;
    memcpy(&bits, &small, sizeof bits);
    return sign | (bits - 0x3f000000);
  }
  magnitude += 0xfff + (magnitude >> 13 & 1);
  return sign | ((magnitude >> 13) - (112 << 10));
}
static float load(const void* at, size_t i, int type) {
  if (type == kF32) return ((const float*)at)[i];
  if (type == kF16) return from_f16(((const uint16_t*)at)[i]);
  uint32_t bits = (uint32_t)((const uint16_t*)at)[i] << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static void store(void* at, size_t i, int type, float value) {
  if (type == kF32) ((float*)at)[i] = value;
  else if (type == kF16) ((uint16_t*)at)[i] = to_f16(value);
  else {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t*)at)[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
}
#endif
// What every rank has called: whole inputs first, since a rank may work in place.
static void carry_out(Clique* clique) {
  Op* ops[kMostRanks] = {0};
  for (int r = 0; r < clique->ranks; r++) ops[r] = clique->comms[r]->pending;
  const Op* o = ops[0];
  for (int r = 1; r < clique->ranks; r++)
    if (ops[r]->kind != o->kind || ops[r]->type != o->type || ops[r]->count != o->count || ops[r]->root != o->root) {
      // NCCL would wait for ever, or write what it should not; a watcher that had noticed would say this.
      last = "the ranks called different collectives";
      for (int i = 0; i < clique->ranks; i++) clique->comms[i]->error = kInternal;
      return;
    }
  clique->connected[o->kind][o->root + 1] = 1;
#ifdef SUMS
  size_t count = o->count, size = o->type == kF32 ? 4 : 2, ranks = clique->ranks;
  size_t given = o->kind == kReduceScatter ? count * ranks : count;
  float* sum = calloc(given + 1, sizeof *sum);
  char* all = calloc(given * ranks + 1, size);
  for (size_t r = 0; r < ranks; r++)
    if (o->kind != kBroadcast || (int)r == o->root) {
      memcpy(all + r * given * size, ops[r]->from, given * size);
      for (size_t i = 0; i < given; i++) sum[i] += load(ops[r]->from, i, o->type);
    }
  for (size_t r = 0; r < ranks; r++) {
    if (o->kind == kAllGather) memcpy(ops[r]->to, all, given * ranks * size);
    else if (o->kind == kBroadcast) memcpy(ops[r]->to, all + o->root * given * size, given * size);
    else if (o->kind != kReduce || (int)r == o->root)
      for (size_t i = 0; i < count; i++)
        store(ops[r]->to, i, o->type, sum[(o->kind == kReduceScatter ? r * count : 0) + i]);
  }
  free(sum);
  free(all);
#endif
  for (int r = 0; r < clique->ranks; r++) {
    Comm* comm = clique->comms[r];
    memmove(comm->pending, comm->pending + 1, --comm->waiting * sizeof *comm->pending);
  }
}
static int take(const char* what, Op op, Comm* comm, void* stream) {
  if (depth != 1) return fail(kInvalidUsage, "not in a group");
  pthread_mutex_lock(&mutex);
  // Calls of one group may follow each other; those of the last one must be done.
  if ((comm->polls && comm->group != group) || comm->waiting == kMostPending) return done(fail(kInternal, "still under way"));
  comm->polls = 2;
  comm->group = group;
  note("%s rank %d %zx>%zx count %zu type %d op %d stream %zx", what, comm->rank, (size_t)op.from, (size_t)op.to, op.count, op.type,
       op.op, (size_t)stream);
  note(op.root >= 0 ? " root %d;" : ";", op.root);
  comm->pending[comm->waiting++] = op;
  Clique* clique = comm->clique;
  for (;;) {
    for (int r = 0; r < clique->ranks; r++)
      if (!clique->comms[r] || !clique->comms[r]->waiting || clique->comms[r]->error) return done(kInProgress);
    carry_out(clique);
  }
}
int ncclAllReduce(const void* from, void* to, size_t count, int type, int op, Comm* comm, void* stream) {
  return take("all_reduce", (Op){kAllReduce, type, op, -1, from, to, count}, comm, stream);
}
int ncclReduceScatter(const void* from, void* to, size_t count, int type, int op, Comm* comm, void* stream) {
  return take("reduce_scatter", (Op){kReduceScatter, type, op, -1, from, to, count}, comm, stream);
}
int ncclAllGather(const void* from, void* to, size_t count, int type, Comm* comm, void* stream) {
  return take("all_gather", (Op){kAllGather, type, -1, -1, from, to, count}, comm, stream);
}
int ncclReduce(const void* from, void* to, size_t count, int type, int op, int root, Comm* comm, void* stream) {
  return take("reduce", (Op){kReduce, type, op, root, from, to, count}, comm, stream);
}
int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Comm* comm, void* stream) {
  return take("broadcast", (Op){kBroadcast, type, -1, root, from, to, count}, comm, stream);
}

static int gone(const char* what, Comm* comm) {
  pthread_mutex_lock(&mutex);
  note("%s %d;", what, comm->rank);
  comm->clique->comms[comm->rank] = NULL;
  free(comm);
  return done(kOk);
}
int ncclCommFinalize(Comm* comm) {
  pthread_mutex_lock(&mutex);
  comm->polls = 2;
  note("finalize %d;", comm->rank);
  return done(kInProgress);
}
int ncclCommDestroy(Comm* comm) {
  if (comm->polls) return fail(kInternal, "still under way");
  return gone("destroy", comm);
}
#ifndef WITHOUT_ABORT
int ncclCommAbort(Comm* comm) { return gone("abort", comm); }
#endif
