//! What `tileweave explore` prints.

use serde_json::{Value, json};

use super::time::Layer;
use super::{Report, Row};

const HEADINGS: [&str; 15] = [
    "TP",
    "nodes",
    "weights",
    "activations",
    "with SP",
    "KV cache",
    "sent/layer",
    "compute",
    "unfused",
    "fused",
    "unfused",
    "fused",
    "speedup",
    "token unfused",
    "fused",
];
const UNITS: [&str; 15] = [
    "",
    "",
    "GB/GPU",
    "GB/GPU",
    "GB/GPU",
    "GB/GPU",
    "MB/GPU",
    "ms/layer",
    "ms/layer",
    "ms/layer",
    "% of TP 1",
    "% of TP 1",
    "fused",
    "times faster",
    "times faster",
];

fn unfused(layer: &Layer) -> f64 {
    layer.unfused
}

fn fused(layer: &Layer) -> f64 {
    layer.fused
}

impl Report {
    pub fn to_json(&self) -> String {
        json!({
            "model": self.model.name,
            "node": self.node.name,
            "seq": self.seq,
            "batch": self.batch,
            "dtype": "bf16",
            "parameters": self.model.parameters,
            "layers": self.model.layers,
            "link_gb_per_s": self.node.link.gb_per_s.value,
            "network_gb_per_s": self.node.network.gb_per_s.value,
            "hbm_gb": self.node.memory.hbm_gb.value,
            "kind": "predicted",
            "rows": self.rows.iter().map(|row| self.row(row)).collect::<Vec<_>>(),
        })
        .to_string()
    }

    fn row(&self, row: &Row) -> Value {
        let memory = &row.memory;
        json!({
            "tp": row.tp,
            "nodes": row.nodes,
            "weights_gb": memory.weights / 1e9,
            "activations_gb": memory.activations / 1e9,
            "activations_sp_gb": memory.activations_sequence / 1e9,
            "kv_cache_gb": memory.cache / 1e9,
            "fits": self.fits(row),
            "comm_bytes_per_layer": row.sent,
            "compute_ms": row.prompt.compute / 1e3,
            "comm_ms": (row.prompt.unfused - row.prompt.compute) / 1e3,
            "unfused_ms": row.prompt.unfused / 1e3,
            "fused_ms": row.prompt.fused / 1e3,
            "speedup": row.prompt.unfused / row.prompt.fused,
            "efficiency_unfused": self.efficiency(row, unfused),
            "efficiency_fused": self.efficiency(row, fused),
            "token_unfused_us": row.token.unfused,
            "token_fused_us": row.token.fused,
            "latency_reduction_unfused": self.faster(row, unfused),
            "latency_reduction_fused": self.faster(row, fused),
            "kind": "predicted",
        })
    }

    pub fn to_text(&self) -> String {
        let gb = |bytes: f64| format!("{:.2}", bytes / 1e9);
        let ms = |us: f64| format!("{:.3}", us / 1e3);
        let percent = |part: f64| format!("{:.0}", part * 100.0);
        let times = |times: f64| format!("{times:.2}");
        let cells = |row: &Row| {
            let memory = &row.memory;
            let full = if self.fits(row) { "" } else { "*" };
            vec![
                row.tp.to_string(),
                row.nodes.to_string(),
                format!("{full}{}", gb(memory.weights)),
                gb(memory.activations),
                gb(memory.activations_sequence),
                gb(memory.cache),
                format!("{:.1}", row.sent / 1e6),
                ms(row.prompt.compute),
                ms(row.prompt.unfused),
                ms(row.prompt.fused),
                percent(self.efficiency(row, unfused)),
                percent(self.efficiency(row, fused)),
                times(row.prompt.unfused / row.prompt.fused),
                times(self.faster(row, unfused)),
                times(self.faster(row, fused)),
            ]
        };
        let mut lines = vec![HEADINGS.map(String::from).to_vec(), UNITS.map(String::from).to_vec()];
        lines.extend(self.rows.iter().map(cells));
        let widths: Vec<usize> = (0..HEADINGS.len())
            .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
            .collect();
        let table = lines.iter().map(|line| {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
        });
        let node = &self.node;
        let mut parts = vec![format!(
            "{} on {}, bf16, {} sequences of {} tokens [predicted]\nin a node {} GB/s a direction, {} GPUs; between nodes {} GB/s for each GPU\n",
            self.model.label,
            node.name,
            self.batch,
            self.seq,
            node.link.gb_per_s.value,
            node.gpus,
            node.network.gb_per_s.value,
        )];
        parts.extend(table);
        if self.rows.iter().any(|row| !self.fits(row)) {
            parts.push(format!(
                "\n*: weights and KV cache are more than a GPU's {} GB; times are as if they were not",
                node.memory.hbm_gb.value
            ));
        }
        if self.rows.iter().any(|row| row.nodes > 1) {
            parts.push("\nbetween nodes nothing is fused".into());
        }
        parts.push("activations: kept for training, all layers, SP: sequence parallelism; token: a layer, decoding one token of every sequence".into());
        parts.join("\n")
    }
}
