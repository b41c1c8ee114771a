// Capture and graphs of the stand-in. A stream that captures keeps kernels, fills and copies on the device; what needs it to
// run is refused, and breaks the capture, as is whatever may wait for a device on the thread that captures.
#pragma once

enum { kIllegalState = 401, kCaptureUnsupported = 900, kCaptureInvalidated = 901, kCaptureIsolation = 905, kCaptureWrongThread = 908 };
enum { kThreadLocal = 1, kCaptureActive = 1, kCaptureBroken = 2, kMostNodes = 8 };

// As in cuda.h: CUlaunchAttribute, whose value has 64 bytes, and CUlaunchConfig.
typedef struct Attribute { int id, pad; union { unsigned cluster[3]; char room[64]; } value; } Attribute;
typedef struct Config { unsigned x, y, z, tx, ty, tz, shared; Stream* s; Attribute* attributes; unsigned count; } Config;

typedef struct Node {
  enum { kKernel, kFill, kCopy } kind;
  unsigned kernel, x, tx, shared, cluster, k; Ptr out;  // what a kernel leaves, and where
  Ptr to, from; unsigned char byte; size_t bytes;
} Node;
typedef struct Graph { Context* context; unsigned count; Node nodes[kMostNodes]; } Graph;

// The one stream that this thread captures.
static __thread Stream* capturing;

static int refuse(Stream* s) { s->broken = 1; return kCaptureUnsupported; }
#define RUNS_NOW(s) if ((s)->graph) return refuse(s)
#define MAY_WAIT_FOR_A_DEVICE if (capturing) return refuse(capturing)

static void run(const Node* n) {
  switch (n->kind) {
    case kKernel: memcpy((void*)n->out, (uint32_t[]){n->kernel, n->x, n->tx, n->shared, n->k, n->cluster}, 24); return;
    case kFill: memset((void*)n->to, n->byte, n->bytes); return;
    case kCopy: memcpy((void*)n->to, (void*)n->from, n->bytes); return;
  }
}
static int enqueue(Stream* s, Node node) {
  if (!s->graph) { run(&node); return kOk; }
  if (s->broken) return kCaptureInvalidated;
  if (s->graph->count == kMostNodes) return kInvalidValue;
  s->graph->nodes[s->graph->count++] = node;
  return kOk;
}

int cuStreamBeginCapture_v2(Stream* s, int mode) {
  NEEDS_CONTEXT;
  if (mode != kThreadLocal || s->context != stack[depth - 1]) return kInvalidValue;
  if (s->graph || capturing) return kIllegalState;
  s->graph = calloc(1, sizeof(Graph)); s->graph->context = s->context; s->thread = &depth; s->broken = 0;
  capturing = s;
  return kOk;
}
int cuStreamIsCapturing(Stream* s, int* status) { *status = !s->graph ? 0 : s->broken ? kCaptureBroken : kCaptureActive; return kOk; }
int cuStreamEndCapture(Stream* s, Graph** graph) {
  NEEDS_CONTEXT;
  *graph = 0;
  if (!s->graph) return kIllegalState;
  if (s->thread != &depth) return kCaptureWrongThread;
  if (s->broken) free(s->graph); else *graph = s->graph;
  s->graph = 0; capturing = 0;
  return *graph ? kOk : kCaptureInvalidated;
}
int cuGraphInstantiateWithFlags(Graph** exec, const Graph* graph, unsigned long long flags) {
  NEEDS_CONTEXT; MAY_WAIT_FOR_A_DEVICE;
  if (flags) return kInvalidValue;
  *exec = malloc(sizeof(Graph)); **exec = *graph;
  return kOk;
}
int cuGraphUpload(Graph* exec, Stream* s) { NEEDS_CONTEXT; RUNS_NOW(s); (void)exec; return s->context == stack[depth - 1] ? kOk : kInvalidHandle; }
int cuGraphLaunch(Graph* exec, Stream* s) {
  NEEDS_CONTEXT; RUNS_NOW(s);
  if (s->context != stack[depth - 1]) return kInvalidHandle;
  for (unsigned i = 0; i < exec->count; ++i) run(&exec->nodes[i]);
  return kOk;
}
int cuGraphExecDestroy(Graph* exec) { free(exec); return kOk; }
int cuGraphDestroy(Graph* graph) { free(graph); return kOk; }
