//! llama.cpp's own server on a real model, through all that a worker goes through: run by hand and by the gate,
//! for it needs an engine and a model.
//!
//! ```sh
//! RBEE_ENGINE=.ci/llama-server RBEE_REAL_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf \
//!     cargo test --test engine -- --ignored --nocapture --test-threads=1
//! ```
//! `RBEE_ENGINE` is a program that takes llama-server's arguments; `RBEE_STOPS=100` asks for so many stops of
//! either sort in place of 20. What is seen is printed; no time is asserted.

#![allow(clippy::unwrap_used, reason = "a test that panics fails, helpers included")]

#[path = "../support/mod.rs"]
mod support;

mod failing;
mod figures;
mod models;
mod reasons;
mod serving;
mod stage;
mod stops;
mod wire;
