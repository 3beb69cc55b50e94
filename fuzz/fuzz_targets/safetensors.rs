//! Any bytes are a safetensors header that makes sense, or a fault that can be told.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::safetensors(bytes));
