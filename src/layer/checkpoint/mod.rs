//! Parameters from safetensors checkpoints, and back: a rank reads its own part and no more (cargo feature `checkpoint`).
//! `docs/checkpoints.md` has the layouts.
//!
//! A [`Part`] says where a rank's parameter stands: which rows or columns of which tensors, and how they lie in its memory. The same
//! part loads the parameter ([`Checkpoint::load`], [`Checkpoint::upload`]) and stores it ([`Writer::store`]). [`Llama`] has the parts of
//! Llama-style models, by their Hugging Face names.
//!
//! ```no_run
//! use tileweave::DType;
//! use tileweave::layer::checkpoint::{Checkpoint, Llama};
//!
//! # fn main() -> tileweave::Result<()> {
//! let checkpoint = Checkpoint::open("Llama-3.1-8B")?; // a folder, an index, or one file
//! let model = Llama::read_config("Llama-3.1-8B/config.json")?;
//! let (world, rank) = (8, 3);
//! let layer = model.layer(&checkpoint.names_of(0)?, 0, world, rank)?;
//! let qkv: Vec<u8> = checkpoint.load(&layer.qkv, DType::Bf16)?; // [q heads; k heads; v heads] of rank 3
//! # Ok(())
//! # }
//! ```

mod header;
mod llama;
mod part;
mod source;
mod write;

pub use llama::{Llama, LlamaLayer, LlamaNames};
pub use part::Part;
pub use source::{Checkpoint, Info};
pub use write::Writer;
