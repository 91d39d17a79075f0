// Whole gradient steps in one kernel: what is to be computed is data, a list of tasks. Tasks of a phase are
// independent of each other; between phases all blocks wait for each other, so that all of them must be on
// the GPU at once: there are BLOCKS of them, as many as fit. Fields of tasks, places in `control` and kinds
// are those of program_layout.py, which defines their names in front of this file.
//
// Memory that the kernel itself writes is never read through __ldg or const __restrict__ pointers.

#define STAGES 3
// Of a stage: two tiles, 32 by 32 with 4 numbers between the rows.
#define STAGE_FLOATS 2304

struct Memory {
  const float* spaces[5];  // state, scratch, data, extra, control
  float* state;
  float* scratch;
  float* metrics;
  int batch, total, rows, step;  // rows of a step, of all steps, of this step; the step
};

// One for each block.
struct Shared {
  Memory memory;
  int tasks[MOST_TASKS * WIDTH];
  __align__(16) float tiles[STAGES * STAGE_FLOATS];
  double parts[32];
  float sums[32];
  int places[THREADS];
};
SHARED Shared s;
#define m s.memory

__device__ void wait_for_all(unsigned long long* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned long long ticket = atomicAdd(counter, 1ULL);
    const unsigned long long goal = (ticket / gridDim.x + 1) * gridDim.x;
    while (*(volatile unsigned long long*)counter < goal) PAUSE();
    __threadfence();
  }
  __syncthreads();
}

__device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The sum over a block, in every thread.
template <typename Number>
__device__ Number block_sum(Number x, Number* parts) {
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < THREADS / 32 ? parts[threadIdx.x % 32] : Number(0);
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
  return x;
}

// A matrix somewhere: space, place, what a gradient step adds to it, and numbers from row to row.
struct Operand {
  float* at;
  long stride;
};

__device__ Operand operand(const int* field) {
  const long place = field[1] + (long)m.step * field[2];
  return {(float*)m.spaces[field[0]] + place, (long)field[3]};
}

__device__ float activated(float x, int kind) {
  return kind == TANH ? tanhf(x) : kind == RELU ? fmaxf(x, 0.f) : x;
}

// The derivative, from the answer.
__device__ float slope(float y, int kind) {
  return kind == TANH ? 1.f - y * y : kind == RELU ? (y > 0.f ? 1.f : 0.f) : 1.f;
}

// Element (i, k) is at[i * row + k * column].
struct Matrix {
  const float* at;
  long row, column;
};

// One side of a product on its way to the shared memory: SIDE rows, and DEPTH columns at a time, are 1024
// numbers, four for each thread. Neighbouring threads take neighbouring numbers of the memory.
template <int SIDE>
struct Feed {
  static const int DEPTH = 1024 / SIDE, LD = SIDE + 4;
  const float* at;    // of this thread's first number
  long next, onwards; // to its next number, and to the same one of the next columns
  int place, step;    // where it goes, and to the next
  int valid;          // how many of the four are in rows that there are
  int left;           // columns that there are from the first number on
  bool deep;          // whether columns are neighbours in memory, not rows

  __device__ void begin(const Matrix& x, int i0, int from, int rows, int to) {
    deep = x.column == 1;
    const int i = deep ? threadIdx.x / DEPTH : threadIdx.x % SIDE, k = deep ? threadIdx.x % DEPTH : threadIdx.x / SIDE;
    at = x.at + (i0 + i) * x.row + (from + k) * x.column;
    next = deep ? THREADS / DEPTH * x.row : THREADS / SIDE * x.column;
    onwards = DEPTH * x.column;
    place = k * LD + i;
    step = deep ? THREADS / DEPTH : THREADS / SIDE * LD;
    const int beyond = rows - i0 - i;
    valid = beyond <= 0 ? 0 : deep ? (beyond - 1) / (THREADS / DEPTH) + 1 : 4;
    left = to - from - k;
  }

  // Begins to copy: the numbers arrive later.
  __device__ void fetch(float* tile) {
    const int there = min(valid, left <= 0 ? 0 : deep ? 4 : (left - 1) / (THREADS / SIDE) + 1);
    const float* from = at;
    float* to = tile + place;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      COPY_LATER(to, j < there ? from : at, j < there);
      from += next; to += step;
    }
    at += onwards; left -= DEPTH;
  }
};

template <int SIDE>
struct Product {
  static const int DEPTH = 1024 / SIDE, EACH = SIDE / 16, LD = SIDE + 4, AT_ONCE = 16 / EACH;
  float sums[EACH][EACH];
  float row_sum;  // of the left matrix's row `threadIdx.x`, for biases

  __device__ void clear() {
#pragma unroll
    for (int a = 0; a < EACH; a++)
#pragma unroll
      for (int b = 0; b < EACH; b++) sums[a][b] = 0.f;
    row_sum = 0.f;
  }

  static __device__ void take(float (&held)[EACH], const float* from) {
    if (EACH == 4) {
      const float4 v = *(const float4*)from;
      held[0] = v.x; held[1] = v.y; held[EACH - 2] = v.z; held[EACH - 1] = v.w;
    } else {
      const float2 v = *(const float2*)from;
      held[0] = v.x; held[1] = v.y;
    }
  }

  // Adds left * right^T over k in [from, to) to the sums of the tile at (i0, j0).
  __device__ void add(const Matrix& left, const Matrix& right, int i0, int j0, int rows, int columns, int from, int to,
                      bool sums_rows) {
    Feed<SIDE> a, b;
    a.begin(left, i0, from, rows, to);
    b.begin(right, j0, from, columns, to);
    const int steps = ceil_div(to - from, DEPTH);
    for (int i = 0; i < STAGES - 1; i++) {
      if (i < steps) { a.fetch(s.tiles + i * STAGE_FLOATS); b.fetch(s.tiles + i * STAGE_FLOATS + DEPTH * LD); }
      CLOSE_COPIES();
    }
    const int ti = threadIdx.x / 16 * EACH, tj = threadIdx.x % 16 * EACH;
    int stage = 0;
    for (int i = 0; i < steps; i++) {
      AWAIT_COPIES();
      __syncthreads();
      // Into what all threads have done with.
      const int free = stage == 0 ? STAGES - 1 : stage - 1;
      if (i + STAGES - 1 < steps) {
        a.fetch(s.tiles + free * STAGE_FLOATS);
        b.fetch(s.tiles + free * STAGE_FLOATS + DEPTH * LD);
      }
      CLOSE_COPIES();
      const float* x = s.tiles + stage * STAGE_FLOATS;
      const float* y = x + DEPTH * LD;
      stage = stage == STAGES - 1 ? 0 : stage + 1;
#pragma unroll 1
      for (int k0 = 0; k0 < DEPTH; k0 += AT_ONCE) {
        // Several at a time: each takes its time to arrive.
        float p[AT_ONCE][EACH], q[AT_ONCE][EACH];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) { take(p[k], x + (k0 + k) * LD + ti); take(q[k], y + (k0 + k) * LD + tj); }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
#pragma unroll
          for (int e = 0; e < EACH; e++)
#pragma unroll
            for (int f = 0; f < EACH; f++) sums[e][f] += p[k][e] * q[k][f];
      }
      if (sums_rows && threadIdx.x < SIDE)
        for (int k = 0; k < DEPTH; k++) row_sum += x[k * LD + threadIdx.x];
    }
    __syncthreads();
  }

  // Calls work(i, j, sum) for each number of the tile that is inside.
  template <typename Work>
  __device__ void each(int i0, int j0, int rows, int columns, Work work) const {
    const int ti = i0 + threadIdx.x / 16 * EACH, tj = j0 + threadIdx.x % 16 * EACH;
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
      for (int f = 0; f < EACH; f++)
        if (ti + e < rows && tj + f < columns) work(ti + e, tj + f, sums[e][f]);
  }
};

// What a product's tile becomes.
struct Finish {
  float* at;
  long stride;
  const float* bias;    // of each column, or null
  const float* kept;    // what the activation gave, if its derivative is to be applied
  long kept_stride;
  int activation;
};

template <int SIDE>
__device__ __forceinline__ void product(const int* t, int tile) {
  Product<SIDE> p;
  p.clear();
  const bool forward = t[KIND] == FORWARD, weights = t[KIND] == WEIGHTS;
  int columns = forward ? t[FORWARD_UNITS] : weights ? t[WEIGHTS_INPUTS] : t[BACKWARD_INPUTS], split = 0;
  if (weights) { split = tile % t[WEIGHTS_SPLITS]; tile /= t[WEIGHTS_SPLITS]; }
  const int rows = weights ? t[WEIGHTS_UNITS] : m.rows, across = max(ceil_div(columns, SIDE), 1);
  const int i0 = tile / across * SIDE, j0 = tile % across * SIDE;
  const Operand a = operand(t + (forward ? FORWARD_X : weights ? WEIGHTS_DY : BACKWARD_DY));
  Finish f = {};
  for (int part = 0; part < (forward || weights ? 1 : t[BACKWARD_PARTS]); part++) {
    Matrix left, right;
    int from = 0, to;
    if (forward) {
      to = t[FORWARD_INPUTS];
      left = {a.at, a.stride, 1}; right = {m.state + t[FORWARD_WEIGHTS], to, 1};
    } else if (weights) {
      const Operand x = operand(t + WEIGHTS_X);
      const int each = ceil_div(m.rows, t[WEIGHTS_SPLITS]);
      from = min(split * each, m.rows); to = min(from + each, m.rows);
      left = {a.at, 1, a.stride}; right = {x.at, 1, x.stride};
    } else {
      const int* u = t + BACKWARD_PART + part * 3;  // weights, units, first column of dy
      to = u[1];
      left = {a.at + u[2], a.stride, 1}; right = {m.state + u[0], 1, t[BACKWARD_WEIGHTS_STRIDE]};
    }
    p.add(left, right, i0, j0, rows, columns, from, to, weights && j0 == 0);
  }
  if (forward) {
    const Operand y = operand(t + FORWARD_Y);
    f = {y.at, y.stride, t[FORWARD_BIAS] < 0 ? nullptr : m.state + t[FORWARD_BIAS], nullptr, 0, t[FORWARD_ACTIVATION]};
  } else if (weights) {
    float* out = m.scratch + (long)split * t[WEIGHTS_SPLIT_STRIDE];
    f = {out + t[WEIGHTS_OUT], columns, nullptr, nullptr, 0, IDENTITY};
    if (t[WEIGHTS_BIAS] >= 0 && j0 == 0 && threadIdx.x < SIDE && i0 + threadIdx.x < rows)
      out[t[WEIGHTS_BIAS] + i0 + threadIdx.x] = p.row_sum;
  } else {
    const Operand dx = operand(t + BACKWARD_DX), h = operand(t + BACKWARD_H);
    f = {dx.at, dx.stride, nullptr, t[BACKWARD_ACTIVATION] == IDENTITY ? nullptr : h.at, h.stride, t[BACKWARD_ACTIVATION]};
  }
  p.each(i0, j0, rows, columns, [&](int i, int j, float sum) {
    if (f.bias) sum += f.bias[j];
    f.at[i * f.stride + j] = f.kept ? sum * slope(f.kept[i * f.kept_stride + j], f.activation) : weights || !forward ? sum : activated(sum, f.activation);
  });
}

// A forward pass to few units: a row for each thread.
__device__ __noinline__ void narrow(const int* t, int tile) {
  const int row = tile * THREADS + threadIdx.x, units = t[FORWARD_UNITS], inputs = t[FORWARD_INPUTS];
  if (row >= m.rows) return;
  const Operand x = operand(t + FORWARD_X), y = operand(t + FORWARD_Y);
  const float4* from = (const float4*)(x.at + row * x.stride);
  const float* w = m.state + t[FORWARD_WEIGHTS];
  float sums[MOST_NARROW];
#pragma unroll
  for (int u = 0; u < MOST_NARROW; u++) sums[u] = 0.f;
#pragma unroll 4
  for (int k = 0; k < inputs / 4; k++) {
    const float4 a = from[k];
#pragma unroll
    for (int u = 0; u < MOST_NARROW; u++)
      if (u < units) {
        const float4 b = ((const float4*)(w + u * inputs))[k];
        sums[u] += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
      }
  }
#pragma unroll
  for (int u = 0; u < MOST_NARROW; u++)
    if (u < units)
      y.at[row * y.stride + u] =
          activated(t[FORWARD_BIAS] < 0 ? sums[u] : sums[u] + m.state[t[FORWARD_BIAS] + u], t[FORWARD_ACTIVATION]);
}

// The gradient at `i`, summed over the parts that it was computed in.
__device__ float gradient(const int* t, int i) {
  const float* from = m.scratch + t[SUM_FROM];
  float sum = 0.f;
  for (int j = 0; j < t[SUM_PARTS]; j++) sum += from[(long)j * t[SUM_STRIDE] + i];
  return sum;
}

__device__ __noinline__ void reduce(const int* t, int tile) {
  const int end = min(t[SUM_SIZE], (tile + 1) * PORTION);
  float squares = 0.f;
  for (int i = tile * PORTION + threadIdx.x; i < end; i += THREADS) {
    const float g = gradient(t, i);
    m.scratch[t[REDUCE_TO] + i] = g;
    squares += g * g;
  }
  squares = block_sum(squares, s.sums);
  if (threadIdx.x == 0) m.scratch[t[REDUCE_SQUARES] + tile] = squares;
}

__device__ __noinline__ void optimize(const int* t, int tile) {
  const float* c = m.spaces[CONTROL] + t[ADAM_CONTROL];
  if (t[ADAM_STOP] && m.scratch[STOP] != 0.f) return;
  float scale = 1.f;
  if (t[ADAM_SQUARES] >= 0) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < t[ADAM_SQUARE_COUNT]; i += THREADS) sum += m.scratch[t[ADAM_SQUARES] + i];
    scale = fminf(c[OPT_MAX_NORM] / (sqrtf(block_sum(sum, s.sums)) + 1e-6f), 1.f);
  }
  const bool follows = t[ADAM_TARGET] >= 0 && m.spaces[CONTROL][FLAGS + m.step] != 0.f;
  const float b1 = c[OPT_BETA1], b2 = c[OPT_BETA2], age = c[OPT_STEPS] + m.step + 1.f;
  const bool corrects = c[OPT_CORRECTS] != 0.f;
  const float rate = corrects ? c[OPT_RATE] / (1.f - powf(b1, age)) : c[OPT_RATE];
  const float root = corrects ? rsqrtf(1.f - powf(b2, age)) : 1.f;
  const int end = min(t[SUM_SIZE], (tile + 1) * PORTION);
  float *p = m.state + t[ADAM_P], *first = m.state + t[ADAM_M], *second = m.state + t[ADAM_V];
  for (int i = tile * PORTION + threadIdx.x; i < end; i += THREADS) {
    const float g = gradient(t, i) * scale;
    const float a = b1 * first[i] + (1.f - b1) * g, b = b2 * second[i] + (1.f - b2) * (g * g);
    const float x = p[i] - rate * a / (sqrtf(b) * root + c[OPT_EPS]);
    first[i] = a; second[i] = b; p[i] = x;
    if (!isfinite(x)) m.metrics[NONFINITE + t[ADAM_NETWORK]] = 1.f;
    if (follows) {
      float* target = m.state + t[ADAM_TARGET] + i;
      *target = c[OPT_TAU] * x + (1.f - c[OPT_TAU]) * *target;
    }
  }
}

// Rows of all steps.
__device__ __noinline__ void copy(const int* t, int tile) {
  const Operand x = operand(t + COPY_X), y = operand(t + COPY_Y);
  const int columns = t[COPY_COLUMNS], end = min(THREADS, m.total - tile * THREADS) * columns;
  for (int e = threadIdx.x; e < end; e += THREADS) {
    const long row = tile * THREADS + e / columns;
    y.at[row * y.stride + e % columns] = x.at[row * x.stride + e % columns];
  }
}

// Row `row` of an environment's steps after another's, as it is stored: step after step.
__device__ long stored(int row, int steps, int envs) { return (long)(row % steps) * envs + row / steps; }

__device__ __noinline__ void gather(const int* t, int tile) {
  const Operand x = operand(t + COPY_X), y = operand(t + COPY_Y);
  const int* order = (const int*)m.spaces[CONTROL] + t[COPY_ORDER];
  const int columns = t[COPY_COLUMNS], count = min(THREADS, m.total - tile * THREADS);
  __syncthreads();
  if (threadIdx.x < count) s.places[threadIdx.x] = order[tile * THREADS + threadIdx.x];
  __syncthreads();
  for (int e = threadIdx.x; e < count * columns; e += THREADS) {
    const long row = tile * THREADS + e / columns, from = stored(s.places[e / columns], t[COPY_STEPS], t[COPY_ENVS]);
    y.at[row * y.stride + e % columns] = x.at[from * x.stride + e % columns];
  }
}

__device__ int tiles_of_step() { return ceil_div(m.batch, THREADS); }

// Values, log probabilities, advantages and returns side by side, and sums of the advantages: moved by the
// first of their step, so that equal ones are exactly equal to the mean.
__device__ __noinline__ void scalars(const int* t, int tile) {
  const int* order = (const int*)m.spaces[CONTROL] + t[COPY_ORDER];
  const int step = tile / tiles_of_step(), within = tile % tiles_of_step() * THREADS + threadIdx.x;
  const int row = step * m.batch + within;
  const bool inside = within < m.batch && row < m.total;
  const float* advantages = m.spaces[DATA] + t[SCALARS_X + 2];
  const float first = advantages[stored(order[step * m.batch], t[COPY_STEPS], t[COPY_ENVS])];
  double moved = 0.0;
  if (inside) {
    const long from = stored(order[row], t[COPY_STEPS], t[COPY_ENVS]);
    float* to = m.scratch + t[SCALARS_Y] + 4 * (long)row;
    for (int i = 0; i < 4; i++) to[i] = m.spaces[DATA][t[SCALARS_X + i] + from];
    moved = to[2] - first;
  }
  const double sum = block_sum(moved, s.parts), squares = block_sum(moved * moved, s.parts);
  double* out = (double*)(m.scratch + t[SCALARS_SUMS]) + 2 * (long)tile;
  if (threadIdx.x == 0) { out[0] = sum; out[1] = squares; }
}

__device__ __noinline__ void zero(const int* t, int tile) {
  const int end = min(t[ZERO_SIZE], (tile + 1) * PORTION);
  for (int i = tile * PORTION + threadIdx.x; i < end; i += THREADS) m.scratch[t[ZERO_AT] + i] = 0.f;
}

#define HALF_LOG_2_PI 0.91893853320467274f

// Log probability and entropy of a choice among `n`; the outputs become what the gradient needs.
__device__ void choose(const float* logits, int n, int chosen, float& log_prob, float& entropy) {
  float most = logits[0], sum = 0.f, spread = 0.f;
  for (int j = 1; j < n; j++) most = fmaxf(most, logits[j]);
  for (int j = 0; j < n; j++) sum += expf(logits[j] - most);
  const float norm = most + logf(sum);
  for (int j = 0; j < n; j++) spread -= expf(logits[j] - norm) * (logits[j] - norm);
  log_prob += logits[chosen] - norm;
  entropy += spread;
}

__device__ void choose_back(const float* logits, int n, int chosen, float by_log_prob, float by_entropy, float* out) {
  float most = logits[0], sum = 0.f, spread = 0.f;
  for (int j = 1; j < n; j++) most = fmaxf(most, logits[j]);
  for (int j = 0; j < n; j++) sum += expf(logits[j] - most);
  const float norm = most + logf(sum);
  for (int j = 0; j < n; j++) spread -= expf(logits[j] - norm) * (logits[j] - norm);
  for (int j = 0; j < n; j++) {
    const float log_p = logits[j] - norm, p = expf(log_p);
    out[j] = by_log_prob * ((j == chosen) - p) - by_entropy * p * (log_p + spread);
  }
}

// PPO's losses (or A2C's: without a ratio) of a row, their metrics, and the gradients of the outputs.
__device__ __noinline__ void on_policy(const int* t, int tile) {
  const float* c = m.spaces[CONTROL];
  const int n = m.rows, row = tile * THREADS + threadIdx.x;
  const Operand out = operand(t + PPO_OUT), by_out = operand(t + PPO_BY_OUT);
  const float* rows = m.scratch + t[PPO_SCALARS] + 4 * (long)m.step * m.batch;
  float mean = 0.f, scale = 1.f;
  if (c[NORMALIZES] != 0.f && n > 1) {
    const double* sums = (const double*)(m.scratch + t[PPO_SUMS]) + 2 * (long)m.step * tiles_of_step();
    double sum = 0.0, squares = 0.0;
    for (int i = threadIdx.x; i < tiles_of_step(); i += THREADS) { sum += sums[2 * i]; squares += sums[2 * i + 1]; }
    sum = block_sum(sum, s.parts); squares = block_sum(squares, s.parts);
    mean = (float)(sum / n);
    scale = 1.f / (sqrtf((float)fmax((squares - sum * sum / n) / (n - 1), 0.0)) + 1e-8f);
  }
  float policy = 0.f, value = 0.f, ent = 0.f, kl = 0.f, clipped = 0.f;
  if (row < n) {
    const float* old = rows + 4 * (long)row;
    const float* y = out.at + row * out.stride;
    float* dy = by_out.at + row * by_out.stride;
    const float* action = m.scratch + t[PPO_ACTIONS] + ((long)m.step * m.batch + row) * t[PPO_ACTION_COLUMNS];
    float log_prob = 0.f;
    if (t[PPO_HEAD] == CATEGORICAL) {
      for (int i = 0, at = 0; i < t[PPO_CHOICES]; at += t[PPO_OPTIONS + i++])
        choose(y + at, t[PPO_OPTIONS + i], (int)action[i], log_prob, ent);
    } else {
      const float* log_std = m.state + t[PPO_LOG_STD];
      for (int i = 0; i < t[PPO_ACTION_COLUMNS]; i++) {
        const float z = (action[i] - y[i]) * expf(-log_std[i]);
        log_prob -= 0.5f * z * z + log_std[i] + HALF_LOG_2_PI;
        ent += 0.5f + HALF_LOG_2_PI + log_std[i];
      }
    }
    const float moved = rows[2] , a = c[NORMALIZES] != 0.f && n > 1 ? (old[2] - moved - mean) * scale : old[2];
    const Operand values = operand(t + PPO_VALUES), by_values = operand(t + PPO_BY_VALUES);
    float v = values.at[row * values.stride], passes = 1.f;
    if (c[CLIP_VALUES] >= 0.f) {
      const float change = v - old[0];
      passes = fabsf(change) <= c[CLIP_VALUES];
      v = old[0] + fminf(fmaxf(change, -c[CLIP_VALUES]), c[CLIP_VALUES]);
    }
    value = (old[3] - v) * (old[3] - v);
    by_values.at[row * by_values.stride] = c[VALUE_WEIGHT] * 2.f * (v - old[3]) / n * passes;
    float by_log_prob;
    if (t[PPO_HAS_RATIO]) {
      const float log_ratio = log_prob - old[1], r = expf(log_ratio), range = c[CLIP];
      const float capped = fminf(fmaxf(r, 1.f - range), 1.f + range);
      policy = fminf(a * r, a * capped);
      kl = (r - 1.f) - log_ratio;
      clipped = fabsf(r - 1.f) > range;
      // Of two equal numbers the minimum's gradient is the first one's, or both are the same.
      by_log_prob = a * r <= a * capped || capped == r ? -a * r / n : 0.f;
    } else {
      policy = a * log_prob;
      by_log_prob = -a / n;
    }
    const float by_entropy = -c[ENTROPY_WEIGHT] / n;
    if (t[PPO_HEAD] == CATEGORICAL) {
      for (int i = 0, at = 0; i < t[PPO_CHOICES]; at += t[PPO_OPTIONS + i++])
        choose_back(y + at, t[PPO_OPTIONS + i], (int)action[i], by_log_prob, by_entropy, dy + at);
    } else {
      float* by_std = m.scratch + t[PPO_BY_LOG_STD] + (long)row * t[PPO_ACTION_COLUMNS];
      for (int i = 0; i < t[PPO_ACTION_COLUMNS]; i++) {
        const float spread = expf(-m.state[t[PPO_LOG_STD] + i]), z = (action[i] - y[i]) * spread;
        dy[i] = by_log_prob * z * spread;
        by_std[i] = by_log_prob * (z * z - 1.f) + by_entropy;
      }
    }
  }
  const float sums[5] = {policy, value, ent, kl, clipped};
  for (int i = 0; i < 5; i++) {
    const float sum = block_sum(sums[i], s.sums);
    if (threadIdx.x == 0) m.scratch[t[PPO_PARTS] + tile * 5 + i] = sum;
  }
}

__device__ __noinline__ void finish_on_policy(const int* t, int) {
  const float* c = m.spaces[CONTROL];
  float sums[5];
  for (int i = 0; i < 5; i++) {
    float sum = 0.f;
    for (int j = threadIdx.x; j < ceil_div(m.rows, THREADS); j += THREADS) sum += m.scratch[t[FINISH_PARTS] + j * 5 + i];
    sums[i] = block_sum(sum, s.sums) / m.rows;
  }
  if (threadIdx.x != 0) return;
  float* out = m.metrics + METRICS + m.step * METRIC_COLUMNS;
  out[0] = -sums[0]; out[1] = sums[1]; out[2] = -sums[2]; out[3] = sums[3]; out[4] = sums[4];
  out[5] = -sums[0] - c[ENTROPY_WEIGHT] * sums[2] + c[VALUE_WEIGHT] * sums[1];
  const bool stops = c[TARGET_KL] >= 0.f && sums[3] > 1.5f * c[TARGET_KL];
  m.scratch[STOP] = stops;
  m.metrics[DONE] = m.step + 1;
  m.metrics[STOPPED] = stops;
}

__device__ float entropy_weight(int place) {
  return place < 0 ? m.spaces[CONTROL][ENTROPY_COEFFICIENT] : expf(m.state[place]);
}

// Actions of a squashed normal distribution and their log probabilities (SAC, appendix C).
__device__ __noinline__ void squash(const int* t, int tile) {
  const int row = tile * THREADS + threadIdx.x, n = t[SQUASH_SIZE];
  if (row >= m.rows) return;
  const Operand out = operand(t + SQUASH_OUT), noise = operand(t + SQUASH_NOISE);
  const Operand actions = operand(t + SQUASH_ACTIONS);
  float log_prob = 0.f;
  for (int i = 0; i < n; i++) {
    const float mean = out.at[row * out.stride + i], z = noise.at[row * noise.stride + i];
    const float log_std = fminf(fmaxf(out.at[row * out.stride + n + i], -20.f), 2.f);
    const float action = tanhf(mean + expf(log_std) * z);
    log_prob -= 0.5f * z * z + log_std + HALF_LOG_2_PI + logf(1.f - action * action + 1e-6f);
    actions.at[row * actions.stride + i] = action;
  }
  m.scratch[t[SQUASH_LOG_PROB] + row] = log_prob;
}

__device__ __noinline__ void squash_back(const int* t, int tile) {
  const int row = tile * THREADS + threadIdx.x, n = t[SQUASH_SIZE];
  if (row >= m.rows) return;
  const Operand out = operand(t + SQUASH_OUT), noise = operand(t + SQUASH_NOISE);
  const Operand actions = operand(t + SQUASH_ACTIONS), by_out = operand(t + SQUASH_BY_OUT);
  const float weight = entropy_weight(t[SQUASH_ENTROPY]) / m.rows;
  for (int i = 0; i < n; i++) {
    const float z = noise.at[row * noise.stride + i], action = actions.at[row * actions.stride + i];
    float by_action = 0.f;
    for (int j = 0; j < t[SQUASH_CRITICS]; j++)
      by_action += m.scratch[t[SQUASH_BY_ACTIONS] + j * t[SQUASH_CRITIC_STRIDE] + row * n + i];
    const float rise = 1.f - action * action;
    const float by_draw = weight * 2.f * action * rise / (rise + 1e-6f) + by_action * rise;
    const float log_std = out.at[row * out.stride + n + i];
    by_out.at[row * by_out.stride + i] = by_draw;
    by_out.at[row * by_out.stride + n + i] =
        log_std >= -20.f && log_std <= 2.f ? by_draw * z * expf(log_std) - weight : 0.f;
  }
}

__device__ __noinline__ void critic_loss(const int* t, int tile) {
  const int row = tile * THREADS + threadIdx.x, critics = t[CRITICS];
  float loss = 0.f;
  if (row < m.rows) {
    const Operand rewards = operand(t + CRITIC_REWARDS), dones = operand(t + CRITIC_DONES);
    const Operand discounts = operand(t + CRITIC_DISCOUNTS);
    float least = m.scratch[t[CRITIC_TARGET_Q] + row];
    for (int j = 1; j < critics; j++) least = fminf(least, m.scratch[t[CRITIC_TARGET_Q] + j * t[CRITIC_TARGET_STRIDE] + row]);
    least -= entropy_weight(t[CRITIC_ENTROPY]) * m.scratch[t[CRITIC_LOG_PROB] + row];
    const float goal = rewards.at[row] + (1.f - dones.at[row]) * discounts.at[row] * least;
    for (int j = 0; j < critics; j++) {
      const float error = m.scratch[t[CRITIC_Q] + j * t[CRITIC_STRIDE] + row] - goal;
      m.scratch[t[CRITIC_BY_Q] + j * t[CRITIC_BY_STRIDE] + row] = error / m.rows;
      loss += 0.5f * error * error;
    }
  }
  loss = block_sum(loss, s.sums);
  if (threadIdx.x == 0) m.scratch[t[CRITIC_PARTS] + tile] = loss;
}

__device__ __noinline__ void actor_loss(const int* t, int tile) {
  const int row = tile * THREADS + threadIdx.x, critics = t[CRITICS];
  float loss = 0.f, log_probs = 0.f;
  if (row < m.rows) {
    int least = 0;
    for (int j = 1; j < critics; j++)
      if (m.scratch[t[CRITIC_Q] + j * t[CRITIC_STRIDE] + row] < m.scratch[t[CRITIC_Q] + least * t[CRITIC_STRIDE] + row]) least = j;
    for (int j = 0; j < critics; j++) m.scratch[t[CRITIC_BY_Q] + j * t[CRITIC_BY_STRIDE] + row] = j == least ? -1.f / m.rows : 0.f;
    log_probs = m.scratch[t[CRITIC_LOG_PROB] + row];
    loss = entropy_weight(t[CRITIC_ENTROPY]) * log_probs - m.scratch[t[CRITIC_Q] + least * t[CRITIC_STRIDE] + row];
  }
  loss = block_sum(loss, s.sums); log_probs = block_sum(log_probs, s.sums);
  if (threadIdx.x == 0) { m.scratch[t[CRITIC_PARTS] + 2 * tile] = loss; m.scratch[t[CRITIC_PARTS] + 2 * tile + 1] = log_probs; }
}

__device__ __noinline__ void finish_soft(const int* t, int) {
  float critic = 0.f, actor = 0.f, log_probs = 0.f;
  for (int j = threadIdx.x; j < ceil_div(m.rows, THREADS); j += THREADS) {
    critic += m.scratch[t[SOFT_CRITIC_PARTS] + j];
    actor += m.scratch[t[SOFT_ACTOR_PARTS] + 2 * j];
    log_probs += m.scratch[t[SOFT_ACTOR_PARTS] + 2 * j + 1];
  }
  critic = block_sum(critic, s.sums) / m.rows; actor = block_sum(actor, s.sums) / m.rows;
  const float surplus = block_sum(log_probs, s.sums) / m.rows + m.spaces[CONTROL][TARGET_ENTROPY];
  if (threadIdx.x != 0) return;
  float* out = m.metrics + METRICS + m.step * METRIC_COLUMNS;
  out[0] = critic; out[1] = actor; out[2] = entropy_weight(t[SOFT_ENTROPY]);
  if (t[SOFT_ENTROPY] >= 0) {
    out[3] = -m.state[t[SOFT_ENTROPY]] * surplus;
    m.scratch[t[SOFT_BY_ENTROPY]] = -surplus;
  }
  m.metrics[DONE] = m.step + 1;
}

// Portions of a task that blocks can take one by one.
__device__ __noinline__ int tiles(const int* t) {
  const int side = t[TILE];
  switch (t[KIND]) {
    case FORWARD: return ceil_div(m.rows, side) * ceil_div(t[FORWARD_UNITS], side);
    case BACKWARD: return ceil_div(m.rows, side) * ceil_div(t[BACKWARD_INPUTS], side);
    case WEIGHTS: return ceil_div(t[WEIGHTS_UNITS], side) * max(ceil_div(t[WEIGHTS_INPUTS], side), 1) * t[WEIGHTS_SPLITS];
    case REDUCE: case ADAM: return ceil_div(t[SUM_SIZE], PORTION);
    case ZERO: return ceil_div(t[ZERO_SIZE], PORTION);
    case COPY: case GATHER: return ceil_div(m.total, THREADS);
    case SCALARS: return ceil_div(m.total, m.batch) * tiles_of_step();
    case FINISH_ON_POLICY: case FINISH_SOFT: return 1;
    default: return ceil_div(m.rows, THREADS);
  }
}

// Products are part of the kernel itself: a function that is called may use few registers.
__device__ __forceinline__ void work_on(const int* t, int tile) {
  switch (t[KIND]) {
    case FORWARD: case BACKWARD: case WEIGHTS: t[TILE] == 64 ? product<64>(t, tile) : product<32>(t, tile); break;
    case NARROW: narrow(t, tile); break;
    case REDUCE: reduce(t, tile); break;
    case ADAM: optimize(t, tile); break;
    case ZERO: zero(t, tile); break;
    case COPY: copy(t, tile); break;
    case GATHER: gather(t, tile); break;
    case SCALARS: scalars(t, tile); break;
    case ON_POLICY: on_policy(t, tile); break;
    case FINISH_ON_POLICY: finish_on_policy(t, tile); break;
    case SQUASH: squash(t, tile); break;
    case SQUASH_BACK: squash_back(t, tile); break;
    case CRITIC_LOSS: critic_loss(t, tile); break;
    case ACTOR_LOSS: actor_loss(t, tile); break;
    case FINISH_SOFT: finish_soft(t, tile); break;
  }
}

// The tasks of [from, to), phase by phase.
__device__ __forceinline__ void go_over(unsigned long long* counter, int from, int to) {
  int before = 0;  // portions of this phase's tasks so far: the next task's begin with another block
  for (int i = from; i < to; i++) {
    const int* t = s.tasks + i * WIDTH;
    const int count = tiles(t), blocks = gridDim.x;
    for (int tile = (blockIdx.x + blocks - before % blocks) % blocks; tile < count; tile += blocks) work_on(t, tile);
    before += count;
    if (t[LAST]) { wait_for_all(counter); before = 0; }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE) run_program(
    const int* program, unsigned long long* counters, const float* before, const float* control, const float* data,
    const float* extra, float* state, float* scratch, int first_tasks, int all_tasks, int size, int batch, int total,
    int counter_at, int metrics_low, int metrics_high) {
  unsigned long long* counter = counters + counter_at;
  for (int i = threadIdx.x; i < all_tasks * WIDTH; i += THREADS) s.tasks[i] = program[i];
  for (int i = blockIdx.x * THREADS + threadIdx.x; i < size; i += gridDim.x * THREADS) state[i] = before[i];
  if (threadIdx.x == 0) {
    float* metrics = (float*)((unsigned long long)(unsigned)metrics_high << 32 | (unsigned)metrics_low);
    m = {{state, scratch, data, extra, control}, state, scratch, metrics, batch, total, min(batch, total), 0};
  }
  __syncthreads();
  // The first tasks, in front of all steps, do not read the state; their last phase ends with a wait.
  for (int step = -1; step * batch < total; step++) {
    if (step >= 0) {
      if (threadIdx.x == 0) { m.step = step; m.rows = min(batch, total - step * batch); }
      __syncthreads();
    }
    go_over(counter, step < 0 ? 0 : first_tasks, step < 0 ? first_tasks : all_tasks);
    if (step >= 0 && *(volatile float*)(scratch + STOP) != 0.f) break;
  }
}
