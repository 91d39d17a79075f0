// As much of CUDA C++ as this package's kernels need, on a CPU. A block is a thread of the operating system, and
// its threads are contexts that take turns: each goes on to the next one where it would wait for the others.

#include <math.h>
#include <sched.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __noinline__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define SHARED static thread_local
#define PAUSE() sched_yield()
#define COPY_LATER(to, from, inside) *(to) = (inside) ? *(from) : 0.f
#define CLOSE_COPIES()
#define AWAIT_COPIES()

using std::max;
using std::min;

struct Index { unsigned x, y, z; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

static thread_local Index threadIdx, blockIdx, gridDim, blockDim;

namespace emulator {
struct Block {
  int count = 0, current = 0, left = 0;
  std::vector<ucontext_t> contexts;
  std::vector<std::vector<char>> stacks;
  std::vector<double> exchanged;
  ucontext_t outside;
  std::function<void()> work;
};
static thread_local Block* block;

static void go_to(int next, bool ends) {
  const int before = block->current;
  block->current = next;
  threadIdx.x = next;
  if (ends) setcontext(&block->contexts[next]);
  swapcontext(&block->contexts[before], &block->contexts[next]);
  threadIdx.x = before;
  block->current = before;
}

static void begin() {
  block->work();
  block->left--;
  if (block->left == 0) setcontext(&block->outside);
  go_to(block->current + 1, true);
}

template <typename Work>
void run(unsigned blocks, unsigned threads, Work work) {
  std::vector<std::thread> all;
  for (unsigned b = 0; b < blocks; b++)
    all.emplace_back([=] {
      Block own;
      block = &own;
      own.count = own.left = threads;
      own.contexts.resize(threads);
      own.exchanged.resize(threads);
      own.stacks.assign(threads, std::vector<char>(1 << 16));
      own.work = work;
      blockIdx = {b, 0, 0}; gridDim = {blocks, 1, 1}; blockDim = {threads, 1, 1}; threadIdx = {0, 0, 0};
      for (unsigned t = 0; t < threads; t++) {
        getcontext(&own.contexts[t]);
        own.contexts[t].uc_stack.ss_sp = own.stacks[t].data();
        own.contexts[t].uc_stack.ss_size = own.stacks[t].size();
        own.contexts[t].uc_link = nullptr;
        makecontext(&own.contexts[t], begin, 0);
      }
      own.current = 0;
      swapcontext(&own.outside, &own.contexts[0]);
    });
  for (auto& one : all) one.join();
}
}  // namespace emulator

static void __syncthreads() { emulator::go_to((threadIdx.x + 1) % emulator::block->count, false); }

template <typename Number>
static Number __shfl_xor_sync(unsigned, Number x, int mask) {
  auto& exchanged = emulator::block->exchanged;
  exchanged[threadIdx.x] = x;
  __syncthreads();
  const Number other = (Number)exchanged[threadIdx.x ^ mask];
  __syncthreads();
  return other;
}

static void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static unsigned long long atomicAdd(unsigned long long* at, unsigned long long x) {
  return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST);
}
static float rsqrtf(float x) { return 1.f / sqrtf(x); }
