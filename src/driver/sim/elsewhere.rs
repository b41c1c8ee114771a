//! Where the simulated node does not run: it cannot be made, so none of its methods can be called.

use super::config::{Fault, SimConfig};
use crate::abi::TwParams;
use crate::driver::{
    DevicePtr, Driver, Event, HostWords, Identity, Kind, Launch, PeerClaim, Physical, Place, PlaceInfo, Stream,
};
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy)]
enum Never {}

/// The simulated node, which needs Linux.
#[derive(Debug)]
pub struct SimNode(Never);

impl SimNode {
    /// Answers that the node is not available.
    ///
    /// # Errors
    /// [`Error::Unavailable`], always.
    pub fn new(_: SimConfig) -> Result<SimNode> {
        Err(Error::Unavailable {
            what: "the simulated node".into(),
            reason: format!(
                "it needs Linux (memfd, fixed mappings), and this is {}",
                std::env::consts::OS
            ),
        })
    }

    /// Never called.
    pub fn plant(&self, _: Fault) -> Result<()> {
        match self.0 {}
    }

    /// Never called.
    pub fn clear_faults(&self) -> Result<()> {
        match self.0 {}
    }

    /// Never called.
    pub fn schedule_digest(&self) -> Result<u64> {
        match self.0 {}
    }

    /// Never called.
    pub fn simulated_time_ns(&self) -> Result<u64> {
        match self.0 {}
    }

    /// Never called.
    pub fn kernels(&self) -> Vec<&'static str> {
        match self.0 {}
    }
}

/// Methods that no value exists to call on.
macro_rules! never {
    ($($(#[$cfg:meta])* fn $name:ident(&self $(, $t:ty)*) -> $r:ty;)*) => { $(
        never!(@one $(#[$cfg])* $name ($($t),*) -> $r);
    )* };
    (@one $(#[$cfg:meta])* $name:ident () -> $r:ty) => {
        $(#[$cfg])*
        fn $name(&self) -> $r { match self.0 {} }
    };
    (@one $(#[$cfg:meta])* $name:ident ($a:ty) -> $r:ty) => {
        $(#[$cfg])*
        fn $name(&self, _: $a) -> $r { match self.0 {} }
    };
    (@one $(#[$cfg:meta])* $name:ident ($a:ty, $b:ty) -> $r:ty) => {
        $(#[$cfg])*
        fn $name(&self, _: $a, _: $b) -> $r { match self.0 {} }
    };
    (@one $(#[$cfg:meta])* $name:ident ($a:ty, $b:ty, $c:ty) -> $r:ty) => {
        $(#[$cfg])*
        fn $name(&self, _: $a, _: $b, _: $c) -> $r { match self.0 {} }
    };
    (@one $(#[$cfg:meta])* $name:ident ($a:ty, $b:ty, $c:ty, $d:ty) -> $r:ty) => {
        $(#[$cfg])*
        fn $name(&self, _: $a, _: $b, _: $c, _: $d) -> $r { match self.0 {} }
    };
}

impl Driver for SimNode {
    never! {
        fn kind(&self) -> Kind;
        fn device_count(&self) -> usize;
        fn place_info(&self, Place) -> Result<PlaceInfo>;
        fn version(&self) -> String;
        fn identity(&self, usize) -> Result<Identity>;
        fn peer_claim(&self, usize, usize) -> Result<PeerClaim>;
        fn multicast_claim(&self, usize) -> Result<bool>;
        fn stream_create(&self, Place) -> Result<Stream>;
        fn stream_place(&self, Stream) -> Result<Place>;
        fn stream_destroy(&self, Stream) -> Result<()>;
        fn stream_synchronize(&self, Stream) -> Result<()>;
        fn stream_wait(&self, Stream, std::time::Duration) -> Result<bool>;
        fn host_words(&self, Place) -> Result<HostWords>;
        fn host_words_free(&self, HostWords) -> Result<()>;
        fn event_create(&self, Place) -> Result<Event>;
        fn event_done(&self, Event) -> Result<bool>;
        fn event_destroy(&self, Event) -> Result<()>;
        fn event_record(&self, Event, Stream) -> Result<()>;
        fn stream_wait_event(&self, Stream, Event) -> Result<()>;
        fn event_elapsed_ms(&self, Event, Event) -> Result<Option<f64>>;
        fn alloc(&self, Place, usize) -> Result<DevicePtr>;
        fn free_async(&self, DevicePtr, Stream) -> Result<()>;
        fn copy_in(&self, DevicePtr, &[u8], Stream) -> Result<()>;
        fn copy_out(&self, &mut [u8], DevicePtr, Stream) -> Result<()>;
        fn copy_device(&self, DevicePtr, DevicePtr, usize, Stream) -> Result<()>;
        fn fill(&self, DevicePtr, u8, usize, Stream) -> Result<()>;
        fn peek(&self, &mut [u8], DevicePtr) -> Result<()>;
        fn poke(&self, DevicePtr, &[u8]) -> Result<()>;
        fn physical_granularity(&self, Place) -> Result<usize>;
        fn physical_create(&self, Place, usize) -> Result<Physical>;
        fn physical_map(&self, Physical, usize, &[Place]) -> Result<DevicePtr>;
        fn physical_unmap(&self, DevicePtr, usize) -> Result<()>;
        fn physical_release(&self, Physical) -> Result<()>;
        #[cfg(unix)]
        fn physical_export(&self, Physical) -> Result<std::os::fd::OwnedFd>;
        #[cfg(unix)]
        fn physical_import(&self, std::os::fd::BorrowedFd<'_>, Place, usize) -> Result<Physical>;
        fn load_kernels(&self, Place) -> Result<()>;
        fn ctas_per_sm(&self, &str, Launch, Place) -> Result<u32>;
        fn launch(&self, &str, Launch, &TwParams, Stream) -> Result<()>;
    }
}
