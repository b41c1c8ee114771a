//! What `tileweave topo` prints.

use serde_json::{Value, json};
use tileweave::Path;
use tileweave::probe::Direction;
use tileweave::route::{Decision, Tried, tried};
use tileweave::topology::{Fabric, Gpu, Mig, Source, Status};

use super::Report;
use super::matrix::{columns, label, mark, matrix};
use super::shapes::{ROWS, Shape};
use crate::failure::Failure;

/// Obstacles that a person is told of.
const TOLD: usize = 6;

fn ranks(world: usize) -> String {
    format!("{world} rank{}", if world == 1 { "" } else { "s" })
}

/// Operations by the names of their kernels' literature, which fit a table.
fn short(op: tileweave::Op) -> &'static str {
    match op.name() {
        "gemm-all-reduce" => "GEMM+AR",
        "gemm-reduce-scatter" => "GEMM+RS",
        "all-gather-gemm" => "AG+GEMM",
        "all-reduce" => "AR",
        other => other,
    }
}

/// The time of the path that was chosen, where the model has one.
fn time(decision: &Decision) -> Option<f64> {
    let predicted = &decision.predicted;
    match decision.path {
        Path::Fused => predicted.fused_us,
        Path::Unfused => predicted.unfused_us,
        Path::Nccl => predicted.nccl_us,
        _ => None,
    }
}

impl Report {
    pub fn to_json(&self) -> Result<String, Failure> {
        let failed = |error: serde_json::Error| Failure::unavailable(format!("the report is no JSON: {error}"));
        let topology = serde_json::to_value(&self.topology).map_err(failed)?;
        let probe = serde_json::to_value(&self.probe).map_err(failed)?;
        let object = json!({
            "machine": topology,
            "probe": probe,
            "ranks": self.machine.world,
            "obstacles": self.machine.obstacles.iter().map(|o| o.to_string()).collect::<Vec<_>>(),
            "links": self.links(),
            "routes": self.routes.iter().map(|(shape, decision)| route(shape, decision, self.machine.world)).collect::<Vec<_>>(),
        });
        Ok(object.to_string())
    }

    fn links(&self) -> Vec<Value> {
        let (topology, probe) = (&self.topology, self.probe.as_ref());
        let better = |from: usize, to: usize| {
            let gpu = |index: usize| probe?.gpu(&topology.gpus.get(index)?.uuid);
            let direction = probe?.better(gpu(from)?, gpu(to)?)?;
            Some(match direction {
                Direction::Push => "push",
                Direction::Pull => "pull",
            })
        };
        let link = |from: usize, to: usize| {
            let reason = match tried(topology, probe, from, to) {
                Tried::No(reason) => Some(reason),
                _ => None,
            };
            json!({
                "from": from, "to": to, "link": label(topology, from, to), "probe": mark(topology, probe, from, to), "reason": reason,
                "better": better(from, to),
            })
        };
        topology.links.iter().map(|l| link(l.from, l.to)).collect()
    }

    pub fn to_text(&self) -> String {
        let topology = &self.topology;
        let source = match topology.source {
            Source::Nvml => "NVML",
            // Nobody described it: neither is there.
            Source::Driver if topology.driver.is_empty() => "nobody",
            Source::Driver => "the CUDA driver alone",
            Source::Simulated => "the simulated node",
        };
        let cuda = topology
            .cuda
            .map_or(String::new(), |(major, minor)| format!(", CUDA {major}.{minor}"));
        let driver = match topology.driver.as_str() {
            "" => String::new(),
            driver => format!(", driver {driver}"),
        };
        let mut parts = vec![format!("machine: by {source}{driver}{cuda}")];
        if topology.gpus.is_empty() {
            parts.push(
                "no GPU that can be used; --device sim shows the simulated node, --snapshot FILE a recorded machine"
                    .into(),
            );
        } else {
            let gpus: Vec<Vec<String>> = topology
                .gpus
                .iter()
                .enumerate()
                .map(|(i, gpu)| describe(i, gpu))
                .collect();
            parts.push(columns(&gpus));
            parts.push(matrix(topology, self.probe.as_ref()));
            parts.push(self.legend());
        }
        if !topology.notes.is_empty() {
            parts.push(
                topology
                    .notes
                    .iter()
                    .map(|note| format!("note: {note}"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
        if !self.routes.is_empty() {
            parts.push(self.table());
        }
        parts.join("\n\n")
    }

    fn legend(&self) -> String {
        let mut text = "NVn: n NVLinks; PIX, PXB, PHB, NODE, SYS: PCIe, by where the paths meet.".to_string();
        text += match self.probe {
            None => " Links were not tried.",
            Some(_) => " ok: what the probe stored, loaded and copied arrived as it was sent.",
        };
        text += " no: cannot be used.";
        let obstacles = &self.machine.obstacles;
        for obstacle in obstacles.iter().take(TOLD) {
            text += &format!("\n- {obstacle}");
        }
        if obstacles.len() > TOLD {
            text += &format!("\n- and {} more, which --json lists", obstacles.len() - TOLD);
        }
        text
    }

    /// Routes: a line for a layer's operation, a column for an M; then why.
    fn table(&self) -> String {
        let Some((_, first)) = self.routes.first() else {
            return String::new();
        };
        if self.routes.iter().all(|(_, decision)| decision.reason == first.reason) {
            let word = match first.path {
                Path::Decline => "every operation is declined",
                Path::Nccl => "nothing of tileweave's runs here; NCCL does",
                _ => "every operation is served",
            };
            return format!("routes over {}: {word}: {}", ranks(self.machine.world), first.reason);
        }
        let header = ["model", "layer", "op", "N", "K"].map(String::from);
        let mut rows = vec![
            header
                .into_iter()
                .chain(ROWS.map(|m| format!("M={m}")))
                .collect::<Vec<_>>(),
        ];
        let mut whys = Vec::new();
        for line in self.routes.chunks(ROWS.len()) {
            let (shape, _) = &line[0];
            let work = &shape.work;
            let about = [shape.model, shape.layer, short(work.op)].map(String::from);
            let cells = line.iter().map(|(_, decision)| match time(decision) {
                Some(us) if us < 100.0 => format!("{} {us:.1}", decision.path),
                Some(us) => format!("{} {us:.0}", decision.path),
                None => decision.path.to_string(),
            });
            rows.push(
                about
                    .into_iter()
                    .chain([work.n.to_string(), work.k.to_string()])
                    .chain(cells)
                    .collect(),
            );
            if let Some((shape, decision)) = line.last() {
                let about = format!("{} {} {}", shape.model, shape.layer, short(shape.work.op));
                whys.push(format!("- {about}: {}: {}", decision.path, decision.reason));
            }
        }
        format!(
            "routes over {}, bf16, N and K of one rank [predicted, microseconds]\n{}\n\nwhy, at the largest M\n{}",
            ranks(self.machine.world),
            columns(&rows),
            whys.join("\n")
        )
    }
}

fn route(shape: &Shape, decision: &Decision, ranks: usize) -> Value {
    let work = &shape.work;
    json!({
        "model": shape.model,
        "layer": shape.layer,
        "op": work.op.name(),
        "m": work.m,
        "n": work.n,
        "k": work.k,
        "ranks": ranks,
        "dtype": work.dtype.to_string(),
        "route": decision.path.to_string(),
        "reason": decision.reason,
        "exchange": decision.exchange.to_string(),
        "one_shot": decision.one_shot,
        "gemm_us": decision.predicted.gemm_us,
        "fused_us": decision.predicted.fused_us,
        "unfused_us": decision.predicted.unfused_us,
        "nccl_us": decision.predicted.nccl_us,
        "kind": "predicted",
    })
}

fn describe(index: usize, gpu: &Gpu) -> Vec<String> {
    let (major, minor) = gpu.compute_capability;
    let mut about = vec![format!("{} GiB", gpu.memory_bytes >> 30)];
    if major > 0 {
        about.push(format!("compute capability {major}.{minor}"));
    }
    about.extend(gpu.sms.map(|sms| format!("{sms} SMs")));
    about.extend(gpu.numa.map(|numa| format!("NUMA {numa}")));
    let active = gpu.nvlinks.iter().filter(|link| link.active).count();
    if !gpu.nvlinks.is_empty() {
        about.push(format!("{active} of {} NVLinks up", gpu.nvlinks.len()));
    }
    about.extend(gpu.fabric.unusable().map(|state| format!("NVLink fabric {state}")));
    if let Fabric::Completed { status: 0, clique, .. } = &gpu.fabric {
        about.push(format!("clique {clique}"));
    }
    if gpu.multicast == Status::Yes {
        about.push("multicast".into());
    }
    match &gpu.mig {
        Mig::Off => {}
        Mig::On => about.push("divided by MIG".into()),
        Mig::SliceOf(whole) => about.push(format!("MIG slice of {whole}")),
    }
    vec![
        format!("GPU{index}"),
        gpu.name.clone(),
        gpu.pci.clone(),
        gpu.uuid.clone(),
        about.join(", "),
    ]
}
