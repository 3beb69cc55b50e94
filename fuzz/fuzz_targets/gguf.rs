//! Any bytes are the header of a GGUF that makes sense, or a fault that can be told.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::gguf(bytes));
