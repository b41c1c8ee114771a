//! Rust twins of `csrc/abi.h`, made by bindgen and checked in, so that no user needs libclang; and their bytes.

#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, dead_code, clippy::all)]
// What bindgen writes to make an aligned struct of zeros carries no comment; its fields are integers, for which zero is a value.
#[allow(clippy::undocumented_unsafe_blocks)]
#[rustfmt::skip]
mod bindings;
pub use bindings::*;

/// Bytes of a [`TwControl`].
pub(crate) const CONTROL_BYTES: usize = size_of::<TwControl>();

impl TwControl {
    /// The control block a heap begins with: the first operation is 1, as is the first round.
    pub(crate) fn initial() -> TwControl {
        TwControl {
            epoch: 1,
            round: 1,
            ..TwControl::default()
        }
    }

    /// Its bytes, as a kernel on a little-endian device sees them.
    pub(crate) fn to_bytes(self) -> [u8; CONTROL_BYTES] {
        // SAFETY: TwControl is repr(C) of integers alone; its fields fill it without gaps (the sizes of its parts add up
        // to CONTROL_BYTES, asserted below), so that every byte is initialised. Any byte is a valid u8.
        unsafe { std::mem::transmute(self) }
    }

    /// The inverse of [`TwControl::to_bytes`].
    pub(crate) fn from_bytes(bytes: [u8; CONTROL_BYTES]) -> TwControl {
        // SAFETY: the sizes are equal, and TwControl is integers alone: every bit pattern is one of its values.
        unsafe { std::mem::transmute(bytes) }
    }
}

/// Bytes of a [`TwProbeResult`].
pub(crate) const PROBE_RESULT_BYTES: usize = size_of::<TwProbeResult>();

impl TwProbeResult {
    /// What a kernel left on a little-endian device.
    pub(crate) fn from_bytes(bytes: [u8; PROBE_RESULT_BYTES]) -> TwProbeResult {
        // SAFETY: the sizes are equal, and TwProbeResult is integers alone: every bit pattern is one of its values.
        unsafe { std::mem::transmute(bytes) }
    }
}

// No padding that the compiler put in: 8-byte fields at multiples of 8, and nothing left over.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(TwControl, epoch_started) == 32 && offset_of!(TwControl, abort) == 128);
    assert!(offset_of!(TwControl, current) == 256 && size_of::<TwDescriptor>() == 80);
    assert!(offset_of!(TwControl, current_hash) == 336 && offset_of!(TwControl, record) == 384);
    assert!(size_of::<TwWaitRecord>() == 64 && offset_of!(TwControl, pad4_) == 448);
    assert!(offset_of!(TwControl, hello) == 512 && size_of::<TwHello>() == 16);
    assert!(offset_of!(TwControl, credit) == 512 + 2 * 16 * 16 && offset_of!(TwControl, totals) == 1280);
    assert!(size_of::<TwReport>() == 384 && CONTROL_BYTES == 1280 + 384);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_round_trip() {
        let mut control = TwControl::initial();
        control.abort = 3;
        control.credit[1][15] = 7;
        control.totals.longest_wait_ns[15] = 0x0102_0304_0506_0708;
        let bytes = control.to_bytes();
        assert_eq!((bytes[0], bytes[8], bytes[128]), (1, 1, 3));
        assert_eq!(bytes[CONTROL_BYTES - 8..], [8, 7, 6, 5, 4, 3, 2, 1]);
        let back = TwControl::from_bytes(bytes);
        assert_eq!(
            (back.credit[1][15], back.totals.longest_wait_ns),
            (7, control.totals.longest_wait_ns)
        );
    }
}
