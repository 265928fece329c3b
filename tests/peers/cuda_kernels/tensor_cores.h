// In place of src/nn/device/cuda/tensor_cores.cuh: what the lanes of a warp do together, by way of memory that
// all of them see. Which lane has which numbers is written down anew here, from PTX's tables of
// mma.m16n8k16 and ldmatrix.
#define TENSOR_CORES

struct Lane {
  unsigned a[4], b[2];
  const void *row;
};
static Lane lanes[1024];

// Shows what a lane brings, lets it look at the warp's, and waits until all have looked.
template <typename F>
static void together(const Lane &mine, F look) {
  unsigned first = threadIdx.x / 32 * 32;
  auto &warp = *warp_barriers[threadIdx.x / 32];
  lanes[threadIdx.x] = mine;
  warp.arrive_and_wait();
  look(lanes + first, threadIdx.x % 32);
  warp.arrive_and_wait();
}

template <typename T>
static float half_of(unsigned both, int which) {
  T x[2];
  std::memcpy(x, &both, 4);
  return (float)x[which];
}

template <typename T>
static void multiply(float *c, const unsigned *a, const unsigned *b) {
  Lane mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  together(mine, [&](const Lane *warp, int lane) {
    for (int i = 0; i < 4; i++) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; k++) {
        unsigned left = warp[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
        unsigned right = warp[column * 4 + k % 8 / 2].b[k / 8];
        c[i] += half_of<T>(left, k % 2) * half_of<T>(right, k % 2);
      }
    }
  });
}

static void load(unsigned *x, const void *row) {
  Lane mine;
  mine.row = row;
  together(mine, [&](const Lane *warp, int lane) {
    for (int i = 0; i < 4; i++)
      std::memcpy(x + i, (const char *)warp[8 * i + lane / 4].row + 4 * (lane % 4), 4);
  });
}

static void load_turned(unsigned *x, const void *row) {
  Lane mine;
  mine.row = row;
  together(mine, [&](const Lane *warp, int lane) {
    for (int i = 0; i < 4; i++)
      for (int half = 0; half < 2; half++)
        std::memcpy((char *)(x + i) + 2 * half,
                    (const char *)warp[8 * i + lane % 4 * 2 + half].row + 2 * (lane / 4), 2);
  });
}

static float exponential(float x) { return exp2f(x); }

template <typename T>
static unsigned pack(float low, float high) {
  T x[2];
  put(x, low);
  put(x + 1, high);
  unsigned both;
  std::memcpy(&both, x, 4);
  return both;
}
