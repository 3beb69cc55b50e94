//! Models: what a reference means, and where the files are. Reads the cache of `huggingface_hub`, keeps no
//! list of its own.

pub mod cache;
pub mod choose;
pub mod header;
pub mod reference;

pub use cache::{FindError, Format, Found, Missing, find};
pub use reference::{ModelRef, NotAModelRef, Pick};
