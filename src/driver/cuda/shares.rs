//! Virtual ranks: the SMs of one GPU in equal shares, each a green context of the primary context. One address space, and
//! kernels of different shares run at once because their SMs are different.
//!
//! Where green contexts cannot be had (an old GPU, a share below the smallest partition), all shares use the primary
//! context and each caps its grids to its number of SMs, one CTA an SM. CTAs of any kernels may then meet on one SM; but all
//! shares together have at most one for every SM, so wherever one is still to be placed, some SM is without any, and it
//! fits there: each is resident in the end, whatever the others occupy.

use cudarc::driver::sys;

use super::device::{Context, Facts, Handle};
use crate::error::Result;

/// How a device's SMs are divided.
#[derive(Debug)]
pub(super) struct Split {
    /// SMs of each share.
    pub(super) sms: u32,
    /// One for each share; empty where grids are capped instead.
    pub(super) green: Vec<Green>,
    /// Why there are no green contexts.
    pub(super) capped: Option<String>,
}

/// A green context, and the same as an ordinary context.
#[derive(Debug)]
pub(super) struct Green {
    pub(super) handle: Handle<sys::CUgreenCtx_st>,
    pub(super) context: Context,
}

impl Drop for Green {
    fn drop(&mut self) {
        // SAFETY: made in `green_contexts`, destroyed once; whoever drops a split holds the last reference to it.
        let _ = unsafe { cu!(cuGreenCtxDestroy(self.handle.0)) };
    }
}

/// Divides a device; its primary context is current.
pub(super) fn split(facts: &Facts, count: usize) -> Split {
    let each = facts.sms / count as u32;
    if count == 1 {
        return Split {
            sms: each,
            green: Vec::new(),
            capped: None,
        };
    }
    // Partitions are multiples of these (CUDA programming guide, green contexts): 8 SMs from Hopper on, 2 on Ampere.
    let unit = if facts.capability.0 >= 9 { 8 } else { 2 };
    let partition = each / unit * unit;
    if partition == 0 {
        return capped(
            each,
            format!("a share of {each} SMs is below the smallest partition of {unit}"),
        );
    }
    match green_contexts(facts, count, partition) {
        Ok((sms, green)) if green.len() == count => Split {
            sms,
            green,
            capped: None,
        },
        Ok((sms, green)) => capped(each, format!("only {} partitions of {sms} SMs", green.len())),
        Err(e) => capped(each, e.to_string()),
    }
}

fn capped(sms: u32, why: String) -> Split {
    Split {
        sms,
        green: Vec::new(),
        capped: Some(why),
    }
}

fn green_contexts(facts: &Facts, count: usize, partition: u32) -> Result<(u32, Vec<Green>)> {
    // SAFETY: all-zero is a valid value: integers, null pointers, and an enum that has a 0.
    let zero: sys::CUdevResource = unsafe { std::mem::zeroed() };
    let (mut all, mut rest, mut parts) = (zero, zero, vec![zero; count]);
    let mut made = count as u32;
    // SAFETY: every pointer outlives its call; `parts` has room for `made` elements, of which the driver writes at most
    // as many.
    unsafe {
        cu!(cuDeviceGetDevResource(
            facts.device,
            &mut all,
            sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM
        ))?;
        cu!(cuDevSmResourceSplitByCount(
            parts.as_mut_ptr(),
            &mut made,
            &all,
            &mut rest,
            0,
            partition
        ))?;
    }
    let mut green = Vec::with_capacity(count);
    for part in &mut parts[..count.min(made as usize)] {
        let (mut description, mut handle, mut context) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let flags = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
        // SAFETY: every pointer outlives its call; the description was made from a resource of this device.
        unsafe {
            cu!(cuDevResourceGenerateDesc(&mut description, part, 1))?;
            cu!(cuGreenCtxCreate(&mut handle, description, facts.device, flags))?;
            cu!(cuCtxFromGreenCtx(&mut context, handle)).inspect_err(|_| drop(cu!(cuGreenCtxDestroy(handle))))?;
        }
        green.push(Green {
            handle: Handle(handle),
            context: Handle(context),
        });
    }
    // SAFETY: the split succeeded, so a part is a resource of SMs and `sm` is the union's live member.
    let sms = parts
        .first()
        .map_or(0, |part| unsafe { part.__bindgen_anon_1.sm.smCount });
    Ok((sms, green))
}
