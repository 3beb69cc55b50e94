//! Any bytes are a kind or a mistake with a field.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::kind_manifest(bytes));
