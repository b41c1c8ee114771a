//! A machine as NVML tells of it, by `nvml-wrapper`; by its raw half where the wrapper lacks a call or has it wrong (`raw`).
//!
//! Every GPU and MIG slice is read (`device`), the caller picks those that it can use, and each ordered pair of these is asked
//! about (`pairs`). A call that is not there, or not answered, costs the fact it would have told: a note says so once, with
//! all that it concerns. An answer of "not supported" or "unknown" is never made a no. NVML needs no CUDA, and no context.

mod device;
mod library;
mod pairs;
mod raw;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::notes::Notes;
use super::{Gpu, Source, Topology, VERSION};
use crate::error::Result;

/// The GPUs that `keep` says yes to, and what lies between them.
pub(super) fn read(keep: impl FnOnce(&[Gpu]) -> Vec<bool>) -> Result<Topology> {
    let nvml = library::open()?;
    let mut notes = Notes::default();
    let driver = ask(&mut notes, "", "nvmlSystemGetDriverVersion", nvml.sys_driver_version());
    let cuda = ask(
        &mut notes,
        "",
        "nvmlSystemGetCudaDriverVersion_v2",
        nvml.sys_cuda_driver_version(),
    );
    let mut units = device::units(&nvml, &mut notes)?;
    units.sort_by(|a, b| (&a.gpu.pci, &a.gpu.uuid).cmp(&(&b.gpu.pci, &b.gpu.uuid)));

    let gpus: Vec<Gpu> = units.iter().map(|unit| unit.gpu.clone()).collect();
    let mut kept = keep(&gpus).into_iter();
    units.retain(|_| kept.next().unwrap_or(false));

    let links = pairs::links(&mut units, &mut notes);
    Ok(Topology {
        version: VERSION,
        source: Source::Nvml,
        driver: driver.unwrap_or_default(),
        cuda: cuda
            .and_then(|version| u32::try_from(version).ok())
            .map(|version| (version / 1000, version % 1000 / 10)),
        gpus: units.into_iter().map(|unit| unit.gpu).collect(),
        links,
        notes: notes.finish(),
    })
}

/// What a call answered; nothing, and a note, where it failed.
fn ask<T>(notes: &mut Notes, subject: &str, call: &str, answer: Result<T, NvmlError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(e) => {
            let text = format!("NVML: {call}: {}", why(&e));
            if subject.is_empty() {
                notes.say(text);
            } else {
                notes.say_of(text, subject);
            }
            None
        }
    }
}

/// An error's text, without what differs between installs of one kind.
fn why(e: &NvmlError) -> String {
    match e {
        NvmlError::FailedToLoadSymbol(_) => "not in this library, which is too old".into(),
        other => other.to_string(),
    }
}

/// What the wrapper has no call for goes through its library; a symbol that is missing is an error like others.
fn symbol<T>(symbol: &Result<T, impl std::fmt::Display>) -> Result<&T, NvmlError> {
    symbol
        .as_ref()
        .map_err(|e| NvmlError::FailedToLoadSymbol(e.to_string()))
}

/// A device of NVML, with the library that it belongs to.
struct Asked<'nvml> {
    nvml: &'nvml Nvml,
    device: nvml_wrapper::Device<'nvml>,
}
