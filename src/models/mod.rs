//! Models: what a reference means, and where the files are. Reads the cache of `huggingface_hub`, keeps no
//! list of its own.

pub mod cache;
pub mod choose;
mod file;
pub mod reference;

pub use cache::{FindError, Format, Found, Missing, find};
pub(crate) use file::open_regular;
pub use reference::{ModelRef, NotAModelRef, Pick};
