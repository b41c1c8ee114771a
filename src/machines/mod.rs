//! Described machines: nodes by name, every figure with its source.
//!
//! A description is a small JSON file beside this one, checked in, for machines that nobody has at hand: predictions
//! reckon with it where a route would reckon with a probe ([`crate::route::Machine::described`]). A figure stands with
//! where it comes from: a data sheet, a paper, who measured it, or that it is assumed. Units stand in the names: GB/s of
//! 10^9 bytes in one direction, TFLOP/s without sparsity.

mod check;
#[cfg(test)]
mod tests;

use serde::Deserialize;

use crate::error::{Error, Result};

/// The files, by their machines' names.
const FILES: [(&str, &str); 11] = [
    ("a100x8", include_str!("a100x8.json")),
    ("h100x8", include_str!("h100x8.json")),
    ("h200x8", include_str!("h200x8.json")),
    ("h100x4", include_str!("h100x4.json")),
    ("h800x8", include_str!("h800x8.json")),
    ("a800x8", include_str!("a800x8.json")),
    ("b200x8", include_str!("b200x8.json")),
    ("b300x8", include_str!("b300x8.json")),
    ("l40sx4", include_str!("l40sx4.json")),
    ("l20x8", include_str!("l20x8.json")),
    ("h200x1", include_str!("h200x1.json")),
];

/// A figure and where it comes from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure<T = f64> {
    /// In the unit that its name tells.
    pub value: T,
    /// A data sheet, a paper, who measured it, or `assumed`, and why.
    pub source: String,
}

/// A node of equal GPUs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// As `--node` takes it.
    pub name: String,
    /// The GPU's class, one of [`crate::route::constants::CLASSES`].
    pub gpu: String,
    /// GPUs of the node.
    pub gpus: u32,
    /// What a GPU computes.
    pub compute: Compute,
    /// What its memories hold and move.
    pub memory: Memory,
    /// What joins the node's GPUs.
    pub link: Link,
    /// What the host's side takes part in.
    pub host: Host,
    /// What joins nodes.
    pub network: Network,
}

/// What a GPU computes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compute {
    /// Streaming multiprocessors.
    pub sms: Figure<u32>,
    /// Of an SM.
    pub clock_mhz: Figure,
    /// Tensor cores, bf16, sums in f32.
    pub bf16_tflops: Figure,
    /// Tensor cores, f16, sums in f32.
    pub f16_tflops: Figure,
    /// Tensor cores, f32 cut to TF32.
    pub tf32_tflops: Figure,
    /// Tensor cores, FP8; `None` where they have none.
    pub fp8_tflops: Option<Figure>,
    /// CUDA cores, f32, a multiplication and an addition each.
    pub f32_fma_tflops: Figure,
    /// Part of the tensor peak that the clock leaves where all SMs multiply for long: what the power limit allows.
    pub sustained_part: Figure,
    /// Part of the tensor peak that `mma.sync` reaches, which the portable kernels use.
    pub mma_sync_part: Figure,
}

/// What a GPU's memories hold and move.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Of an SM's shared memory.
    pub shared_bytes_per_clock: Figure,
    /// Device memory, peak.
    pub hbm_gb_per_s: Figure,
    /// Capacity of device memory, 10^9 bytes.
    pub hbm_gb: Figure,
    /// A load that misses all caches.
    pub hbm_latency_ns: Figure,
    /// Capacity of the L2, 10^6 bytes.
    pub l2_mb: Figure,
    /// What the L2 gives all SMs together.
    pub l2_gb_per_s: Figure,
    /// A load that hits the L2.
    pub l2_latency_ns: Figure,
}

/// What joins GPUs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// NVLinks to switches: any peer at the whole rate.
    NvSwitch,
    /// NVLinks from GPU to GPU, as many to each peer.
    NvLink,
    /// PCIe.
    Pcie,
    /// One GPU whose ranks share it (virtual ranks).
    Shared,
}

/// The links of a GPU.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Their kind.
    pub kind: Kind,
    /// Of all links of a GPU together, one direction, data sheet.
    pub gb_per_s: Figure,
    /// The same, as stores and loads of SMs reach it.
    pub achieved_gb_per_s: Figure,
    /// A word over a link, one way.
    pub latency_us: Figure,
    /// What a switch between adds to it; 0 where there is none.
    pub switch_us: Figure,
    /// Whether a switch adds and multiplies what is sent (NVLS).
    pub multicast: Figure<bool>,
    /// An atomic operation at system scope on a peer's memory, there and back.
    pub atomic_us: Figure,
    /// A release at system scope of what has been stored to peers, beyond the acknowledgement of that.
    pub fence_us: Figure,
}

/// What the host's side takes part in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Copies at a time beside kernels.
    pub copy_engines: Figure<u32>,
    /// A launch that follows another kernel in a stream.
    pub launch_us: Figure,
}

/// What joins nodes, a GPU's share.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// One direction, data sheet.
    pub gb_per_s: Figure,
    /// The same, as collectives reach it.
    pub achieved_gb_per_s: Figure,
    /// A small message, one way.
    pub latency_us: Figure,
}

impl Description {
    /// The machine of this name.
    ///
    /// # Errors
    /// [`Error::BadArgument`] of an unknown name, which lists the known ones.
    pub fn named(name: &str) -> Result<Description> {
        let known: Vec<&str> = Description::names().collect();
        match FILES.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Description::from_json(text),
            None => Err(Error::bad_argument(
                "node",
                name,
                format!("one of {}", known.join(", ")),
            )),
        }
    }

    /// The names there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }

    /// All machines.
    ///
    /// # Errors
    /// None, as long as the files that were built in pass their tests.
    pub fn all() -> Result<Vec<Description>> {
        FILES.iter().map(|(_, text)| Description::from_json(text)).collect()
    }

    /// A description from its text, checked.
    ///
    /// # Errors
    /// [`Error::BadArgument`], which names the field: no JSON, missing or unknown fields, figures that cannot be.
    pub fn from_json(text: &str) -> Result<Description> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let description: Description = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = match error.path().to_string() {
                path if path == "." || path == "?" => "machine description".to_string(),
                path => path,
            };
            let expected = format!("as described machines have it ({})", error.into_inner());
            Error::bad_argument(path, "not readable", expected)
        })?;
        reader
            .end()
            .map_err(|error| Error::bad_argument("machine description", "not readable", error.to_string()))?;
        description.check()?;
        Ok(description)
    }
}
