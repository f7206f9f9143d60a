// What becomes of finished values where sizes are not constants: stages and stores from a table.
// `pointwise_function(index, in, k)` and the MAX_ sizes are generated.
#pragma once

// A view whose element is known at run time.
struct AnyView {
  View<float> view;
  int is_bf16;

  __device__ View<bf16> as_bf16() const {
    return {reinterpret_cast<bf16*>(view.ptr), view.n, view.h, view.w, view.c, view.stride};
  }
};

// A pixel shuffle where `shuffle` is its factor, else a function.
struct Stage {
  int shuffle, function, carrier, count;
  float factors[MAX_FACTORS];
  AnyView inputs[MAX_PARTS];
};

struct Store {
  int after;
  AnyView to;
};

struct Finish {
  int stage_count, store_count;
  Stage stages[MAX_STAGES];
  Store stores[MAX_STORES];

  // Channels c to c + V of pixel (n, y, x).
  template <int V>
  __device__ void apply(float (&v)[V], int n, int y, int x, int c) const {
    apply_from<V>(0, v, n, y, x, c);
  }

 private:
  // What follows `done` stages.
  template <int V>
  __device__ void apply_from(int done, float (&v)[V], int n, int y, int x, int c) const {
    for (;; ++done) {
      for (int s = 0; s < store_count; ++s) {
        if (stores[s].after == done) put<V>(stores[s].to, v, n, y, x, c);
      }
      if (done == stage_count) return;
      if (stages[done].shuffle > 0) break;
      apply_stage<V>(stages[done], v, n, y, x, c);
    }
    for (int j = 0; j < V; ++j) {
      const Shuffled to(stages[done].shuffle, y, x, c + j);
      float one[] = {v[j]};
      apply_from<1>(done + 1, one, n, to.y, to.x, to.c);
    }
  }

  template <int V>
  __device__ static void put(const AnyView& to, const float (&v)[V], int n, int y, int x, int c) {
    if (to.is_bf16) {
      store<V>(to.as_bf16(), v, n, y, x, c);
    } else {
      store<V>(to.view, v, n, y, x, c);
    }
  }

  template <int V>
  __device__ static void apply_stage(const Stage& stage, float (&v)[V], int n, int y, int x, int c) {
    float in[MAX_PARTS][V];
    for (int p = 0; p < stage.count; ++p) {
      const AnyView& input = stage.inputs[p];
      if (p == stage.carrier) {
        carry<V>(in[p], v);
      } else if (input.is_bf16) {
        load<V>(in[p], input.as_bf16(), n, y, x, c);
      } else {
        load<V>(in[p], input.view, n, y, x, c);
      }
    }
    for (int j = 0; j < V; ++j) {
      float values[MAX_PARTS];
      for (int p = 0; p < stage.count; ++p) values[p] = in[p][j];
      v[j] = pointwise_function(stage.function, values, stage.factors);
    }
  }
};
