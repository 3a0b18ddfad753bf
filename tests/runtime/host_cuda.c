/* CUDA's driver on the host, for tests: memory is malloc's, work is done when it is submitted, a captured
   sequence when its graph is launched. The one kernel is `out[i] = scale * x[i]` of `count` int32. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int kind; void *to; const void *from; size_t size; int32_t scale; } Work;
static Work captured[64];
static int count, capturing, live, depth;
int fail_instantiate;

int live_objects(void) { return live; }
int context_depth(void) { return depth; }

static void do_work(Work w) {
    if (w.kind == 0) { memcpy(w.to, w.from, w.size); return; }
    for (size_t i = 0; i < w.size; i++) ((int32_t *)w.to)[i] = w.scale * ((const int32_t *)w.from)[i];
}
static int submit(Work w) {
    if (capturing) captured[count++] = w; else do_work(w);
    return 0;
}
int cuInit(unsigned flags) { (void)flags; return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = 2; return 0; }
int cuDeviceGet(int *device, int index) { if (index > 1) return 101; *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, device ? "Second" : "First", size); return 0; }
int cuDeviceTotalMem_v2(size_t *size, int device) { (void)device; *size = (size_t)1 << 33; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 + device : 9 * !device; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; live++; *context = &live; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; live--; return 0; }
int cuCtxPushCurrent_v2(void *context) { (void)context; depth++; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = &live; depth--; return 0; }
int cuMemAlloc_v2(uint64_t *at, size_t size) { if (!depth) return 201; if (size > (1u << 30)) return 2; live++; *at = (uint64_t)malloc(size); return 0; }
int cuMemFree_v2(uint64_t at) { live--; free((void *)at); return 0; }
int cuMemHostAlloc(void **at, size_t size, unsigned flags) { (void)flags; live++; *at = malloc(size); return 0; }
int cuMemFreeHost(void *at) { live--; free(at); return 0; }
int cuStreamCreate(void **stream, unsigned flags) { if (flags != 1) return 1; live++; *stream = malloc(1); return 0; }
int cuStreamDestroy_v2(void *stream) { live--; free(stream); return 0; }
int cuStreamSynchronize(void *stream) { (void)stream; return capturing ? 900 : 0; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream; (void)event; (void)flags; return 0; }
int cuEventCreate(void **event, unsigned flags) { (void)flags; live++; *event = malloc(1); return 0; }
int cuEventDestroy_v2(void *event) { live--; free(event); return 0; }
int cuEventRecord(void *event, void *stream) { (void)event; (void)stream; return 0; }
int cuEventSynchronize(void *event) { (void)event; return 0; }
int cuEventElapsedTime(float *ms, void *a, void *b) { (void)a; (void)b; *ms = 1.5f; return 0; }
int cuEventElapsedTime_v2(float *ms, void *a, void *b) { return cuEventElapsedTime(ms, a, b); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) { (void)stream; return submit((Work){0, (void *)to, from, size, 0}); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) { (void)stream; return submit((Work){0, to, (const void *)from, size, 0}); }
int cuModuleLoadData(void **module, const char *image) { if (strcmp(image, "PTX")) return 218; live++; *module = malloc(1); return 0; }
int cuModuleUnload(void *module) { live--; free(module); return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { if (strcmp(name, "scale")) return 500; *function = module; return 0; }
int cuFuncSetAttribute(void *function, int attribute, int value) { (void)function; return attribute == 8 && value > 48 << 10 ? 0 : 1; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **p, void **extra) {
    (void)f; (void)gy; (void)gz; (void)by; (void)bz; (void)stream; (void)extra;
    int32_t n = *(int32_t *)p[1];
    if ((int32_t)gx * 4 < n || bx != 64 || shared != 50000) return 1;
    return submit((Work){1, *(void **)p[3], *(void **)p[0], (size_t)n, *(int32_t *)p[2]});
}
int cuStreamBeginCapture_v2(void *stream, int mode) { (void)stream; if (mode != 2) return 1; count = 0; capturing = 1; return 0; }
int cuStreamEndCapture(void *stream, void **graph) { (void)stream; capturing = 0; live++; *graph = malloc(1); return 0; }
int cuGraphDestroy(void *graph) { live--; free(graph); return 0; }
int cuGraphInstantiateWithFlags(void **graph, void *from, unsigned long long flags) { (void)from; (void)flags; if (fail_instantiate) return fail_instantiate; live++; *graph = malloc(1); return 0; }
int cuGraphExecDestroy(void *graph) { live--; free(graph); return 0; }
int cuGraphLaunch(void *graph, void *stream) { (void)graph; (void)stream; for (int i = 0; i < count; i++) do_work(captured[i]); return 0; }
int cuGetErrorName(int code, const char **text) { if (code > 10000) return 1; *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR"; return 0; }
int cuGetErrorString(int code, const char **text) { *text = code == 2 ? "out of memory" : "an error"; return 0; }

/* The bindings ask for every function by name and CUDA version; those above are what the driver exports. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    (void)version; (void)flags;
    static const char *suffixes[] = {"_v2", ""};
    *function = 0;
    for (int i = 0; i < 2 && !*function; i++) {
        char full[128];
        strcpy(full, name);
        strcat(full, suffixes[i]);
        *function = dlsym(RTLD_DEFAULT, full);
        if (!*function && !strcmp(name, "cuGraphInstantiate")) *function = (void *)cuGraphInstantiateWithFlags;
        if (!strcmp(name, "cuEventElapsedTime")) *function = (void *)cuEventElapsedTime;
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : 500;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) { return cuGetProcAddress_v2(name, function, version, flags, 0); }
