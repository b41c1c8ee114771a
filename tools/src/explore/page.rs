//! One page that needs nothing beside itself: tables and constants as JSON, the formulas' twin (`twin.js`), sliders.

use serde_json::{Value, json};
use tileweave::abi::TW_PACKET_COLUMNS;
use tileweave::machines::Kind;
use tileweave::route::Machine;
use tileweave::route::constants::{HBM_PART, NCCL_WAYS, NVLS_CHUNKS, NVLS_US, NcclWay, OVERHEADS};

use super::{MOST, Report, models, time};
use crate::failure::Failure;

const PAGE: &str = include_str!("page.html");

pub fn html(report: &Report) -> Result<String, Failure> {
    let failed = |error: serde_json::Error| Failure::unavailable(format!("the page's data is no JSON: {error}"));
    let node = &report.node;
    // At its whole size: what fewer ranks have of its links, the twin tells.
    let machine = Machine::described(node, node.gpus as usize);
    let (class, nccl) = (&machine.class, &machine.class.nccl);
    let data = json!({
        "model": report.model.name,
        "models": serde_json::to_value(models::all()).map_err(failed)?,
        "seq": report.seq,
        "batch": report.batch,
        "max_tp": report.rows.last().map_or(MOST, |row| row.tp),
        "node": {
            "name": node.name,
            "gpus": node.gpus,
            "sms": class.sms,
            "tensor_tflops": class.tensor_tflops,
            "hbm_gb_per_s": class.hbm_gb_per_s,
            "hbm_gb": node.memory.hbm_gb.value,
            "library_gemm": class.library_gemm,
            "our_gemm": class.our_gemm,
            "fused_loss": class.fused_loss,
            "nvlink": machine.nvlink_gb_per_s.is_some(),
            "direct": node.link.kind == Kind::NvLink,
            "multicast": machine.multicast,
            "link_gb_per_s": node.link.gb_per_s.value,
            "push_gb_per_s": node.link.achieved_gb_per_s.value,
            "host_gb_per_s": machine.nccl_host_gb_per_s,
            "latency_us": machine.push.latency_us,
            "network_gb_per_s": node.network.gb_per_s.value,
            "network_achieved_gb_per_s": node.network.achieved_gb_per_s.value,
            "network_latency_us": node.network.latency_us.value,
            "nccl": {
                "call_us": nccl.call_us,
                "ring_part": nccl.ring_part,
                "low_latency_gb_per_s": nccl.low_latency_gb_per_s,
                "nvls_part": nccl.nvls_part,
                "nvls_channels": nccl.nvls_channels,
            },
        },
        "costs": {
            "launch_us": OVERHEADS.launch_us,
            "session_us": OVERHEADS.session_us,
            "step_us": OVERHEADS.step_us,
            "gemm_us": OVERHEADS.gemm_us,
            "hbm_part": HBM_PART,
            "nccl_ways": NCCL_WAYS.map(way),
            "nvls_us": NVLS_US,
            "nvls_chunks": NVLS_CHUNKS,
            "one_shot_bytes": time::one_shot_bytes(),
            "packet_columns": TW_PACKET_COLUMNS,
        },
    });
    // Within a script element nothing may look like its end.
    let data = data.to_string().replace("</", "<\\/");
    Ok(PAGE
        .replace("@NODE@", &node.name)
        .replace("@BATCH@", &report.batch.to_string())
        .replace("@DATA@", &data)
        .replace("@TWIN@", include_str!("twin.js").trim_end())
        .replace("@PAGE@", include_str!("page.js").trim_end()))
}

fn way(way: NcclWay) -> Value {
    json!({
        "tree": way.tree,
        "nvlink_only": way.nvlink_only,
        "low_latency": way.low_latency,
        "base_us": way.base_us,
        "hop_us": way.hop_us,
        "pcie_hop_us": way.pcie_hop_us,
        "part": way.part,
    })
}
