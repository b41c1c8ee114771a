//! Groups on cudarc's streams, which they keep.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

use super::{failed, handle};
use crate::driver::{Kind, Stream};
use crate::error::{Error, Result};
use crate::group::{GroupConfig, Node, Rank, RankPlace};

/// A stream that names its context by itself, which is its device's primary one.
fn stream_of(node: &Node, stream: &CudaStream) -> Result<Stream> {
    if node.driver().kind() != Kind::Cuda {
        return Err(Error::bad_argument(
            "node",
            "a simulated node",
            "one of CUDA's, whose streams cudarc makes",
        ));
    }
    let context = stream.context();
    let primary = CudaContext::new(context.ordinal()).map_err(|error| failed("cuDevicePrimaryCtxRetain", error))?;
    if context.cu_ctx() != primary.cu_ctx() {
        let value = format!(
            "one of another context of device {} than its primary one",
            context.ordinal()
        );
        let expected = "one of CudaContext::new: heaps and kernels are the primary context's";
        return Err(Error::bad_argument("stream", value, expected));
    }
    // 0 and 1: the legacy default stream; 2: the thread's.
    if handle(stream).0 <= 2 {
        let expected =
            "one that CudaContext::new_stream made: work in a default stream goes to whatever context is current";
        return Err(Error::bad_argument("stream", "a default stream", expected));
    }
    Ok(handle(stream))
}

impl Node {
    /// A group of ranks on these streams, in rank order, all in this process: [`Node::group_on`], where every rank is
    /// on the device of its stream. The group keeps the streams.
    ///
    /// As for graphs of cudarc's own: one that was captured from these ranks' launches must not be launched after the
    /// group has gone.
    ///
    /// # Errors
    /// As [`Node::group_on`]; [`Error::BadArgument`] for a default stream, for one of a context that is not its device's primary
    /// one, and on a simulated node.
    pub fn group_on_streams(&self, streams: &[Arc<CudaStream>], config: &GroupConfig) -> Result<Vec<Rank>> {
        let places = streams.iter().map(|stream| {
            let stream = stream_of(self, stream)?;
            let place = self.driver().stream_place(stream)?;
            Ok(RankPlace {
                place,
                stream: Some(stream),
            })
        });
        let places = places.collect::<Result<Vec<_>>>()?;
        // SAFETY: the streams are live now, since they are lent, and from here on the group keeps them. `stream_place`
        // has found that they are of this driver's devices.
        let ranks = unsafe { self.group_on(&places, config) }?;
        if let Some(rank) = ranks.first() {
            streams.iter().for_each(|stream| rank.keep(stream.clone()));
        }
        Ok(ranks)
    }
}

impl Rank {
    /// Joins a group on this stream, which the group keeps: [`Rank::join`].
    ///
    /// # Errors
    /// As [`Rank::join`]; [`Error::BadArgument`] for a default stream, for one of a context that is not its device's primary
    /// one, and on a simulated node.
    #[cfg(target_os = "linux")]
    pub fn join_stream(
        node: &Node,
        stream: &Arc<CudaStream>,
        rank: usize,
        world: usize,
        id: &crate::group::Id,
        config: &GroupConfig,
    ) -> Result<Rank> {
        let raw = stream_of(node, stream)?;
        // SAFETY: the stream is live now, since it is lent, and from here on the group keeps it.
        let joined = unsafe { Rank::join(node, raw, rank, world, id, config) }?;
        joined.keep(stream.clone());
        Ok(joined)
    }

    /// Joins a group on several hosts on this stream, which the group keeps: [`Rank::join_across`].
    ///
    /// # Errors
    /// As [`Rank::join_across`] and [`Rank::join_stream`].
    #[cfg(target_os = "linux")]
    pub fn join_stream_across(
        node: &Node,
        stream: &Arc<CudaStream>,
        rank: usize,
        world: usize,
        id: &crate::group::Id,
        at: (&str, u16),
        config: &GroupConfig,
    ) -> Result<Rank> {
        let raw = stream_of(node, stream)?;
        // SAFETY: as above.
        let joined = unsafe { Rank::join_across(node, raw, rank, world, id, at, config) }?;
        joined.keep(stream.clone());
        Ok(joined)
    }
}
