//! Models: what a reference means, and where the files are. Reads the cache of `huggingface_hub`, keeps no
//! list of its own.

pub mod cache;
pub mod catalog;
pub mod choose;
pub mod downloads;
mod file;
pub mod hub;
pub mod layout;
pub mod reference;
pub mod remote;
pub mod selection;
pub mod transfer;

pub use cache::{FindError, Format, Found, Missing, find};
pub(crate) use file::open_regular;
pub use reference::{ModelRef, NotAModelRef, Pick};
pub use selection::{NoModel, Selection};
