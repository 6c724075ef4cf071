// What the bodies for few rows of x share: gemv.inl.h and gemv_int8.inl.h.

constexpr int kMaxCols = 4;       // rows of x that one pass over the weights serves
constexpr int64_t kAhead = 4096;  // bytes: hardware prefetchers stop at the page's end
constexpr int64_t kRowsAtOnce =
    32;  // outputs between two epilogues: their weights stay in L2 for the next pass

// Eight tasks a thread level out foreign load; below some 100k products a hand-out costs more than it saves.
int64_t gemv_rows_per_task(const ExecContext& ctx, const MatmulArgs& a) {
  const int64_t share = ceil_div(a.w.rows, ctx.n_threads > 1 ? 8 * ctx.n_threads : 1);
  const int64_t least = ceil_div(100000, imax(1, a.w.cols * a.x.rows));
  return round_up(imax(share, least), kRowsAtOnce);
}
