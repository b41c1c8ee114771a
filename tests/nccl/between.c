// A stand-in for libnccl.so.2 between processes: real sums over whatever libcuda.so.1 the process has loaded. Ranks exchange by a
// file that all map, named by the clique's id; who has mapped it last takes its name away.
//
// As NCCL's non-blocking communicators, no call waits for a peer: a thread of each communicator carries out what was called, in
// order, behind the work in the stream, and the communicator is in progress until then. (NCCL is so until its kernels
// are enqueued; here there are none.) Partials are added in f32, by rank, and rounded once; bf16 and f32 alone.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { kOk = 0, kCuda = 1, kInternal = 3, kInvalidArgument = 4, kInvalidUsage = 5, kInProgress = 7 };
enum { kF32 = 7, kBf16 = 9 };
enum { kAllReduce, kReduceScatter, kAllGather, kReduce, kBroadcast };
enum { kMostRanks = 16, kMostWaiting = 256, kNap = 50 };
// Of one rank's input. Pages that nobody touches are none.
static const size_t kRoom = (size_t)64 << 20;

typedef struct Id { char bytes[128]; } Id;
typedef struct Config { size_t size; unsigned magic, version; int blocking, cga, least, most; const char* net; } Config;
typedef struct Op { int kind, type, root; uint64_t from, to; size_t count; void* stream; } Op;
// What a rank calls as its operation of a number must be what all do.
typedef struct Header { int kind, type, root; size_t count; } Header;
typedef struct Shared {
  atomic_int came;
  atomic_ullong posted[kMostRanks], taken[kMostRanks];
  Header headers[kMostRanks];
} Shared;
typedef struct Comm {
  int rank, ranks;
  Shared* shared;
  char* rooms;
  char name[128];
  void* context;
  pthread_t thread;
  pthread_mutex_t mutex;
  Op waiting[kMostWaiting];
  int count, ready;
  uint64_t number;
  atomic_int stop, error;
} Comm;

static struct {
  int (*get_context)(void**), (*set_context)(void*), (*synchronize)(void*);
  int (*out)(void*, uint64_t, size_t, void*), (*in)(uint64_t, const void*, size_t, void*);
} cuda;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __thread int depth;
static const char* last = "";

static void find_cuda(void) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) return;
  *(void**)&cuda.get_context = dlsym(library, "cuCtxGetCurrent");
  *(void**)&cuda.set_context = dlsym(library, "cuCtxSetCurrent");
  *(void**)&cuda.synchronize = dlsym(library, "cuStreamSynchronize");
  *(void**)&cuda.out = dlsym(library, "cuMemcpyDtoHAsync_v2");
  *(void**)&cuda.in = dlsym(library, "cuMemcpyHtoDAsync_v2");
}
static int fail(int status, const char* why) { last = why; return status; }

int ncclGetVersion(int* version) { *version = 23007; return kOk; }
const char* ncclGetErrorString(int status) { return status == kCuda ? "unhandled cuda error" : "another error"; }
const char* ncclGetLastError(Comm* comm) { (void)comm; return last; }
int ncclGetUniqueId(Id* id) {
  static atomic_int count;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  memset(id, 0x5a, sizeof *id);
  snprintf(id->bytes, 64, "%d-%d-%lld-%ld", (int)getpid(), count++, (long long)now.tv_sec, now.tv_nsec);
  return kOk;
}
int ncclGroupStart(void) { depth++; return kOk; }
int ncclGroupEnd(void) { return depth-- == 1 ? kInProgress : fail(kInvalidUsage, "a group that was not begun"); }

static float load(const char* at, size_t i, int type) {
  uint32_t bits;
  float value;
  if (type == kF32) memcpy(&value, at + 4 * i, 4);
  else {
    uint16_t half;
    memcpy(&half, at + 2 * i, 2);
    bits = (uint32_t)half << 16;
    memcpy(&value, &bits, 4);
  }
  return value;
}
static void store(char* at, size_t i, int type, float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  uint16_t half = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  if (type == kF32) memcpy(at + 4 * i, &value, 4);
  else memcpy(at + 2 * i, &half, 2);
}

// Until every rank has come so far, or this one is to stop.
static int all(Comm* comm, atomic_ullong* words, uint64_t number) {
  for (int r = 0; r < comm->ranks; r++)
    while (atomic_load(&words[r]) < number) {
      if (atomic_load(&comm->stop)) return 0;
      usleep(kNap);
    }
  return 1;
}

static int carry_out(Comm* comm, const Op* op) {
  size_t size = op->type == kF32 ? 4 : 2, ranks = comm->ranks, rank = comm->rank;
  size_t given = op->kind == kReduceScatter ? op->count * ranks : op->count;
  size_t got = op->kind == kAllGather ? op->count * ranks : op->count;
  if (given * size > kRoom) return fail(kInvalidArgument, "a message beyond this stand-in's room");
  char* own = comm->rooms + rank * kRoom;
  Header mine = {op->kind, op->type, op->root, op->count};
  if (cuda.synchronize(op->stream)) return fail(kCuda, "the stream has failed");
  int gives = op->kind != kBroadcast || op->root == (int)rank;
  if (gives && (cuda.out(own, op->from, given * size, op->stream) || cuda.synchronize(op->stream)))
    return fail(kCuda, "what is sent cannot be read");
  comm->shared->headers[rank] = mine;
  comm->number++;
  atomic_store(&comm->shared->posted[rank], comm->number);
  if (!all(comm, comm->shared->posted, comm->number)) return kOk;
  for (size_t r = 0; r < ranks; r++) {
    Header* theirs = &comm->shared->headers[r];
    if (theirs->kind != mine.kind || theirs->type != mine.type || theirs->root != mine.root || theirs->count != mine.count)
      return fail(kInternal, "the ranks called different collectives");
  }
  int takes = op->kind != kReduce || op->root == (int)rank, status = kOk;
  char* result = malloc(got * size + 1);
  if (takes && op->kind == kAllGather)
    for (size_t r = 0; r < ranks; r++) memcpy(result + r * given * size, comm->rooms + r * kRoom, given * size);
  else if (takes && op->kind == kBroadcast) memcpy(result, comm->rooms + op->root * kRoom, got * size);
  else if (takes)
    for (size_t i = 0; i < got; i++) {
      float sum = 0;
      size_t at = op->kind == kReduceScatter ? rank * got + i : i;
      for (size_t r = 0; r < ranks; r++) sum += load(comm->rooms + r * kRoom, at, op->type);
      store(result, i, op->type, sum);
    }
  if (takes && (cuda.in(op->to, result, got * size, op->stream) || cuda.synchronize(op->stream)))
    status = fail(kCuda, "what was received cannot be written");
  free(result);
  atomic_store(&comm->shared->taken[rank], comm->number);
  // The next operation's input takes this one's place.
  all(comm, comm->shared->taken, comm->number);
  return status;
}

static void* run(void* argument) {
  Comm* comm = argument;
  cuda.set_context(comm->context);
  while (atomic_load(&comm->shared->came) < comm->ranks && !atomic_load(&comm->stop)) usleep(kNap);
  unlink(comm->name);
  pthread_mutex_lock(&comm->mutex);
  comm->ready = 1;
  while (!atomic_load(&comm->stop)) {
    Op op = comm->waiting[0];
    int some = comm->count;
    pthread_mutex_unlock(&comm->mutex);
    int status = some ? carry_out(comm, &op) : (usleep(kNap), kOk);
    pthread_mutex_lock(&comm->mutex);
    if (some) memmove(comm->waiting, comm->waiting + 1, --comm->count * sizeof op);
    if (status) {
      atomic_store(&comm->error, status);
      break;
    }
  }
  pthread_mutex_unlock(&comm->mutex);
  return NULL;
}

int ncclCommInitRankConfig(Comm** made, int ranks, Id id, int rank, Config* c) {
  pthread_once(&once, find_cuda);
  if (!cuda.get_context) return fail(kCuda, "no libcuda.so.1");
  if (depth != 1) return fail(kInvalidUsage, "not in a group");
  if (ranks > kMostRanks || c->magic != 0xcafebeef || c->blocking != 0) return fail(kInvalidArgument, "no config");
  Comm* comm = calloc(1, sizeof *comm);
  *comm = (Comm){.rank = rank, .ranks = ranks, .mutex = PTHREAD_MUTEX_INITIALIZER};
  size_t header = (sizeof(Shared) + 4095) / 4096 * 4096, bytes = header + ranks * kRoom;
  const char* folder = getenv("TMPDIR");
  snprintf(comm->name, sizeof comm->name, "%s/tileweave-nccl-%.64s", folder ? folder : "/tmp", id.bytes);
  int file = open(comm->name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void* memory = MAP_FAILED;
  if (file >= 0 && !ftruncate(file, bytes)) memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED || cuda.get_context(&comm->context)) return fail(kInternal, "no room to exchange by");
  comm->shared = memory;
  comm->rooms = (char*)memory + header;
  atomic_fetch_add(&comm->shared->came, 1);
  *made = comm;
  return pthread_create(&comm->thread, NULL, run, comm) ? fail(kInternal, "no thread") : kInProgress;
}
int ncclCommGetAsyncError(Comm* comm, int* state) {
  if (!comm) return fail(kInvalidArgument, "no communicator");
  pthread_mutex_lock(&comm->mutex);
  int error = atomic_load(&comm->error);
  *state = error ? error : comm->count || !comm->ready ? kInProgress : kOk;
  pthread_mutex_unlock(&comm->mutex);
  return kOk;
}

static int take(Comm* comm, Op op) {
  if (depth != 1) return fail(kInvalidUsage, "not in a group");
  if (op.type != kF32 && op.type != kBf16) return fail(kInvalidArgument, "bf16 and f32 alone");
  pthread_mutex_lock(&comm->mutex);
  int full = comm->count == kMostWaiting;
  if (!full) comm->waiting[comm->count++] = op;
  pthread_mutex_unlock(&comm->mutex);
  return full ? fail(kInternal, "too many calls") : kInProgress;
}
#define OP(kind, root) (Op){kind, type, root, (uint64_t)from, (uint64_t)to, count, stream}
int ncclAllReduce(const void* from, void* to, size_t count, int type, int sum, Comm* comm, void* stream) {
  return sum ? fail(kInvalidArgument, "sums alone") : take(comm, OP(kAllReduce, -1));
}
int ncclReduceScatter(const void* from, void* to, size_t count, int type, int sum, Comm* comm, void* stream) {
  return sum ? fail(kInvalidArgument, "sums alone") : take(comm, OP(kReduceScatter, -1));
}
int ncclAllGather(const void* from, void* to, size_t count, int type, Comm* comm, void* stream) {
  return take(comm, OP(kAllGather, -1));
}
int ncclReduce(const void* from, void* to, size_t count, int type, int sum, int root, Comm* comm, void* stream) {
  return sum ? fail(kInvalidArgument, "sums alone") : take(comm, OP(kReduce, root));
}
int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Comm* comm, void* stream) {
  return take(comm, OP(kBroadcast, root));
}

int ncclCommFinalize(Comm* comm) { (void)comm; return kInProgress; }
int ncclCommAbort(Comm* comm) {
  atomic_store(&comm->stop, 1);
  pthread_join(comm->thread, NULL);
  munmap(comm->shared, (size_t)(comm->rooms - (char*)comm->shared) + comm->ranks * kRoom);
  free(comm);
  return kOk;
}
int ncclCommDestroy(Comm* comm) { return ncclCommAbort(comm); }
