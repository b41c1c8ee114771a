// The formulas of `tileweave explore` once more, for the page's sliders. A test compares: change both or neither.
// `data` is what the program put into the page; times in microseconds, rates in GB/s, sizes in bytes.
"use strict";

const SIZE = 2;

function over(bytes, gbPerS) {
  return bytes / (gbPerS * 1e3);
}

/** `Work::gemm`: time without the launch, and waves of tiles. */
function gemm(data, m, n, k, part) {
  const { node, costs } = data;
  const rate = (node.tensor_tflops * 1e6 * part) / node.sms;
  let waves = 1;
  let flops;
  if (m <= 128) {
    flops = (Math.ceil(m / 64) * 64 * n * k * 2) / node.sms;
  } else {
    const wide = Math.ceil(m / 128) * Math.ceil(n / 256);
    const columns = wide >= node.sms ? 256 : 128;
    const tiles = wide >= node.sms ? wide : Math.ceil(m / 128) * Math.ceil(n / 128);
    waves = Math.ceil(tiles / node.sms);
    flops = waves * 128 * columns * k * 2;
  }
  const bytes = (m * k + n * k + m * n) * SIZE;
  return [costs.gemm_us + Math.max(flops / rate, over(bytes, node.hbm_gb_per_s * costs.hbm_part)), Math.max(waves, 1)];
}

function libraryGemm(data, m, n, k) {
  return data.costs.launch_us + gemm(data, m, n, k, data.node.library_gemm)[0];
}

/** NCCL's rate within a node, at a part of NVLink's data sheet; without NVLink, the host's. */
function ncclRate(link, part) {
  return link.nvlink === null ? link.host : Math.max(link.nvlink * part, link.host);
}

/** `route::nccl::without_switch_us` of an all-reduce. */
function withoutSwitch(data, link, message) {
  const costs = data.node.nccl;
  const ring = ncclRate(link, costs.ring_part);
  const steps = 2 * (link.world - 1);
  let best = Infinity;
  for (const way of data.costs.nccl_ways) {
    if (way.nvlink_only && link.nvlink === null) {
      continue;
    }
    const most = way.low_latency ? costs.low_latency_gb_per_s : Infinity;
    const passes = way.tree ? 2 : steps / link.world;
    const hop = link.nvlink === null ? way.pcie_hop_us : way.hop_us;
    best = Math.min(best, way.base_us + steps * hop + over(passes * message, Math.min(ring * way.part, most)));
  }
  return costs.call_us + best;
}

/** `Work::nccl_collective_us` of an all-reduce. */
function nccl(data, link, message) {
  const costs = data.node.nccl;
  const best = withoutSwitch(data, link, message);
  if (!link.multicast || link.nvlink === null || costs.nvls_part <= 0 || link.world < 3) {
    return best;
  }
  const all = costs.nvls_channels * link.world;
  const [chunk] = data.costs.nvls_chunks.find(([size, rounds]) => message >= rounds * all * size);
  const round = Math.min(chunk * all, message);
  const passes = (2 * (link.world - 1)) / link.world;
  const time = over(passes * (message + 3 * round), link.nvlink * costs.nvls_part);
  return Math.min(best, costs.call_us + data.costs.nvls_us + time);
}

/** NCCL's all-reduce by levels: in the node, between nodes, in the node. */
function betweenNodes(data, link, nodes, message) {
  const beyond = ((2 * (nodes - 1)) / nodes) * (message / link.world);
  const steps = 2 * (nodes - 1) * data.node.network_latency_us;
  return withoutSwitch(data, link, message) + over(beyond, link.network) + steps;
}

/** `Work::fused_us` of gemm-all-reduce: the better of packets, where they may be, and two shots. */
function fused(data, link, m, n, k) {
  const { node, costs } = data;
  const part = node.our_gemm / (1 + node.fused_loss);
  const [work, waves] = gemm(data, m, n, k, part);
  const message = m * n * SIZE;
  const around = costs.launch_us + costs.session_us;
  const transfer = over(((link.world - 1) / link.world) * (message + message), link.push);
  let best = around + Math.max(work + transfer / waves, work / waves + transfer) + (2 * node.latency_us + costs.step_us);
  const packets = m * Math.ceil(n / costs.packet_columns) * costs.packet_columns * SIZE;
  if (packets <= costs.one_shot_bytes) {
    const sent = over(2 * (link.world - 1) * message, link.push);
    best = Math.min(best, around + (work + sent) + node.latency_us);
  }
  return best;
}

/** `Batch::attention`. */
function attention(data, model, at, tp, decode) {
  const { node, costs } = data;
  const pairs = decode ? at.seq : (at.seq * at.seq) / 2;
  const flops = (2 * at.batch * pairs * model.attention_width) / tp;
  const bytes = at.batch * at.seq * (model.cache_width / Math.min(tp, model.kv_heads)) * SIZE;
  const computed = flops / (node.tensor_tflops * 1e6 * node.library_gemm);
  return costs.launch_us + costs.gemm_us + Math.max(computed, over(bytes, node.hbm_gb_per_s * costs.hbm_part));
}

/** `Machine::described`, as far as links go; `at` may have other rates than the node. */
function linkOf(data, at, tp) {
  const { node } = data;
  const world = Math.min(tp, node.gpus);
  // As many links to each peer: to fewer peers, fewer links.
  const part = node.direct ? (world - 1) / (node.gpus - 1) : 1;
  const faster = at.link / node.link_gb_per_s;
  return {
    world,
    nvlink: node.nvlink && world > 1 ? node.link_gb_per_s * faster * part : null,
    push: node.push_gb_per_s * faster * part,
    host: node.nvlink ? node.host_gb_per_s : node.host_gb_per_s * faster,
    multicast: node.multicast && world > 1,
    network: node.network_achieved_gb_per_s * (at.network / node.network_gb_per_s),
  };
}

/** `Batch::layer`. */
function layer(data, model, at, tp, decode) {
  const link = linkOf(data, at, tp);
  const nodes = tp / link.world;
  const m = decode ? at.batch : at.batch * at.seq;
  const first = attention(data, model, at, tp, decode);
  const sum = { compute: first, unfused: first, fused: first };
  for (const linear of model.linears) {
    const n = linear.split === "column" ? Math.ceil(linear.n / tp) + Math.ceil(linear.kv / Math.min(tp, model.kv_heads)) : linear.n;
    const k = linear.split === "row" ? Math.ceil(linear.k / tp) : linear.k;
    const alone = libraryGemm(data, m, n, k);
    let unfusedTime = alone;
    let fusedTime = alone;
    if (linear.split === "row") {
      if (nodes > 1) {
        unfusedTime = fusedTime = alone + betweenNodes(data, link, nodes, m * n * SIZE);
      } else if (tp > 1) {
        unfusedTime = alone + nccl(data, link, m * n * SIZE);
        fusedTime = fused(data, link, m, n, k);
      }
    }
    sum.compute += alone;
    sum.unfused += unfusedTime;
    sum.fused += fusedTime;
  }
  return sum;
}

/** What `--json` has as `rows`. `at`: seq, batch, link and network in GB/s a direction. */
function explore(data, model, at) {
  const degrees = [1, 2, 4, 8, 16, 32].filter((tp) => tp <= data.max_tp && model.heads % tp === 0);
  const layers = degrees.map((tp) => [layer(data, model, at, tp, false), layer(data, model, at, tp, true)]);
  const [alonePrompt, aloneToken] = layers[0];
  const tokens = at.batch * at.seq;
  return degrees.map((tp, i) => {
    const [prompt, token] = layers[i];
    const heads = Math.min(tp, model.kv_heads);
    const cut = model.split_bytes / tp + model.kv_bytes / heads;
    const weights = (model.parameters * SIZE) / tp;
    const cache = tokens * model.layers * (model.cache_width / heads) * SIZE;
    const reductions = model.linears.filter((linear) => linear.split === "row").length;
    return {
      tp,
      nodes: Math.ceil(tp / data.node.gpus),
      weights_gb: weights / 1e9,
      activations_gb: (tokens * model.layers * (model.whole_bytes + cut)) / 1e9,
      activations_sp_gb: (tokens * model.layers * (model.whole_bytes / tp + cut)) / 1e9,
      kv_cache_gb: cache / 1e9,
      fits: weights + cache <= data.node.hbm_gb * 1e9,
      comm_bytes_per_layer: reductions * 2 * ((tp - 1) / tp) * (tokens * model.hidden * SIZE),
      compute_ms: prompt.compute / 1e3,
      comm_ms: (prompt.unfused - prompt.compute) / 1e3,
      unfused_ms: prompt.unfused / 1e3,
      fused_ms: prompt.fused / 1e3,
      speedup: prompt.unfused / prompt.fused,
      efficiency_unfused: alonePrompt.unfused / (tp * prompt.unfused),
      efficiency_fused: alonePrompt.unfused / (tp * prompt.fused),
      token_unfused_us: token.unfused,
      token_fused_us: token.fused,
      latency_reduction_unfused: aloneToken.unfused / token.unfused,
      latency_reduction_fused: aloneToken.unfused / token.fused,
      kind: "predicted",
    };
  });
}
