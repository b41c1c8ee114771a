//! The machine as a matrix, like `nvidia-smi topo -m`, with what the probe found of each pair.

use tileweave::probe::Probe;
use tileweave::route::{Tried, tried};
use tileweave::topology::{Ancestor, Topology};

/// What joins two GPUs, in `nvidia-smi`'s words.
pub fn label(topology: &Topology, from: usize, to: usize) -> String {
    let Some(link) = topology.link(from, to) else {
        return "?".into();
    };
    if let Some(path) = link.nvlink {
        return format!("NV{}", path.lanes);
    }
    let word = match link.ancestor {
        Ancestor::Internal | Ancestor::SingleSwitch => "PIX",
        Ancestor::MultipleSwitches => "PXB",
        Ancestor::HostBridge => "PHB",
        Ancestor::Node => "NODE",
        Ancestor::System => "SYS",
        Ancestor::Unknown => "?",
    };
    word.into()
}

/// What is known of the link: `ok`, `untried`, or `no`.
pub fn mark(topology: &Topology, probe: Option<&Probe>, from: usize, to: usize) -> &'static str {
    match tried(topology, probe, from, to) {
        Tried::Works => "ok",
        Tried::Untried => "untried",
        Tried::No(_) => "no",
    }
}

/// Rows: the GPU that stores; columns: whose memory it is.
pub fn matrix(topology: &Topology, probe: Option<&Probe>) -> String {
    let gpus = topology.gpus.len();
    let name = |gpu: usize| format!("GPU{gpu}");
    let cell = |from: usize, to: usize| match (from == to, mark(topology, probe, from, to)) {
        (true, _) => "X".to_string(),
        (_, "untried") => label(topology, from, to),
        (_, mark) => format!("{} {mark}", label(topology, from, to)),
    };
    let mut rows = vec![
        std::iter::once(String::new())
            .chain((0..gpus).map(name))
            .collect::<Vec<_>>(),
    ];
    rows.extend((0..gpus).map(|from| {
        std::iter::once(name(from))
            .chain((0..gpus).map(|to| cell(from, to)))
            .collect()
    }));
    columns(&rows)
}

/// Cells under each other, two spaces between.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .enumerate()
            .map(|(i, cell)| format!("{:<1$}", cell, width(i)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
