//! Whether a description can be true. Every refusal names the field.

use super::{Description, Figure, Kind};
use crate::error::{Error, Result};
use crate::route::constants::CLASSES;

/// More than any: a figure beyond is in another unit.
const MOST: f64 = 1e6;

impl Description {
    /// Whether it can be true.
    ///
    /// # Errors
    /// [`Error::BadArgument`], which names the first field that cannot, as `link.gb_per_s`.
    pub fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || !self.name.chars().all(plain) {
            let expected = "letters, digits, `.`, `_` and `-`, one at least";
            return Err(Error::bad_argument("name", format!("{:?}", self.name), expected));
        }
        if !CLASSES.iter().any(|class| class.name == self.gpu) {
            let known: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
            return Err(Error::bad_argument(
                "gpu",
                &self.gpu,
                format!("one of {}", known.join(", ")),
            ));
        }
        let alone = self.link.kind == Kind::Shared;
        if self.gpus == 0 || alone != (self.gpus == 1) {
            let expected = "1 where ranks share a GPU (link.kind is shared), else 2 or more";
            return Err(Error::bad_argument("gpus", self.gpus, expected));
        }
        self.check_figures()?;
        self.check_order()?;
        if self.link.multicast.value && self.link.kind != Kind::NvSwitch {
            let expected = "false: only a switch between GPUs (link.kind is nv_switch) adds";
            return Err(Error::bad_argument("link.multicast", true, expected));
        }
        Ok(())
    }

    fn check_figures(&self) -> Result<()> {
        let (compute, memory, link, host, network) =
            (&self.compute, &self.memory, &self.link, &self.host, &self.network);
        let counts = [("compute.sms", &compute.sms), ("host.copy_engines", &host.copy_engines)];
        for (field, figure) in counts {
            at_work(field, f64::from(figure.value), &figure.source)?;
        }
        let figures = [
            ("compute.clock_mhz", &compute.clock_mhz),
            ("compute.bf16_tflops", &compute.bf16_tflops),
            ("compute.f16_tflops", &compute.f16_tflops),
            ("compute.tf32_tflops", &compute.tf32_tflops),
            ("compute.f32_fma_tflops", &compute.f32_fma_tflops),
            ("compute.sustained_part", &compute.sustained_part),
            ("compute.mma_sync_part", &compute.mma_sync_part),
            ("memory.shared_bytes_per_clock", &memory.shared_bytes_per_clock),
            ("memory.hbm_gb_per_s", &memory.hbm_gb_per_s),
            ("memory.hbm_gb", &memory.hbm_gb),
            ("memory.hbm_latency_ns", &memory.hbm_latency_ns),
            ("memory.l2_mb", &memory.l2_mb),
            ("memory.l2_gb_per_s", &memory.l2_gb_per_s),
            ("memory.l2_latency_ns", &memory.l2_latency_ns),
            ("link.gb_per_s", &link.gb_per_s),
            ("link.achieved_gb_per_s", &link.achieved_gb_per_s),
            ("link.latency_us", &link.latency_us),
            ("link.atomic_us", &link.atomic_us),
            ("host.launch_us", &host.launch_us),
            ("network.gb_per_s", &network.gb_per_s),
            ("network.achieved_gb_per_s", &network.achieved_gb_per_s),
            ("network.latency_us", &network.latency_us),
        ];
        let fp8 = compute.fp8_tflops.as_ref().map(|figure| ("compute.fp8_tflops", figure));
        for (field, figure) in figures.into_iter().chain(fp8) {
            at_work(field, figure.value, &figure.source)?;
        }
        told("link.multicast", &link.multicast.source)?;
        for (field, figure) in [("link.switch_us", &link.switch_us), ("link.fence_us", &link.fence_us)] {
            told(field, &figure.source)?;
            if !(0.0..=MOST).contains(&figure.value) {
                return Err(Error::bad_argument(field, figure.value, "0 or more microseconds"));
            }
        }
        Ok(())
    }

    /// What is slower than what.
    fn check_order(&self) -> Result<()> {
        let (compute, link, network) = (&self.compute, &self.link, &self.network);
        let order: [(&str, &Figure, &str, &Figure); 4] = [
            (
                "link.achieved_gb_per_s",
                &link.achieved_gb_per_s,
                "link.gb_per_s",
                &link.gb_per_s,
            ),
            (
                "network.achieved_gb_per_s",
                &network.achieved_gb_per_s,
                "network.gb_per_s",
                &network.gb_per_s,
            ),
            (
                "link.gb_per_s",
                &link.gb_per_s,
                "memory.hbm_gb_per_s",
                &self.memory.hbm_gb_per_s,
            ),
            (
                "compute.f32_fma_tflops",
                &compute.f32_fma_tflops,
                "compute.bf16_tflops",
                &compute.bf16_tflops,
            ),
        ];
        for (field, less, other, more) in order {
            if less.value > more.value {
                let expected = format!("at most {other}, {}", more.value);
                return Err(Error::bad_argument(field, less.value, expected));
            }
        }
        // Parts of the tensor peak.
        for (field, part) in [
            ("compute.sustained_part", &compute.sustained_part),
            ("compute.mma_sync_part", &compute.mma_sync_part),
        ] {
            if part.value > 1.0 {
                return Err(Error::bad_argument(field, part.value, "a part of the peak, at most 1"));
            }
        }
        Ok(())
    }
}

/// A rate, a count or a time: more than nothing, and finite.
fn at_work(field: &str, value: f64, source: &str) -> Result<()> {
    if !(value > 0.0 && value <= MOST) {
        return Err(Error::bad_argument(
            field,
            value,
            format!("more than 0, at most {MOST}"),
        ));
    }
    told(field, source)
}

fn told(field: &str, source: &str) -> Result<()> {
    match source.trim() {
        "" => Err(Error::bad_argument(
            format!("{field}.source"),
            "empty",
            "where the figure comes from",
        )),
        _ => Ok(()),
    }
}
