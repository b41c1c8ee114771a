// A stand-in for libcuda.so over host memory, for the tests of src/driver/cuda: it does at once what a GPU would do later,
// and is stricter than CUDA about contexts. FAKE_CUDA makes it a driver that is old, sees no GPU, or lacks something.
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"

enum { kOk = 0, kInvalidValue = 1, kNoDevice = 100, kInvalidContext = 201, kInvalidHandle = 400, kNotFound = 500, kUnsupported = 801 };
typedef uint64_t Ptr;
typedef struct Context { int device, green; } Context;
// `graph` while it captures, begun by the thread of `thread`.
typedef struct Stream { Context* context; struct Graph* graph; void* thread; int broken; } Stream;
typedef struct Event { Context* context; int recorded; Stream* captured; struct timespec at; } Event;
// Physical memory, or (team > 0) a multicast object for so many devices; `bound` by device.
typedef struct Memory { int fd, device; size_t bytes; int team, joined[2]; struct Memory* bound[2]; size_t part[2]; int uses; } Memory;
typedef struct Location { int type, id; } Location;

static Context primary[2] = {{0, 0}, {1, 0}};
static __thread Context* stack[16];
static __thread int depth;
static const char* const kKernels[] = {"conformance", "another", "hopper_sm90"};
static int loaded, shared_limit[3];

static int is(const char* mode) { const char* m = getenv("FAKE_CUDA"); return m && !strcmp(m, mode); }
static int none_current(void) { return depth == 0; }
#define NEEDS_CONTEXT if (none_current()) return kInvalidContext

#include "graphs.h"

int cuInit(unsigned flags) { (void)flags; return is("no-gpu") ? kNoDevice : kOk; }
int cuDriverGetVersion(int* v) { *v = is("old") ? 12020 : 13000; return kOk; }
int cuGetErrorString(int code, const char** text) {
  *text = code == kNoDevice ? "no CUDA-capable device is detected" : code == kUnsupported ? "operation not supported" : "fake error";
  return kOk;
}
int cuDeviceGetCount(int* n) { *n = 2; return kOk; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal < 2 ? kOk : kInvalidValue; }
int cuDeviceGetName(char* name, int room, int device) { snprintf(name, room, "Fake %d", device); return kOk; }
int cuDeviceGetAttribute(int* v, int which, int device) {
  (void)device;
  switch (which) {
    case 16: *v = 132; return kOk;            // SMs
    case 75: *v = is("sm_75") ? 7 : is("sm_80") ? 8 : 9; return kOk;
    case 76: *v = is("sm_75") ? 5 : 0; return kOk;
    case 33: *v = 16 + device; return kOk;    // PCI bus, device, domain
    case 34: case 50: *v = 0; return kOk;
    case 132: *v = is("sm_75") || is("sm_80") ? 0 : 1; return kOk;  // multicast
    case 97: *v = 232448; return kOk;         // shared memory a CTA may ask for
    default: return kInvalidValue;
  }
}

int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
  for (int i = 0; i < 16; ++i) uuid[i] = (unsigned char)(16 * device + i);
  return kOk;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { (void)device; *bytes = (size_t)80 << 30; return kOk; }
// Devices reach each other, without atomics.
int cuDeviceGetP2PAttribute(int* v, int which, int from, int to) {
  if (from == to) return kInvalidValue;
  switch (which) {
    case 2: *v = 1; return kOk;
    case 3: *v = 0; return kOk;
    default: return kInvalidValue;
  }
}

int cuDevicePrimaryCtxRetain(Context** context, int device) { *context = &primary[device]; return kOk; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return kOk; }
int cuCtxPushCurrent_v2(Context* c) { if (!c || depth == 16) return kInvalidContext; stack[depth++] = c; return kOk; }
int cuCtxGetDevice(int* device) { NEEDS_CONTEXT; *device = stack[depth - 1]->device; return kOk; }
int cuCtxPopCurrent_v2(Context** c) { NEEDS_CONTEXT; *c = stack[--depth]; return kOk; }

typedef struct Resource { int type; unsigned char pad[92]; unsigned sms; unsigned char rest[44]; } Resource;
int cuDeviceGetDevResource(int device, Resource* r, int type) { (void)device; r->type = type; r->sms = 132; return kOk; }
int cuDevSmResourceSplitByCount(Resource* parts, unsigned* n, const Resource* in, Resource* rest, unsigned flags, unsigned least) {
  (void)flags;
  if (is("no-green")) return kUnsupported;
  if (least % 8) return kInvalidValue;
  unsigned made = in->sms / least < *n ? in->sms / least : *n;
  for (unsigned i = 0; i < made; ++i) { parts[i].type = 1; parts[i].sms = least; }
  rest->type = 1; rest->sms = in->sms - made * least; *n = made;
  return kOk;
}
int cuDevResourceGenerateDesc(Resource** description, Resource* r, unsigned n) { *description = r; return n == 1 && r->type == 1 ? kOk : kInvalidValue; }
int cuGreenCtxCreate(Context** green, Resource* r, int device, unsigned flags) {
  if (flags != 1 || !r->sms) return kInvalidValue;
  *green = malloc(sizeof(Context)); (*green)->device = device; (*green)->green = 1;
  return kOk;
}
int cuGreenCtxDestroy(Context* green) { free(green); return kOk; }
int cuCtxFromGreenCtx(Context** context, Context* green) { *context = green; return kOk; }

static int new_stream(Stream** s, Context* c, unsigned flags) {
  if (flags != 1) return kInvalidValue;  // must not synchronise with the default stream
  *s = calloc(1, sizeof(Stream)); (*s)->context = c;
  return kOk;
}
int cuStreamCreate(Stream** s, unsigned flags) { NEEDS_CONTEXT; return new_stream(s, stack[depth - 1], flags); }
int cuGreenCtxStreamCreate(Stream** s, Context* green, unsigned flags, int priority) { (void)priority; return new_stream(s, green, flags); }
int cuStreamDestroy_v2(Stream* s) { NEEDS_CONTEXT; RUNS_NOW(s); free(s); return kOk; }
int cuStreamSynchronize(Stream* s) { NEEDS_CONTEXT; RUNS_NOW(s); return s->context == stack[depth - 1] ? kOk : kInvalidHandle; }
int cuStreamQuery(Stream* s) { NEEDS_CONTEXT; RUNS_NOW(s); return kOk; }
int cuStreamGetCtx(Stream* s, Context** c) { *c = s->context; return kOk; }
int cuStreamWaitEvent(Stream* s, Event* e, unsigned flags) {
  NEEDS_CONTEXT;
  if (!s || !e || flags) return kInvalidHandle;
  if (s->graph ? e->captured == s : !e->captured) return kOk;
  if (s->graph) s->broken = 1;
  return kCaptureIsolation;  // into a capture, or out of one
}
int cuEventCreate(Event** e, unsigned flags) {
  NEEDS_CONTEXT; if (flags) return kInvalidValue;  // must measure time
  *e = calloc(1, sizeof(Event)); (*e)->context = stack[depth - 1];
  return kOk;
}
int cuEventDestroy_v2(Event* e) { free(e); return kOk; }
int cuEventQuery(Event* e) { return e->captured ? kInvalidHandle : kOk; }
int cuEventRecord(Event* e, Stream* s) {
  if (e->context != s->context) return kInvalidHandle;
  e->captured = s->graph ? s : 0; e->recorded = !s->graph;
  clock_gettime(CLOCK_MONOTONIC, &e->at);
  return kOk;
}
#ifndef WITHOUT_ELAPSED_TIME
int cuEventElapsedTime(float* ms, Event* a, Event* b) {
  if (!a->recorded || !b->recorded) return kInvalidHandle;
  *ms = (float)((b->at.tv_sec - a->at.tv_sec) * 1e3 + (b->at.tv_nsec - a->at.tv_nsec) / 1e6);
  return kOk;
}
#endif

typedef struct Pool { Location location; int may_wait; uint64_t keep; } Pool;
int cuMemPoolCreate(Pool** pool, const int* props) {  // type, handle types, location
  *pool = calloc(1, sizeof(Pool)); (*pool)->location = (Location){props[2], props[3]}; (*pool)->may_wait = 1;
  return props[0] == 1 && props[2] == 1 ? kOk : kInvalidValue;
}
int cuMemPoolDestroy(Pool* pool) { free(pool); return kOk; }
int cuMemPoolSetAttribute(Pool* pool, int which, void* v) {
  if (which == 3) pool->may_wait = *(int*)v;
  if (which == 4) pool->keep = *(uint64_t*)v;
  return kOk;
}
int cuMemAllocFromPoolAsync(Ptr* p, size_t bytes, Pool* pool, Stream* s) {
  NEEDS_CONTEXT; RUNS_NOW(s);
  if (!bytes || pool->may_wait || pool->keep != ~0ull || s->context != stack[depth - 1]) return kInvalidValue;
  int* block = aligned_alloc(256, (bytes + 511) / 256 * 256); block[0] = pool->location.id;
  *p = (Ptr)block + 256;
  return kOk;
}
int cuMemFreeAsync(Ptr p, Stream* s) {
  if (s->graph) { s->broken = 1; return kInvalidValue; }  // in a capture, only what the graph allocates
  free((void*)(p - 256));
  return kOk;
}
int cuMemHostAlloc(void** p, size_t bytes, unsigned flags) { NEEDS_CONTEXT; MAY_WAIT_FOR_A_DEVICE; (void)flags; *p = malloc(bytes); return kOk; }
int cuMemFreeHost(void* p) { free(p); return kOk; }
int cuPointerGetAttribute(int* v, int which, Ptr p) { (void)p; if (which != 9) return kInvalidValue; *v = 0; return kOk; }
int cuMemcpyHtoDAsync_v2(Ptr d, const void* s, size_t n, Stream* q) { NEEDS_CONTEXT; RUNS_NOW(q); memcpy((void*)d, s, n); return kOk; }
int cuMemcpyDtoHAsync_v2(void* d, Ptr s, size_t n, Stream* q) { NEEDS_CONTEXT; RUNS_NOW(q); memcpy(d, (void*)s, n); return kOk; }
int cuMemcpyDtoDAsync_v2(Ptr d, Ptr s, size_t n, Stream* q) { NEEDS_CONTEXT; return n ? enqueue(q, (Node){.kind = kCopy, .to = d, .from = s, .bytes = n}) : kInvalidValue; }
int cuMemsetD8Async(Ptr d, unsigned char byte, size_t n, Stream* q) {
  NEEDS_CONTEXT;
  return n ? enqueue(q, (Node){.kind = kFill, .to = d, .byte = byte, .bytes = n}) : kInvalidValue;
}

int cuMemGetAllocationGranularity(size_t* bytes, const int* props, int which) { (void)props; (void)which; *bytes = 2 << 20; return kOk; }
int cuMemCreate(Memory** m, size_t bytes, const int* props, uint64_t flags) {  // type, handle types, location
  if (bytes % (2 << 20) || props[1] != 1 || props[2] != 1 || flags) return kInvalidValue;
  *m = malloc(sizeof(Memory)); **m = (Memory){.fd = memfd_create("fake", 0), .device = props[3], .bytes = bytes};
  return ftruncate((*m)->fd, bytes) ? kInvalidValue : kOk;
}
// A binding keeps what is bound to it; the test is to undo it first.
int cuMemRelease(Memory* m) {
  if (m->uses || m->bound[0] || m->bound[1]) return kInvalidValue;
  close(m->fd); free(m);
  return kOk;
}
int cuMemGetAllocationPropertiesFromHandle(int* props, Memory* m) { props[2] = 1; props[3] = m->device; return kOk; }
int cuMemAddressReserve(Ptr* p, size_t bytes, size_t align, Ptr at, uint64_t flags) {
  void* q = mmap(0, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); *p = (Ptr)q;
  return q == MAP_FAILED || align || at || flags ? kInvalidValue : kOk;
}
int cuMemMap(Ptr p, size_t bytes, size_t offset, Memory* m, uint64_t flags) {
  if (bytes > m->bytes || flags) return kInvalidValue;
  return mmap((void*)p, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, m->fd, offset) == MAP_FAILED ? kInvalidValue : kOk;
}
int cuMemSetAccess(Ptr p, size_t bytes, const int* access, size_t n) {  // location type, id, flags
  for (size_t i = 0; i < n; ++i)
    if (access[3 * i] != 1 || access[3 * i + 1] > 1 || access[3 * i + 2] != 3) return kInvalidValue;
  return n && !mprotect((void*)p, bytes, PROT_READ | PROT_WRITE) ? kOk : kInvalidValue;
}
int cuMemUnmap(Ptr p, size_t bytes) { return mprotect((void*)p, bytes, PROT_NONE) ? kInvalidValue : kOk; }
int cuMemAddressFree(Ptr p, size_t bytes) { return munmap((void*)p, bytes) ? kInvalidValue : kOk; }
int cuMemExportToShareableHandle(int* fd, Memory* m, int type, uint64_t flags) { *fd = dup(m->fd); return type == 1 && !flags ? kOk : kInvalidValue; }
int cuMemImportFromShareableHandle(Memory** m, void* fd, int type) {
  *m = malloc(sizeof(Memory)); **m = (Memory){.fd = dup((int)(intptr_t)fd), .bytes = 2 << 20};
  return type == 1 && (*m)->fd >= 0 ? kOk : kInvalidValue;
}

#ifndef WITHOUT_MULTICAST
// Objects of whole multiples of 4 MiB, mapped without bytes behind them: only multimem may touch those.
typedef struct Object { unsigned devices; size_t bytes; uint64_t handle_types, flags; } Object;
enum { kMulticastGranularity = 4 << 20, kNotReady = 802 };
int cuMulticastGetGranularity(size_t* bytes, const Object* o, int which) {
  *bytes = kMulticastGranularity;
  return o->devices < 2 || which > 1 ? kInvalidValue : kOk;
}
int cuMulticastCreate(Memory** m, const Object* o) {
  if (o->devices < 2 || o->devices > 2 || !o->bytes || o->bytes % kMulticastGranularity || o->handle_types != 1 || o->flags) return kInvalidValue;
  *m = malloc(sizeof(Memory)); **m = (Memory){.fd = memfd_create("object", 0), .bytes = o->bytes, .team = (int)o->devices};
  return ftruncate((*m)->fd, o->bytes) ? kInvalidValue : kOk;
}
int cuMulticastAddDevice(Memory* m, int device) {
  if (!m->team || device > 1 || m->joined[device]) return kInvalidValue;
  m->joined[device] = 1;
  return kOk;
}
int cuMulticastBindMem(Memory* m, size_t at, Memory* memory, size_t from, size_t bytes, uint64_t flags) {
  if (!m->team || memory->team || flags || !bytes || (at | from | bytes) % kMulticastGranularity) return kInvalidValue;
  if (m->joined[0] + m->joined[1] != m->team) return kNotReady;  // every device first
  if (at + bytes > m->bytes || from + bytes > memory->bytes || m->bound[memory->device]) return kInvalidValue;
  m->bound[memory->device] = memory; m->part[memory->device] = bytes; ++memory->uses;
  return kOk;
}
int cuMulticastUnbind(Memory* m, int device, size_t at, size_t bytes) {
  if (device > 1 || !m->bound[device] || at || m->part[device] != bytes) return kInvalidValue;
  --m->bound[device]->uses; m->bound[device] = 0;
  return kOk;
}
#endif

int cuLibraryLoadData(void** library, const void* code, void* a, void* b, unsigned n, void* c, void* d, unsigned m) {
  (void)a; (void)b; (void)c; (void)d; *library = (void*)code;
  return n || m || memcmp(code, "fake fatbin", 11) ? kInvalidValue : kOk;
}
int cuLibraryUnload(void* library) { (void)library; return kOk; }
int cuLibraryGetKernelCount(unsigned* n, void* library) { (void)library; *n = 3; return kOk; }
int cuLibraryEnumerateKernels(const void** kernels, unsigned n, void* library) { (void)library; for (unsigned i = 0; i < n; ++i) kernels[i] = &kKernels[i]; return kOk; }
int cuKernelGetName(const char** name, const char* const* kernel) { *name = *kernel; return kOk; }
int cuKernelGetAttribute(int* v, int which, const void* k, int device) { (void)k; (void)device; *v = 1024; return which == 1 ? kOk : kInvalidValue; }
static int absent(const char* const* kernel) { return is("sm_80") && kernel == &kKernels[2]; }
int cuKernelSetAttribute(int which, int v, const char* const* k, int device) {
  (void)device;
  if (absent(k)) return kNotFound;
  if (which == 8) shared_limit[k - kKernels] = v;
  return kOk;
}
int cuKernelGetFunction(const void** f, const char* const* kernel) { NEEDS_CONTEXT; *f = kernel; return absent(kernel) ? kNotFound : kOk; }
int cuFuncLoad(const void* f) { (void)f; NEEDS_CONTEXT; MAY_WAIT_FOR_A_DEVICE; ++loaded; return kOk; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const char* const* k, int threads, size_t shared) {
  NEEDS_CONTEXT;
  *n = (int)shared > shared_limit[k - kKernels] ? 0 : 2048 / threads;
  return kOk;
}

// Two SMs have no partner; a green context answers for the whole device.
int cuOccupancyMaxActiveClusters(int* n, const char* const* k, const Config* c) {
  NEEDS_CONTEXT;
  const unsigned* size = c->attributes[0].value.cluster;
  if (is("sm_80") || c->s || c->count != 1 || c->attributes[0].id != 4 || size[0] < 2 || c->x % size[0]) return kInvalidValue;
  *n = (int)c->shared > shared_limit[k - kKernels] ? 0 : (stack[depth - 1]->green ? 132 : 130) / size[0] * (2048 / c->tx);
  return kOk;
}
int cuLaunchKernelEx(const Config* c, const char* const* k, void** params, void** extra) {
  NEEDS_CONTEXT;
  if (!loaded || c->y != 1 || c->z != 1 || c->ty != 1 || c->tz != 1 || extra || c->s->context != stack[depth - 1]) return kInvalidValue;
  unsigned cluster = 1;
  for (unsigned i = 0; i < c->count; ++i) {
    const unsigned* size = c->attributes[i].value.cluster;
    if (is("sm_80") || c->attributes[i].id != 4 || size[1] != 1 || size[2] != 1 || !size[0] || c->x % size[0]) return kInvalidValue;
    cluster = size[0];
  }
  const TwParams* p = params[0];
  // The parameters are read now, whenever the kernel runs.
  return enqueue(c->s, (Node){.kind = kKernel, .kernel = (unsigned)(k - kKernels), .x = c->x, .tx = c->tx, .shared = c->shared,
                              .cluster = cluster, .k = p->k, .out = p->out});
}

// The 128 bytes of a map are the arguments it was made from.
int cuTensorMapEncodeTiled(uint64_t* map, int type, unsigned rank, Ptr at, const uint64_t* dims, const uint64_t* strides,
                           const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int promotion, int fill) {
  NEEDS_CONTEXT;
  if ((uintptr_t)map % 64 || interleave || swizzle != 3 || promotion != 3 || fill) return kInvalidValue;
  memset(map, 0, 128);
  map[0] = type; map[1] = rank; map[2] = at;
  for (unsigned i = 0; i < rank; ++i) {
    if (steps[i] != 1) return kInvalidValue;
    map[3 + i] = dims[i];
    map[7 + i] = i + 1 < rank ? strides[i] : 0;
    map[11 + i] = box[i];
  }
  return kOk;
}
