// Several MLPs of the same depth on one input: all layers forward in one kernel, all backward in another, and the
// gradients of all weights in a third. A block has the activations of TR rows in shared memory. What is in capitals
// is defined by nn/fused_mlp.py: sizes, tables, and the activation in terms of x and its derivative in terms of y.
//
// A layer is one part, a matrix W (units, inputs) and a bias; the last layer may be several, side by side.

__device__ __forceinline__ float act(float x) { return ACT; }
__device__ __forceinline__ float slope(float y) { return SLOPE; }
__constant__ int DIM[NETS][DEPTH + 1] = DIMS, FIRST[NETS][DEPTH] = FIRSTS, COUNT[NETS][DEPTH] = COUNTS;
__constant__ int UNITS[PARTS] = UNIT_TABLE, WEIGHTS[PARTS] = WEIGHT_TABLE, BIASES[PARTS] = BIAS_TABLE;
__constant__ int KEPT[NETS][DEPTH] = KEPT_TABLE, SHOWN[NETS] = SHOWN_TABLE, TILE[TILES][4] = TILE_TABLE;

struct Unit { int part, row; };
__device__ __forceinline__ Unit find(int net, int layer, int unit) {
  int part = FIRST[net][layer];
  for (int left = COUNT[net][layer] - 1; left > 0 && unit >= UNITS[part]; left--) unit -= UNITS[part++];
  return {part, unit};
}
#define POINTERS \
  __shared__ const float* W[PARTS]; __shared__ const float* B[PARTS]; \
  if (threadIdx.x == 0) { const float* const given[] = {GIVEN}; \
    for (int i = 0; i < PARTS; i++) { W[i] = given[2 * i]; B[i] = given[2 * i + 1]; } } \
  __syncthreads();

extern "C" __global__ void __launch_bounds__(TH) mlp_forward(
    const float* __restrict__ x, PARAMETERS, float* __restrict__ kept, float* __restrict__ out, int rows) {
  POINTERS
  __shared__ __align__(16) float xs[2][TR][LD];
  __shared__ float ws[TH * (KC + 1)];
  const int net = blockIdx.y, r0 = blockIdx.x * TR, t = threadIdx.x, nr = min(TR, rows - r0);
  for (int i = t; i < TR * LD; i += TH) { xs[0][i / LD][i % LD] = 0.f; xs[1][i / LD][i % LD] = 0.f; }
  __syncthreads();
  const int inputs = DIM[net][0];
  for (int i = t; i < nr * inputs; i += TH) xs[0][i / inputs][i % inputs] = x[(long)r0 * inputs + i];
  int cur = 0;
  for (int l = 0; l < DEPTH; l++) {
    const int K = DIM[net][l], N = DIM[net][l + 1];
    __syncthreads();
    if (N <= 32) {
      for (int q = t / 32; q < N * nr; q += TH / 32) {
        const int r = q / N, n = q % N;
        const Unit unit = find(net, l, n);
        const float* w = W[unit.part] + (long)unit.row * K;
        float s = 0.f;
        for (int k = t % 32; k < K; k += 32) s += w[k] * xs[cur][r][k];
        for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
        if (t % 32 == 0) {
          s += B[unit.part][unit.row];
          if (l + 1 == DEPTH) out[(long)(r0 + r) * OUT + SHOWN[net] + n] = s;
          else { s = act(s); xs[1 - cur][r][n] = s; kept[(long)KEPT[net][l] * rows + (long)(r0 + r) * N + n] = s; }
        }
      }
    } else for (int n0 = 0; n0 < N; n0 += TH) {
      const int n = n0 + t, cnt = min(TH, N - n0);
      const Unit unit = find(net, l, min(n, N - 1));
      const float bias = B[unit.part][unit.row];
      const bool single = COUNT[net][l] == 1;
      const float* base = W[FIRST[net][l]];
      float acc[TR], next[KC];
      #pragma unroll
      for (int r = 0; r < TR; r++) acc[r] = bias;
      // All loads of a chunk are under way at once, and while the chunk before is multiplied.
      const auto load = [&](int k0) {
        #pragma unroll
        for (int j = 0; j < KC; j++) {
          const int row = (t + j * TH) / KC, c = (t + j * TH) % KC;
          next[j] = 0.f;
          if (row >= cnt || k0 + c >= K) continue;
          if (single) next[j] = base[(long)(n0 + row) * K + k0 + c];
          else { const Unit from = find(net, l, n0 + row); next[j] = W[from.part][(long)from.row * K + k0 + c]; }
        }
      };
      load(0);
      for (int k0 = 0; k0 < K; k0 += KC) {
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < KC; j++) ws[(t + j * TH) / KC * (KC + 1) + (t + j * TH) % KC] = next[j];
        __syncthreads();
        if (k0 + KC < K) load(k0 + KC);
        if (n < N)
          #pragma unroll 2
          for (int k = 0; k < KC; k += 4) {
            const float* w = ws + t * (KC + 1) + k;
            const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
            #pragma unroll
            for (int r = 0; r < TR; r++) {
              const float4 v = *(const float4*)&xs[cur][r][k0 + k];
              acc[r] += w0 * v.x + w1 * v.y + w2 * v.z + w3 * v.w;
            }
          }
      }
      if (n < N)
        #pragma unroll
        for (int r = 0; r < TR; r++) if (r < nr) {
          if (l + 1 == DEPTH) out[(long)(r0 + r) * OUT + SHOWN[net] + n] = acc[r];
          else {
            const float y = act(acc[r]);
            xs[1 - cur][r][n] = y; kept[(long)KEPT[net][l] * rows + (long)(r0 + r) * N + n] = y;
          }
        }
    }
    __syncthreads();
    // What is left of a wider layer must be zero, for the last chunk of K.
    if (l + 1 < DEPTH)
      for (int i = t; i < TR * KC; i += TH) { const int c = N + i % KC; if (c < LD) xs[1 - cur][i / KC][c] = 0.f; }
    cur = 1 - cur;
  }
}

extern "C" __global__ void __launch_bounds__(TH) mlp_backward(
    const float* __restrict__ kept, const float* __restrict__ grad_out, PARAMETERS, float* __restrict__ dz,
    float* __restrict__ dx, int rows) {
  POINTERS
  __shared__ __align__(16) float zs[2][TR][LD];
  const int net = blockIdx.y, r0 = blockIdx.x * TR, t = threadIdx.x, nr = min(TR, rows - r0);
  const int shown = DIM[net][DEPTH];
  for (int i = t; i < TR * shown; i += TH) {
    const int r = i / shown;
    zs[0][r][i % shown] = r < nr ? grad_out[(long)(r0 + r) * OUT + SHOWN[net] + i % shown] : 0.f;
  }
  int cur = 0;
  for (int l = DEPTH - 1; l >= 0; l--) {
    const int K = DIM[net][l];
    __syncthreads();
    for (int k = t; k < K; k += TH) {
      float acc[TR];
      #pragma unroll
      for (int r = 0; r < TR; r++) acc[r] = 0.f;
      int n = 0;
      for (int p = FIRST[net][l]; p < FIRST[net][l] + COUNT[net][l]; p++) {
        const float* w = W[p] + k;
        int row = 0;
        for (; n % 4 == 0 && row + 16 <= UNITS[p]; row += 16, n += 16) {
          float v[16];
          #pragma unroll
          for (int j = 0; j < 16; j++) v[j] = w[(long)(row + j) * K];
          #pragma unroll
          for (int r = 0; r < TR; r++)
            #pragma unroll
            for (int j = 0; j < 16; j += 4) {
              const float4 z = *(const float4*)&zs[cur][r][n + j];
              acc[r] += v[j] * z.x + v[j + 1] * z.y + v[j + 2] * z.z + v[j + 3] * z.w;
            }
        }
        for (; row < UNITS[p]; row++, n++) {
          const float v = w[(long)row * K];
          #pragma unroll
          for (int r = 0; r < TR; r++) acc[r] += v * zs[cur][r][n];
        }
      }
      #pragma unroll
      for (int r = 0; r < TR; r++) {
        if (r >= nr) { zs[1 - cur][r][k] = 0.f; continue; }
        if (l == 0) { dx[((long)net * rows + r0 + r) * K + k] = acc[r]; continue; }
        const long at = (long)KEPT[net][l - 1] * rows + (long)(r0 + r) * K + k;
        const float v = acc[r] * slope(kept[at]);
        zs[1 - cur][r][k] = v; dz[at] = v;
      }
    }
    cur = 1 - cur;
  }
}

extern "C" __global__ void __launch_bounds__(256) mlp_weights(
    const float* __restrict__ x, const float* __restrict__ kept, const float* __restrict__ dz,
    const float* __restrict__ grad_out, float* __restrict__ part, int rows, int each) {
  __shared__ __align__(16) float zs[16][64];
  __shared__ __align__(16) float hs[16][64];
  const int net = TILE[blockIdx.x][0], l = TILE[blockIdx.x][1], n0 = TILE[blockIdx.x][2], k0 = TILE[blockIdx.x][3];
  const int K = DIM[net][l], N = DIM[net][l + 1], t = threadIdx.x, tn = t / 16, tk = t % 16;
  const int from = blockIdx.y * each, to = min(rows, from + each);
  float acc[4][4] = {}, bias = 0.f;
  for (int r0 = from; r0 < to; r0 += 16) {
    for (int i = t; i < 1024; i += 256) {
      const int r = r0 + i / 64, c = i % 64, n = n0 + c, k = k0 + c;
      zs[i / 64][c] = r >= to || n >= N ? 0.f
        : l + 1 == DEPTH ? grad_out[(long)r * OUT + SHOWN[net] + n] : dz[(long)KEPT[net][l] * rows + (long)r * N + n];
      hs[i / 64][c] = r >= to || k >= K ? 0.f
        : l > 0 ? kept[(long)KEPT[net][l - 1] * rows + (long)r * K + k] : x[(long)r * K + k];
    }
    __syncthreads();
    #pragma unroll 4
    for (int r = 0; r < 16; r++) {
      const float4 z = *(const float4*)&zs[r][tn * 4], h = *(const float4*)&hs[r][tk * 4];
      const float zz[4] = {z.x, z.y, z.z, z.w}, hh[4] = {h.x, h.y, h.z, h.w};
      #pragma unroll
      for (int a = 0; a < 4; a++)
        #pragma unroll
        for (int b = 0; b < 4; b++) acc[a][b] += zz[a] * hh[b];
    }
    if (k0 == 0 && t < 64) for (int r = 0; r < 16; r++) bias += zs[r][t];
    __syncthreads();
  }
  float* sums = part + (long)blockIdx.y * SIZE;
  for (int a = 0; a < 4; a++) {
    const int n = n0 + tn * 4 + a;
    if (n >= N) break;
    const Unit unit = find(net, l, n);
    for (int b = 0; b < 4; b++) {
      const int k = k0 + tk * 4 + b;
      if (k < K) sums[WEIGHTS[unit.part] + unit.row * K + k] = acc[a][b];
    }
  }
  if (k0 == 0 && t < 64 && n0 + t < N) { const Unit unit = find(net, l, n0 + t); sums[BIASES[unit.part] + unit.row] = bias; }
}

extern "C" __global__ void mlp_sum(const float* part, float* out, int size, int count) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
    float sum = 0.f;
    for (int j = 0; j < count; j++) sum += part[(long)j * size + i];
    out[i] = sum;
  }
}
