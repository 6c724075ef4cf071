// gather_rows: each row is decoded straight into its place.

struct GatherJob {
  const GatherRowsArgs* args;
  DecodeFn decode;
  int64_t rows_per_task;
};

void gather_task(void* arg, int64_t task, int32_t) {
  const auto* job = static_cast<const GatherJob*>(arg);
  const GatherRowsArgs& a = *job->args;
  const int64_t begin = task * job->rows_per_task;
  const int64_t end = imin(begin + job->rows_per_task, a.out.rows);
  for (int64_t t = begin; t < end; ++t) {
    float* out = f32_row(a.out, t);
    job->decode(static_cast<const char*>(a.table.data) + a.ids[t] * a.table.stride, a.out.cols, out);
    if (a.scale == 1.0f) continue;
    const Vf scale = vset1(a.scale);
    int64_t i = 0;
    for (; i + kLanes <= a.out.cols; i += kLanes) vstore(out + i, vmul(vload(out + i), scale));
    const int64_t rest = a.out.cols - i;
    if (rest > 0) vstore_n(out + i, vmul(vload_n(out + i, rest), scale), rest);
  }
}

Status gather_rows(const ExecContext& ctx, const GatherRowsArgs& a) {
  if (const Status s = check_gather_rows_args(a); s != Status::kOk) return s;
  if (a.out.rows == 0 || a.out.cols == 0) return Status::kOk;
  GatherJob job;
  job.args = &a;
  job.decode = decode_fn(a.table.dtype);
  if (job.decode == nullptr) return Status::kUnsupported;
  constexpr int64_t kElemsPerTask = 65536;  // some 20 us of decoding: well above the cost of a hand-out
  job.rows_per_task = imax(1, kElemsPerTask / a.out.cols);
  run_tasks(ctx, ceil_div(a.out.rows, job.rows_per_task), gather_task, &job);
  return Status::kOk;
}
