//! Device memory: the symmetric heap that ranks share, and the buffers and views that operations take.

mod buffer;
mod element;
pub(crate) mod heap;
mod ids;
pub(crate) mod layout;
mod mat;
pub(crate) mod multicast;
pub(crate) mod report;

pub use buffer::Buffer;
pub use element::Element;
pub use ids::Ids;
pub(crate) use ids::RawIds;
pub(crate) use mat::RawMat;
pub use mat::{Mat, MatMut};
