//! Any bytes are events, the same ones however they are cut, or too long.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::sse(bytes));
