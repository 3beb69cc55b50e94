//! What a model needs, and whether a device has it.

pub mod config_json;
pub mod estimate;
pub mod gguf;
pub mod inspect;
pub mod ledger;
pub mod model;
pub mod safetensors;
