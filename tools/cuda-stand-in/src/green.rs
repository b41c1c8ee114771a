//! Green contexts: a device's SMs in parts. A split into n parts becomes shares of n on the node, whose shares are
//! equal, too.

use cudarc::driver::sys;
use tileweave::driver::Place;

use crate::answer::{Answer, Code, INVALID, In, NO_CONTEXT, Out, UNSUPPORTED};
use crate::context::{create, destroy};
use crate::handles::pointer;
use crate::machine::machine;

/// Parts are multiples of these, as from Hopper on.
const UNIT: u32 = 8;
const TYPE_SM: u32 = 1;
/// Tells a resource that this library wrote: behind the type lie bytes that are the driver's own.
const MAGIC: u32 = 0x7457_5352;

/// A part of a device's SMs, by a description.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partition {
    share: usize,
    shares: usize,
    ordinal: usize,
}

/// A `CUdevResource` as this library fills it: the type, then its own words, then the union.
#[derive(Debug, Clone, Copy)]
struct Resource {
    ordinal: u32,
    share: u32,
    shares: u32,
    sms: u32,
}

/// Words of the driver's own in the resource: right behind the type.
const OWN: usize = 1;

fn write(to: &Out<sys::CUdevResource>, index: usize, resource: Resource) -> Answer {
    // SAFETY: all-zero is a valid value: integers, null pointers, and an enum that has a 0.
    let mut raw: sys::CUdevResource = unsafe { std::mem::zeroed() };
    raw.type_ = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    let words = [MAGIC, resource.ordinal, resource.share, resource.shares];
    for (i, word) in words.into_iter().enumerate() {
        for (to, byte) in raw._internal_padding[4 * i..].iter_mut().zip(word.to_ne_bytes()) {
            *to = byte;
        }
    }
    // SAFETY: a union of plain integers, of which this one is written first; all versions of cuda.h have the count first.
    unsafe { (&raw mut raw.__bindgen_anon_1).cast::<u32>().write(resource.sms) };
    to.put_at(index, raw)
}

fn read(from: &In<sys::CUdevResource>) -> Answer<Resource> {
    // As words: the type is an enum, and a caller may have put anything there.
    let words = from.cast::<u32>();
    if words.at(0)? != TYPE_SM || words.at(OWN)? != MAGIC {
        return Err(Code::CUDA_ERROR_INVALID_RESOURCE_TYPE);
    }
    let union = std::mem::offset_of!(sys::CUdevResource, __bindgen_anon_1) / 4;
    Ok(Resource {
        ordinal: words.at(OWN + 1)?,
        share: words.at(OWN + 2)?,
        shares: words.at(OWN + 3)?,
        sms: words.at(union)?,
    })
}

calls! {
    fn cuDeviceGetDevResource(device: sys::CUdevice, resource: Out<sys::CUdevResource>, which: u32) {
        let machine = machine()?;
        let ordinal = machine.ordinal(device)?;
        if which != TYPE_SM {
            return Err(Code::CUDA_ERROR_INVALID_RESOURCE_TYPE);
        }
        let all = Resource { ordinal: ordinal as u32, share: 0, shares: 1, sms: machine.sms };
        write(&resource, 0, all)
    }

    fn cuDevSmResourceSplitByCount(
        parts: Out<sys::CUdevResource>,
        count: Out<u32>,
        input: In<sys::CUdevResource>,
        rest: Out<sys::CUdevResource>,
        flags: u32,
        least: u32,
    ) {
        machine()?;
        let whole = read(&input)?;
        if flags != 0 || whole.shares != 1 {
            return Err(UNSUPPORTED);
        }
        let each = least.max(1).next_multiple_of(UNIT);
        let possible = whole.sms / each;
        if parts.is_null() {
            return count.put(possible);
        }
        let made = possible.min(count.get()?);
        if made == 0 {
            return Err(Code::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        for share in 0..made {
            write(&parts, share as usize, Resource { share, shares: made, sms: each, ..whole })?;
        }
        // What is left is no share: nothing can be made of it here.
        if !rest.is_null() {
            write(&rest, 0, Resource { shares: 0, sms: whole.sms - made * each, ..whole })?;
        }
        count.put(made)
    }

    fn cuDevResourceGenerateDesc(
        description: Out<sys::CUdevResourceDesc>,
        resources: In<sys::CUdevResource>,
        count: u32,
    ) {
        let machine = machine()?;
        let resource = read(&resources)?;
        if count != 1 || resource.shares == 0 {
            return Err(Code::CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
        }
        let partition = Partition {
            share: resource.share as usize,
            shares: resource.shares as usize,
            ordinal: resource.ordinal as usize,
        };
        // Descriptions have no call that ends them.
        description.put(pointer(machine.lock().partitions.add(partition)))
    }

    fn cuGreenCtxCreate(
        green: Out<sys::CUgreenCtx>,
        description: sys::CUdevResourceDesc,
        device: sys::CUdevice,
        flags: u32,
    ) {
        let machine = machine()?;
        let ordinal = machine.ordinal(device)?;
        // The flag that it has a default stream is not optional.
        if flags != sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32 {
            return Err(INVALID);
        }
        let partition = *machine.lock().partitions.get(description.addr())?;
        if partition.ordinal != ordinal {
            return Err(Code::CUDA_ERROR_INVALID_DEVICE);
        }
        let (share, shares) = (partition.share, partition.shares);
        let place = Place { share, shares, ..machine.whole(ordinal) };
        green.put(pointer(create(machine, ordinal, place)?))
    }

    fn cuGreenCtxDestroy(green: sys::CUgreenCtx) {
        destroy(machine()?, green.addr())
    }

    /// One handle is both.
    fn cuCtxFromGreenCtx(context: Out<sys::CUcontext>, green: sys::CUgreenCtx) {
        let machine = machine()?;
        machine.lock().contexts.get(green.addr()).map_err(|_| NO_CONTEXT)?;
        context.put(pointer(green.addr()))
    }
}
